//! Datagrams to a service manager, see sd_notify(3).

use std::ffi::OsStr;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, sendmsg_addr};
use rustix::pipe::PipeFlags;
use rustix::time::ClockId;

use super::Message;

/// The longest message, in bytes. systemd takes more, other managers do not.
const LENGTH_LIMIT: usize = 4096;

/// The socket of a service manager.
#[derive(Debug)]
pub(super) struct Socket {
    socket: UnixDatagram,
    address: SocketAddr,
}

impl Socket {
    /// The address is a path, or an abstract name after an `@`.
    pub(super) fn new(address: &OsStr) -> io::Result<Self> {
        let address = match address.as_bytes().strip_prefix(b"@") {
            Some(name) => SocketAddr::from_abstract_name(name)?,
            None => SocketAddr::from_pathname(address)?,
        };
        let socket = UnixDatagram::unbound()?;
        // A manager that does not read must not hold up the work.
        socket.set_nonblocking(true)?;
        Ok(Socket { socket, address })
    }

    pub(super) fn send(&self, datagram: &[u8]) -> io::Result<()> {
        self.socket.send_to_addr(datagram, &self.address).map(drop)
    }

    /// Sends a datagram with a descriptor, of which the manager gets a copy.
    pub(super) fn send_with(&self, datagram: &[u8], descriptor: BorrowedFd<'_>) -> io::Result<()> {
        let address = match self.address.as_abstract_name() {
            Some(name) => SocketAddrUnix::new_abstract_name(name)?,
            None => SocketAddrUnix::new(self.address.as_pathname().unwrap_or(Path::new("")))?,
        };
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let descriptors = [descriptor];
        control.push(SendAncillaryMessage::ScmRights(&descriptors));
        let content = [IoSlice::new(datagram)];
        sendmsg_addr(&self.socket, &address, &content, &mut control, SendFlags::NOSIGNAL)?;
        Ok(())
    }

    /// Waits until the manager has taken everything that was sent before.
    pub(super) fn barrier(&self, timeout: Duration) -> io::Result<()> {
        let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        self.send_with(b"BARRIER=1", write.as_fd())?;
        // The manager closes its copy when it comes to this message.
        drop(write);
        let timeout = Timespec::try_from(timeout).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        let mut descriptors = [PollFd::new(&read, PollFlags::empty())];
        match rustix::io::retry_on_intr(|| poll(&mut descriptors, Some(&timeout)))? {
            0 => Err(io::Error::new(io::ErrorKind::TimedOut, "the service manager did not come to it in time")),
            _ => Ok(()),
        }
    }
}

/// The message in the words of sd_notify(3), or nothing if there are none for it.
pub(super) fn encode(message: &Message) -> io::Result<Vec<u8>> {
    let mut fields: Vec<(&str, String)> = Vec::new();
    if message.ready == Some(true) {
        fields.push(("READY", "1".into()));
    }
    if message.reloading == Some(true) {
        // Without the time systemd takes no notice of it in services of type notify-reload.
        let now = rustix::time::clock_gettime(ClockId::Monotonic);
        let microseconds = now.tv_sec.cast_unsigned() * 1_000_000 + now.tv_nsec.cast_unsigned() / 1_000;
        fields.push(("RELOADING", "1".into()));
        fields.push(("MONOTONIC_USEC", microseconds.to_string()));
    }
    if message.stopping == Some(true) {
        fields.push(("STOPPING", "1".into()));
    }
    if message.healthy == Some(true) {
        fields.push(("WATCHDOG", "1".into()));
    }
    if let Some(status) = &message.status {
        // A line break would begin another field.
        fields.push(("STATUS", status.replace(['\n', '\r'], " ")));
    }
    if let Some(errno) = message.errno {
        fields.push(("ERRNO", errno.to_string()));
    }
    if let Some(process_id) = message.main_process_id {
        fields.push(("MAINPID", process_id.to_string()));
    }
    if let Some(time) = message.extend_timeout_usec {
        fields.push(("EXTEND_TIMEOUT_USEC", time.to_string()));
    }
    let text: String = fields.iter().map(|(key, value)| format!("{key}={value}\n")).collect();
    if text.len() > LENGTH_LIMIT {
        let complaint =
            format!("the message has {} bytes, but the limit is {LENGTH_LIMIT}: shorten the status", text.len());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, complaint));
    }
    Ok(text.into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(message: &Message) -> String {
        String::from_utf8(encode(message).unwrap()).unwrap()
    }

    #[test]
    fn messages_are_fields_of_sd_notify() {
        let ready =
            Message { ready: Some(true), status: Some("Running with 4 children.".into()), ..Message::default() };
        assert_eq!(text(&ready), "READY=1\nSTATUS=Running with 4 children.\n");
        assert_eq!(text(&Message { stopping: Some(true), ..Message::default() }), "STOPPING=1\n");
        assert_eq!(text(&Message { healthy: Some(true), ..Message::default() }), "WATCHDOG=1\n");
        assert_eq!(text(&Message { main_process_id: Some(7), ..Message::default() }), "MAINPID=7\n");
        assert_eq!(text(&Message { errno: Some(-1), ..Message::default() }), "ERRNO=-1\n");
        assert_eq!(text(&Message { extend_timeout_usec: Some(7), ..Message::default() }), "EXTEND_TIMEOUT_USEC=7\n");
        assert_eq!(text(&Message { ready: Some(false), ..Message::default() }), "");
        assert_eq!(text(&Message { status: Some("a\nREADY=1".into()), ..Message::default() }), "STATUS=a READY=1\n");
    }

    #[test]
    fn a_reload_carries_its_time() {
        let reloading = text(&Message { ready: Some(false), reloading: Some(true), ..Message::default() });
        let time =
            reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").and_then(|rest| rest.trim_end().parse::<u64>().ok());
        assert!(time.is_some_and(|time| time > 0), "{reloading}");
    }

    #[test]
    fn a_message_that_is_too_long_is_refused() {
        let error = encode(&Message { status: Some("x".repeat(5000)), ..Message::default() }).unwrap_err();
        assert!(error.to_string().contains("5008 bytes, but the limit is 4096"), "{error}");
    }

    #[test]
    fn paths_and_abstract_names_are_reached() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let server = UnixDatagram::bind(&path).unwrap();
        Socket::new(path.as_os_str()).unwrap().send(b"READY=1\n").unwrap();
        let mut buffer = [0; 64];
        let length = server.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"READY=1\n");

        let name = format!("async-container-test-{}", std::process::id());
        let server = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        Socket::new(OsStr::new(&format!("@{name}"))).unwrap().send(b"STOPPING=1\n").unwrap();
        assert_eq!(server.recv(&mut buffer).unwrap(), 11);
    }

    /// A manager that takes a datagram with a descriptor, says what it was, and closes the descriptor.
    fn take(server: &UnixDatagram) -> (String, usize) {
        use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
        let mut buffer = [0; 256];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let received =
            recvmsg(server, &mut [io::IoSliceMut::new(&mut buffer)], &mut control, RecvFlags::CMSG_CLOEXEC).unwrap();
        let descriptors = control.drain().map(|message| match message {
            RecvAncillaryMessage::ScmRights(descriptors) => descriptors.count(),
            _ => 0,
        });
        let descriptors = descriptors.sum();
        (String::from_utf8_lossy(&buffer[..received.bytes]).into_owned(), descriptors)
    }

    #[test]
    fn a_barrier_is_passed_when_the_manager_has_come_to_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let server = UnixDatagram::bind(&path).unwrap();
        let socket = Socket::new(path.as_os_str()).unwrap();
        socket.send(b"READY=1\n").unwrap();
        let error = socket.barrier(Duration::from_millis(1)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        let manager = std::thread::spawn(move || [take(&server), take(&server), take(&server)]);
        socket.barrier(Duration::from_secs(30)).unwrap();
        let barrier = ("BARRIER=1".to_owned(), 1);
        assert_eq!(manager.join().unwrap(), [("READY=1\n".to_owned(), 0), barrier.clone(), barrier]);
    }
}
