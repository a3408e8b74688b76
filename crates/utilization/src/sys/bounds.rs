//! How far memory may be touched: the order in which that is found out, which is all that stands between a process and
//! `SIGBUS`. It knows nothing of the memory itself, so that a test can have it in a model checker.

use std::sync::atomic::Ordering;

use crate::word::Word;

/// How much of a mapping has memory behind it, in bytes: the owner's side. It only grows.
#[derive(Debug)]
pub(crate) struct Extent<W>(W);

impl<W: Word> Extent<W> {
    /// `size` is zero.
    pub(crate) fn new(size: W) -> Self {
        Self(size)
    }

    pub(crate) fn get(&self) -> usize {
        self.0.load(Ordering::Acquire) as usize
    }

    /// Makes it larger, once `allocate` has made the file so. One thread at a time.
    pub(crate) fn grow<E>(&self, size: usize, allocate: impl FnOnce(usize) -> Result<(), E>) -> Result<(), E> {
        if size > self.get() {
            allocate(size)?;
            // Last: whoever sees this may touch all of it.
            self.0.store(size as u64, Ordering::Release);
        }

        Ok(())
    }
}

/// How much of somebody else's file can be mapped without its end ever coming nearer: at most `limit` bytes.
pub(crate) fn lasting<E>(
    limit: usize,
    check_seal: impl FnOnce() -> Result<(), E>,
    length: impl FnOnce() -> Result<u64, E>,
) -> Result<usize, E> {
    // Before the length is asked for: it is final only then.
    check_seal()?;
    Ok(usize::try_from(length()?).unwrap_or(limit).min(limit))
}
