//! Stopping the threads of another process for a moment.

use std::{io, mem::MaybeUninit};

use super::registers::Registers;

/// A thread of another process that this thread traces. It must be stopped to be let go; when the thread that traces it
/// ends, the kernel lets it go, whatever its state.
#[derive(Debug)]
pub(crate) struct Traced {
    pub(crate) id: u32,
    /// The signal that it was about to take, if it was stopped by one.
    signal: i32,
}

/// What became of a thread that was told to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    NotYet,
    Stopped,
    Ended,
}

impl Traced {
    /// Traces a thread, and tells it to stop. It goes on until it notices.
    pub(crate) fn interrupt(id: u32) -> io::Result<Self> {
        request(libc::PTRACE_SEIZE, id, 0, 0)?;
        // From here on it is traced, also if this fails because it has ended.
        let _ = request(libc::PTRACE_INTERRUPT, id, 0, 0);
        Ok(Self { id, signal: 0 })
    }

    /// Looks whether it has stopped.
    pub(crate) fn poll(&mut self) -> Stop {
        let mut status = 0;
        // SAFETY: the status is written to a place of ours.
        let result = unsafe { libc::waitpid(self.id as libc::pid_t, &mut status, libc::__WALL | libc::WNOHANG) };

        match result {
            0 => Stop::NotYet,
            -1 => Stop::Ended,
            _ if !libc::WIFSTOPPED(status) => Stop::Ended,
            _ => {
                // Stopped by the request, the event says so; else by a signal that it is still to get.
                let event = status >> 16;
                self.signal = if event == 0 { libc::WSTOPSIG(status) } else { 0 };
                Stop::Stopped
            }
        }
    }

    /// Its registers, while it is stopped.
    pub(crate) fn registers(&self) -> io::Result<Registers> {
        const GENERAL: usize = 1;
        let mut registers = MaybeUninit::<libc::user_regs_struct>::zeroed();
        let mut vector =
            libc::iovec { iov_base: registers.as_mut_ptr().cast(), iov_len: size_of::<libc::user_regs_struct>() };
        request(libc::PTRACE_GETREGSET, self.id, GENERAL, &raw mut vector as usize)?;
        // SAFETY: the structure is plain data, for which zeros are valid, and as much of it as the kernel has was written.
        Ok(Registers::traced(&unsafe { registers.assume_init() }))
    }

    /// Lets it go on, with the signal that it was about to take.
    pub(crate) fn release(self) {
        // It fails if the thread has ended, and then there is nothing to be let go.
        let _ = request(libc::PTRACE_DETACH, self.id, 0, self.signal as usize);
    }
}

fn request(request: libc::c_uint, thread: u32, address: usize, data: usize) -> io::Result<()> {
    // SAFETY: of the requests made here, only PTRACE_GETREGSET writes to memory of this process, and its caller passes a
    // vector that says how much there is.
    let result = unsafe { libc::ptrace(request, thread as libc::pid_t, address, data) };
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
