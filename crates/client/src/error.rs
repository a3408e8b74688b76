//! Why something was not told or done.

use async_container_protocol::{CallError, DecodeError, Failure, class};

/// Why something was not told or done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A call failed, at the other end or on the way there.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The answer is not what the protocol says that it is.
    #[error("the answer is not understood")]
    Decode(#[source] DecodeError),
    /// No worker is meant by that. The message lists those that there are, on lines of their own.
    #[error("no worker '{text}'{candidates}")]
    NoWorker {
        /// What was looked for.
        text: String,
        /// The workers that there are.
        candidates: String,
    },
    /// Several workers may be meant. The message lists them, on lines of their own.
    #[error("'{text}' may be any of these; say which:\n{candidates}")]
    AmbiguousWorker {
        /// What was looked for.
        text: String,
        /// Whom it may mean.
        candidates: String,
    },
}

impl From<DecodeError> for Error {
    fn from(error: DecodeError) -> Self {
        Self::Decode(error)
    }
}

impl Error {
    /// The error as a failure of a call, with a class and a message.
    pub fn into_failure(self) -> Failure {
        match self {
            Self::Call(error) => error.into_failure(),
            Self::Decode(error) => Failure::new(class::INTERNAL, format!("the answer is not understood: {error}")),
            error @ Self::NoWorker { .. } => Failure::new(class::CONNECTION_NOT_FOUND, error.to_string()),
            error @ Self::AmbiguousWorker { .. } => Failure::new("AmbiguousWorker", error.to_string()),
        }
    }

    /// The class of the failure at the other end, if it is one.
    pub fn class(&self) -> Option<&str> {
        match self {
            Self::Call(CallError::Failed(failure)) => Some(failure.class()),
            _ => None,
        }
    }
}
