//! What needs `unsafe`: registers, signals, other memories.

#[cfg(feature = "memory")]
pub(crate) mod allocator;
pub(crate) mod capture;
pub(crate) mod clock;
pub(crate) mod map;
pub(crate) mod memory;
#[cfg(feature = "memory")]
pub(crate) mod process;
#[cfg(feature = "memory")]
pub(crate) mod published;
pub(crate) mod ranges;
pub(crate) mod registers;
pub(crate) mod signal;
pub(crate) mod stack;
pub(crate) mod timer;
pub(crate) mod trace;
#[cfg(feature = "tasks")]
pub(crate) mod waker;
