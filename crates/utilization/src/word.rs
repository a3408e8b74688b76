//! Words that several threads, or processes, use at once.

use std::sync::atomic::{AtomicU64, Ordering};

/// Such a word.
pub(crate) trait Word {
    fn load(&self, ordering: Ordering) -> u64;
    fn store(&self, value: u64, ordering: Ordering);
    fn add(&self, value: u64);
    /// Replaces the value, if it is this one; gives the one that it is otherwise. May also fail for no reason.
    fn compare_exchange(&self, current: u64, new: u64) -> Result<u64, u64>;
}

impl Word for AtomicU64 {
    #[inline]
    fn load(&self, ordering: Ordering) -> u64 {
        AtomicU64::load(self, ordering)
    }

    #[inline]
    fn store(&self, value: u64, ordering: Ordering) {
        AtomicU64::store(self, value, ordering);
    }

    #[inline]
    fn add(&self, value: u64) {
        self.fetch_add(value, Ordering::Relaxed);
    }

    #[inline]
    fn compare_exchange(&self, current: u64, new: u64) -> Result<u64, u64> {
        self.compare_exchange_weak(current, new, Ordering::Relaxed, Ordering::Relaxed)
    }
}

/// In the model checker.
#[cfg(test)]
impl Word for loom::sync::atomic::AtomicU64 {
    fn load(&self, ordering: Ordering) -> u64 {
        Self::load(self, ordering)
    }

    fn store(&self, value: u64, ordering: Ordering) {
        Self::store(self, value, ordering);
    }

    fn add(&self, value: u64) {
        self.fetch_add(value, Ordering::Relaxed);
    }

    fn compare_exchange(&self, current: u64, new: u64) -> Result<u64, u64> {
        // The weak one may fail for no reason as often as it likes, which the model would try without end.
        Self::compare_exchange(self, current, new, Ordering::Relaxed, Ordering::Relaxed)
    }
}
