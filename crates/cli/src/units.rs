//! Figures as people read them.

use std::time::Duration;

/// Bytes: `512 B`, `45.2 MiB`.
pub(crate) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];

    if bytes < 1024 {
        return format!("{bytes} B");
    }

    let mut size = bytes as f64 / 1024.0;
    let mut unit = 0;

    // 1023.96 would be shown as 1024.0.
    while size >= 1023.95 && unit + 1 < UNITS.len() {
        size /= 1024.0;
        unit += 1;
    }

    format!("{size:.1} {}", UNITS[unit])
}

/// A time that has passed, in its two largest units: `3 min 12 s`.
pub(crate) fn elapsed(seconds: f64) -> String {
    if !seconds.is_finite() || seconds < 0.0 {
        return "-".to_owned();
    }

    if seconds < 1.0 {
        return format!("{:.0} ms", seconds * 1000.0);
    }

    let seconds = seconds as u64;
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);

    if days > 0 {
        format!("{days} d {} h", hours % 24)
    } else if hours > 0 {
        format!("{hours} h {} min", minutes % 60)
    } else if minutes > 0 {
        format!("{minutes} min {} s", seconds % 60)
    } else {
        format!("{seconds} s")
    }
}

/// A round trip: `0.124 ms`.
pub(crate) fn milliseconds(duration: Duration) -> String {
    format!("{:.3} ms", duration.as_secs_f64() * 1000.0)
}

/// A limit as it was given: exact, where [`elapsed`] rounds.
pub(crate) fn time_limit(limit: Duration) -> String {
    if limit.subsec_millis() == 0 { format!("{} s", limit.as_secs()) } else { format!("{} s", limit.as_secs_f64()) }
}

/// A moment, given in seconds since 1970: `2026-01-01T00:00:00.250Z`. It is UTC, as in logs of several machines.
pub(crate) fn timestamp(seconds: f64) -> String {
    if !(0.0..253_402_300_800.0).contains(&seconds) {
        return "-".to_owned();
    }

    let milliseconds = (seconds * 1000.0) as u64;
    let (days, rest) = (milliseconds / 86_400_000, milliseconds % 86_400_000);
    let (hour, minute, second) = (rest / 3_600_000, rest / 60_000 % 60, rest / 1000 % 60);
    let (year, month, day) = date(days);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", rest % 1000)
}

/// The date so many days after 1970-01-01. Years are counted from March, so that the leap day is the last of one.
fn date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

/// A share: 1.0 is one processor, `100.0%`.
pub(crate) fn percent(share: f64) -> String {
    format!("{:.1}%", share * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1024), "1.0 KiB");
        assert_eq!(bytes(47_395_635), "45.2 MiB");
        assert_eq!(bytes((1 << 20) - 1), "1.0 MiB");
        assert_eq!(bytes(u64::MAX), "16384.0 PiB");
    }

    #[test]
    fn times() {
        assert_eq!(elapsed(0.25), "250 ms");
        assert_eq!(elapsed(59.9), "59 s");
        assert_eq!(elapsed(192.0), "3 min 12 s");
        assert_eq!(elapsed(7500.0), "2 h 5 min");
        assert_eq!(elapsed(90000.0), "1 d 1 h");
        assert_eq!(elapsed(f64::NAN), "-");
        assert_eq!(elapsed(-1.0), "-");
        assert_eq!(elapsed(f64::MAX), format!("{} d {} h", u64::MAX / 86400, u64::MAX / 3600 % 24));
    }

    #[test]
    fn limits() {
        assert_eq!(time_limit(Duration::from_secs(30)), "30 s");
        assert_eq!(time_limit(Duration::from_millis(1500)), "1.5 s");
    }

    #[test]
    fn moments() {
        assert_eq!(timestamp(0.0), "1970-01-01T00:00:00.000Z");
        assert_eq!(timestamp(951_782_400.5), "2000-02-29T00:00:00.500Z");
        assert_eq!(timestamp(1_767_225_599.999), "2025-12-31T23:59:59.999Z");
        assert_eq!(timestamp(253_402_300_799.0), "9999-12-31T23:59:59.000Z");
        assert_eq!(timestamp(253_402_300_800.0), "-");
        assert_eq!(timestamp(-1.0), "-");
        assert_eq!(timestamp(f64::NAN), "-");
    }

    #[test]
    fn shares() {
        assert_eq!(percent(0.1234), "12.3%");
        assert_eq!(percent(2.0), "200.0%");
    }
}
