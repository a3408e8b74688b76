//! Sockets that whoever started this process has bound for it, by the rules of sd_listen_fds(3).

use std::os::fd::OwnedFd;

use rustix::net::sockopt;

use super::Kind;
use super::{Address, Listener, local};
use crate::error::{BindError, BoxError};
use crate::sys::inherit;
use crate::sys::spawn::FIRST_DESCRIPTOR;

/// The variables of sd_listen_fds(3).
pub(crate) const LISTEN_FDS: &str = "LISTEN_FDS";
pub(crate) const LISTEN_FDNAMES: &str = "LISTEN_FDNAMES";
pub(crate) const LISTEN_PID: &str = "LISTEN_PID";

/// What a socket is called that was given no name.
const UNNAMED: &str = "unknown";

/// Takes the sockets that this process was started with, each with its name. To be called once, while there is one thread:
/// the variables are removed, so that no program that is started from here takes them for its own.
pub(crate) fn take() -> Result<Vec<(String, OwnedFd)>, BoxError> {
    let process_id = inherit::take_variable(LISTEN_PID);
    let count = inherit::take_variable(LISTEN_FDS);
    let names = inherit::take_variable(LISTEN_FDNAMES).unwrap_or_default();
    let (Some(process_id), Some(count)) = (process_id, count) else {
        return Ok(Vec::new());
    };
    // They are meant for another process.
    if process_id.trim().parse() != Ok(std::process::id()) {
        return Ok(Vec::new());
    }
    let count: u16 =
        count.trim().parse().map_err(|_| format!("{LISTEN_FDS} is {count:?}, which is no number of sockets"))?;
    let names = names.split(':').map(|name| if name.is_empty() { UNNAMED } else { name });
    (FIRST_DESCRIPTOR..FIRST_DESCRIPTOR + i32::from(count))
        .zip(names.chain(std::iter::repeat(UNNAMED)))
        .map(|(number, name)| {
            let socket = inherit::take(number)
                .map_err(|error| format!("cannot take over socket {name:?}, file descriptor {number}: {error}"))?;
            Ok((name.to_owned(), socket))
        })
        .collect()
}

/// Sockets that the root was started with and that no listener has taken yet.
#[derive(Debug, Default)]
pub(crate) struct Inherited(Vec<(String, OwnedFd)>);

impl Inherited {
    /// What this process was started with. To be called before it is divided into guardian and root, since the first of
    /// the two is the one that they are meant for.
    pub(crate) fn take() -> Result<Self, BoxError> {
        Ok(Inherited(take()?))
    }

    /// True if there is one of that name.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(known, _)| known == name)
    }

    /// The socket of that name, in the place of one that would be bound to the address, if there is one.
    pub(crate) fn claim(&mut self, name: &str, address: &Address) -> Result<Option<Listener>, BindError> {
        let mut found: Vec<OwnedFd> =
            self.0.extract_if(.., |(known, _)| known == name).map(|(_, socket)| socket).collect();
        let unfit = |what: String| BindError::Inherited { name: name.to_owned(), what };
        let Some(socket) = found.pop() else {
            return Ok(None);
        };
        if !found.is_empty() {
            // Whoever connects to those that are left out would wait for ever.
            let count = found.len() + 1;
            return Err(unfit(format!("there are {count} of that name, give each a name of its own")));
        }
        let wanted = address.kind();
        match Kind::of(&socket) {
            Ok(Some(kind)) if kind == wanted => {}
            Ok(Some(kind)) => return Err(unfit(format!("it is {kind}, but the listener is to be {wanted}"))),
            Ok(None) => {
                return Err(unfit(format!("it is of another family or type, but the listener is to be {wanted}")));
            }
            Err(error) => return Err(unfit(format!("it cannot be asked what it is: {error}"))),
        }
        if wanted.listens() && !sockopt::socket_acceptconn(&socket).unwrap_or(false) {
            return Err(unfit("it is a connection, not a listening socket (use Accept=no)".to_owned()));
        }
        // Its file, if it has one, belongs to whoever bound it.
        Ok(Some(Listener { address: local(&socket, wanted), socket, file: None }))
    }

    /// The names of those that nobody claimed. They are closed.
    pub(crate) fn unclaimed(self) -> Vec<String> {
        self.0.into_iter().map(|(name, _)| name).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn socket(address: &str) -> OwnedFd {
        Address::from(address).bind().unwrap().socket
    }

    fn inherited(sockets: impl IntoIterator<Item = (&'static str, OwnedFd)>) -> Inherited {
        Inherited(sockets.into_iter().map(|(name, socket)| (name.to_owned(), socket)).collect())
    }

    #[test]
    fn a_socket_is_claimed_by_its_name() {
        let mut inherited = inherited([
            ("http", socket("127.0.0.1:0")),
            ("metrics", socket("udp:127.0.0.1:0")),
            ("old", socket("[::1]:0")),
        ]);
        assert!(inherited.has("http") && !inherited.has("https"));
        let listener = inherited.claim("http", &Address::tcp("127.0.0.1:80")).unwrap().unwrap();
        assert!(listener.address().starts_with("127.0.0.1:") && listener.path().is_none(), "{}", listener.address());
        assert!(inherited.claim("http", &Address::tcp("127.0.0.1:80")).unwrap().is_none());
        let listener = inherited.claim("metrics", &Address::udp("127.0.0.1:80")).unwrap().unwrap();
        assert!(listener.address().starts_with("udp:127.0.0.1:"), "{}", listener.address());
        assert_eq!(inherited.unclaimed(), ["old"]);
    }

    #[test]
    fn one_that_does_not_fit_is_refused() {
        let connection = {
            let listener = std::net::TcpListener::from(socket("127.0.0.1:0"));
            OwnedFd::from(std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap())
        };
        for (sockets, wanted, complaint) in [
            (
                vec![("it", socket("udp:127.0.0.1:0"))],
                "127.0.0.1:0",
                "it is a UDP socket, but the listener is to be a TCP socket",
            ),
            (
                vec![("it", socket("127.0.0.1:0"))],
                "unix:x",
                "it is a TCP socket, but the listener is to be a Unix stream socket",
            ),
            (
                vec![("it", socket("127.0.0.1:0")), ("it", socket("127.0.0.1:0"))],
                "127.0.0.1:0",
                "there are 2 of that name",
            ),
            (vec![("it", connection)], "127.0.0.1:0", "it is a connection, not a listening socket"),
        ] {
            let error = inherited(sockets).claim("it", &wanted.into()).unwrap_err().to_string();
            assert!(error.contains(complaint), "{error}");
        }
    }

    #[test]
    fn the_file_of_an_inherited_socket_stays() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("socket");
        let socket = OwnedFd::from(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let listener = inherited([("it", socket)]).claim("it", &Address::unix("elsewhere")).unwrap().unwrap();
        assert_eq!(listener.address(), format!("unix:{}", path.display()));
        drop(listener);
        assert!(path.exists());
    }
}
