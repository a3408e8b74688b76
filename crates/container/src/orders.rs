//! What signals ask of the root.

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
    Stop,
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
            _ = self.interrupt.recv() => Order::Stop,
            _ = self.terminate.recv() => Order::Stop,
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
        libc::SIGINT | libc::SIGTERM => Order::Stop,
        libc::SIGHUP => Order::Reload,
        _ => Order::Ignore,
    }
}

/// Stop signals by the way that they came. A service manager may signal every process of a service, so one
/// wish to stop may reach the root twice: directly, and through the guardian.
#[derive(Default)]
pub(crate) struct Stops {
    pub direct: u32,
    pub forwarded: u32,
}

impl Stops {
    pub(crate) fn wishes(&self) -> u32 {
        self.direct.max(self.forwarded)
    }
}
