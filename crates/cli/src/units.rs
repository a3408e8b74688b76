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
    fn shares() {
        assert_eq!(percent(0.1234), "12.3%");
        assert_eq!(percent(2.0), "200.0%");
    }
}
