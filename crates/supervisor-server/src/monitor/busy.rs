//! Noticing monitors that take long: their own thread cannot tell of it while they do.

use std::{
    sync::{Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, Instant},
};

use super::Shared;

/// Who has been at one thing for so long is stuck, and nobody waits for it any more.
const STUCK: Duration = Duration::from_secs(10);

/// How often it is looked for those who are.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// How soon it is said again that checks take long.
const SAID_EVERY: Duration = Duration::from_secs(60);

/// What a monitor is called for at the moment.
#[derive(Default)]
pub(super) struct Busy(Mutex<Option<Called>>);

#[derive(Clone, Copy)]
struct Called {
    what: &'static str,
    since: Instant,
    /// How long it had taken when that was said last.
    said: Option<Duration>,
}

impl Busy {
    /// Notes that it is called, until what this gives is dropped.
    pub(super) fn begin(&self, what: &'static str) -> Calling<'_> {
        *self.lock() = Some(Called { what, since: Instant::now(), said: None });
        Calling(self)
    }

    /// What it is called for, and for how long so far.
    pub(super) fn since(&self) -> Option<(&'static str, Duration)> {
        self.lock().map(|called| (called.what, called.since.elapsed()))
    }

    pub(super) fn is_stuck(&self) -> bool {
        self.since().is_some_and(|(_, time)| time >= STUCK)
    }

    /// What there is to be said of it: that it is stuck, and then again each time that it has been for twice as long.
    fn news(&self, now: Instant) -> Option<(&'static str, Duration)> {
        let mut called = self.lock();
        let called = called.as_mut()?;
        let time = now.saturating_duration_since(called.since);
        let is_news = time >= called.said.map_or(STUCK, |said| said.saturating_mul(2));
        is_news.then(|| {
            called.said = Some(time);
            (called.what, time)
        })
    }

    fn lock(&self) -> MutexGuard<'_, Option<Called>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// That a monitor is called.
pub(super) struct Calling<'a>(&'a Busy);

impl Drop for Calling<'_> {
    fn drop(&mut self) {
        *self.0.lock() = None;
    }
}

/// Tells of monitors that are stuck, as long as there are any monitors.
pub(super) async fn watch_all(mut monitors: Vec<Weak<Shared>>) {
    while !monitors.is_empty() {
        tokio::time::sleep(LOOK_EVERY).await;
        monitors.retain(|monitor| monitor.upgrade().is_some_and(|monitor| look_at(&monitor)));
    }
}

fn look_at(monitor: &Shared) -> bool {
    let is_closed = monitor.lock().closed;

    if !is_closed && let Some((call, so_far)) = monitor.busy.news(Instant::now()) {
        let name = &monitor.name;
        tracing::warn!(monitor = name, call, ?so_far, "a monitor is stuck: it checks nothing until this call returns");
    }

    !is_closed
}

/// What was said of checks that take longer than the time between two.
#[derive(Default)]
pub(super) struct Slowness {
    said_at: Option<Instant>,
}

impl Slowness {
    /// Tells of a check that came to its end, if it is worth telling.
    pub(super) fn check_took(&mut self, monitor: &str, took: Duration, interval: Duration) {
        if self.is_news(took, interval, Instant::now()) {
            tracing::warn!(
                monitor,
                ?took,
                ?interval,
                "a check took longer than the time between two: those that were due meanwhile are left out"
            );
        }
    }

    fn is_news(&mut self, took: Duration, interval: Duration, now: Instant) -> bool {
        let is_old = self.said_at.is_none_or(|at| now.saturating_duration_since(at) >= SAID_EVERY);
        let is_news = took > interval && is_old;
        if is_news {
            self.said_at = Some(now);
        }
        is_news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_call_that_does_not_return_is_told_of_and_ever_more_rarely() {
        let busy = Busy::default();
        assert_eq!(busy.news(Instant::now() + 1000 * SECOND), None, "nobody calls it");
        let calling = busy.begin("check");
        let begin = busy.lock().unwrap().since;
        let told: Vec<u32> = (0..100).filter(|second| busy.news(begin + *second * SECOND).is_some()).collect();
        assert_eq!(told, [10, 20, 40, 80]);
        assert_eq!(busy.since().map(|(what, _)| what), Some("check"));
        drop(calling);
        assert_eq!((busy.news(begin + 1000 * SECOND), busy.since()), (None, None));
        let _calling = busy.begin("status");
        assert_eq!(busy.news(begin + 5 * SECOND), None, "it is another call");
    }

    #[test]
    fn checks_that_take_long_are_told_of_once_a_minute() {
        let (mut slowness, begin) = (Slowness::default(), Instant::now());
        assert!(!slowness.is_news(SECOND, SECOND, begin));
        let told = (0..180).filter(|second| slowness.is_news(2 * SECOND, SECOND, begin + *second * SECOND));
        assert_eq!(told.collect::<Vec<u32>>(), [0, 60, 120]);
    }
}
