//! Whether somebody sets the clock. Nothing here waits by the clock, but some of what is told is told by it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

use crate::time::FAR;

/// When the timer is due, if nobody sets the clock and nobody reads it.
const FAR_SECONDS: i64 = FAR.as_secs() as i64;

/// A descriptor that can be read once the clock has been set, or the host was asleep.
pub(crate) struct ClockWatch(OwnedFd);

impl ClockWatch {
    pub(crate) fn new() -> io::Result<Self> {
        let timer = timerfd_create(TimerfdClockId::Realtime, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?;
        // It need never be due: what is wanted of it is that it is cancelled.
        let never = rustix::time::clock_gettime(rustix::time::ClockId::Realtime).tv_sec.saturating_add(FAR_SECONDS);
        let zero = Timespec { tv_sec: 0, tv_nsec: 0 };
        let at = Itimerspec { it_interval: zero, it_value: Timespec { tv_sec: never, tv_nsec: 0 } };
        timerfd_settime(&timer, TimerfdTimerFlags::ABSTIME | TimerfdTimerFlags::CANCEL_ON_SET, &at)?;
        Ok(Self(timer))
    }

    /// Takes note, so that it can be read when the clock is set the next time.
    pub(crate) fn clear(&self) {
        // That it was set is an error, `ECANCELED`.
        let _ = rustix::io::read(&self.0, &mut [0; 8]);
    }
}

impl AsFd for ClockWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use rustix::event::{PollFd, PollFlags, poll};

    use super::*;

    #[test]
    fn there_is_nothing_to_read_while_nobody_sets_the_clock() {
        let watch = ClockWatch::new().unwrap();
        watch.clear();
        let mut events = [PollFd::new(&watch, PollFlags::IN)];
        assert_eq!(poll(&mut events, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap(), 0);
    }
}
