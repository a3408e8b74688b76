//! How much was allocated and freed, while somebody counts.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

/// How many places the threads count at, so that they do not wait for each other's processor.
const PLACES: usize = 64;

#[repr(align(64))]
struct Place {
    allocations: AtomicU64,
    allocated: AtomicU64,
    frees: AtomicU64,
    freed: AtomicU64,
}

static COUNTERS: [Place; PLACES] = [const {
    Place {
        allocations: AtomicU64::new(0),
        allocated: AtomicU64::new(0),
        frees: AtomicU64::new(0),
        freed: AtomicU64::new(0),
    }
}; PLACES];

/// What was counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Counts {
    /// Blocks that were allocated. One that was made larger or smaller counts as freed and allocated.
    pub allocations: u64,
    /// Their bytes.
    pub bytes_allocated: u64,
    /// Blocks that were freed, whenever they were allocated.
    pub frees: u64,
    /// Their bytes.
    pub bytes_freed: u64,
}

pub(super) fn allocated(thread: usize, size: usize) {
    let place = &COUNTERS[thread % PLACES];
    place.allocations.fetch_add(1, Ordering::Relaxed);
    place.allocated.fetch_add(size as u64, Ordering::Relaxed);
}

pub(super) fn freed(thread: usize, size: usize) {
    let place = &COUNTERS[thread % PLACES];
    place.frees.fetch_add(1, Ordering::Relaxed);
    place.freed.fetch_add(size as u64, Ordering::Relaxed);
}

/// All that was counted so far.
pub(super) fn now() -> Counts {
    let mut counts = Counts::default();

    for place in &COUNTERS {
        counts.allocations = counts.allocations.wrapping_add(place.allocations.load(Ordering::Relaxed));
        counts.bytes_allocated = counts.bytes_allocated.wrapping_add(place.allocated.load(Ordering::Relaxed));
        counts.frees = counts.frees.wrapping_add(place.frees.load(Ordering::Relaxed));
        counts.bytes_freed = counts.bytes_freed.wrapping_add(place.freed.load(Ordering::Relaxed));
    }

    counts
}

impl Counts {
    /// What was counted since.
    pub(super) fn since(self, before: Self) -> Self {
        Self {
            allocations: self.allocations.wrapping_sub(before.allocations),
            bytes_allocated: self.bytes_allocated.wrapping_sub(before.bytes_allocated),
            frees: self.frees.wrapping_sub(before.frees),
            bytes_freed: self.bytes_freed.wrapping_sub(before.bytes_freed),
        }
    }
}
