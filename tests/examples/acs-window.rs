//! A program that is sent SIGINT in the moment in which its handler is being put in place, for the tests of stopping:
//! `acs-window child|root`

use std::ffi::c_int;
use std::process::ExitCode;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};

use async_container_supervisor::container::{Controller, Restart, is_child};
use async_container_supervisor::{BoxError, Instance, Service};

/// True where the signal is to come.
static ARMED: AtomicBool = AtomicBool::new(false);

fn main() -> ExitCode {
    let where_it_comes = std::env::args().nth(1);
    ARMED.store((where_it_comes.as_deref() == Some("child")) == is_child(), Ordering::Relaxed);
    let worker = Service::new("worker", work).count(1).restart(Restart::OnFailure);
    // Without a guardian, which keeps signals from the root until it is ready for them.
    Controller::new("window").guardian(false).service(worker).run()
}

async fn work(instance: Instance) -> Result<(), BoxError> {
    instance.shutdown().await;
    println!("worker was asked to stop");
    Ok(())
}

/// Takes the place of the C library's own, which it calls.
///
/// # Safety
/// That of sigaction(2).
#[unsafe(no_mangle)]
unsafe extern "C" fn sigaction(signal: c_int, action: *const libc::sigaction, old: *mut libc::sigaction) -> c_int {
    type Sigaction = unsafe extern "C" fn(c_int, *const libc::sigaction, *mut libc::sigaction) -> c_int;

    // SAFETY: looks up a symbol by a string with an end.
    let next = unsafe { libc::dlsym(libc::RTLD_NEXT, c"sigaction".as_ptr()) };
    assert_ne!(next, ptr::null_mut(), "the C library has a sigaction");
    // SAFETY: it is what the C library has by this name.
    let next = unsafe { std::mem::transmute::<*mut libc::c_void, Sigaction>(next) };
    // SAFETY: the arguments are those of the caller.
    let result = unsafe { next(signal, action, old) };

    // SAFETY: the caller gave a null pointer, or one to an action.
    let has_handler = unsafe { action.as_ref() }.is_some_and(|action| action.sa_flags & libc::SA_SIGINFO != 0);
    if signal == libc::SIGINT && has_handler && ARMED.swap(false, Ordering::Relaxed) {
        // SAFETY: sends this thread a signal that it has a handler for.
        unsafe { libc::raise(signal) };
    }
    result
}
