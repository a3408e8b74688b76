//! A fork without a new program, for tests.

/// Has a fork of this process do that, and waits until it has.
pub(crate) fn fork(work: impl FnOnce()) {
    // SAFETY: of the threads of this process the fork has this one alone. It makes metrics, for which it takes memory, whose locks
    // the C library sees to, and a lock that no other thread knows of; then it ends, without a return to the harness. The status is
    // written to a place that is there.
    unsafe {
        let process_id = libc::fork();
        assert!(process_id >= 0);

        if process_id == 0 {
            work();
            libc::_exit(0);
        }

        let mut status = -1;
        assert_eq!(libc::waitpid(process_id, &mut status, 0), process_id);
        assert_eq!(status, 0);
    }
}
