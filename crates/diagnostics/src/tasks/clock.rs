//! The clock that polls are timed by.

use std::{
    sync::LazyLock,
    time::{Duration, Instant, SystemTime},
};

pub(super) use crate::sys::ticks::now;

/// Where ticks and time began to be compared, which is when the first task was made.
static BEGIN: LazyLock<Pair> = LazyLock::new(Pair::read);

/// How far apart two readings have to be for the rate of the ticks to be known to a thousandth.
const LONG_ENOUGH: Duration = Duration::from_millis(1);

/// Both clocks at the same moment.
#[derive(Clone, Copy)]
struct Pair {
    ticks: u64,
    time: Instant,
}

impl Pair {
    /// The closest of a few: in between, others may run.
    fn read() -> Self {
        let read = || {
            let before = now();
            let time = Instant::now();
            let after = now();
            (after.saturating_sub(before), Self { ticks: before, time })
        };
        let mut best = read();

        for _ in 0..4 {
            let other = read();

            if other.0 < best.0 {
                best = other;
            }
        }

        best.1
    }
}

/// To be called before the first task is timed.
pub(super) fn begin() {
    LazyLock::force(&BEGIN);
}

/// All clocks at one moment, to tell when something was, and for how long.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reading {
    pub(super) now: u64,
    /// Seconds since 1970.
    pub(super) wall: f64,
    seconds_per_tick: f64,
}

impl Reading {
    pub(super) fn take() -> Self {
        let begin = *BEGIN;
        let end = loop {
            let pair = Pair::read();

            // It happens once in the life of a process, if at all.
            if pair.time - begin.time >= LONG_ENOUGH {
                break pair;
            }

            std::thread::sleep(LONG_ENOUGH);
        };
        let ticks = end.ticks.saturating_sub(begin.ticks).max(1);
        let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self {
            now: now(),
            wall: wall.as_secs_f64(),
            seconds_per_tick: (end.time - begin.time).as_secs_f64() / ticks as f64,
        }
    }

    /// Seconds of so many ticks.
    pub(super) fn seconds(&self, ticks: u64) -> f64 {
        ticks as f64 * self.seconds_per_tick
    }

    /// When that was, in seconds since 1970.
    pub(super) fn wall_at(&self, then: u64) -> f64 {
        self.wall - self.seconds(self.now.saturating_sub(then))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_told_as_time() {
        begin();
        let (before, start) = (now(), Instant::now());
        let pause = Duration::from_millis(50);
        while start.elapsed() < pause {}
        let reading = Reading::take();
        // The first is read before, and the second after the ticks are.
        let (least, most) = (pause.as_secs_f64(), start.elapsed().as_secs_f64());
        let told = reading.seconds(reading.now - before);
        assert!(told > least * 0.99 && told < most * 1.01, "{told} is not between {least} and {most}");
        assert!((reading.wall - reading.wall_at(before) - told).abs() < 1e-3);
    }
}
