//! Sockets that the root binds once and children inherit.

use std::fmt;
use std::io;
use std::net::{TcpListener, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::error::BindError;

/// The longest path of a Unix socket in bytes: `sun_path` of unix(7) without its final NUL.
pub(crate) const PATH_LIMIT: usize = 107;

/// Connections that may wait to be accepted. The kernel lowers it to `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// Where to listen.
///
/// ```
/// use async_container::Address;
///
/// assert_eq!(Address::from("127.0.0.1:8080").to_string(), "127.0.0.1:8080");
/// assert_eq!(Address::from("unix:app.sock").to_string(), "unix:app.sock");
/// assert_eq!(Address::unix("app.sock").mode(0o660).to_string(), "unix:app.sock");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    kind: Kind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    Tcp(String),
    Unix { path: PathBuf, mode: u32 },
}

impl Address {
    const UNIX_MODE: u32 = 0o600;

    /// A TCP address, `HOST:PORT`; port 0 takes any free one.
    pub fn tcp(address: impl Into<String>) -> Self {
        Address { kind: Kind::Tcp(address.into()) }
    }

    /// A Unix stream socket at this path.
    ///
    /// A stale socket there, one that nobody listens on, is replaced. The file is removed when the root stops.
    pub fn unix(path: impl Into<PathBuf>) -> Self {
        Address { kind: Kind::Unix { path: path.into(), mode: Self::UNIX_MODE } }
    }

    /// The permissions of a Unix socket's file; a TCP address has none. Default is 0600.
    pub fn mode(mut self, bits: u32) -> Self {
        if let Kind::Unix { mode, .. } = &mut self.kind {
            *mode = bits;
        }
        self
    }

    /// Finds what can be found wrong before anything is bound.
    pub(crate) fn validate(&self) -> Result<(), BindError> {
        match &self.kind {
            Kind::Tcp(address) => match address.to_socket_addrs().map(|mut addresses| addresses.next()) {
                Ok(Some(_)) => Ok(()),
                Ok(None) => Err(BindError::InvalidAddress { address: address.clone() }),
                Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                    Err(BindError::InvalidAddress { address: address.clone() })
                }
                Err(source) => Err(BindError::System { address: address.clone(), source }),
            },
            Kind::Unix { path, .. } => {
                let length = path.as_os_str().as_bytes().len();
                if length > PATH_LIMIT {
                    return Err(BindError::PathTooLong { path: path.clone(), length, limit: PATH_LIMIT });
                }
                let directory = directory_of(path);
                if !directory.is_dir() {
                    return Err(BindError::NoDirectory { directory: directory.to_path_buf() });
                }
                inspect(path)
            }
        }
    }

    pub(crate) fn bind(&self) -> Result<Listener, BindError> {
        let system = |source| BindError::System { address: self.to_string(), source };
        match &self.kind {
            Kind::Tcp(address) => {
                let listener = TcpListener::bind(address).map_err(system)?;
                // The standard library asks for a backlog of 128 only.
                rustix::net::listen(&listener, BACKLOG).map_err(|error| system(error.into()))?;
                let actual = listener.local_addr().map_err(system)?;
                Ok(Listener { socket: listener.into(), file: None, address: actual.to_string() })
            }
            Kind::Unix { path, mode } => {
                self.validate()?;
                let (socket, file) = bind_unix(path, *mode).map_err(|error| match error {
                    Bind::InUse(error) => error,
                    Bind::System(error) => system(error),
                })?;
                Ok(Listener { socket, file: Some(file), address: self.to_string() })
            }
        }
    }
}

impl From<&str> for Address {
    /// `unix:PATH`, else `HOST:PORT`.
    fn from(text: &str) -> Self {
        text.strip_prefix("unix:").map_or_else(|| Address::tcp(text), Address::unix)
    }
}

impl From<String> for Address {
    fn from(text: String) -> Self {
        Address::from(text.as_str())
    }
}

impl fmt::Display for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::Tcp(address) => formatter.write_str(address),
            Kind::Unix { path, .. } => write!(formatter, "unix:{}", path.display()),
        }
    }
}

/// A socket that is bound and listens. A Unix socket's file is removed on drop, if it is still the own one.
#[derive(Debug)]
pub(crate) struct Listener {
    socket: OwnedFd,
    file: Option<SocketFile>,
    address: String,
}

impl Listener {
    /// Where it listens, with the actual port.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// The socket's file, if it has one.
    pub(crate) fn path(&self) -> Option<&Path> {
        self.file.as_ref().map(|file| file.path.as_path())
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The file of a bound Unix socket, known by its inode, since another one may take its place.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl SocketFile {
    /// The file that is at the path now.
    pub(crate) fn at(path: &Path) -> io::Result<Self> {
        let metadata = std::fs::symlink_metadata(path)?;
        Ok(SocketFile { path: std::path::absolute(path)?, device: metadata.dev(), inode: metadata.ino() })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours = std::fs::symlink_metadata(&self.path)
            .is_ok_and(|metadata| metadata.dev() == self.device && metadata.ino() == self.inode);
        if ours && let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "cannot remove the socket's file");
        }
    }
}

fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Refuses a path at which there is something that must not be replaced.
fn inspect(path: &Path) -> Result<(), BindError> {
    let Ok(metadata) = std::fs::symlink_metadata(path) else {
        return Ok(());
    };
    let file_type = metadata.file_type();
    if !file_type.is_socket() {
        let kind = if file_type.is_dir() {
            "a directory"
        } else if file_type.is_symlink() {
            "a symbolic link"
        } else if file_type.is_file() {
            "a file"
        } else {
            "something else"
        };
        return Err(BindError::NotASocket { path: path.to_path_buf(), kind });
    }
    match listening_process(path) {
        Ok(process_id) => Err(BindError::InUse { path: path.to_path_buf(), process_id }),
        Err(_) => Ok(()),
    }
}

/// The process that listens at the path.
fn listening_process(path: &Path) -> rustix::io::Result<i32> {
    let socket = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )?;
    match rustix::net::connect(&socket, &SocketAddrUnix::new(path)?) {
        Ok(()) => Ok(rustix::net::sockopt::socket_peercred(&socket)?.pid.as_raw_nonzero().get()),
        // Somebody listens, but has more connections waiting than it takes.
        Err(Errno::AGAIN) => Ok(0),
        Err(error) => Err(error),
    }
}

enum Bind {
    InUse(BindError),
    System(io::Error),
}

impl From<Errno> for Bind {
    fn from(error: Errno) -> Self {
        Bind::System(error.into())
    }
}

impl From<io::Error> for Bind {
    fn from(error: io::Error) -> Self {
        Bind::System(error)
    }
}

fn bind_unix(path: &Path, mode: u32) -> Result<(OwnedFd, SocketFile), Bind> {
    // Two roots that find the same stale socket must not both replace it: the later one would take
    // away the socket that the earlier one just bound. A lock on the directory needs no file.
    let directory =
        rustix::fs::open(directory_of(path), rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::retry_on_intr(|| rustix::fs::flock(&directory, FlockOperation::LockExclusive))?;

    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    // The mode of the unbound socket becomes that of its file, so there is no moment with a wider one.
    rustix::fs::fchmod(&socket, Mode::from_raw_mode(mode))?;
    let address = SocketAddrUnix::new(path)?;
    match rustix::net::bind(&socket, &address) {
        Err(Errno::ADDRINUSE) => {
            inspect(path).map_err(Bind::InUse)?;
            rustix::fs::unlink(path)?;
            rustix::net::bind(&socket, &address)?;
        }
        result => result?,
    }
    // The umask took its part of the mode at bind(2); now that the file exists it can only be widened to
    // what was asked for.
    rustix::fs::chmod(path, Mode::from_raw_mode(mode))?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok((socket, SocketFile::at(path)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::net::UnixStream;

    #[test]
    fn a_socket_has_its_mode_and_goes_with_its_listener() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let listener = Address::unix(&path).bind().unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        UnixStream::connect(&path).unwrap();
        drop(listener);
        assert!(!path.exists());
    }

    #[test]
    fn a_live_socket_is_refused_with_its_process() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let _listener = Address::unix(&path).bind().unwrap();
        let error = Address::unix(&path).bind().unwrap_err();
        assert!(
            error.to_string().starts_with(&format!("process {} already listens at", std::process::id())),
            "{error}"
        );
    }

    #[test]
    fn a_stale_socket_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let _listener = Address::unix(&path).bind().unwrap();
        UnixStream::connect(&path).unwrap();
    }

    #[test]
    fn anything_else_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let error = Address::unix(directory.path()).bind().unwrap_err();
        assert!(matches!(error, BindError::NotASocket { kind: "a directory", .. }));
        let file = directory.path().join("file");
        std::fs::write(&file, "precious").unwrap();
        assert!(matches!(Address::unix(&file).bind(), Err(BindError::NotASocket { kind: "a file", .. })));
        assert_eq!(std::fs::read_to_string(&file).unwrap(), "precious");
        let error = Address::unix(directory.path().join("no/socket")).bind().unwrap_err();
        assert!(matches!(error, BindError::NoDirectory { .. }));
        let error = Address::unix(directory.path().join("x".repeat(120))).bind().unwrap_err();
        assert!(error.to_string().contains("the limit is 107"), "{error}");
    }

    #[test]
    fn the_file_of_a_successor_is_not_removed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let first = Address::unix(&path).bind().unwrap();
        std::fs::remove_file(&path).unwrap();
        let _second = Address::unix(&path).bind().unwrap();
        drop(first);
        assert!(path.exists());
    }

    #[test]
    fn a_tcp_address_is_checked_early() {
        assert!(matches!(Address::tcp("nonsense").validate(), Err(BindError::InvalidAddress { .. })));
        let listener = Address::tcp("127.0.0.1:0").bind().unwrap();
        assert_ne!(listener.address(), "127.0.0.1:0");
    }
}
