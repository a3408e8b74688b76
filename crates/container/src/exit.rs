//! How a process ended.

use std::fmt;

use rustix::process::WaitIdStatus;

use crate::signal;

/// The exit statuses of a root, beside those of an [essential](crate::Service::essential) child.
///
/// Numbers from 64 on are those of sysexits(3) that come closest. A service manager that restarts on failure restarts after
/// all of them but 0; those of a wrong configuration are worth excepting, for systemd with
/// `RestartPreventExitStatus=73 78`.
pub mod exit_code {
    /// It was asked to stop; or all children ended, none with a failure.
    pub const SUCCESS: u8 = 0;
    /// All children ended, some with a failure.
    pub const CHILDREN_FAILED: u8 = 1;
    /// A [thread of the root](crate::Service::thread) hung, which only the end of the root could end.
    pub const THREAD_HUNG: u8 = 70;
    /// The system refused something that no root can do without.
    pub const SYSTEM: u8 = 71;
    /// A socket could not be bound.
    pub const CANNOT_BIND: u8 = 73;
    /// A [policy](crate::Policy) gave up.
    pub const GAVE_UP: u8 = 75;
    /// The services make no sense as they were described, or one of them [said so](crate::ConfigurationError) at the first start.
    pub const CONFIGURATION: u8 = 78;
    /// The guardian was killed.
    pub const GUARDIAN_KILLED: u8 = 137;
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ExitStatus {
    /// It called exit(3) with this status; 0 means success.
    Exited(i32),
    /// This signal, by number, ended it.
    Signaled(i32),
    /// It is gone, but somebody else in this process collected its status.
    Unknown,
}

impl ExitStatus {
    /// True if the process ended by itself with status 0.
    pub fn success(self) -> bool {
        self == ExitStatus::Exited(0)
    }

    /// The exit code that a shell would report: the status itself, or 128 and the signal's number.
    pub fn code(self) -> u8 {
        match self {
            ExitStatus::Exited(code) => code as u8,
            ExitStatus::Signaled(number) => 128u8.wrapping_add(number as u8),
            ExitStatus::Unknown => 1,
        }
    }
}

impl From<&WaitIdStatus> for ExitStatus {
    fn from(status: &WaitIdStatus) -> Self {
        if let Some(code) = status.exit_status() {
            ExitStatus::Exited(code)
        } else if let Some(number) = status.terminating_signal() {
            ExitStatus::Signaled(number)
        } else {
            ExitStatus::Unknown
        }
    }
}

impl fmt::Display for ExitStatus {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ExitStatus::Exited(code) => write!(formatter, "exited with status {code}"),
            ExitStatus::Signaled(number) => {
                write!(formatter, "killed by {}", signal::name(*number))
            }
            ExitStatus::Unknown => formatter.write_str("ended with a status that somebody else collected"),
        }
    }
}
