//! The one fork of the root, before it has any thread, and what its other half needs from the kernel.

use std::io;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};

use rustix::process::{Pid, Signal};

/// Which of the two a fork returned to.
pub(crate) enum Side {
    Parent { child: Pid },
    Child,
}

/// Duplicates this process. Refuses if it has more than one thread.
pub(crate) fn fork() -> io::Result<Side> {
    if !super::inherit::single_threaded() {
        return Err(io::Error::other("this process has other threads already"));
    }
    // SAFETY: the process has a single thread, so the child is a complete copy: no lock is held by a
    // thread that does not exist there.
    let pid = unsafe { libc::fork() };
    if pid < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(Pid::from_raw(pid).map_or(Side::Child, |child| Side::Parent { child }))
}

/// A set of signals taken out of ordinary delivery.
pub(crate) struct Blocked {
    set: libc::sigset_t,
}

impl Blocked {
    /// Blocks the signals on this thread.
    pub(crate) fn new(signals: &[Signal]) -> Self {
        // SAFETY: sets a default action; the set is plain data, initialized by sigemptyset.
        unsafe {
            // Where it is ignored, as a parent may have arranged, children vanish without a status.
            libc::signal(libc::SIGCHLD, libc::SIG_DFL);
            let mut set: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&mut set);
            for signal in signals {
                libc::sigaddset(&mut set, signal.as_raw());
            }
            libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut());
            Blocked { set }
        }
    }

    /// Lets the signals through again; those that came meanwhile are delivered now.
    pub(crate) fn release(self) {
        // SAFETY: the set was initialized in `new`.
        unsafe {
            libc::pthread_sigmask(libc::SIG_UNBLOCK, &self.set, std::ptr::null_mut());
        }
    }

    /// A descriptor from which the signals can be read.
    pub(crate) fn descriptor(&self) -> io::Result<SignalDescriptor> {
        // SAFETY: asks for a new descriptor for an initialized set.
        let descriptor = unsafe { libc::signalfd(-1, &self.set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
        if descriptor < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel just made it, and nobody else knows it.
        Ok(SignalDescriptor(unsafe { OwnedFd::from_raw_fd(descriptor) }))
    }
}

/// A signalfd(2).
pub(crate) struct SignalDescriptor(OwnedFd);

impl SignalDescriptor {
    /// The number of the next signal, if one is waiting.
    pub(crate) fn next(&self) -> Option<i32> {
        let mut buffer = [0u8; size_of::<libc::signalfd_siginfo>()];
        let length = rustix::io::retry_on_intr(|| rustix::io::read(&self.0, &mut buffer)).ok()?;
        // The record begins with the number, see signalfd(2).
        let number = buffer.get(..4).filter(|_| length == buffer.len())?;
        Some(i32::from_ne_bytes([number[0], number[1], number[2], number[3]]))
    }
}

impl AsFd for SignalDescriptor {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Ends this process the way the signal would, without a core file of its own.
pub(crate) fn die_by(number: i32) -> ! {
    // SAFETY: sets a limit, a default action and the signal mask, raises the signal, and exits if the
    // signal did not end the process. All are plain system calls.
    unsafe {
        let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        libc::setrlimit(libc::RLIMIT_CORE, &none);
        libc::signal(number, libc::SIG_DFL);
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, number);
        libc::pthread_sigmask(libc::SIG_UNBLOCK, &set, std::ptr::null_mut());
        libc::raise(number);
        libc::_exit(128 + number)
    }
}

/// Ends this process at once, without running destructors or flushing buffers that its other half also has.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: takes a number and does not return.
    unsafe { libc::_exit(code) }
}
