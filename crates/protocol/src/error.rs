//! What can go wrong, one type for each thing that a caller does.

use std::{io, path::PathBuf, time::Duration};

use crate::failure::Failure;

/// What is wrong with the way in which a peer delimits its messages.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// A frame of length zero holds no message.
    #[error("a frame has the length 0")]
    Empty,
    /// A frame announces more than the limit. Nothing was reserved for it.
    #[error("a frame announces {length} bytes, the limit is {limit}")]
    TooLarge {
        /// What the peer announced.
        length: usize,
        /// What the settings allow.
        limit: usize,
    },
    /// A line has no end within the limit.
    #[error("a line has no end within {limit} bytes, the limit of a message")]
    LineTooLong {
        /// What the settings allow.
        limit: usize,
    },
}

/// What is wrong with one message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MessageError {
    /// The message ends in the middle of a value.
    #[error("the message ends in the middle of a value")]
    Incomplete,
    /// Something follows the map.
    #[error("{0} bytes follow the message within its frame")]
    Trailing(usize),
    /// The message is a value of another kind.
    #[error("a message has to be a map")]
    NotAMap,
    /// A key of the message is no string.
    #[error("the keys of a message have to be strings")]
    KeyNotText,
    /// A string holds something other than UTF-8.
    #[error("a string is not UTF-8")]
    NotUtf8,
    /// The byte 0xc1, which MessagePack does not use.
    #[error("a value begins with 0xc1, which stands for nothing")]
    UnknownType,
    /// Maps and arrays lie too deep in one another.
    #[error("maps and arrays are nested more than {limit} deep")]
    TooDeep {
        /// How deep they may lie.
        limit: usize,
    },
    /// No `id`.
    #[error("the message has no 'id'")]
    MissingId,
    /// A reserved field holds a value of a type that it cannot have.
    #[error("'{field}' has to be {expected}")]
    Type {
        /// The field.
        field: &'static str,
        /// What it has to be.
        expected: &'static str,
    },
    /// A line is no JSON.
    #[error("the line is not JSON: {0}")]
    Json(String),
}

/// Why a connection came to its end, where that is not because one of the sides wanted it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectionError {
    /// The peer delimits its messages wrongly.
    #[error("the peer broke the framing: {0}")]
    Frame(FrameError),
    /// The peer sent a message that is none.
    #[error("the peer sent an invalid message: {0}")]
    Message(MessageError),
    /// The peer closed the connection in the middle of a message.
    #[error("the peer closed the connection after {0} bytes of an incomplete message")]
    Truncated(usize),
    /// The peer did not read for too long, while something waited to be written.
    #[error("the peer has read nothing for {} s", .0.as_secs_f64())]
    Stalled(Duration),
    /// The socket failed.
    #[error("the socket failed")]
    Io(#[source] io::Error),
}

/// Why no connection could be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// There is no such file, so no supervisor was ever started there.
    #[error("there is no socket at {}: is the supervisor running, and is this its directory?", path.display())]
    NotFound {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// The file is there, but nobody listens: it was left behind by a process that ended.
    #[error("nobody listens at {}: the socket is left over from a process that ended", path.display())]
    Stale {
        /// Where it lies.
        path: PathBuf,
    },
    /// The path does not fit into a socket's address.
    #[error(transparent)]
    PathTooLong(#[from] PathTooLong),
    /// The file may not be opened by this user.
    #[error("no permission to connect to {}: run as the user who owns it", path.display())]
    PermissionDenied {
        /// Where it lies.
        path: PathBuf,
    },
    /// Anything else that the operating system answered.
    #[error("could not connect to {}", path.display())]
    Other {
        /// Where to.
        path: PathBuf,
        /// What it answered.
        #[source]
        source: io::Error,
    },
}

/// A path that does not fit into the address of a Unix socket.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the socket path {} is {length} bytes long, more than the {limit} that this platform allows: use a shorter one",
    path.display()
)]
pub struct PathTooLong {
    /// The path.
    pub path: PathBuf,
    /// How long it is, in bytes.
    pub length: usize,
    /// How long it may be, in bytes.
    pub limit: usize,
}

/// Why a call brought no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CallError {
    /// The other side answered that it failed.
    #[error("{0}")]
    Failed(Failure),
    /// The connection ended before the answer came.
    #[error("the connection was closed before the answer came")]
    ConnectionClosed,
    /// The answer did not come in time. The other side was told to stop.
    #[error("no answer within the time given")]
    TimedOut,
    /// As many calls as a connection may have are under way already.
    #[error("{limit} calls are under way on this connection already: wait for one of them")]
    TooManyCalls {
        /// How many may be.
        limit: usize,
    },
    /// Nobody took the responses of this call while they held up those of others, so it was given up.
    #[error("the responses were not taken for {} s, and the call was cancelled", .0.as_secs_f64())]
    NotTaken(Duration),
    /// The parameters cannot be sent.
    #[error(transparent)]
    Encode(#[from] EncodeError),
}

impl CallError {
    /// What to tell a third party, on whose behalf the call was made.
    pub fn into_failure(self) -> Failure {
        use crate::failure::class;

        let name = match self {
            Self::Failed(failure) => return failure,
            Self::ConnectionClosed => class::CONNECTION_CLOSED,
            Self::TimedOut => class::TIMED_OUT,
            Self::TooManyCalls { .. } => class::TOO_MANY_CALLS,
            Self::NotTaken(_) => class::CANCELLED,
            Self::Encode(_) => class::INVALID_PARAMETERS,
        };

        Failure::new(name, self.to_string())
    }
}

/// Why a value cannot be sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// The fields of a message are a map or a struct, or nothing.
    #[error("the fields of a message have to be a map or a struct, not {0}")]
    NotAMap(&'static str),
    /// A key is no string.
    #[error("the keys of a message have to be strings")]
    KeyNotText,
    /// A field has a name that the protocol keeps for itself.
    #[error("'{0}' is reserved by the protocol: choose another name for this field")]
    Reserved(String),
    /// The message is larger than the peer would take.
    #[error("the message takes {length} bytes, the limit is {limit}: send it in parts")]
    TooLarge {
        /// How large it became.
        length: usize,
        /// How large it may be.
        limit: usize,
    },
    /// The value refused to be written.
    #[error("the message cannot be encoded: {0}")]
    Value(String),
}

impl serde::ser::Error for EncodeError {
    fn custom<T: std::fmt::Display>(message: T) -> Self {
        Self::Value(message.to_string())
    }
}

impl From<rmp_serde::encode::Error> for EncodeError {
    fn from(error: rmp_serde::encode::Error) -> Self {
        Self::Value(error.to_string())
    }
}

/// Why the fields of a message are not what was expected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// One field has a value of another type.
    #[error("'{field}': {reason}")]
    Field {
        /// Its name.
        field: String,
        /// What was expected.
        reason: String,
    },
    /// The fields as a whole do not fit, such as when one is missing.
    #[error("{0}")]
    Fields(String),
}

impl serde::de::Error for DecodeError {
    fn custom<T: std::fmt::Display>(message: T) -> Self {
        Self::Fields(message.to_string())
    }
}

/// Why a response was not sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// The caller no longer wants the answer, or is gone.
    #[error("the caller cancelled the call or closed the connection")]
    Cancelled,
    /// The value cannot be sent.
    #[error(transparent)]
    Encode(#[from] EncodeError),
}

/// An error and what caused it, on one line. What an error has said of its cause already is not said again.
///
/// ```
/// use async_container_protocol::describe;
///
/// #[derive(Debug, thiserror::Error)]
/// #[error("cannot read the settings")]
/// struct Settings(#[source] std::io::Error);
///
/// let error = Settings(std::io::Error::other("the disk is gone"));
/// assert_eq!(describe(&error), "cannot read the settings: the disk is gone");
/// ```
pub fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();

    while let Some(cause) = source {
        let said = cause.to_string();

        if !text.contains(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }

        source = cause.source();
    }

    text
}
