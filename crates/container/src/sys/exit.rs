//! What is done when a process ends by exit(3).

use std::sync::OnceLock;

static LAST: OnceLock<fn()> = OnceLock::new();

/// Has the function called when this process ends by exit(3), as `std::process::exit` and a return from `main` do, but not
/// `_exit`, `abort` or a signal. It is called by the thread that ends the process, while others still run, and must come
/// back. Only the first one that is given counts.
///
/// It is here for what libraries of this workspace have to finish that applications may end at any place, such as writing
/// what was logged.
pub fn at_exit(function: fn()) {
    if LAST.set(function).is_ok() {
        // SAFETY: `call` is a function that lives as long as the program, takes nothing, and does not unwind. A failure means
        // that the list of such functions has no room, and that this one is not called.
        unsafe { libc::atexit(call) };
    }
}

extern "C" fn call() {
    if let Some(function) = LAST.get() {
        // Unwinding out of here would abort the process, and change how it ends.
        let _ = std::panic::catch_unwind(function);
    }
}
