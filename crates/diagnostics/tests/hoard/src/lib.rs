//! A dependency that keeps what it is given.
//!
//! It is no member of the workspace, as no dependency is, and has a path of its own. What it allocates is on one line, whose
//! number it knows.

#![deny(missing_docs)]
#![forbid(unsafe_code)]

use std::sync::Mutex;

static KEPT: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());

/// The line on which [`keep`] allocates.
pub const LINE: u32 = line!() + 9;

/// Keeps blocks of that size, until [`let_go`].
#[inline(never)]
pub fn keep(blocks: usize, size: usize) {
    let mut kept = KEPT.lock().unwrap();
    kept.reserve(blocks);

    for _ in 0..blocks {
        let block = vec![1_u8; size];
        kept.push(block);
    }
}

/// Gives all back.
pub fn let_go() {
    *KEPT.lock().unwrap() = Vec::new();
}
