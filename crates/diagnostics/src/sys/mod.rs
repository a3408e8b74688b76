//! What needs `unsafe`: registers, signals, other memories.

#[cfg(feature = "memory")]
pub(crate) mod allocator;
#[cfg(feature = "stacks")]
pub(crate) mod capture;
#[cfg(feature = "stacks")]
pub(crate) mod clock;
#[cfg(feature = "jemalloc")]
pub(crate) mod jemalloc;
#[cfg(feature = "stacks")]
pub(crate) mod map;
#[cfg(feature = "stacks")]
pub(crate) mod memory;
#[cfg(feature = "memory")]
pub(crate) mod process;
#[cfg(feature = "memory")]
pub(crate) mod published;
#[cfg(feature = "stacks")]
pub(crate) mod ranges;
#[cfg(feature = "stacks")]
pub(crate) mod registers;
#[cfg(feature = "stacks")]
pub(crate) mod signal;
#[cfg(feature = "stacks")]
pub(crate) mod stack;
#[cfg(feature = "stacks")]
mod stream;
#[cfg(feature = "tasks")]
pub(crate) mod ticks;
#[cfg(feature = "stacks")]
pub(crate) mod timer;
#[cfg(feature = "stacks")]
pub(crate) mod trace;
#[cfg(all(feature = "stacks", feature = "tasks"))]
pub(crate) mod waker;
