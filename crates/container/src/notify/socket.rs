//! Datagrams to a service manager, see sd_notify(3).

use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

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
}
