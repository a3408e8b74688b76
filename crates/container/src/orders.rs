//! What signals ask of the root.

use std::time::{Duration, Instant};

use rustix::process;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::error::StartError;
use crate::sys::fork::Blocked;

/// What the root takes, and the guardian hands on to it.
pub(crate) const TAKEN: [process::Signal; 5] =
    [process::Signal::HUP, process::Signal::INT, process::Signal::TERM, process::Signal::USR1, process::Signal::USR2];

/// The signals that the root takes.
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
    user1: Signal,
    user2: Signal,
}

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// By the signal with this number.
    Stop(i32),
    Reload,
    Ignore,
}

impl Signals {
    /// Takes the signals from now on. The thread must be the only one.
    pub(crate) fn install() -> Result<Self, StartError> {
        // What comes while a handler is being put in place waits, or it would be lost.
        let blocked = Blocked::new(&TAKEN);
        let signals = Signals {
            interrupt: install(SignalKind::interrupt())?,
            terminate: install(SignalKind::terminate())?,
            hangup: install(SignalKind::hangup())?,
            user1: install(SignalKind::user_defined1())?,
            user2: install(SignalKind::user_defined2())?,
        };
        blocked.release();
        Ok(signals)
    }

    pub(crate) async fn next(&mut self) -> Order {
        tokio::select! {
            _ = self.interrupt.recv() => Order::Stop(libc::SIGINT),
            _ = self.terminate.recv() => Order::Stop(libc::SIGTERM),
            _ = self.hangup.recv() => Order::Reload,
            _ = self.user1.recv() => Order::Ignore,
            _ = self.user2.recv() => Order::Ignore,
        }
    }
}

pub(crate) fn install(kind: SignalKind) -> Result<Signal, StartError> {
    signal(kind).map_err(|source| StartError::System { action: "handle signals", source })
}

pub(crate) fn order(number: i32) -> Order {
    match number {
        libc::SIGINT | libc::SIGTERM => Order::Stop(number),
        libc::SIGHUP => Order::Reload,
        _ => Order::Ignore,
    }
}

/// How soon the same signal again, by the same way, still is the same wish: timeout(1) signals first the process that it
/// started and then, a moment later, the group of that.
const ECHO: Duration = Duration::from_millis(100);

/// Stop signals by the way that they came. A service manager may signal every process of a service, so one
/// wish to stop may reach the root twice: directly, and through the guardian.
#[derive(Default)]
pub(crate) struct Stops {
    direct: Wishes,
    forwarded: Wishes,
}

/// What came by one way.
#[derive(Default)]
struct Wishes {
    count: u32,
    last: Option<(i32, Instant)>,
}

impl Stops {
    /// Takes a signal into account. How many wishes to stop there were before, and how many there are now.
    pub(crate) fn count(&mut self, number: i32, forwarded: bool, now: Instant) -> (u32, u32) {
        let earlier = self.wishes();
        let way = if forwarded { &mut self.forwarded } else { &mut self.direct };
        if !way.last.is_some_and(|(last, at)| last == number && now.duration_since(at) < ECHO) {
            way.count += 1;
            way.last = Some((number, now));
        }
        (earlier, self.wishes())
    }

    fn wishes(&self) -> u32 {
        self.direct.count.max(self.forwarded.count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TERM: i32 = libc::SIGTERM;
    const INT: i32 = libc::SIGINT;

    #[test]
    fn one_wish_may_come_twice() {
        let now = Instant::now();
        let mut stops = Stops::default();
        assert_eq!(stops.count(TERM, true, now), (0, 1));
        assert_eq!(stops.count(TERM, true, now + Duration::from_millis(1)), (1, 1));
        assert_eq!(stops.count(TERM, false, now + Duration::from_millis(2)), (1, 1));
        assert_eq!(stops.count(TERM, true, now + ECHO), (1, 2));
    }

    #[test]
    fn another_signal_is_another_wish() {
        let now = Instant::now();
        let mut stops = Stops::default();
        assert_eq!(stops.count(TERM, true, now), (0, 1));
        assert_eq!(stops.count(INT, true, now), (1, 2));
        assert_eq!(stops.count(INT, false, now), (2, 2));
    }
}
