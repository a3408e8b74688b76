//! What the C library knows of this process.

use std::{ffi::CStr, sync::Once};

/// A variable of the environment, without an allocation. For the time before other threads exist, as it is not known whether
/// another one changes it meanwhile.
pub(crate) fn variable(name: &CStr) -> Option<&'static [u8]> {
    // SAFETY: the name ends with a zero. What is returned is the environment that the program was started with, which is
    // never given back; that of a variable which was changed since may be, hence the condition above.
    unsafe {
        let value = libc::getenv(name.as_ptr());
        (!value.is_null()).then(|| CStr::from_ptr(value).to_bytes())
    }
}

/// Has a function called in every child of a fork, before fork returns there. What is set first stays.
///
/// The function is called while nothing is known of what other threads held at the time: it must do nothing but store
/// numbers.
pub(crate) fn in_forked_children(call: fn()) {
    static CALL: std::sync::OnceLock<fn()> = std::sync::OnceLock::new();
    static REGISTERED: Once = Once::new();

    extern "C" fn child() {
        if let Some(call) = CALL.get() {
            call();
        }
    }

    let _ = CALL.set(call);
    REGISTERED.call_once(|| {
        // SAFETY: the handler lives as long as the process, and does what is allowed to one: see above. If there is no memory for
        // it, children go on as they are, which they do in most cases.
        unsafe { libc::pthread_atfork(None, None, Some(child)) };
    });
}

/// A number that changes when a library is loaded or unloaded.
pub(crate) fn loads() -> u64 {
    extern "C" fn look(
        information: *mut libc::dl_phdr_info,
        size: libc::size_t,
        loads: *mut libc::c_void,
    ) -> libc::c_int {
        // SAFETY: the loader passes what it knows of a module, as long as it says; the third argument is the place that was
        // given below, which nobody else has.
        unsafe {
            if size >= size_of::<libc::dl_phdr_info>() {
                *loads.cast::<u64>() = (*information).dlpi_adds.wrapping_add((*information).dlpi_subs << 32);
            }
        }
        // The first one knows it as well as all.
        1
    }

    let mut loads = 0_u64;
    // SAFETY: the function has the signature that is asked for, and is called before this returns.
    unsafe { libc::dl_iterate_phdr(Some(look), (&raw mut loads).cast()) };
    loads
}

/// What the allocator of the C library has: (handed out, free and kept, mapped in all).
#[cfg(target_env = "gnu")]
pub(crate) fn heap() -> Option<(u64, u64, u64)> {
    // SAFETY: it takes the locks of the allocator one after the other, and changes nothing.
    let info = unsafe { libc::mallinfo2() };
    let (arena, mapped) = (info.arena as u64, info.hblkhd as u64);
    Some((info.uordblks as u64 + mapped, info.fordblks as u64, arena + mapped))
}

/// What the allocator of the C library has: nothing that it would tell.
#[cfg(not(target_env = "gnu"))]
pub(crate) fn heap() -> Option<(u64, u64, u64)> {
    None
}

#[cfg(test)]
#[cfg(feature = "memory")]
mod tests {
    use std::{
        hint::black_box,
        process::{Command, Stdio},
        sync::atomic::{AtomicBool, Ordering},
        thread,
        time::{Duration, Instant},
    };

    use crate::memory::{self, Mode, Options, Sampling};

    const CHILDREN: usize = 200;
    const LIMIT: Duration = Duration::from_secs(20);

    /// Forks, has the child do something, and tells whether it did, and ended.
    fn forked(work: impl FnOnce() -> bool) -> bool {
        // SAFETY: the child does what is given, which allocates, and ends without running anything else of this process. To
        // allocate there is what is tested; the C library allows it, since its own locks are free in the child.
        let child = unsafe {
            match libc::fork() {
                0 => libc::_exit(if work() { 0 } else { 1 }),
                child => child,
            }
        };
        assert!(child > 0, "no child could be made");
        let begun = Instant::now();

        loop {
            let mut status = 0;
            // SAFETY: the place is ours, and the child has not been waited for.
            let ended = unsafe { libc::waitpid(child, &mut status, libc::WNOHANG) };

            if ended == child {
                return libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0;
            }

            if begun.elapsed() > LIMIT {
                // SAFETY: the child has not been waited for, so the number is still its own.
                unsafe {
                    libc::kill(child, libc::SIGKILL);
                    libc::waitpid(child, &mut status, 0);
                }
                return false;
            }

            thread::yield_now();
        }
    }

    #[test]
    fn children_of_a_process_that_records_are_fine() {
        let ended = AtomicBool::new(false);
        memory::record(Mode::Full).unwrap();
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    while !ended.load(Ordering::Relaxed) {
                        black_box(vec![1_u8; 100]);
                        thread::yield_now();
                    }
                });
            }

            let mut fine = 0;

            for _ in 0..CHILDREN {
                let sampling = Sampling::start(&Options::new()).unwrap();
                let recorded = black_box(vec![1_u8; 5000]);
                fine += usize::from(forked(|| {
                    // What the parent has recorded is freed, what it began is dropped, and something new is begun.
                    drop(recorded);
                    drop(sampling);
                    let silent = memory::recording().is_none();
                    let mut own: Vec<Vec<u8>> = (0..100).map(|size| vec![1; size * 100]).collect();
                    own.iter_mut().for_each(|block| block.reserve(1000));
                    drop(own);
                    let again = Sampling::start(&Options::new().mode(Mode::Full)).is_ok();
                    silent && again && memory::recording().is_none()
                }));
            }

            let spawned = (0..CHILDREN).filter(|_| {
                let mut child = Command::new("/bin/true");
                child.stdin(Stdio::null()).status().is_ok_and(|status| status.success())
            });
            let spawned = spawned.count();
            ended.store(true, Ordering::Relaxed);
            assert_eq!((fine, spawned), (CHILDREN, CHILDREN));
        });
        assert_eq!(memory::recording(), Some(Mode::Full), "the parent goes on");
        memory::stop();
    }
}
