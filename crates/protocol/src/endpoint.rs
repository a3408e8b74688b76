//! Where a supervisor listens, and who is at the other end.

use std::{io, path::Path, time::Duration};

use tokio::net::UnixStream;

use crate::error::{ConnectError, PathTooLong};

/// The name of the socket in the root directory of the application.
pub const DEFAULT_SOCKET: &str = "supervisor.ipc";

/// How long a socket's path may be, in bytes: what `sun_path` holds, less the zero at the end.
pub const PATH_LIMIT: usize = if cfg!(any(target_os = "linux", target_os = "android")) { 107 } else { 103 };

/// While the backlog of a socket is full, a connect fails at once instead of waiting, and nothing tells when there is room.
const FULL_RETRY: Duration = Duration::from_millis(5);
const FULL_RETRY_LIMIT: Duration = Duration::from_millis(100);

/// Whether a path fits into the address of a socket. Better asked before anything is started than found out after it.
pub fn check_path(path: &Path) -> Result<(), PathTooLong> {
    let length = path.as_os_str().len();

    if length > PATH_LIMIT {
        return Err(PathTooLong { path: path.to_owned(), length, limit: PATH_LIMIT });
    }

    Ok(())
}

/// Connects to a socket. While its backlog is full, because whoever listens is being restarted, this waits.
pub async fn connect(path: &Path) -> Result<UnixStream, ConnectError> {
    check_path(path)?;
    let mut delay = FULL_RETRY;

    loop {
        let error = match UnixStream::connect(path).await {
            Ok(stream) => return Ok(stream),
            Err(error) => error,
        };

        let path = path.to_owned();

        return Err(match error.kind() {
            io::ErrorKind::WouldBlock => {
                tokio::time::sleep(delay).await;
                delay = (delay * 2).min(FULL_RETRY_LIMIT);
                continue;
            }
            io::ErrorKind::NotFound => ConnectError::NotFound { path },
            io::ErrorKind::ConnectionRefused => ConnectError::Stale { path },
            io::ErrorKind::PermissionDenied => ConnectError::PermissionDenied { path },
            _ => ConnectError::Other { path, source: error },
        });
    }
}

/// Who is at the other end of a socket, as the kernel says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// The process that connected, as this process sees it. `None` where it cannot, because the other is in a pid namespace
    /// that is not below its own, or the platform does not say.
    pub process_id: Option<u32>,
    /// Its effective user.
    pub user_id: u32,
    /// Its effective group.
    pub group_id: u32,
}

impl Credentials {
    /// Asks the kernel.
    pub fn of(stream: &UnixStream) -> io::Result<Self> {
        let credentials = stream.peer_cred()?;
        let process_id = credentials.pid().and_then(|pid| u32::try_from(pid).ok());

        Ok(Self {
            process_id: process_id.filter(|pid| *pid != 0),
            user_id: credentials.uid(),
            group_id: credentials.gid(),
        })
    }
}
