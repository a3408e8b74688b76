//! Sockets that the root binds once and children inherit.

mod file;
pub(crate) mod inherited;

use std::fmt;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::net::sockopt;
use rustix::net::{AddressFamily, SocketFlags, SocketType};

use self::file::Bind;
pub(crate) use self::file::SocketFile;
use crate::error::BindError;

/// The longest path of a Unix socket in bytes: `sun_path` of unix(7) without its final NUL.
pub(crate) const PATH_LIMIT: usize = 107;

/// Connections that may wait to be accepted. The kernel lowers it to `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// Where to listen, or to receive datagrams.
///
/// Made of a text, it is `HOST:PORT` for TCP, `udp:HOST:PORT`, `unix:PATH` or `unix-datagram:PATH`. A host is a name or
/// an address, IPv6 in brackets; of a name's addresses the first one is taken that can be bound.
///
/// ```
/// use async_container::Address;
///
/// assert_eq!(Address::from("127.0.0.1:8080"), Address::tcp("127.0.0.1:8080"));
/// assert_eq!(Address::from("[::1]:8080").to_string(), "[::1]:8080");
/// assert_eq!(Address::from("udp:127.0.0.1:8125"), Address::udp("127.0.0.1:8125"));
/// assert_eq!(Address::from("unix:app.sock").to_string(), "unix:app.sock");
/// assert_eq!(Address::from("unix-datagram:log.sock"), Address::unix_datagram("log.sock"));
/// assert_eq!(Address::unix("app.sock").mode(0o660).to_string(), "unix:app.sock");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    kind: Kind,
    place: Place,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Internet { address: String, reuse_port: bool, only_v6: bool },
    File { path: PathBuf, mode: u32 },
}

impl Address {
    const UNIX_MODE: u32 = 0o600;

    /// A TCP address, `HOST:PORT`; port 0 takes any free one.
    pub fn tcp(address: impl Into<String>) -> Self {
        Address::internet(Kind::Tcp, address.into())
    }

    /// A UDP address, `HOST:PORT`; port 0 takes any free one.
    ///
    /// All instances receive from the same socket, each datagram comes to one of them. One that waits while an instance
    /// is replaced stays there for the next.
    pub fn udp(address: impl Into<String>) -> Self {
        Address::internet(Kind::Udp, address.into())
    }

    /// A Unix stream socket at this path.
    ///
    /// A stale socket there, one that nobody has open, is replaced. The file is removed when the root stops.
    pub fn unix(path: impl Into<PathBuf>) -> Self {
        Address { kind: Kind::Unix, place: Place::File { path: path.into(), mode: Self::UNIX_MODE } }
    }

    /// A Unix datagram socket at this path, see [`unix`](Self::unix) and [`udp`](Self::udp).
    pub fn unix_datagram(path: impl Into<PathBuf>) -> Self {
        Address { kind: Kind::UnixDatagram, ..Address::unix(path) }
    }

    fn internet(kind: Kind, address: String) -> Self {
        Address { kind, place: Place::Internet { address, reuse_port: false, only_v6: false } }
    }

    /// The permissions of a Unix socket's file; a TCP or UDP address has none. Default is 0600.
    pub fn mode(mut self, bits: u32) -> Self {
        if let Place::File { mode, .. } = &mut self.place {
            *mode = bits;
        }
        self
    }

    /// Lets other sockets of the same user be bound to the same TCP or UDP address, if they ask for it as well
    /// (`SO_REUSEPORT`, see socket(7)). The kernel divides new connections, or senders of datagrams, among them.
    ///
    /// It is for what binds the address itself, beside the application or below it: a program that knows no inherited
    /// sockets, or another root that takes over before this one ends. Instances still share the one socket that the
    /// root has bound: were each given its own, connections that wait for one would be lost to the others while it is
    /// replaced. An address that is in use by mistake is not noticed any more. Default is off; a Unix socket has no such
    /// thing.
    pub fn reuse_port(mut self) -> Self {
        if let Place::Internet { reuse_port, .. } = &mut self.place {
            *reuse_port = true;
        }
        self
    }

    /// Makes an IPv6 address such as `[::]:80` take no IPv4 connections, so that `0.0.0.0:80` can be bound beside it.
    /// Default is to take both.
    pub fn only_v6(mut self) -> Self {
        if let Place::Internet { only_v6, .. } = &mut self.place {
            *only_v6 = true;
        }
        self
    }

    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    /// Whether its socket takes connections, and not datagrams.
    pub fn takes_connections(&self) -> bool {
        self.kind.listens()
    }

    /// Finds what can be found wrong before anything is bound.
    pub(crate) fn validate(&self) -> Result<(), BindError> {
        match &self.place {
            Place::Internet { address, .. } => self.resolve(address).map(drop),
            Place::File { path, .. } if path.as_os_str().is_empty() => {
                Err(BindError::InvalidAddress { address: self.to_string() })
            }
            Place::File { path, .. } => {
                let length = path.as_os_str().as_bytes().len();
                if length > PATH_LIMIT {
                    return Err(BindError::PathTooLong { path: path.clone(), length, limit: PATH_LIMIT });
                }
                let directory = file::directory_of(path);
                if !directory.is_dir() {
                    return Err(BindError::NoDirectory { directory: directory.to_path_buf() });
                }
                file::inspect(path)
            }
        }
    }

    fn resolve(&self, address: &str) -> Result<Vec<SocketAddr>, BindError> {
        let invalid = || BindError::InvalidAddress { address: self.to_string() };
        match address.to_socket_addrs() {
            Ok(addresses) if addresses.len() > 0 => Ok(addresses.collect()),
            Ok(_) => Err(invalid()),
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => Err(invalid()),
            Err(source) => Err(BindError::UnknownHost { address: self.to_string(), source }),
        }
    }

    pub(crate) fn bind(&self) -> Result<Listener, BindError> {
        let system = |source| BindError::System { address: self.to_string(), source };
        match &self.place {
            Place::Internet { address, reuse_port, only_v6 } => {
                let mut failure = Errno::ADDRNOTAVAIL;
                for address in self.resolve(address)? {
                    match self.bind_internet(&address, *reuse_port, *only_v6) {
                        Ok(socket) => return Ok(Listener { address: local(&socket, self.kind), socket, file: None }),
                        Err(error) => failure = error,
                    }
                }
                let address = self.to_string();
                Err(match failure {
                    Errno::ADDRINUSE => BindError::AddressInUse { address },
                    Errno::ADDRNOTAVAIL => BindError::NotLocal { address },
                    Errno::ACCESS => BindError::Privileged { address },
                    failure => BindError::System { address, source: failure.into() },
                })
            }
            Place::File { path, mode } => {
                self.validate()?;
                let (socket, file) = file::bind(path, self.kind.socket_type(), *mode).map_err(|error| match error {
                    Bind::InUse(error) => error,
                    Bind::System(error) => system(error),
                })?;
                Ok(Listener { socket, file: Some(file), address: self.to_string() })
            }
        }
    }

    fn bind_internet(&self, address: &SocketAddr, reuse_port: bool, only_v6: bool) -> rustix::io::Result<OwnedFd> {
        let family = if address.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
        let socket = rustix::net::socket_with(family, self.kind.socket_type(), SocketFlags::CLOEXEC, None)?;
        if self.kind == Kind::Tcp {
            // Connections of a root that has ended may linger; for datagrams it would mean that two can be bound.
            sockopt::set_socket_reuseaddr(&socket, true)?;
        }
        if reuse_port {
            sockopt::set_socket_reuseport(&socket, true)?;
        }
        if address.is_ipv6() {
            // Said either way, since the default is the machine's.
            sockopt::set_ipv6_v6only(&socket, only_v6)?;
        }
        rustix::net::bind(&socket, address)?;
        if self.kind.listens() {
            rustix::net::listen(&socket, BACKLOG)?;
        }
        Ok(socket)
    }
}

impl From<&str> for Address {
    /// `udp:HOST:PORT`, `unix:PATH`, `unix-datagram:PATH`, else `HOST:PORT`.
    fn from(text: &str) -> Self {
        if let Some(path) = text.strip_prefix("unix:") {
            Address::unix(path)
        } else if let Some(path) = text.strip_prefix("unix-datagram:") {
            Address::unix_datagram(path)
        } else if let Some(address) = text.strip_prefix("udp:") {
            Address::udp(address)
        } else {
            Address::tcp(text)
        }
    }
}

impl From<String> for Address {
    fn from(text: String) -> Self {
        Address::from(text.as_str())
    }
}

impl fmt::Display for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.kind.prefix())?;
        match &self.place {
            Place::Internet { address, .. } => formatter.write_str(address),
            Place::File { path, .. } => write!(formatter, "{}", path.display()),
        }
    }
}

/// What can be done with a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Tcp,
    Udp,
    Unix,
    UnixDatagram,
}

impl Kind {
    /// The kind of a socket that somebody else has made; `None` if it is of a kind that nobody here uses.
    pub(crate) fn of(socket: impl AsFd) -> io::Result<Option<Kind>> {
        let family = sockopt::socket_domain(&socket)?;
        let socket_type = sockopt::socket_type(&socket)?;
        Ok(match (family, socket_type) {
            (AddressFamily::INET | AddressFamily::INET6, SocketType::STREAM) => Some(Kind::Tcp),
            (AddressFamily::INET | AddressFamily::INET6, SocketType::DGRAM) => Some(Kind::Udp),
            (AddressFamily::UNIX, SocketType::STREAM) => Some(Kind::Unix),
            (AddressFamily::UNIX, SocketType::DGRAM) => Some(Kind::UnixDatagram),
            _ => None,
        })
    }

    fn socket_type(self) -> SocketType {
        if self.listens() { SocketType::STREAM } else { SocketType::DGRAM }
    }

    /// True if it takes connections.
    fn listens(self) -> bool {
        matches!(self, Kind::Tcp | Kind::Unix)
    }

    fn prefix(self) -> &'static str {
        match self {
            Kind::Tcp => "",
            Kind::Udp => "udp:",
            Kind::Unix => "unix:",
            Kind::UnixDatagram => "unix-datagram:",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Kind::Tcp => "a TCP socket",
            Kind::Udp => "a UDP socket",
            Kind::Unix => "a Unix stream socket",
            Kind::UnixDatagram => "a Unix datagram socket",
        })
    }
}

/// Where the socket is, as an address would be written.
fn local(socket: &OwnedFd, kind: Kind) -> String {
    let address = rustix::net::getsockname(socket);
    let text = match (kind, address) {
        (Kind::Tcp | Kind::Udp, Ok(address)) => SocketAddr::try_from(address).ok().map(|address| address.to_string()),
        (Kind::Unix | Kind::UnixDatagram, Ok(address)) => rustix::net::SocketAddrUnix::try_from(address)
            .ok()
            .and_then(|address| Some(address.path()?.to_string_lossy().into_owned())),
        (_, Err(_)) => None,
    };
    format!("{}{}", kind.prefix(), text.as_deref().unwrap_or("an unknown address"))
}

/// A socket that is bound. A Unix socket's file is removed on drop, if it is still the own one.
#[derive(Debug)]
pub(crate) struct Listener {
    socket: OwnedFd,
    /// The file, if it was made here.
    file: Option<SocketFile>,
    address: String,
}

impl Listener {
    /// Where it listens, with the actual port.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// The socket's file, if it has one that is to be removed.
    pub(crate) fn path(&self) -> Option<&Path> {
        self.file.as_ref().map(|file| file.path())
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
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
    fn an_internet_address_is_checked_early() {
        assert!(matches!(Address::tcp("nonsense").validate(), Err(BindError::InvalidAddress { .. })));
        let error = Address::from("udp:8125").validate().unwrap_err();
        assert!(error.to_string().starts_with("\"udp:8125\" is no address to listen at: use HOST:PORT"), "{error}");
    }

    #[test]
    fn what_cannot_be_bound_is_told_with_what_can_be_done() {
        // 192.0.2.0/24 is for documentation, and `invalid` for names that nobody has.
        let cases = [
            ("192.0.2.1:8125", "192.0.2.1:8125 is no address of this machine: choose one that is"),
            ("udp:192.0.2.1:8125", "udp:192.0.2.1:8125 is no address of this machine: choose one that is"),
            ("no-such-host.invalid:80", "the host of no-such-host.invalid:80 cannot be found ("),
            ("unix:", "\"unix:\" is no address to listen at: use HOST:PORT"),
            ("unix-datagram:", "\"unix-datagram:\" is no address to listen at: use HOST:PORT"),
        ];
        for (text, expected) in cases {
            let error = Address::from(text).bind().unwrap_err().to_string();
            assert!(error.starts_with(expected), "{error}");
        }
    }

    #[test]
    fn the_actual_port_is_told() {
        for (text, host) in [("127.0.0.1:0", "127.0.0.1:"), ("[::1]:0", "[::1]:"), ("udp:[::1]:0", "udp:[::1]:")] {
            let listener = Address::from(text).bind().unwrap();
            assert!(listener.address().starts_with(host) && listener.address() != text, "{}", listener.address());
        }
    }

    #[test]
    fn a_port_is_shared_with_those_only_who_want_it() {
        for prefix in ["", "udp:"] {
            let first = Address::from(format!("{prefix}127.0.0.1:0")).reuse_port().bind().unwrap();
            let address = Address::from(first.address());
            let error = address.bind().unwrap_err();
            let text = format!("another program listens at {}: stop it", first.address());
            assert!(error.to_string().starts_with(&text), "{error}");
            address.reuse_port().bind().unwrap();
        }
    }

    #[test]
    fn ipv4_is_taken_by_ipv6_sockets_unless_they_are_told_otherwise() {
        let both = Address::tcp("[::]:0").bind().unwrap();
        let port = both.address().rsplit_once(':').unwrap().1;
        std::net::TcpStream::connect(format!("127.0.0.1:{port}")).unwrap();
        let six = Address::tcp("[::]:0").only_v6().bind().unwrap();
        let port = six.address().rsplit_once(':').unwrap().1;
        std::net::TcpStream::connect(format!("127.0.0.1:{port}")).unwrap_err();
        Address::tcp(format!("0.0.0.0:{port}")).bind().unwrap();
    }

    #[test]
    fn a_datagram_socket_is_replaced_only_when_nobody_has_it_open() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let live = Address::unix_datagram(&path).bind().unwrap();
        for address in [Address::unix_datagram(&path), Address::unix(&path)] {
            let error = address.bind().unwrap_err();
            assert!(error.to_string().starts_with("another process already listens at"), "{error}");
        }
        drop(live);
        assert!(!path.exists());
        drop(std::os::unix::net::UnixDatagram::bind(&path).unwrap());
        let _live = Address::unix_datagram(&path).bind().unwrap();
        let client = std::os::unix::net::UnixDatagram::unbound().unwrap();
        client.send_to(b"hello", &path).unwrap();
    }
}
