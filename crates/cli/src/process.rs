//! The few figures of a process that are shown where no monitor has them.

use std::{fs, time::Duration};

use rustix::{
    param::{clock_ticks_per_second, page_size},
    time::{ClockId, clock_gettime},
};

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Figures {
    /// Seconds since it was started.
    pub(crate) uptime: f64,
    /// Bytes that are resident.
    pub(crate) memory: u64,
    /// The processors that it kept busy on average since it was started, as `ps` shows it.
    pub(crate) processor: f64,
    /// The time that processors spent on it, in seconds.
    pub(crate) processor_time: f64,
}

/// Reads the figures of a process of this pid namespace; `None` if it is gone, or cannot be read.
pub(crate) fn read(process_id: u32) -> Option<Figures> {
    let text = fs::read(format!("/proc/{process_id}/stat")).ok()?;
    let now = Duration::try_from(clock_gettime(ClockId::Boottime)).ok()?;
    parse(&text, now, clock_ticks_per_second(), page_size() as u64)
}

/// Whether this process was started with that signal ignored.
pub(crate) fn ignores(signal: i32) -> bool {
    let mask = fs::read_to_string("/proc/self/status").ok().and_then(|status| {
        let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"))?.trim().to_owned();
        u64::from_str_radix(&mask, 16).ok()
    });
    let bit = u32::try_from(signal - 1).ok().and_then(|bit| 1u64.checked_shl(bit)).unwrap_or(0);
    mask.is_some_and(|mask| mask & bit != 0)
}

fn parse(text: &[u8], now: Duration, ticks_per_second: u64, page_size: u64) -> Option<Figures> {
    // The name, which is in parentheses, may contain such. The numbers follow the last one.
    let close = text.iter().rposition(|byte| *byte == b')')?;
    let fields: Vec<&str> = std::str::from_utf8(&text[close + 1..]).ok()?.split_ascii_whitespace().collect();
    let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
    let seconds = |ticks: u64| ticks as f64 / ticks_per_second.max(1) as f64;

    if matches!(*fields.first()?, "Z" | "X") {
        return None;
    }

    let uptime = (now.as_secs_f64() - seconds(number(19)?)).max(0.0);
    let used = seconds(number(11)?.saturating_add(number(12)?));
    Some(Figures {
        uptime,
        memory: number(21)?.saturating_mul(page_size),
        processor: if uptime > 0.0 { used / uptime } else { 0.0 },
        processor_time: used,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures() {
        let text =
            b"44 (a) b) S 4456 4450 2831 0 -1 4194304 100 0 0 0 150 50 0 0 20 0 1 0 7000 3133440 359 18446744073";
        let figures = parse(text, Duration::from_secs(80), 100, 4096).unwrap();
        assert_eq!(figures, Figures { uptime: 10.0, memory: 359 * 4096, processor: 0.2, processor_time: 2.0 });
    }

    #[test]
    fn what_is_malformed_or_ended_has_none() {
        for text in ["", "1 (x", "1 (x) S", "1 (x)", "1 (x) Z 1 1 1 0 -1 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0"] {
            assert_eq!(parse(text.as_bytes(), Duration::ZERO, 100, 4096), None, "{text:?}");
        }
    }

    #[test]
    fn signals_that_are_ignored() {
        // Rust's runtime ignores SIGPIPE in every program, and nothing ignores SIGKILL.
        assert!(ignores(13) && !ignores(9) && !ignores(0) && !ignores(65));
    }

    #[test]
    fn this_process_has_some() {
        let figures = read(std::process::id()).unwrap();
        assert!(figures.memory > 100_000 && figures.uptime < 3600.0, "{figures:?}");
    }
}
