//! One test at a time.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// There is one recording at a time in a process, and tests of one file run in one.
pub fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}
