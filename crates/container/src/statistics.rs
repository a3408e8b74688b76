//! How often children were started, restarted, and failed.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use serde::Serialize;

/// Counts events within a window of time that moves along.
///
/// Time is divided into slots of a second. An event counts as long as it is younger than the window, whether or not others
/// were added since.
///
/// ```
/// use std::time::{Duration, Instant};
/// use async_container::Rate;
///
/// let start = Instant::now();
/// let mut rate = Rate::new(Duration::from_secs(60));
/// rate.add(start);
/// rate.add(start + Duration::from_secs(30));
/// assert_eq!(rate.total(start + Duration::from_secs(59)), 2);
/// assert_eq!(rate.total(start + Duration::from_secs(61)), 1);
/// assert_eq!(rate.per_minute(start + Duration::from_secs(61)), 1.0);
/// ```
#[derive(Clone, Debug)]
pub struct Rate {
    window: Duration,
    /// The beginning of each slot that has events, and how many.
    slots: VecDeque<(Instant, u64)>,
}

impl Rate {
    const SLOT: Duration = Duration::from_secs(1);

    /// No events yet. The window is a second at least.
    pub fn new(window: Duration) -> Self {
        Rate { window: window.max(Self::SLOT), slots: VecDeque::new() }
    }

    /// The window.
    pub fn window(&self) -> Duration {
        self.window
    }

    /// An event happened.
    pub fn add(&mut self, now: Instant) {
        while self.slots.front().is_some_and(|(begin, _)| now.saturating_duration_since(*begin) >= self.window) {
            self.slots.pop_front();
        }
        match self.slots.back_mut() {
            Some((begin, count)) if now.saturating_duration_since(*begin) < Self::SLOT => *count += 1,
            _ => self.slots.push_back((now, 1)),
        }
    }

    /// How many events there were within the window.
    pub fn total(&self, now: Instant) -> u64 {
        let young = |begin: Instant| now.saturating_duration_since(begin) < self.window;
        self.slots.iter().filter(|(begin, _)| young(*begin)).map(|(_, count)| count).sum()
    }

    /// Events a second, on the average of the window.
    pub fn per_second(&self, now: Instant) -> f64 {
        self.total(now) as f64 / self.window.as_secs_f64()
    }

    /// Events a minute, on the average of the window.
    pub fn per_minute(&self, now: Instant) -> f64 {
        self.per_second(now) * 60.0
    }
}

/// What happened to children so far.
#[derive(Clone, Debug)]
pub struct Statistics {
    /// Processes that were started, restarts included.
    pub spawns: u64,
    /// Processes that were started in place of others.
    pub restarts: u64,
    /// Processes that failed, or could not be started.
    pub failures: u64,
    /// Restarts lately.
    pub restart_rate: Rate,
    /// Failures lately.
    pub failure_rate: Rate,
}

impl Statistics {
    /// The window of the rates, unless told otherwise.
    pub const WINDOW: Duration = Duration::from_secs(60);

    /// Nothing has happened yet.
    pub fn new(window: Duration) -> Self {
        Statistics {
            spawns: 0,
            restarts: 0,
            failures: 0,
            restart_rate: Rate::new(window),
            failure_rate: Rate::new(window),
        }
    }

    pub(crate) fn spawned(&mut self, again: bool, now: Instant) {
        self.spawns += 1;
        if again {
            self.restarts += 1;
            self.restart_rate.add(now);
        }
    }

    pub(crate) fn failed(&mut self, now: Instant) {
        self.failures += 1;
        self.failure_rate.add(now);
    }

    /// The numbers of now, rates by the second.
    pub fn summary(&self, now: Instant) -> StatisticsSummary {
        StatisticsSummary {
            spawns: self.spawns,
            restarts: self.restarts,
            failures: self.failures,
            restart_rate: self.restart_rate.per_second(now),
            failure_rate: self.failure_rate.per_second(now),
        }
    }
}

impl Default for Statistics {
    fn default() -> Self {
        Self::new(Self::WINDOW)
    }
}

/// [`Statistics`] at a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct StatisticsSummary {
    /// Processes that were started.
    pub spawns: u64,
    /// Processes that were started in place of others.
    pub restarts: u64,
    /// Processes that failed, or could not be started.
    pub failures: u64,
    /// Restarts a second.
    pub restart_rate: f64,
    /// Failures a second.
    pub failure_rate: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_counts_until_it_is_as_old_as_the_window() {
        let start = Instant::now();
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        let mut rate = Rate::new(Duration::from_secs(60));
        rate.add(start);
        assert_eq!(rate.total(at(59_999)), 1);
        assert_eq!(rate.total(at(60_000)), 0);
        // Another event changes nothing for the first one.
        let mut other = rate.clone();
        other.add(at(59_999));
        assert_eq!(other.total(at(59_999)), 2);
        assert_eq!(other.total(at(60_000)), 1);
        rate.add(at(60_000));
        assert_eq!(rate.total(at(60_000)), 1);
    }

    #[test]
    fn a_rate_holds_no_more_than_its_window() {
        let start = Instant::now();
        let mut rate = Rate::new(Duration::from_secs(10));
        for step in 0..100_000u64 {
            rate.add(start + Duration::from_millis(step));
            assert!(rate.slots.len() <= 11);
        }
        assert_eq!(rate.total(start + Duration::from_millis(99_999)), 10_000);
        assert_eq!(rate.per_second(start + Duration::from_millis(99_999)), 1000.0);
    }
}
