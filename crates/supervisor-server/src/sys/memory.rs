//! Memory that was freed.

/// Has the C library give it to the system, all of which it would otherwise keep that is not at the end. Others than that of GNU
/// do so by themselves, or cannot.
pub(crate) fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it may be called at any time, and takes the locks that it needs.
    unsafe {
        libc::malloc_trim(0);
    }
}
