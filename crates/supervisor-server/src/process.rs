//! The process at the other end of a connection. Every signal of this crate goes out here, by pidfd: a number alone may
//! stand for a stranger by the time it is used.

use std::{
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream as StdStream,
    },
    sync::{Arc, OnceLock, Weak},
    time::{Duration, SystemTime},
};

use async_container_protocol::endpoint::Credentials;
use nix::{
    errno::Errno,
    sys::socket::{getsockopt, sockopt::PeerPidfd},
};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    param::clock_ticks_per_second,
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    net::UnixStream,
};

use crate::sys::peer_groups;

/// The process at the other end of a connection, of which no more is kept than has to be: most connections are of tools, which
/// nobody signals, and a handle takes an open file.
#[derive(Debug)]
pub(crate) struct Peer {
    /// Its id in our pid namespace, if it is visible there.
    pub(crate) process_id: Option<u32>,
    socket: Weak<StdStream>,
    process: OnceLock<Process>,
}

/// Why a peer's process cannot be kept.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PeerError {
    /// The connection is held by a process that it was left to. The number may be a stranger's by now.
    #[error("the process that connected has ended: connect anew, from the process that is to be supervised")]
    Ended,
    #[error("no handle to the process that connected")]
    Files(#[source] io::Error),
}

impl Peer {
    pub(crate) fn of(socket: Weak<StdStream>, credentials: &Credentials) -> Self {
        let peer = Self { process_id: credentials.process_id, socket, process: OnceLock::new() };

        // Only the number is left then, which the kernel may give away: the earlier it is looked up, the less can have happened.
        if !sockets_keep_processes()
            && let Some(socket) = peer.socket.upgrade()
        {
            let _ = peer
                .process
                .set(Process { process_id: peer.process_id, handle: numbered_handle(&*socket, credentials) });
        }

        peer
    }

    /// The process. A socket refers to the one that connected for as long as it exists, so it is still that one however late this
    /// is asked.
    pub(crate) fn process(&self) -> Result<&Process, PeerError> {
        let process = match self.process.get() {
            Some(process) => process,
            None => {
                let handle = self.handle()?;
                self.process.get_or_init(|| Process { process_id: self.process_id, handle })
            }
        };

        match process.has_ended() {
            true => Err(PeerError::Ended),
            false => Ok(process),
        }
    }

    fn handle(&self) -> Result<Option<Arc<OwnedFd>>, PeerError> {
        let socket = self.socket.upgrade().ok_or(PeerError::Ended)?;

        match getsockopt(&*socket, PeerPidfd) {
            Ok(handle) => Ok(Some(Arc::new(handle))),
            Err(Errno::EINVAL | Errno::ESRCH) => Err(PeerError::Ended),
            Err(error @ (Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM)) => Err(PeerError::Files(error.into())),
            Err(error) => {
                tracing::debug!(%error, process_id = self.process_id, "no handle to a peer's process");
                Ok(None)
            }
        }
    }
}

/// Whether sockets give a handle to the process that connected (Linux 6.5).
fn sockets_keep_processes() -> bool {
    static KNOWN: OnceLock<bool> = OnceLock::new();

    *KNOWN.get_or_init(|| {
        StdStream::pair().is_ok_and(|(socket, _)| !matches!(getsockopt(&socket, PeerPidfd), Err(Errno::ENOPROTOOPT)))
    })
}

/// A process that connected and registered.
#[derive(Clone, Debug)]
pub(crate) struct Process {
    /// Its id in our pid namespace, if it is visible there.
    pub(crate) process_id: Option<u32>,
    handle: Option<Arc<OwnedFd>>,
}

impl Process {
    /// One as of a kernel that gives no handles.
    #[cfg(test)]
    pub(crate) fn without_handle(process_id: u32) -> Self {
        Self { process_id: Some(process_id), handle: None }
    }

    /// Whether this is known well enough to be signalled.
    pub(crate) fn has_handle(&self) -> bool {
        self.handle.is_some()
    }

    /// Sends a signal. A process that is gone is an error of its own kind, and nobody else is hit.
    pub(crate) fn signal(&self, signal: Signal) -> io::Result<()> {
        match &self.handle {
            Some(handle) => Ok(pidfd_send_signal(handle, signal)?),
            None => Err(io::Error::new(io::ErrorKind::Unsupported, "the kernel gave no handle to this process")),
        }
    }

    /// Whether it has ended, as far as that can be told.
    fn has_ended(&self) -> bool {
        self.handle.as_ref().is_some_and(|handle| {
            let mut ends = [PollFd::new(handle, PollFlags::IN)];
            matches!(poll(&mut ends, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })), Ok(1..))
        })
    }

    /// Waits until it has ended.
    pub(crate) async fn exited(&self) -> io::Result<()> {
        let Some(handle) = &self.handle else {
            return std::future::pending().await;
        };

        watched(handle.clone())?.readable().await?.retain_ready();
        Ok(())
    }
}

/// A descriptor of which the runtime tells when there is something to be read from it.
pub(crate) fn watched(descriptor: Arc<OwnedFd>) -> io::Result<AsyncFd<Arc<OwnedFd>>> {
    // What is deprecated is that it takes any number for a file descriptor. This one is owned, and stays open for as long as it is
    // watched. The replacement says so by `unsafe`, which this crate forbids.
    #[expect(deprecated)]
    AsyncFd::with_interest(descriptor, Interest::READABLE)
}

/// The groups that the process which connected had beside its effective one, as the kernel remembers with the socket.
pub(crate) fn supplementary_groups(stream: &UnixStream, credentials: &Credentials) -> Vec<u32> {
    peer_groups(stream).unwrap_or_else(|error| {
        tracing::debug!(%error, "the socket does not tell the groups of its peer");
        current_groups(stream, credentials).unwrap_or_default()
    })
}

/// Those that it has now.
fn current_groups(stream: &UnixStream, credentials: &Credentials) -> Option<Vec<u32>> {
    let handle = numbered_handle(stream, credentials);
    let process = Process { process_id: credentials.process_id, handle: Some(handle?) };
    let status = std::fs::read_to_string(format!("/proc/{}/status", credentials.process_id?)).ok()?;

    // Whose status that was is certain only if the process is still there: its number cannot be another's then.
    (!process.has_ended()).then(|| groups(&status))
}

fn groups(status: &str) -> Vec<u32> {
    let line = status.lines().find_map(|line| line.strip_prefix("Groups:"));
    line.unwrap_or_default().split_whitespace().filter_map(|group| group.parse().ok()).collect()
}

/// A handle to the process that connected, by its number, for kernels that do not keep one with the socket.
fn numbered_handle(stream: impl AsFd, credentials: &Credentials) -> Option<Arc<OwnedFd>> {
    let handle = pidfd_open(credentials.process_id.and_then(pid)?, PidfdFlags::empty()).ok()?;

    // The number may have gone to another process before it was opened. Not if the peer is there still: it has not closed
    // its end, so it has not ended.
    let mut ends = [PollFd::new(&stream, PollFlags::RDHUP)];
    poll(&mut ends, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).ok()?;
    let is_left = ends[0].revents().intersects(PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR);
    (!is_left).then(|| Arc::new(handle))
}

pub(crate) fn pid(process_id: u32) -> Option<Pid> {
    Pid::from_raw(i32::try_from(process_id).ok()?)
}

/// Sends a signal by a handle that somebody else keeps.
pub(crate) fn send(handle: impl AsFd, signal: Signal) -> io::Result<()> {
    Ok(pidfd_send_signal(handle, signal)?)
}

/// When a process was started, in the ticks of this host, if that can be known. It tells a process from a later one with its id.
pub(crate) fn start_time(process_id: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{process_id}/stat")).ok()?;
    // The name before it may contain anything. What follows begins with the third field; this is the 22nd.
    let (_, fields) = stat.rsplit_once(") ")?;
    fields.split(' ').nth(19)?.parse().ok()
}

/// When a process was started, if that can be known, by the clock. It is up to a second early, but the same for each supervisor, as
/// long as nobody sets the clock.
pub(crate) fn began(process_id: u32) -> Option<SystemTime> {
    let ticks = start_time(process_id)?;
    let host = std::fs::read_to_string("/proc/stat").ok()?;
    let host_began: u64 = host.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
    let since = Duration::try_from_secs_f64(ticks as f64 / clock_ticks_per_second() as f64).ok()?;
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(host_began))?.checked_add(since)
}

/// Whether a process that we can see lives in another pid namespace, so that what it says of its own id has another
/// meaning than ours.
pub(crate) fn is_in_other_namespace(process_id: u32) -> bool {
    let namespace = |process: &str| std::fs::read_link(format!("/proc/{process}/ns/pid"));

    match (namespace("self"), namespace(&process_id.to_string())) {
        (Ok(ours), Ok(theirs)) => ours != theirs,
        // Not to be found out: then its word is not taken.
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn groups_are_those_of_the_process_wherever_they_come_from() {
        let (stream, _other) = UnixStream::pair().unwrap();
        let credentials = Credentials::of(&stream).unwrap();
        let mut told = [supplementary_groups(&stream, &credentials), current_groups(&stream, &credentials).unwrap()];
        told.iter_mut().for_each(|groups| groups.sort_unstable());
        assert_eq!(told[0], told[1]);
    }

    #[test]
    fn a_process_began_when_it_was_started() {
        let before = SystemTime::now();
        let mut child = std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
        let after = SystemTime::now();
        let began = began(child.id());
        drop(child.stdin.take());
        child.wait().unwrap();
        // A tick is a hundredth of a second.
        let tick = Duration::from_millis(20);
        let earliest = before - tick - Duration::from_secs(1);
        assert!(began.is_some_and(|began| began >= earliest && began <= after + tick), "{began:?}, {before:?}");
        assert_eq!(super::began(child.id()), None, "it is gone");
        let own = std::process::id();
        assert_eq!(super::began(own), super::began(own), "it is always the same");
    }

    #[test]
    fn groups_stand_on_a_line_of_their_own() {
        assert_eq!(groups("Name:\tGroups: 7\nGid:\t1\t1\nGroups:\t4 24 1000 \nNgid:\t0\n"), [4, 24, 1000]);
        assert!(groups("Name:\tx\nGroups:\t \n").is_empty());
        assert!(groups("").is_empty());
    }
}
