//! Whether a block may be among those that are followed: the question that every free asks while something is recorded.
//!
//! A number of blocks for each of many groups of addresses. Neighbours are in neighbouring groups, so that a program whose
//! memory is in the processor's cache finds its groups there, too.

use std::sync::atomic::{AtomicU8, Ordering};

/// How many groups there are.
const GROUPS: usize = 1 << 18;

/// A group that has had as many is never empty again: nobody knows how many more there were.
const STUCK: u8 = u8::MAX;

static FILTER: [AtomicU8; GROUPS] = [const { AtomicU8::new(0) }; GROUPS];

/// Blocks are aligned to 16 bytes, and large ones to pages, so that only their higher bits differ.
fn group(address: usize) -> &'static AtomicU8 {
    &FILTER[(address >> 4 ^ address >> 21) % GROUPS]
}

/// `false` if it is not among them.
#[inline]
pub(super) fn may_have(address: usize) -> bool {
    // A thread that frees a block has been given it by the one that allocated it, and has seen what that one wrote before.
    group(address).load(Ordering::Relaxed) != 0
}

pub(super) fn add(address: usize) {
    change(address, |number| number.saturating_add(1));
}

pub(super) fn remove(address: usize) {
    change(address, |number| if number == STUCK { STUCK } else { number.saturating_sub(1) });
}

fn change(address: usize, change: impl Fn(u8) -> u8) {
    // The closure always gives a number, so this cannot fail.
    let _ = group(address).fetch_update(Ordering::Relaxed, Ordering::Relaxed, |number| Some(change(number)));
}

/// Empties all groups. Nobody may add or remove meanwhile.
pub(super) fn clear() {
    for group in &FILTER {
        // Pages that were never written to are not there, and stay so.
        if group.load(Ordering::Relaxed) != 0 {
            group.store(0, Ordering::Relaxed);
        }
    }
}
