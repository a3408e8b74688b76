//! Everything that the kernel only offers unsafely, and everything that sends a signal.
//!
//! No other module of this crate contains `unsafe`.

mod clone;
pub(crate) mod datagram;
pub(crate) mod exit;
pub(crate) mod forget;
pub(crate) mod fork;
pub(crate) mod inherit;
pub(crate) mod latch;
pub(crate) mod signal;
pub(crate) mod spawn;
pub(crate) mod title;
pub(crate) mod watch;
