//! Timers that follow the processor time of single threads.

use std::{
    io,
    mem::{MaybeUninit, zeroed},
    time::Duration,
};

use super::clock;

/// Sends a thread of this process a signal whenever it has used so much more processor time, until it is dropped.
#[derive(Debug)]
pub(crate) struct ThreadTimer(libc::timer_t);

// SAFETY: a timer is a number of the kernel's, and belongs to the process.
unsafe impl Send for ThreadTimer {}

impl ThreadTimer {
    /// `value` goes with the signal.
    pub(crate) fn new(thread: u32, signal: i32, value: u64, period: Duration) -> io::Result<Self> {
        let mut timer = MaybeUninit::uninit();
        // SAFETY: the structure is plain data, for which zeros are valid; the timer is written if the call succeeds, and only
        // then used.
        let timer = unsafe {
            let mut event: libc::sigevent = zeroed();
            event.sigev_notify = libc::SIGEV_THREAD_ID;
            event.sigev_signo = signal;
            event.sigev_notify_thread_id = thread as libc::pid_t;
            event.sigev_value = libc::sigval { sival_ptr: value as *mut libc::c_void };

            if libc::timer_create(clock::of_thread(thread), &mut event, timer.as_mut_ptr()) != 0 {
                return Err(io::Error::last_os_error());
            }

            Self(timer.assume_init())
        };
        let period =
            libc::timespec { tv_sec: period.as_secs() as libc::time_t, tv_nsec: period.subsec_nanos() as libc::c_long };
        let setting = libc::itimerspec { it_interval: period, it_value: period };

        // SAFETY: the timer is ours, and the setting is only read.
        match unsafe { libc::timer_settime(timer.0, 0, &setting, std::ptr::null_mut()) } {
            0 => Ok(timer),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

impl Drop for ThreadTimer {
    fn drop(&mut self) {
        // SAFETY: the timer is ours, and nobody uses it any more.
        unsafe { libc::timer_delete(self.0) };
    }
}
