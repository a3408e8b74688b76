//! Signals that come while what handles them is being put in place.
//!
//! The handlers of tokio are chained to the one that was there before, and for a moment that one alone is called: when the
//! kernel knows the new one, which does not know yet whom to tell. What comes then would be lost if there were none.

use std::sync::atomic::{AtomicU64, Ordering};

use libc::c_int;

/// A bit for each signal that came.
static SEEN: AtomicU64 = AtomicU64::new(0);

/// Has these signals remembered from now on, whoever else handles them afterwards. It takes them from nobody who does so
/// already, so it is to be called first.
pub(crate) fn arm(signals: impl IntoIterator<Item = c_int>) {
    for signal in signals {
        // SAFETY: the action is plain data, for which zeros are a valid value; its handler does nothing but an atomic
        // operation. What cannot be handled is refused by the kernel, and so it is by those who try next, with an error.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = remember as extern "C" fn(c_int) as libc::sighandler_t;
            action.sa_flags = libc::SA_RESTART;
            libc::sigemptyset(&mut action.sa_mask);
            libc::sigaction(signal, &action, std::ptr::null_mut());
        }
    }
}

/// True if one of these signals came since it was armed.
pub(crate) fn has_seen(signals: impl IntoIterator<Item = c_int>) -> bool {
    let seen = SEEN.load(Ordering::Relaxed);
    signals.into_iter().any(|signal| seen & bit(signal) != 0)
}

extern "C" fn remember(signal: c_int) {
    SEEN.fetch_or(bit(signal), Ordering::Relaxed);
}

/// Signals have the numbers 1 to 64.
fn bit(signal: c_int) -> u64 {
    1 << ((signal - 1) & 63)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_is_remembered() {
        let (first, last) = (libc::SIGRTMAX() - 1, libc::SIGRTMAX());
        arm([first, last]);
        assert!(!has_seen([first, last]));
        // SAFETY: sends this thread a signal that it handles.
        unsafe { libc::raise(last) };
        assert!(has_seen([first, last]));
        assert!(!has_seen([first]));
    }
}
