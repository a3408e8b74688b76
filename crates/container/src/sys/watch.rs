//! Waiting for a descriptor on the runtime.

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Registers the descriptor with the runtime that this is called on.
pub(crate) fn watch(descriptor: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` names one open descriptor from its creation to its drop, and it is the
    // `AsyncFd` that owns and drops it.
    Ok(unsafe { AsyncFd::register_with_interest(descriptor, interest) }?)
}
