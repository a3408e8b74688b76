//! What a thread waits for, in words.

use std::fs;

use super::SystemCall;
use crate::symbols::Frame;

/// The system calls that threads wait in, and what for. A `#` stands for the file that the first argument names.
const CALLS: &[(libc::c_long, &str, &str)] = &[
    (libc::SYS_read, "read", "data from #"),
    (libc::SYS_readv, "readv", "data from #"),
    (libc::SYS_pread64, "pread64", "data from #"),
    (libc::SYS_write, "write", "room to write to #"),
    (libc::SYS_writev, "writev", "room to write to #"),
    (libc::SYS_pwrite64, "pwrite64", "room to write to #"),
    (libc::SYS_recvfrom, "recvfrom", "data from #"),
    (libc::SYS_recvmsg, "recvmsg", "data from #"),
    (libc::SYS_recvmmsg, "recvmmsg", "data from #"),
    (libc::SYS_sendto, "sendto", "room to write to #"),
    (libc::SYS_sendmsg, "sendmsg", "room to write to #"),
    (libc::SYS_sendfile, "sendfile", "room to write to #"),
    (libc::SYS_splice, "splice", "data from #"),
    (libc::SYS_accept, "accept", "a connection on #"),
    (libc::SYS_accept4, "accept4", "a connection on #"),
    (libc::SYS_connect, "connect", "a connection to be made by #"),
    (libc::SYS_epoll_pwait, "epoll_pwait", "events of the files that # watches"),
    (libc::SYS_epoll_pwait2, "epoll_pwait2", "events of the files that # watches"),
    (libc::SYS_ppoll, "ppoll", "events of files"),
    (libc::SYS_pselect6, "pselect6", "events of files"),
    (libc::SYS_io_uring_enter, "io_uring_enter", "completions of #"),
    (libc::SYS_nanosleep, "nanosleep", "a time to pass"),
    (libc::SYS_clock_nanosleep, "clock_nanosleep", "a time to pass"),
    (libc::SYS_wait4, "wait4", "a child to end"),
    (libc::SYS_waitid, "waitid", "a child to end"),
    (libc::SYS_flock, "flock", "a lock on #"),
    (libc::SYS_fcntl, "fcntl", "a lock on #"),
    (libc::SYS_fsync, "fsync", "# to reach the disk"),
    (libc::SYS_fdatasync, "fdatasync", "# to reach the disk"),
    (libc::SYS_openat, "openat", "a file to be opened"),
    (libc::SYS_rt_sigtimedwait, "rt_sigtimedwait", "a signal"),
    (libc::SYS_rt_sigsuspend, "rt_sigsuspend", "a signal"),
    (libc::SYS_restart_syscall, "restart_syscall", "a time to pass"),
    (libc::SYS_msgrcv, "msgrcv", "a message"),
    (libc::SYS_semtimedop, "semtimedop", "a semaphore"),
    (libc::SYS_mmap, "mmap", "memory to be mapped"),
    (libc::SYS_munmap, "munmap", "memory to be unmapped"),
    (libc::SYS_madvise, "madvise", "memory to be given back"),
    (libc::SYS_mprotect, "mprotect", "memory to be protected"),
    (libc::SYS_ioctl, "ioctl", "the device #"),
    (libc::SYS_futex, "futex", "a lock, a condition or another thread"),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_epoll_wait, "epoll_wait", "events of the files that # watches"),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_poll, "poll", "events of files"),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_select, "select", "events of files"),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_pause, "pause", "a signal"),
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_open, "open", "a file to be opened"),
];

/// What a thread is up to in whose innermost frames one of these functions is.
const FUNCTIONS: &[(&str, &str)] = &[
    ("sync::rwlock", "a read-write lock"),
    ("::RwLock::", "a read-write lock"),
    ("::Condvar::wait", "a condition variable"),
    ("sync::condvar", "a condition variable"),
    ("pthread_cond_", "a condition variable"),
    ("::Mutex::lock", "a mutex"),
    ("::mutex::", "a mutex"),
    ("RawMutex>::lock", "a mutex"),
    ("pthread_mutex_lock", "a mutex"),
    ("lll_lock_wait", "a mutex"),
    ("sync::once", "a once-cell that another thread initialises"),
    ("sync::barrier", "other threads at a barrier"),
    ("::Thread::join", "another thread to end"),
    ("pthread_join", "another thread to end"),
    ("mpmc::", "a message on a channel"),
    ("mpsc::", "a message on a channel"),
];

/// What a thread waits in whatever it waits for: it counts where nothing says more.
const PARKED: [&str; 2] = ["thread::park", "::Parker>::park"];

/// So many frames are looked at for one of [`FUNCTIONS`].
const INNERMOST: usize = 12;

/// The name of a system call.
pub(super) fn name(number: i64) -> String {
    CALLS.iter().find(|call| call.0 == number).map_or_else(|| number.to_string(), |call| call.1.to_owned())
}

/// What a call waits for. `None` for one of which nothing is known.
pub(super) fn for_what(process_id: u32, call: &SystemCall) -> Option<String> {
    let (_, name, what) = CALLS.iter().find(|known| known.1 == call.name)?;

    if *name == "futex" {
        return Some(format!("{what} (futex {:#x})", call.arguments[0]));
    }

    if !what.contains('#') {
        return Some(format!("{what} ({name})"));
    }

    let descriptor = call.arguments[0] as i32;
    let target = fs::read_link(format!("/proc/{process_id}/fd/{descriptor}")).ok();
    let file = match target {
        Some(target) => format!("descriptor {descriptor} [{}]", target.display()),
        None => format!("descriptor {descriptor}"),
    };
    Some(format!("{} ({name})", what.replace('#', &file)))
}

/// Says more exactly what a thread in a futex waits for, from the functions that led there.
pub(super) fn by_functions(call: &SystemCall, frames: &[Frame]) -> Option<String> {
    if call.name != "futex" {
        return None;
    }

    let frames = &frames[..frames.len().min(INNERMOST)];
    let known = frames.iter().find_map(|frame| {
        let found = FUNCTIONS.iter().find(|known| frame.function.contains(known.0))?;
        Some(found.1)
    });
    let is_parked = || frames.iter().any(|frame| PARKED.iter().any(|name| frame.function.contains(name)));
    let what = known.or_else(|| is_parked().then_some("another thread to unpark it"))?;
    Some(format!("{what} (futex {:#x})", call.arguments[0]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(name: &str, first: u64) -> SystemCall {
        SystemCall { name: name.to_owned(), arguments: [first, 0, 0, 0, 0, 0] }
    }

    #[test]
    fn calls_are_told_in_words() {
        let own = std::process::id();
        let file = fs::File::open("/dev/null").unwrap();
        let descriptor = std::os::fd::AsRawFd::as_raw_fd(&file);
        let words = for_what(own, &call("read", descriptor as u64)).unwrap();
        assert_eq!(words, format!("data from descriptor {descriptor} [/dev/null] (read)"));
        assert_eq!(for_what(own, &call("nanosleep", 0)).unwrap(), "a time to pass (nanosleep)");
        assert_eq!(for_what(own, &call("12345", 0)), None);
        assert_eq!(name(libc::SYS_futex), "futex");
        assert_eq!(name(12345), "12345");
    }

    #[test]
    fn functions_tell_what_a_futex_stands_for() {
        let frame = |function: &str| Frame { function: function.into(), ..Frame::default() };
        let frames =
            [frame("syscall"), frame("std::sys::sync::mutex::futex::Mutex::lock_contended"), frame("app::run")];
        assert_eq!(by_functions(&call("futex", 0x10), &frames).unwrap(), "a mutex (futex 0x10)");
        assert_eq!(by_functions(&call("futex", 0x10), &frames[2..]), None);
        assert_eq!(by_functions(&call("read", 3), &frames), None);

        let parked =
            ["syscall", "<std::sys::sync::thread_parking::futex::Parker>::park", "<std::thread::thread::Thread>::park"];
        let channel = "<std::sync::mpmc::list::Channel<i32>>::recv::{closure#1}";
        let frames = [parked.map(frame).as_slice(), &[frame(channel)]].concat();
        assert_eq!(by_functions(&call("futex", 0x10), &frames).unwrap(), "a message on a channel (futex 0x10)");
        let unparked = by_functions(&call("futex", 0x10), &frames[..3]).unwrap();
        assert_eq!(unparked, "another thread to unpark it (futex 0x10)");
    }
}
