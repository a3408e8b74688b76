//! The files of Unix sockets: whose they are, and when they may be replaced and removed.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, Mode};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::BACKLOG;
use crate::error::BindError;

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

pub(super) fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Refuses a path at which there is something that must not be replaced.
pub(super) fn inspect(path: &Path) -> Result<(), BindError> {
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
    let owner =
        owner(path).map_err(|error| BindError::System { address: path.display().to_string(), source: error.into() })?;
    let process_id = match owner {
        None => return Ok(()),
        Some(Owner::Process(process_id)) => Some(process_id),
        Some(Owner::Unknown) => None,
    };
    Err(BindError::InUse { path: path.to_path_buf(), process_id })
}

/// The process that has the socket at the path open, or `None` if nobody has.
fn owner(path: &Path) -> rustix::io::Result<Option<Owner>> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    match rustix::net::connect(&socket, &SocketAddrUnix::new(path)?) {
        Ok(()) => {
            let process_id = rustix::net::sockopt::socket_peercred(&socket)?.pid.as_raw_nonzero().get();
            Ok(Some(Owner::Process(process_id)))
        }
        Err(Errno::CONNREFUSED | Errno::NOENT) => Ok(None),
        // Somebody has a socket of another type there, or has more connections waiting than it takes.
        Err(Errno::PROTOTYPE | Errno::AGAIN) => Ok(Some(Owner::Unknown)),
        Err(error) => Err(error),
    }
}

enum Owner {
    Process(i32),
    /// The kernel only tells those that are connected.
    Unknown,
}

/// Why it could not be bound.
pub(super) enum Bind {
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

/// Binds a socket to the path, in the place of one that nobody has open any more.
pub(super) fn bind(path: &Path, socket_type: SocketType, mode: u32) -> Result<(OwnedFd, SocketFile), Bind> {
    // Two roots that find the same stale socket must not both replace it: the later one would take
    // away the socket that the earlier one just bound. A lock on the directory needs no file.
    let directory =
        rustix::fs::open(directory_of(path), rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::retry_on_intr(|| rustix::fs::flock(&directory, FlockOperation::LockExclusive))?;

    let socket = rustix::net::socket_with(AddressFamily::UNIX, socket_type, SocketFlags::CLOEXEC, None)?;
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
    if socket_type == SocketType::STREAM {
        rustix::net::listen(&socket, BACKLOG)?;
    }
    Ok((socket, SocketFile::at(path)?))
}
