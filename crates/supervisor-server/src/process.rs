//! The process at the other end of a connection. Every signal of this crate goes out here, by pidfd: a number alone may
//! stand for a stranger by the time it is used.

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
};

use async_container_protocol::endpoint::Credentials;
use nix::sys::socket::{getsockopt, sockopt::PeerPidfd};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};
use tokio::{
    io::{Interest, unix::AsyncFd},
    net::UnixStream,
};

use crate::sys::peer_groups;

/// A process that connected.
#[derive(Clone, Debug)]
pub(crate) struct Process {
    /// Its id in our pid namespace, if it is visible there.
    pub(crate) process_id: Option<u32>,
    handle: Option<Arc<OwnedFd>>,
}

impl Process {
    /// The peer of a connection. It is asked for when the connection is accepted: the earlier, the less can have happened.
    pub(crate) fn of(stream: &UnixStream, credentials: &Credentials) -> Self {
        let handle = match peer_handle(stream, credentials) {
            Ok(handle) => handle.map(Arc::new),
            Err(error) => {
                tracing::debug!(%error, process_id = credentials.process_id, "no handle to a peer's process");
                None
            }
        };

        Self { process_id: credentials.process_id, handle }
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

    /// The groups that it had beside its effective one when it connected, as the kernel remembers with the socket. A kernel that
    /// does not is asked for those that it has now.
    pub(crate) fn supplementary_groups(&self, stream: &UnixStream) -> Vec<u32> {
        match peer_groups(stream) {
            Ok(groups) => groups,
            Err(error) => {
                tracing::debug!(%error, "the socket does not tell the groups of its peer");
                self.current_groups()
            }
        }
    }

    fn current_groups(&self) -> Vec<u32> {
        let (Some(process_id), Some(handle)) = (self.process_id, &self.handle) else { return Vec::new() };
        let Ok(status) = std::fs::read_to_string(format!("/proc/{process_id}/status")) else { return Vec::new() };

        // Whose status that was is certain only if the process is still there: its number cannot be another's then.
        let mut ends = [PollFd::new(handle, PollFlags::IN)];

        match poll(&mut ends, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })) {
            Ok(0) => groups(&status),
            _ => Vec::new(),
        }
    }

    /// Waits until it has ended.
    pub(crate) async fn exited(&self) -> io::Result<()> {
        let Some(handle) = &self.handle else {
            return std::future::pending().await;
        };

        // What is deprecated is that it takes any number for a file descriptor. This one is owned, and stays open for as
        // long as it is watched. The replacement says so by `unsafe`, which this crate forbids.
        #[expect(deprecated)]
        let watched = AsyncFd::with_interest(handle.clone(), Interest::READABLE)?;
        watched.readable().await?.retain_ready();
        Ok(())
    }
}

fn groups(status: &str) -> Vec<u32> {
    let line = status.lines().find_map(|line| line.strip_prefix("Groups:"));
    line.unwrap_or_default().split_whitespace().filter_map(|group| group.parse().ok()).collect()
}

/// A handle to the process that connected, from the socket itself where the kernel can do that (Linux 6.5).
fn peer_handle(stream: &UnixStream, credentials: &Credentials) -> io::Result<Option<OwnedFd>> {
    match getsockopt(stream, PeerPidfd) {
        Ok(handle) => return Ok(Some(handle)),
        Err(nix::errno::Errno::ENOPROTOOPT) => {}
        Err(error) => return Err(error.into()),
    }

    let Some(process) = credentials.process_id.and_then(pid) else {
        return Ok(None);
    };

    let handle = pidfd_open(process, PidfdFlags::empty())?;

    // The number may have gone to another process before it was opened. Not if the peer is there still: it has not closed
    // its end, so it has not ended.
    let mut ends = [PollFd::new(stream, PollFlags::RDHUP)];
    poll(&mut ends, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))?;

    if ends[0].revents().intersects(PollFlags::RDHUP | PollFlags::HUP | PollFlags::ERR) {
        return Ok(None);
    }

    Ok(Some(handle))
}

pub(crate) fn pid(process_id: u32) -> Option<Pid> {
    Pid::from_raw(i32::try_from(process_id).ok()?)
}

/// Sends a signal by a handle that somebody else keeps.
pub(crate) fn send(handle: impl AsFd, signal: Signal) -> io::Result<()> {
    Ok(pidfd_send_signal(handle, signal)?)
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
        let process = Process::of(&stream, &Credentials::of(&stream).unwrap());
        let mut told = [process.supplementary_groups(&stream), process.current_groups()];
        told.iter_mut().for_each(|groups| groups.sort_unstable());
        assert_eq!(told[0], told[1]);
    }

    #[test]
    fn groups_stand_on_a_line_of_their_own() {
        assert_eq!(groups("Name:\tGroups: 7\nGid:\t1\t1\nGroups:\t4 24 1000 \nNgid:\t0\n"), [4, 24, 1000]);
        assert!(groups("Name:\tx\nGroups:\t \n").is_empty());
        assert!(groups("").is_empty());
    }
}
