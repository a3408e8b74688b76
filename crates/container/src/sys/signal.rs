//! The one place from which signals leave this process, and where exits are collected.
//!
//! A number can come to mean another process as soon as the old one has been reaped; a pidfd cannot.
//! So every signal names a pidfd, and an exit is collected through it as well.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};

use crate::exit::ExitStatus;

/// How long what was killed is given to end, before it is looked at again.
const SWEEP_PAUSE: Duration = Duration::from_millis(1);

/// `PIDFD_SIGNAL_PROCESS_GROUP` of linux/pidfd.h, known to kernels from 6.9 on.
const PIDFD_SIGNAL_PROCESS_GROUP: libc::c_uint = 1 << 2;

/// Sends the signal to the process alone.
pub(crate) fn send(pidfd: impl AsFd, signal: Signal) -> io::Result<()> {
    match pidfd_send_signal(pidfd, signal) {
        // It has already ended, which is all that a signal could have asked for.
        Err(Errno::SRCH) => Ok(()),
        result => Ok(result?),
    }
}

/// Sends the signal to the process group that the process leads, or to the process alone when it
/// has left that group.
///
/// `leader` must not have been reaped yet: on kernels before 6.9 the group is named by its number,
/// which cannot be given to others as long as the leader's entry exists.
pub(crate) fn send_group(pidfd: impl AsFd, leader: Pid, signal: Signal) -> io::Result<()> {
    let descriptor = pidfd.as_fd().as_raw_fd();
    // SAFETY: passes a live descriptor, a signal's number, no siginfo, and a flag.
    let result = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            descriptor,
            signal.as_raw(),
            std::ptr::null::<libc::siginfo_t>(),
            PIDFD_SIGNAL_PROCESS_GROUP,
        )
    };
    let error = if result == 0 { None } else { Some(io::Error::last_os_error()) };
    match error.and_then(|error| error.raw_os_error()) {
        None => Ok(()),
        Some(libc::EINVAL) => match rustix::process::kill_process_group(leader, signal) {
            Err(Errno::SRCH) => send(pidfd, signal),
            result => Ok(result?),
        },
        Some(libc::ESRCH) => send(pidfd, signal),
        Some(code) => Err(io::Error::from_raw_os_error(code)),
    }
}

/// The exit status once the process has ended; it stays to be collected.
pub(crate) fn exit_status(pidfd: impl AsFd) -> io::Result<Option<ExitStatus>> {
    wait(pidfd.as_fd(), WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT)
}

/// Waits for the process, which is known to be about to end, and collects its status.
pub(crate) fn reap(pidfd: impl AsFd) -> io::Result<Option<ExitStatus>> {
    wait(pidfd.as_fd(), WaitIdOptions::EXITED)
}

fn wait(pidfd: std::os::fd::BorrowedFd<'_>, options: WaitIdOptions) -> io::Result<Option<ExitStatus>> {
    loop {
        match waitid(WaitId::PidFd(pidfd), options) {
            Err(Errno::INTR) => {}
            // Somebody else in this process collected it, or SIGCHLD is ignored.
            Err(Errno::CHILD) => return Ok(Some(ExitStatus::Unknown)),
            result => return Ok(result?.map(|status| ExitStatus::from(&status))),
        }
    }
}

/// Kills and reaps every child of this process, and what comes up when they are gone, until none is left. Gives up on what
/// the kernel does not let go of: when nothing has ended for so long.
pub(crate) fn sweep(limit: Duration) {
    let mut progress = Instant::now();
    while has_children() && progress.elapsed() < limit {
        // The list may miss some that are just coming or going; they are in the next one.
        children().into_iter().for_each(kill_orphan);
        let mut reaped = false;
        while let Some(child) = ended_child() {
            reap_orphan(child);
            reaped = true;
        }
        if reaped {
            progress = Instant::now();
        } else {
            std::thread::sleep(SWEEP_PAUSE);
        }
    }
}

fn has_children() -> bool {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    !matches!(rustix::io::retry_on_intr(|| waitid(WaitId::All, options)), Err(Errno::CHILD))
}

/// A child of this process that has ended, if there is one; its status stays to be collected.
pub(crate) fn ended_child() -> Option<Pid> {
    let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: the record is plain data. The kernel fills it in, or leaves its zeros when no child has
    // ended, and the process id is read only after a success, when it is what waitid(2) says.
    let number = unsafe {
        let mut record: libc::siginfo_t = std::mem::zeroed();
        match libc::waitid(libc::P_ALL, 0, &mut record, options) {
            0 => record.si_pid(),
            _ => 0,
        }
    };
    Pid::from_raw(number)
}

/// Collects a child of this process that nobody waits for, if it has ended. True if it had.
pub(crate) fn reap_orphan(child: Pid) -> bool {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
    matches!(rustix::io::retry_on_intr(|| waitid(WaitId::Pid(child), options)), Ok(Some(_)))
}

/// Kills a process that was given to this one when its parent ended. Its number is safe to use: it stays taken until this
/// process itself reaps it.
pub(crate) fn kill_orphan(child: Pid) {
    let _ = rustix::process::kill_process(child, Signal::KILL);
}

/// The children of this process, those that it has been given by dead ones among them.
pub(crate) fn children() -> Vec<Pid> {
    let Ok(tasks) = std::fs::read_dir("/proc/self/task") else {
        return Vec::new();
    };
    tasks
        .flatten()
        .filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok())
        .flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<i32>>())
        .filter_map(Pid::from_raw)
        .collect()
}

/// All signals blocked on this thread until dropped.
pub(crate) struct Mask {
    previous: libc::sigset_t,
}

impl Mask {
    pub(crate) fn block_all() -> Self {
        // SAFETY: both sets are plain data that the calls fill in completely.
        unsafe {
            let mut all: libc::sigset_t = std::mem::zeroed();
            let mut previous: libc::sigset_t = std::mem::zeroed();
            libc::sigfillset(&mut all);
            libc::pthread_sigmask(libc::SIG_SETMASK, &all, &mut previous);
            Mask { previous }
        }
    }
}

impl Drop for Mask {
    fn drop(&mut self) {
        // SAFETY: restores the set that `block_all` was given by the kernel.
        unsafe {
            libc::pthread_sigmask(libc::SIG_SETMASK, &self.previous, std::ptr::null_mut());
        }
    }
}
