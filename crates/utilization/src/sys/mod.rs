//! Memory that processes share.
//!
//! No other module of this crate contains `unsafe`.

mod cell;
mod memory;

pub(crate) use cell::Cell;
pub(crate) use memory::{Shared, View, ViewFailure};
