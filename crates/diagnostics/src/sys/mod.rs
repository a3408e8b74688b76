//! What needs `unsafe`: registers, signals, other memories.

pub(crate) mod capture;
pub(crate) mod clock;
pub(crate) mod map;
pub(crate) mod memory;
pub(crate) mod ranges;
pub(crate) mod registers;
pub(crate) mod signal;
pub(crate) mod stack;
pub(crate) mod timer;
pub(crate) mod trace;
#[cfg(feature = "tasks")]
pub(crate) mod waker;
