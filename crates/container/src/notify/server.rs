//! The root's side of sd_notify(3): the socket that children find by `NOTIFY_SOCKET`.
//!
//! All children share one datagram socket, and the kernel says of each datagram which process sent it. It is bound to a
//! path in a directory that belongs to this user alone, not to an abstract name: those have no permissions, so any local
//! user could fill the queue, and children would wait to be heard. Only when a command runs as another user may others
//! pass through the directory, and then the socket's name, which cannot be guessed, is what keeps strangers away.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};

use rustix::process::Pid;

use super::Message;
use crate::listener::{PATH_LIMIT, SocketFile};
use crate::sys::datagram;

/// The longest datagram that is read. sd_notify(3) sends up to 4096 bytes, and systemd takes up to this length.
const LENGTH_LIMIT: usize = 64 * 1024;

/// What the queue of a socket holds when the system does not say.
const QUEUE_DEFAULT: usize = 512;

/// The socket, and its file.
pub(crate) struct Server {
    socket: UnixDatagram,
    // In this order: the file goes before the directory.
    file: SocketFile,
    directory: PrivateDirectory,
    /// No more datagrams than this can be waiting at a time.
    queue: usize,
    buffer: Box<[u8]>,
}

impl Server {
    /// Binds the socket in the directory for temporary files. With `others`, other users reach it as well.
    pub(crate) fn bind(others: bool) -> io::Result<Self> {
        let names = [random_name()?, random_name()?];
        let directory_name = format!("async-container-{}-{}", std::process::id(), names[0]);
        let mut parent = std::path::absolute(std::env::temp_dir())?;
        if parent.to_str().is_none()
            || parent.as_os_str().as_bytes().len() + directory_name.len() + names[1].len() + 2 > PATH_LIMIT
        {
            parent = PathBuf::from("/tmp");
        }
        let path = parent.join(directory_name);
        std::fs::DirBuilder::new().mode(0o700).create(&path)?;
        let directory = PrivateDirectory(path);
        let path = directory.0.join(&names[1]);
        let socket = UnixDatagram::bind(&path)?;
        let file = SocketFile::at(&path)?;
        rustix::net::sockopt::set_socket_passcred(&socket, true)?;
        let (file_mode, directory_mode) = if others { (0o666, 0o711) } else { (0o600, 0o700) };
        std::fs::set_permissions(&path, PermissionsExt::from_mode(file_mode))?;
        std::fs::set_permissions(&directory.0, PermissionsExt::from_mode(directory_mode))?;
        // The limit that a socket has is the one of the time at which it was made. One more fits in beyond it.
        let queue = std::fs::read_to_string("/proc/sys/net/unix/max_dgram_qlen").ok();
        let queue = queue.and_then(|text| text.trim().parse::<usize>().ok()).unwrap_or(QUEUE_DEFAULT) + 1;
        Ok(Server { socket, file, directory, queue, buffer: vec![0; LENGTH_LIMIT].into_boxed_slice() })
    }

    /// What `NOTIFY_SOCKET` is to say.
    pub(crate) fn address(&self) -> &Path {
        self.file.path()
    }

    /// Where the socket's file lies.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory.0
    }

    /// All that has been sent before this call, and maybe some more. It is bounded by what the queue can hold, so nobody can
    /// keep the caller here by sending without end.
    pub(crate) fn receive(&mut self) -> Vec<Notice> {
        let mut notices = Vec::new();
        while notices.len() < self.queue {
            match datagram::receive(&self.socket, &mut self.buffer) {
                Ok(received) => {
                    let mut notice = Notice::parse(&self.buffer[..received.length]);
                    notice.truncated = received.truncated;
                    notice.sender = received.sender;
                    notice.descriptors = received.descriptors;
                    notices.push(notice);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => {
                    tracing::error!(%error, "cannot read the notify socket");
                    break;
                }
            }
        }
        notices
    }
}

impl AsFd for Server {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// A directory for nothing but one file, which is to be gone before this is dropped.
#[derive(Debug)]
pub(crate) struct PrivateDirectory(pub PathBuf);

impl Drop for PrivateDirectory {
    fn drop(&mut self) {
        match std::fs::remove_dir(&self.0) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(path = %self.0.display(), %error, "cannot remove the notify socket's directory");
            }
            _ => {}
        }
    }
}

/// A name that cannot be guessed.
fn random_name() -> io::Result<String> {
    use std::io::Read;
    let mut bytes = [0; 8];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(format!("{:016x}", u64::from_ne_bytes(bytes)))
}

/// What a datagram says.
#[derive(Debug, Default)]
pub(crate) struct Notice {
    /// Who said it.
    pub sender: Option<Pid>,
    /// What is for the child's life.
    pub message: Message,
    /// True if the sender wants to be treated as one that hangs.
    pub trigger: bool,
    /// True if descriptors are to be kept, which is not done here.
    pub store: bool,
    /// True if the rest of it was lost.
    pub truncated: bool,
    /// Dropped with the notice, which is what a sender of `BARRIER=1` waits for: what it said before has been heard.
    pub descriptors: Vec<std::os::fd::OwnedFd>,
}

impl Notice {
    /// Reads the fields of sd_notify(3). What is unknown, or has a value that makes no sense, is ignored, as systemd does.
    fn parse(datagram: &[u8]) -> Notice {
        let mut notice = Notice::default();
        let text = String::from_utf8_lossy(datagram);
        for (key, value) in text.lines().filter_map(|line| line.split_once('=')) {
            let message = &mut notice.message;
            match (key, value) {
                ("READY", "1") => message.ready = Some(true),
                ("RELOADING", "1") => {
                    message.reloading = Some(true);
                    // With the news that it is over in the same datagram, the later one counts.
                    message.ready = Some(false);
                }
                ("STOPPING", "1") => message.stopping = Some(true),
                ("WATCHDOG", "1") => message.healthy = Some(true),
                ("WATCHDOG", "trigger") => notice.trigger = true,
                ("STATUS", status) => message.status = Some(status.to_owned()),
                ("ERRNO", errno) => message.errno = errno.parse().ok(),
                ("EXTEND_TIMEOUT_USEC", time) => message.extend_timeout_usec = time.parse().ok(),
                ("FDSTORE", "1") => notice.store = true,
                // MAINPID: the process that was started is the one that is looked after.
                _ => {}
            }
        }
        notice
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_of_sd_notify_are_understood() {
        let text = b"READY=1\nSTATUS=a=b \xff\nERRNO=2\nMAINPID=7\nEXTEND_TIMEOUT_USEC=5000\nX_OWN=1\nnonsense\nSTOPPING=1\nWATCHDOG=1\nFDSTORE=1";
        let notice = Notice::parse(text);
        let expected = Message {
            ready: Some(true),
            healthy: Some(true),
            stopping: Some(true),
            status: Some("a=b \u{fffd}".into()),
            errno: Some(2),
            extend_timeout_usec: Some(5000),
            ..Message::default()
        };
        assert_eq!(notice.message, expected);
        assert!(notice.store && !notice.trigger);
        let notice = Notice::parse(b"RELOADING=1\nMONOTONIC_USEC=1\nERRNO=x\nREADY=yes\nWATCHDOG=trigger\n");
        assert_eq!(notice.message, Message { ready: Some(false), reloading: Some(true), ..Message::default() });
        assert!(notice.trigger);
    }

    #[test]
    fn the_socket_lies_in_a_directory_of_its_own_and_goes_with_it() {
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let server = Server::bind(false).unwrap();
        let directory = server.directory().to_owned();
        assert_eq!((mode(server.address()), mode(&directory)), (0o600, 0o700));
        drop(server);
        assert!(!directory.exists());
        let server = Server::bind(true).unwrap();
        assert_eq!((mode(server.address()), mode(server.directory())), (0o666, 0o711));
    }

    #[test]
    fn one_look_takes_all_that_was_sent_before_it() {
        let mut server = Server::bind(false).unwrap();
        // The queue may be longer than what one of them may have under way.
        let mut clients = Vec::new();
        let mut sent = 0;
        loop {
            let client = UnixDatagram::unbound().unwrap();
            client.set_nonblocking(true).unwrap();
            let before = sent;
            while client.send_to(b"READY=1", server.address()).is_ok() {
                sent += 1;
            }
            if sent == before {
                break;
            }
            clients.push(client);
        }
        assert_eq!(sent, server.queue);
        let notices = server.receive();
        assert_eq!(notices.len(), sent);
        assert!(notices.iter().all(|notice| notice.sender == Some(rustix::process::getpid())));
        assert!(server.receive().is_empty());
    }
}
