//! Memory that processes share.
//!
//! No other module of this crate contains `unsafe`.

mod bounds;
mod cell;
#[cfg(test)]
pub(crate) mod fork;
mod memory;
#[cfg(test)]
pub(crate) mod model;

use std::io;

pub(crate) use cell::Cell;
pub(crate) use memory::{Shared, View, ViewFailure};

/// Memory in words.
///
/// # Safety
///
/// A word that `words` has given stays where it is, and can be used, for as long as this is there, wherever this is moved.
pub(crate) unsafe trait Memory {
    type Word;

    /// All that there is of it now.
    fn words(&self) -> &[Self::Word];
}

/// Memory of this process that can be made larger.
pub(crate) trait Grow: Memory {
    /// Makes it larger, in place. One thread at a time.
    fn grow(&self, size: usize) -> io::Result<()>;
}

/// Memory of another process: as much as there was when it was mapped.
pub(crate) trait Mapping: Memory {
    /// What no other memory of this machine has.
    fn identity(&self) -> (u64, u64);
}
