//! Noticing monitors that take long: their own thread cannot tell of it while they do.

use std::{
    io,
    os::fd::OwnedFd,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, Instant},
};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::io::unix::AsyncFd;

use super::Shared;
use crate::process;

/// Who has been at one thing for so long is stuck, and nobody waits for it any more.
const STUCK: Duration = Duration::from_secs(10);

/// When it is looked whether one is, after its thread has begun to work, and how often from then on.
const LOOK_AFTER: Duration = Duration::from_millis(10_100);
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

/// Goes off while the thread of a monitor has been at work for long: a timer of the kernel, which the thread sets and stops in half a
/// microsecond each, and which wakes nobody as long as all is well.
pub(super) struct Alarm(Option<Arc<OwnedFd>>);

impl Alarm {
    pub(super) fn new() -> Self {
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC);

        if let Err(error) = timer {
            tracing::warn!(%error, "no timer for a monitor: if it gets stuck, that is not logged");
        }

        Self(timer.ok().map(Arc::new))
    }

    /// The thread begins to work.
    pub(super) fn set(&self) {
        self.arm(LOOK_AFTER, LOOK_EVERY);
    }

    /// The thread has done its work.
    pub(super) fn stop(&self) {
        self.arm(Duration::ZERO, Duration::ZERO);
    }

    fn arm(&self, after: Duration, every: Duration) {
        let Some(timer) = &self.0 else { return };
        let [it_value, it_interval] =
            [after, every].map(|time| Timespec { tv_sec: time.as_secs() as i64, tv_nsec: time.subsec_nanos().into() });

        // It fails for times that are none only.
        let _ = timerfd_settime(timer, TimerfdTimerFlags::empty(), &Itimerspec { it_interval, it_value });
    }
}

/// Tells of a monitor that is stuck, as long as it is there.
pub(super) async fn watch(monitor: Weak<Shared>) {
    let Some(timer) = monitor.upgrade().and_then(|monitor| monitor.alarm.0.clone()) else { return };

    let watched = async {
        let alarm = process::watched(timer)?;

        loop {
            went_off(&alarm).await?;
            let Some(monitor) = monitor.upgrade() else { return Ok::<(), io::Error>(()) };
            look_at(&monitor);
        }
    };

    if let Err(error) = watched.await {
        tracing::warn!(%error, "if a monitor gets stuck, that is not logged any more");
    }
}

/// Waits for the next time that it goes off.
async fn went_off(alarm: &AsyncFd<Arc<OwnedFd>>) -> io::Result<()> {
    loop {
        let mut ready = alarm.readable().await?;
        let mut times = [0; 8];

        // It may have been stopped since.
        if let Ok(read) = ready.try_io(|timer| Ok(rustix::io::read(timer.get_ref(), &mut times)?)) {
            return read.map(drop);
        }
    }
}

fn look_at(monitor: &Shared) {
    if let Some((call, so_far)) = monitor.busy.news(Instant::now()) {
        let name = &monitor.name;
        tracing::warn!(monitor = name, call, ?so_far, "a monitor is stuck: it checks nothing until this call returns");
    }
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

    #[tokio::test]
    async fn an_alarm_goes_off_again_and_again_until_it_is_stopped() {
        let alarm = Alarm::new();
        let timer = alarm.0.clone().unwrap();
        let watched = process::watched(timer.clone()).unwrap();
        alarm.arm(Duration::from_millis(2), Duration::from_millis(1));
        for _ in 0..3 {
            went_off(&watched).await.unwrap();
        }
        alarm.stop();
        let left = rustix::time::timerfd_gettime(&timer).unwrap();
        assert_eq!((left.it_value.tv_sec, left.it_value.tv_nsec), (0, 0));
        alarm.set();
        let left = rustix::time::timerfd_gettime(&timer).unwrap();
        assert!((STUCK.as_secs() as i64..).contains(&left.it_value.tv_sec), "no call can be that old before");
    }

    #[test]
    fn checks_that_take_long_are_told_of_once_a_minute() {
        let (mut slowness, begin) = (Slowness::default(), Instant::now());
        assert!(!slowness.is_news(SECOND, SECOND, begin));
        let told = (0..180).filter(|second| slowness.is_news(2 * SECOND, SECOND, begin + *second * SECOND));
        assert_eq!(told.collect::<Vec<u32>>(), [0, 60, 120]);
    }
}
