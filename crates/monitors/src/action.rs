//! What a monitor may want done to a process.

use std::{path::PathBuf, time::Duration};

use serde::Serialize;

use crate::{call::Call, monitor::Event, parameters::Parameters};

/// How long a diagnostic may take if nobody says otherwise.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

/// What a monitor wants done.
///
/// It is a wish: who carries it out knows whether the process is a child of this application, and
/// how to replace it. Nothing is done to a process that is neither a child nor a worker that is connected.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Action {
    /// Replace a process by a fresh one.
    Restart(Restart),
    /// Have a worker look into itself, and keep what it finds.
    Diagnose(Diagnosis),
    /// Tell those who subscribed to events of that name.
    Event(Event),
    /// Call an operation of a worker. [`Monitor::answered`](crate::Monitor::answered) is told what came of it.
    Call(Call),
}

impl Action {
    /// Replace this process by a fresh one, without more ado. The reason is a phrase without a full stop.
    pub fn restart(process_id: u32, reason: impl Into<String>) -> Self {
        Self::Restart(Restart::new(process_id, reason))
    }
}

/// The wish to have a process replaced by a fresh one.
///
/// ```
/// use std::time::Duration;
/// use async_container_monitors::{Action, Diagnosis, Restart};
///
/// let dump = Diagnosis::new(4242, "thread_dump").timeout(Duration::from_secs(2));
/// let action = Action::Restart(Restart::new(4242, "does not answer").diagnosis(dump).start_first(Duration::from_secs(30)));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Restart {
    /// The process to replace.
    pub process_id: u32,
    /// Why, for the log and for people: a phrase without a full stop.
    pub reason: String,
    /// What to find out before it is gone.
    pub diagnosis: Option<Diagnosis>,
    /// Whether the new process is to be started first, and how long the old one then goes on at most.
    pub start_first: Option<Duration>,
    /// Whether it must not wait for anything.
    pub urgent: bool,
}

impl Restart {
    /// Stop this process, and start another one in its place.
    pub fn new(process_id: u32, reason: impl Into<String>) -> Self {
        Self { process_id, reason: reason.into(), diagnosis: None, start_first: None, urgent: false }
    }

    /// Has the worker look into itself before. The restart waits for that, but never longer than the diagnostic's time-out, and
    /// no longer once an [urgent](Self::urgent) restart of the same process is asked for.
    ///
    /// Default is none.
    pub fn diagnosis(mut self, diagnosis: Diagnosis) -> Self {
        self.diagnosis = Some(diagnosis);
        self
    }

    /// Has the new process started beside the old one, which is stopped when the new one is ready, or has failed, or after
    /// this time, whichever comes first. Where the root cannot do that, the old one is stopped first.
    ///
    /// Default is that the old one is stopped first.
    pub fn start_first(mut self, limit: Duration) -> Self {
        self.start_first = Some(limit);
        self
    }

    /// Makes it wait for nothing: no diagnostic, no new process, no other restart. It cuts short what an earlier wish of the
    /// same kind is waiting for.
    ///
    /// Default is that it waits.
    pub fn urgent(mut self) -> Self {
        self.urgent = true;
        self
    }
}

/// Something to find out about a worker, by an operation of its own. While one is being made, or waits for its turn, the same one
/// for the same monitor and destination is not made once more.
///
/// Two with parameters are equal only if one is a clone of the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnosis {
    process_id: u32,
    operation: String,
    parameters: Parameters,
    timeout: Duration,
    destination: Destination,
}

/// Where the result of a diagnostic goes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Destination {
    /// To the supervisor's log, cut to 64 KiB.
    #[default]
    Log,
    /// To those who subscribed to events of the name `diagnosis`.
    Event,
    /// To a new file in this directory, of the supervisor. Its name is made of the worker's, its process id, the operation
    /// and the time; only the user of the supervisor can read it.
    Directory(PathBuf),
}

impl Diagnosis {
    /// Calls this operation of the worker that is in this process.
    pub fn new(process_id: u32, operation: impl Into<String>) -> Self {
        let (parameters, destination) = (Parameters::default(), Destination::default());
        Self { process_id, operation: operation.into(), parameters, timeout: DEFAULT_TIMEOUT, destination }
    }

    /// Sets the parameters of the operation: the fields of a struct, or the entries of a map. Default is none.
    pub fn parameters(mut self, parameters: impl Serialize + Send + Sync + 'static) -> Self {
        self.parameters = Parameters::new(parameters);
        self
    }

    /// Sets how long it may take. Then the worker is told to stop, and it came to nothing. Default is 10 seconds.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sets where the result goes. Default is the log.
    pub fn to(mut self, destination: Destination) -> Self {
        self.destination = destination;
        self
    }

    /// Whom it is about.
    pub fn process_id(&self) -> u32 {
        self.process_id
    }

    /// What is called.
    pub fn operation(&self) -> &str {
        &self.operation
    }

    /// The parameters, for whoever makes the call.
    pub fn get_parameters(&self) -> Option<&(dyn erased_serde::Serialize + Send + Sync)> {
        self.parameters.get()
    }

    /// How long it may take.
    pub fn get_timeout(&self) -> Duration {
        self.timeout
    }

    /// Where the result goes.
    pub fn destination(&self) -> &Destination {
        &self.destination
    }
}
