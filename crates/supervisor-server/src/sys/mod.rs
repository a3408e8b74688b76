//! What no library offers without `unsafe`.
//!
//! No other module of this crate contains it.

mod memory;
mod peer_groups;

pub(crate) use memory::give_back;
pub(crate) use peer_groups::peer_groups;
