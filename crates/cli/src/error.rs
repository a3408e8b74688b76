//! Why a command did not do what it was to, and which exit status that is.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use async_container_protocol::{CallError, ConnectError, Failure, PathTooLong, class};
use async_container_supervisor_client::Error as ClientError;

use crate::units;

pub(crate) type Result<T = ()> = std::result::Result<T, Error>;

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The operation failed, at the other end or on the way there.
    #[error("{0}")]
    Failed(Failure),
    /// The arguments are well-formed, but make no sense.
    #[error("{0}")]
    Usage(String),
    /// There is no file at the socket's path.
    #[error(
        "no supervisor listens at {}: there is no such file; is the application running in another directory? \
         use --socket",
        shown(path)
    )]
    Missing { path: PathBuf },
    /// There is a socket, and nobody listens.
    #[error(
        "no supervisor listens at {}: the file there is stale, left behind by an application that ended; \
         start it again, which replaces the file, or use --socket",
        shown(path)
    )]
    Stale { path: PathBuf },
    /// There is something else.
    #[error("no supervisor listens at {}: the file there is not a socket; use --socket", shown(path))]
    NotASocket { path: PathBuf },
    /// The path cannot be a socket's.
    #[error(transparent)]
    PathTooLong(PathTooLong),
    #[error("timed out after {}: {}", units::time_limit(*limit), hint.as_deref().unwrap_or(TIMEOUT_HINT))]
    TimedOut { limit: Duration, hint: Option<String> },
    #[error("interrupted")]
    Interrupted { signal: i32 },
    /// Nobody reads what is written any more.
    #[error("standard output was closed")]
    BrokenPipe,
    /// A report could not be written.
    #[error("cannot write to {}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("cannot write to standard output")]
    Output(#[source] io::Error),
    #[error("the operating system refused what every command needs")]
    Io(#[from] io::Error),
}

const TIMEOUT_HINT: &str = "use --timeout to wait longer";

impl Error {
    pub(crate) fn timed_out(limit: Option<Duration>, hint: Option<String>) -> Self {
        Self::TimedOut { limit: limit.unwrap_or_default(), hint }
    }

    /// A failure that was found here and not at the other end.
    pub(crate) fn failed(class: &'static str, message: impl Into<String>) -> Self {
        Self::Failed(Failure::new(class, message.into()))
    }

    /// A failure to write to standard output.
    pub(crate) fn standard_output(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::BrokenPipe,
            _ => Self::Output(error),
        }
    }

    /// The exit status of the process.
    pub(crate) fn status(&self) -> u8 {
        match self {
            Self::BrokenPipe => 0,
            Self::Failed(_) | Self::File { .. } | Self::Output(_) | Self::Io(_) => 1,
            Self::Usage(_) | Self::PathTooLong(_) => 2,
            Self::Missing { .. } | Self::Stale { .. } | Self::NotASocket { .. } => 3,
            Self::TimedOut { .. } => 124,
            // As shells tell of a process that a signal ended.
            Self::Interrupted { signal } => 128 + u8::try_from(*signal).unwrap_or(2),
        }
    }

    /// Whether nothing needs to be said about it.
    pub(crate) fn is_silent(&self) -> bool {
        matches!(self, Self::BrokenPipe)
    }

    /// Whether nobody listens, which may change.
    pub(crate) fn is_no_supervisor(&self) -> bool {
        matches!(self, Self::Missing { .. } | Self::Stale { .. })
    }

    /// Whether the supervisor went away while it was asked, which it does when it is replaced.
    pub(crate) fn is_connection_closed(&self) -> bool {
        matches!(self, Self::Failed(failure) if failure.class() == class::CONNECTION_CLOSED)
    }

    /// Whether the supervisor does not know how to do that.
    pub(crate) fn is_not_supported(&self) -> bool {
        matches!(self, Self::Failed(failure)
            if [class::NOT_SUPPORTED, class::UNKNOWN_OPERATION].contains(&failure.class()))
    }
}

impl From<CallError> for Error {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Encode(error) => Self::Usage(error.to_string()),
            CallError::ConnectionClosed => Self::failed(
                class::CONNECTION_CLOSED,
                format!("{error}: if the supervisor is being replaced, try again; if not, its log says what is wrong"),
            ),
            error => Self::Failed(error.into_failure()),
        }
    }
}

impl From<ClientError> for Error {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Call(error) => error.into(),
            error => Self::Failed(error.into_failure()),
        }
    }
}

impl From<ConnectError> for Error {
    fn from(error: ConnectError) -> Self {
        match error {
            ConnectError::NotFound { path } => Self::Missing { path },
            // The kernel refuses a connection to an ordinary file just as one to a socket where nobody listens.
            ConnectError::Stale { path } if !is_socket(&path) => Self::NotASocket { path },
            ConnectError::Stale { path } => Self::Stale { path },
            ConnectError::PathTooLong(error) => Self::PathTooLong(error),
            error @ ConnectError::PermissionDenied { .. } => Self::failed(class::PERMISSION_DENIED, error.to_string()),
            error => Self::Failed(error.into()),
        }
    }
}

/// A path so that it cannot be taken for a word of the sentence.
pub(crate) fn shown(path: &Path) -> String {
    let bare = path.parent() == Some(Path::new(""));
    if bare { format!("./{}", path.display()) } else { path.display().to_string() }
}

fn is_socket(path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt;
    // If it is gone by now, it was one: something that ended and cleaned up after itself.
    std::fs::metadata(path).map_or(true, |metadata| metadata.file_type().is_socket())
}
