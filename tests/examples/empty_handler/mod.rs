//! A signal handler that does nothing but measure itself: what the machine makes of any.

#![allow(unsafe_code)]

use std::{
    io,
    mem::zeroed,
    ptr::null_mut,
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::Duration,
};

/// So many threads are asked at a time, and so long is slept then, as by a dump.
const AT_ONCE: usize = 16;
const PAUSE: Duration = Duration::from_micros(100);

/// What the handler took on each thread, and one, in nanoseconds, by the number of the thread. Zero if it did not run yet.
static TAKEN: [AtomicU64; 1 << 16] = [const { AtomicU64::new(0) }; 1 << 16];

/// What it takes to ask for the time.
static CLOCK_COST: AtomicU64 = AtomicU64::new(0);

fn taken(thread: i32) -> &'static AtomicU64 {
    &TAKEN[thread as usize % TAKEN.len()]
}

fn nanoseconds(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes to the place. It may be called in signal handlers.
    unsafe { libc::clock_gettime(clock, &mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Reads the same clocks as the handler of a dump that measures itself.
extern "C" fn handler(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    let cpu_time = nanoseconds(libc::CLOCK_THREAD_CPUTIME_ID);
    let at = nanoseconds(libc::CLOCK_MONOTONIC);
    let elapsed = nanoseconds(libc::CLOCK_MONOTONIC) - at;
    let taken_here = nanoseconds(libc::CLOCK_THREAD_CPUTIME_ID) - cpu_time;
    // SAFETY: it only tells the number of the thread.
    let thread = unsafe { libc::gettid() };
    // As of the handler of a dump, what it took on the wall bounds what it took of the processor.
    let taken_here = taken_here.saturating_sub(CLOCK_COST.load(Ordering::Relaxed)).min(elapsed);
    taken(thread).store(taken_here + 1, Ordering::SeqCst);
}

/// Installs it, in the way of a dump, for a signal that no dump uses.
pub fn install() -> io::Result<i32> {
    let cost = |_| {
        let begin = nanoseconds(libc::CLOCK_THREAD_CPUTIME_ID);
        nanoseconds(libc::CLOCK_THREAD_CPUTIME_ID) - begin
    };
    CLOCK_COST.store((0..100).map(cost).min().unwrap_or_default(), Ordering::SeqCst);
    let signal = libc::SIGRTMIN();
    // SAFETY: the structure is plain data, for which zeros are valid; the handler calls what is allowed in one.
    let result = unsafe {
        let mut action: libc::sigaction = zeroed();
        action.sa_sigaction = handler as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_RESTART | libc::SA_ONSTACK;
        libc::sigfillset(&mut action.sa_mask);
        libc::sigaction(signal, &action, null_mut())
    };
    if result == 0 { Ok(signal) } else { Err(io::Error::last_os_error()) }
}

/// Has it run once on each of these threads of this process, and gives what it took, in seconds.
pub fn run(signal: i32, threads: &[i32]) -> io::Result<Vec<f64>> {
    let mut all = Vec::with_capacity(threads.len());
    for group in threads.chunks(AT_ONCE) {
        for &thread in group {
            taken(thread).store(0, Ordering::SeqCst);
            // SAFETY: it sends a signal that is handled.
            if unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, signal) } != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        for &thread in group {
            while taken(thread).load(Ordering::SeqCst) == 0 {
                thread::sleep(PAUSE);
            }
            all.push((taken(thread).load(Ordering::SeqCst) - 1) as f64 / 1e9);
        }
    }
    Ok(all)
}
