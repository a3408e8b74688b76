//! What async-backtrace knows: the functions with its attribute, as trees.

use std::panic::{self, AssertUnwindSafe};

/// A tree for each of its tasks, as text, the first line of which is the outermost function.
///
/// One that is being polled is not waited for: only its outermost function is shown then. What creates or ends such a task
/// waits meanwhile, as far as it meets the same of the locks that the tasks are divided among.
pub(super) fn trees() -> Vec<String> {
    let mut trees: Vec<String> = async_backtrace::tasks()
        .map(|task| {
            // It panics if the last poll of the task did, which may be caught further out.
            panic::catch_unwind(AssertUnwindSafe(|| task.pretty_tree(false)))
                .unwrap_or_else(|_| format!("╼ {}\n  └┈ [PANICKED]", task.location()))
        })
        .collect();
    // They come as a table of hashes has them.
    trees.sort_unstable();
    trees
}
