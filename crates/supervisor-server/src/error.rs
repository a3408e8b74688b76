//! Why a supervisor stops serving.

use std::io;

/// Why a supervisor cannot serve.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The listening socket cannot accept, and never will. Passing conditions, such as too many open files, are waited out.
    #[error("the socket cannot accept connections")]
    Accept(#[source] io::Error),
    /// Two monitors have the same name, by which people could not tell them apart.
    #[error("there are two monitors named '{0}': give one of them another name")]
    DuplicateMonitor(String),
    /// A monitor has a name that a response cannot have as a field.
    #[error("a monitor cannot be named '{0}', which the protocol keeps for itself")]
    MonitorName(String),
    /// A monitor was set up in a way in which it could not work.
    #[error("the monitor '{name}' cannot work so: {problem}")]
    Monitor {
        /// The monitor.
        name: String,
        /// What is wrong, and what would be right.
        problem: String,
    },
    /// A monitor declares an event that only the supervisor tells of.
    #[error("the monitor '{monitor}' cannot have an event '{event}', which is the supervisor's own")]
    EventName {
        /// The monitor.
        monitor: String,
        /// The event.
        event: String,
    },
    /// The thread of a monitor could not be started.
    #[error("the thread of the monitor '{name}' could not be started")]
    Thread {
        /// The monitor.
        name: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}
