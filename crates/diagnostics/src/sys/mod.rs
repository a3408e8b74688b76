//! What needs `unsafe`: registers, signals, other memories.

pub(crate) mod map;
pub(crate) mod memory;
pub(crate) mod registers;
pub(crate) mod stack;
