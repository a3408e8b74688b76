//! Processor time of single threads.

use std::time::Duration;

/// The clock that tells how much processor time a thread of this process has had, by the rule by which the kernel names them.
pub(crate) fn of_thread(thread: u32) -> libc::clockid_t {
    const PER_THREAD_AND_SCHEDULED: libc::clockid_t = 6;
    !(thread as libc::clockid_t) << 3 | PER_THREAD_AND_SCHEDULED
}

/// The processor time that a thread of this process has had.
pub(crate) fn thread_cpu_time(thread: u32) -> Option<Duration> {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel writes to the place, or refuses a clock of a thread that is not there.
    let result = unsafe { libc::clock_gettime(of_thread(thread), &mut time) };
    (result == 0).then(|| Duration::new(time.tv_sec as u64, time.tv_nsec as u32))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_a_thread_of_this_process_is_known() {
        let own = rustix::thread::gettid().as_raw_nonzero().get() as u32;
        let before = thread_cpu_time(own).unwrap();
        let start = std::time::Instant::now();

        while start.elapsed() < Duration::from_millis(2) {}

        assert!(thread_cpu_time(own).unwrap() > before);
        assert!(thread_cpu_time(1).is_none());
    }
}
