//! The clock that polls are timed by.

use std::{
    sync::LazyLock,
    time::{Duration, Instant, SystemTime},
};

/// Where the clock begins. Zero stands for "never", so nothing happens at the very beginning.
static START: LazyLock<Instant> = LazyLock::new(|| Instant::now() - Duration::from_nanos(1));

/// Nanoseconds since the clock began, which is when the first task was made. Never zero.
#[inline]
pub(super) fn now() -> u64 {
    START.elapsed().as_nanos() as u64
}

/// Both clocks at one moment, to tell when something was.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reading {
    pub(super) now: u64,
    /// Seconds since 1970.
    pub(super) wall: f64,
}

impl Reading {
    pub(super) fn take() -> Self {
        let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self { now: now(), wall: wall.as_secs_f64() }
    }

    /// How long ago that was, in seconds.
    pub(super) fn since(&self, then: u64) -> f64 {
        seconds(self.now.saturating_sub(then))
    }

    /// When that was, in seconds since 1970.
    pub(super) fn wall_at(&self, then: u64) -> f64 {
        self.wall - self.since(then)
    }
}

pub(super) fn seconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_never_reads_zero_and_tells_the_time_of_day() {
        let before = now();
        assert_ne!(before, 0);
        let reading = Reading::take();
        assert!(reading.now >= before);
        assert_eq!(reading.since(reading.now + 1), 0.0);
        assert!((reading.wall_at(reading.now.saturating_sub(2_000_000_000)) - reading.wall).abs() <= 2.0);
    }
}
