//! A second, tiny process above the root, so that nothing outlives it, whichever of the two dies.
//!
//! The process that the user started becomes the guardian; the root is its only child. Both are
//! subreapers (prctl(2)), so every descendant, however it was forked away, ends up with one of them.
//! When the root ends, the guardian kills all that is left and ends the way the root did. When the
//! guardian is killed, the root sees the end of their socket and does the same. Until then the
//! guardian hands on the signals that it gets, and sleeps.

use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::cgroup::Home;
use crate::exit::ExitStatus;
use crate::listener::SocketFile;
use crate::listener::inherited::Inherited;
use crate::notify::Notify;
use crate::notify::server::PrivateDirectory;
use crate::orders::TAKEN;
use crate::sys::forget::forget_program;
use crate::sys::fork::{self, Blocked, Side, SignalDescriptor};
use crate::sys::signal;
use crate::sys::watch::watch;

/// How long nothing may end, of what was killed, before it is left behind.
const SWEEP_LIMIT: Duration = Duration::from_secs(5);

/// The root's line to its guardian.
pub(crate) struct Guard {
    socket: OwnedFd,
    blocked: Blocked,
}

/// Splits this process in two. Returns in the root only; what the guardian is not to keep, `inherited`, it drops.
pub(crate) fn enter(inherited: &mut Inherited, cgroups: Option<&Home>) -> io::Result<Guard> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let (ours, roots) = rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    let mut signals = TAKEN.to_vec();
    signals.push(Signal::CHILD);
    // A signal that comes before the root can handle it waits for it.
    let blocked = Blocked::new(&signals);
    let descriptor = blocked.descriptor()?;
    match fork::fork() {
        Ok(Side::Parent { child }) => {
            drop((roots, std::mem::take(inherited)));
            guard(child, ours, &descriptor, cgroups)
        }
        Ok(Side::Child) => {
            // A group of its own: what a terminal or kill(1) sends to the group of the guardian reaches
            // the root once, through the guardian.
            rustix::process::setpgid(None, None)?;
            Ok(Guard { socket: roots, blocked })
        }
        Err(error) => {
            blocked.release();
            Err(error)
        }
    }
}

impl Guard {
    /// Has the guardian remove the socket's file when the root cannot.
    pub(crate) fn entrust(&self, path: &Path) {
        tell(&self.socket, FILE, path.as_os_str().as_bytes());
    }

    /// Has the guardian remove the directory, when it is empty, after all files.
    pub(crate) fn entrust_directory(&self, path: &Path) {
        tell(&self.socket, DIRECTORY, path.as_os_str().as_bytes());
    }

    /// To be called when the handlers are in place: signals that came meanwhile are delivered now.
    pub(crate) fn watch(self) -> io::Result<Watch> {
        let watch = Watch { socket: watch(self.socket, Interest::READABLE)? };
        self.blocked.release();
        Ok(watch)
    }
}

/// What the root tells the guardian begins with one of these bytes: the path of a file to remove,
const FILE: u8 = b'F';
/// or of a directory, once its files are removed,
const DIRECTORY: u8 = b'D';
/// or a datagram for the service manager, which may listen to nobody but the process that it started.
const NOTIFICATION: u8 = b'N';

/// The guardian reads all that comes, so there is always room.
fn tell(socket: &OwnedFd, kind: u8, content: &[u8]) {
    let message = [&[kind], content].concat();
    if let Err(error) = rustix::net::send(socket, &message, SendFlags::NOSIGNAL) {
        tracing::warn!(%error, "cannot tell the guardian");
    }
}

/// What comes from the guardian.
pub(crate) struct Watch {
    socket: AsyncFd<OwnedFd>,
}

impl Watch {
    /// Has the guardian remove the socket's file when the root cannot.
    pub(crate) fn entrust(&self, path: &Path) {
        tell(self.socket.get_ref(), FILE, path.as_os_str().as_bytes());
    }

    /// Has the guardian send a datagram to the service manager.
    pub(crate) fn notify(&self, datagram: &[u8]) {
        tell(self.socket.get_ref(), NOTIFICATION, datagram);
    }

    /// The next signal that was sent to the guardian, or `None` when the guardian has ended.
    pub(crate) async fn next(&mut self) -> Option<i32> {
        let mut byte = [0u8; 1];
        loop {
            let mut ready = self.socket.readable().await.ok()?;
            let result =
                ready.try_io(|socket| Ok(rustix::net::recv(socket.get_ref(), &mut byte, RecvFlags::DONTWAIT)?));
            match result {
                Ok(Ok((1, _))) => return Some(i32::from(byte[0])),
                Ok(Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Ok(_) => return None,
                Err(_would_block) => {}
            }
        }
    }
}

/// The life of the guardian.
fn guard(root: Pid, socket: OwnedFd, signals: &SignalDescriptor, cgroups: Option<&Home>) -> ! {
    let mut entrusted = Entrusted::default();
    // It needs little of what was read until here, and all of the time that the application runs.
    forget_program();
    let status = loop {
        let mut descriptors = [PollFd::new(signals, PollFlags::IN), PollFd::new(&socket, PollFlags::IN)];
        if poll(&mut descriptors, None).is_err() {
            continue;
        }
        let socket_closed = descriptors[1].revents().contains(PollFlags::HUP);
        receive(&socket, &mut entrusted);
        if let Some(status) = handle_signals(root, &socket, signals) {
            break status;
        }
        if socket_closed {
            // The root is about to end: nothing else closes its end.
            break wait_for(root, WaitIdOptions::EXITED).unwrap_or(ExitStatus::Unknown);
        }
    };
    // What it said last, it may have said since the last look.
    receive(&socket, &mut entrusted);
    sweep(cgroups);
    drop(entrusted);
    match status {
        ExitStatus::Exited(code) => fork::exit_now(code),
        ExitStatus::Signaled(number) => fork::die_by(number),
        ExitStatus::Unknown => fork::exit_now(1),
    }
}

/// Hands signals on. The exit status of the root if it has ended.
fn handle_signals(root: Pid, socket: &OwnedFd, signals: &SignalDescriptor) -> Option<ExitStatus> {
    while let Some(number) = signals.next() {
        if number != libc::SIGCHLD {
            let _ = rustix::net::send(socket, &[number as u8], SendFlags::NOSIGNAL);
            continue;
        }
        if let Some(status) = wait_for(root, WaitIdOptions::EXITED | WaitIdOptions::NOHANG) {
            return Some(status);
        }
        // Only the first process of a pid namespace is given children while the root lives.
        while let Some(child) = signal::ended_child() {
            if child == root {
                return wait_for(root, WaitIdOptions::EXITED);
            }
            signal::reap_orphan(child);
        }
    }
    None
}

fn wait_for(root: Pid, options: WaitIdOptions) -> Option<ExitStatus> {
    let status = rustix::io::retry_on_intr(|| rustix::process::waitid(WaitId::Pid(root), options));
    status.ok().flatten().map(|status| ExitStatus::from(&status))
}

/// What is removed at the end, in this order.
#[derive(Default)]
struct Entrusted {
    files: Vec<SocketFile>,
    directories: Vec<PrivateDirectory>,
}

fn receive(socket: &OwnedFd, entrusted: &mut Entrusted) {
    let mut buffer = [0u8; 8192];
    while let Ok((length, _)) = rustix::net::recv(socket, &mut buffer, RecvFlags::DONTWAIT) {
        match buffer[..length].split_first() {
            Some((&FILE, path)) => entrusted.files.extend(SocketFile::at(Path::new(OsStr::from_bytes(path)))),
            Some((&DIRECTORY, path)) => {
                entrusted.directories.push(PrivateDirectory(OsStr::from_bytes(path).into()));
            }
            Some((&NOTIFICATION, datagram)) => {
                let _ = Notify::open().send_datagram(datagram);
            }
            _ => break,
        }
    }
}

/// Kills and reaps everything that is left below this process, and removes the cgroups that it was in.
pub(crate) fn sweep(cgroups: Option<&Home>) {
    if let Some(cgroups) = cgroups {
        cgroups.kill();
    }
    signal::sweep(SWEEP_LIMIT);
    if let Some(cgroups) = cgroups {
        cgroups.remove();
    }
}
