//! What a process was given by the one that started it: descriptors and environment variables.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Mutex;

use rustix::io::FdFlags;

/// Descriptors that have found their owner.
static TAKEN: Mutex<BTreeSet<RawFd>> = Mutex::new(BTreeSet::new());

/// Takes ownership of a descriptor that this process was started with, and marks it close-on-exec.
///
/// Fails if it is standard input, output or error, is not open, or was taken before.
pub(crate) fn take(number: RawFd) -> io::Result<OwnedFd> {
    let invalid = |message: String| io::Error::new(io::ErrorKind::InvalidInput, message);
    if number < super::spawn::FIRST_DESCRIPTOR {
        return Err(invalid(format!("file descriptor {number} is not one that was passed on")));
    }
    let mut taken = TAKEN.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if taken.contains(&number) {
        return Err(invalid(format!("file descriptor {number} was already taken")));
    }
    // SAFETY: borrowed for one call, which fails cleanly if the number is not open.
    rustix::io::fcntl_setfd(unsafe { BorrowedFd::borrow_raw(number) }, FdFlags::CLOEXEC)?;
    taken.insert(number);
    // SAFETY: it is open, and it came with the process: nothing in this program can have opened it,
    // since this is asked for only by the variable that names it, and `TAKEN` hands it out once.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Takes a variable out of the environment, so that programs started from here do not see it.
///
/// Where other threads run already it is only read: removing it could be seen half-done by them.
pub(crate) fn take_variable(name: &str) -> Option<String> {
    let value = std::env::var(name).ok()?;
    if single_threaded() {
        // SAFETY: no other thread exists that could be reading the environment.
        unsafe { std::env::remove_var(name) };
    }
    Some(value)
}

/// True if this process has one thread only.
pub(crate) fn single_threaded() -> bool {
    std::fs::read_dir("/proc/self/task").is_ok_and(|tasks| tasks.count() == 1)
}
