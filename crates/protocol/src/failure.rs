//! How a call fails.

use std::{borrow::Cow, fmt};

use serde::Serialize;

use crate::{
    error::{EncodeError, describe},
    fields::Fields,
};

/// The classes that the library itself uses. Applications add their own.
pub mod class {
    /// No operation has that name.
    pub const UNKNOWN_OPERATION: &str = "UnknownOperation";
    /// A parameter is missing, or is not what it has to be.
    pub const INVALID_PARAMETERS: &str = "InvalidParameters";
    /// No worker has that connection id.
    pub const CONNECTION_NOT_FOUND: &str = "ConnectionNotFound";
    /// The connection over which the answer would have come was closed.
    pub const CONNECTION_CLOSED: &str = "ConnectionClosed";
    /// The answer did not come in time.
    pub const TIMED_OUT: &str = "TimedOut";
    /// The call was given up.
    pub const CANCELLED: &str = "Cancelled";
    /// As many calls as a connection may have are under way already.
    pub const TOO_MANY_CALLS: &str = "TooManyCalls";
    /// An unfinished call has that id already.
    pub const DUPLICATE_ID: &str = "DuplicateId";
    /// The peer broke the framing or the form of a message.
    pub const INVALID_MESSAGE: &str = "InvalidMessage";
    /// The peer may not do that.
    pub const PERMISSION_DENIED: &str = "PermissionDenied";
    /// This process cannot do that.
    pub const NOT_SUPPORTED: &str = "NotSupported";
    /// Something broke that should not, such as a handler that panicked.
    pub const INTERNAL: &str = "Internal";
}

/// A failed call, as it goes over the wire: `error: {class, message, …}`, and fields of the response beside it.
///
/// Any error becomes one of class `Internal` by `?`, with the messages of its sources.
///
/// ```
/// use async_container_protocol::{Failure, class};
///
/// fn read() -> Result<String, Failure> {
///     Ok(std::fs::read_to_string("/does/not/exist")?)
/// }
///
/// assert_eq!(read().unwrap_err().class(), class::INTERNAL);
/// ```
#[derive(Clone, PartialEq)]
pub struct Failure(Box<Inner>);

#[derive(Clone, PartialEq)]
struct Inner {
    class: Cow<'static, str>,
    message: Cow<'static, str>,
    details: Fields,
    fields: Fields,
}

impl Failure {
    /// A failure of a class, with a message for people.
    pub fn new(class: impl Into<Cow<'static, str>>, message: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new(Inner {
            class: class.into(),
            message: message.into(),
            details: Fields::empty(),
            fields: Fields::empty(),
        }))
    }

    /// A parameter is missing, or is not what it has to be.
    pub fn invalid_parameters(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(class::INVALID_PARAMETERS, message)
    }

    /// This process cannot do what was asked.
    pub fn not_supported(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(class::NOT_SUPPORTED, message)
    }

    /// Adds what stands beside `class` and `message` in `error`, such as `backtrace`.
    pub fn with_details(mut self, details: &impl Serialize) -> Result<Self, EncodeError> {
        self.0.details = Fields::new(details)?.without(&["class", "message"]);
        Ok(self)
    }

    /// Adds fields of the response beside `error`. Reserved names are left out.
    pub fn with_fields(mut self, fields: &impl Serialize) -> Result<Self, EncodeError> {
        self.0.fields = Fields::new(fields)?;
        Ok(self)
    }

    pub(crate) fn set_details(&mut self, details: Fields) {
        self.0.details = details;
    }

    pub(crate) fn set_fields(&mut self, fields: Fields) {
        self.0.fields = fields;
    }

    /// What kind of failure this is; see [`class`].
    pub fn class(&self) -> &str {
        &self.0.class
    }

    /// What happened, for people.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// What stands beside `class` and `message` in `error`.
    pub fn details(&self) -> &Fields {
        &self.0.details
    }

    /// The fields of the response beside `error`.
    pub fn fields(&self) -> &Fields {
        &self.0.fields
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.0.class, self.0.message)
    }
}

impl fmt::Debug for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Failure")
            .field("class", &self.0.class)
            .field("message", &self.0.message)
            .field("details", &self.0.details)
            .field("fields", &self.0.fields)
            .finish()
    }
}

/// Not an `Error` itself, so that this can be: handlers end with `?` on whatever they call.
impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::new(class::INTERNAL, describe(&error))
    }
}
