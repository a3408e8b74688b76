//! What a monitor may ask of a worker, and what comes of it.

use std::{
    fmt,
    time::{Duration, Instant},
};

use serde::{Serialize, de::DeserializeOwned};

use crate::parameters::Parameters;

/// How long a worker has for its answer if nobody says otherwise.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

/// A call of an operation of a worker, to be made by whoever is connected to it.
///
/// ```
/// use std::time::Duration;
/// use async_container_monitors::{Action, Call};
/// use serde::Serialize;
///
/// #[derive(Serialize)]
/// struct Parameters { duration: f64 }
///
/// let action = Action::Call(
///     Call::new("8c1f", "memory_sample").parameters(Parameters { duration: 1.5 }).timeout(Duration::from_secs(5)),
/// );
/// ```
///
/// Two with parameters are equal only if one is a clone of the other.
#[derive(Clone, Debug)]
pub struct Call {
    worker_id: String,
    operation: String,
    parameters: Parameters,
    timeout: Duration,
    tag: u64,
    made_at: Option<Instant>,
    answered_at: Option<Instant>,
}

impl Call {
    /// A call without parameters, of the worker with this [id](crate::Worker::id).
    pub fn new(worker_id: impl Into<String>, operation: impl Into<String>) -> Self {
        let (worker_id, operation) = (worker_id.into(), operation.into());
        let parameters = Parameters::default();
        Self { worker_id, operation, parameters, timeout: DEFAULT_TIMEOUT, tag: 0, made_at: None, answered_at: None }
    }

    /// Sets its parameters: the fields of a struct, or the entries of a map. Default is none.
    pub fn parameters(mut self, parameters: impl Serialize + Send + Sync + 'static) -> Self {
        self.parameters = Parameters::new(parameters);
        self
    }

    /// Sets how long the worker has for its answer; then the call is cancelled. Default is 10 seconds.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sets a number by which a monitor knows the call again when it is [answered](crate::Monitor::answered), without looking for the
    /// worker by its id. Default is 0.
    pub fn tag(mut self, tag: u64) -> Self {
        self.tag = tag;
        self
    }

    /// The number that it was given.
    pub fn get_tag(&self) -> u64 {
        self.tag
    }

    /// Notes when it was made, for whoever makes it.
    pub fn made(mut self, at: Instant) -> Self {
        self.made_at = Some(at);
        self
    }

    /// When it was made, which may be a little after it was asked for: of many calls, some are made after others have been answered.
    /// `None` before that, of one that was not made, and from one who does not note it.
    pub fn made_at(&self) -> Option<Instant> {
        self.made_at
    }

    /// Notes when its answer came, for whoever makes it.
    pub fn answered(mut self, at: Instant) -> Self {
        self.answered_at = Some(at);
        self
    }

    /// When its answer came. That is the time to measure with: a monitor is told of several answers at once, a little later. `None`
    /// before that, and from one who does not note it.
    pub fn answered_at(&self) -> Option<Instant> {
        self.answered_at
    }

    /// Whom it is for.
    pub fn worker_id(&self) -> &str {
        &self.worker_id
    }

    /// What is called.
    pub fn operation(&self) -> &str {
        &self.operation
    }

    /// Its parameters, for whoever makes it.
    pub fn get_parameters(&self) -> Option<&(dyn erased_serde::Serialize + Send + Sync)> {
        self.parameters.get()
    }

    /// How long the worker has.
    pub fn get_timeout(&self) -> Duration {
        self.timeout
    }
}

/// When it was made and answered makes no other call of it.
impl PartialEq for Call {
    fn eq(&self, other: &Self) -> bool {
        (&self.worker_id, &self.operation, &self.parameters, self.timeout, self.tag)
            == (&other.worker_id, &other.operation, &other.parameters, other.timeout, other.tag)
    }
}

impl Eq for Call {}

/// Why a call came to nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CallFailure {
    /// What kind of failure it is: a class of the wire protocol, such as `UnknownOperation` or `TimedOut`.
    pub class: String,
    /// What a person should know.
    pub message: String,
}

impl CallFailure {
    /// A failure of this class.
    pub fn new(class: impl Into<String>, message: impl Into<String>) -> Self {
        Self { class: class.into(), message: message.into() }
    }
}

impl fmt::Display for CallFailure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message)
    }
}

impl std::error::Error for CallFailure {}

/// Shows a value, in whatever format it is, to one who wants to read it.
type Source = dyn Fn(&mut dyn FnMut(&mut dyn erased_serde::Deserializer<'_>)) + Send;

/// What a worker answered: a map, of which the monitor takes what it knows.
///
/// In which format it came over the wire, a monitor need not know; a test can make one of anything that serde can read.
///
/// ```
/// use async_container_monitors::Answer;
/// use serde::Deserialize;
///
/// #[derive(Deserialize)]
/// struct Pong { uptime: f64 }
///
/// let answer = Answer::new(|reader| {
///     let mut json = serde_json::Deserializer::from_str(r#"{"version": "1.0", "uptime": 2.5}"#);
///     reader(&mut <dyn erased_serde::Deserializer>::erase(&mut json));
/// });
/// assert_eq!(answer.get::<Pong>().unwrap().uptime, 2.5);
/// assert!(answer.get::<String>().is_err());
/// ```
pub struct Answer(Box<Source>);

impl Answer {
    /// An answer that `source` shows, whenever it is asked to.
    pub fn new(source: impl Fn(&mut dyn FnMut(&mut dyn erased_serde::Deserializer<'_>)) + Send + 'static) -> Self {
        Self(Box::new(source))
    }

    /// The answer as a struct or a map. The error says what does not fit.
    pub fn get<T: DeserializeOwned>(&self) -> Result<T, erased_serde::Error> {
        let mut result = None;
        (self.0)(&mut |deserializer| result = Some(erased_serde::deserialize(deserializer)));
        result.unwrap_or_else(|| Err(serde::de::Error::custom("there is no answer to be read")))
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Answer").finish_non_exhaustive()
    }
}
