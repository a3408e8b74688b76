//! Starting a program at the cost of `posix_spawn`, with what `posix_spawn` cannot do.
//!
//! The child is made by `clone(CLONE_VM | CLONE_VFORK | CLONE_PIDFD)`: it borrows the parent's memory
//! until it executes the program, so the cost does not grow with the parent's size, and its pidfd is
//! made by the same system call, so there is no moment at which its number could mean another process.
//! In between the child leads a process group of its own, asks for SIGKILL when its parent dies, and
//! arranges its descriptors. `std::process::Command` would need `pre_exec` for that, and then forks.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::process::Pid;

/// The first descriptor after standard input, output and error.
pub(crate) const FIRST_DESCRIPTOR: c_int = 3;

/// What the child needs before it executes: it only touches raw pointers and system calls.
const STACK_SIZE: usize = 64 * 1024;

/// A program to start, everything prepared so that the child allocates nothing.
pub(crate) struct Plan<'fd> {
    /// The path to execute; it is not searched for.
    pub program: CString,
    /// All arguments, the zeroth included.
    pub arguments: Vec<CString>,
    /// The whole environment, `NAME=value`.
    pub environment: Vec<CString>,
    /// The working directory, if it is not the parent's.
    pub directory: Option<CString>,
    /// Descriptors that the child finds from [`FIRST_DESCRIPTOR`] on, in this order. Every other
    /// descriptor above standard error is closed.
    pub descriptors: Vec<BorrowedFd<'fd>>,
    /// Index into `environment` of a `NAME=` entry that ends in at least ten zeros, to be
    /// overwritten with the child's own process id. `LISTEN_PID` of sd_listen_fds(3) needs it.
    pub process_id_at: Option<usize>,
}

/// A process that was started.
pub(crate) struct Spawned {
    pub pid: Pid,
    pub pidfd: OwnedFd,
}

/// Starts programs; keeps the stack that every child borrows until it executes.
pub(crate) struct Spawner {
    stack: Box<[u128]>,
}

/// What parent and child share. The child runs in the parent's memory while the parent is suspended.
struct Shared<'a> {
    program: &'a CStr,
    arguments: *const *const c_char,
    environment: *const *const c_char,
    directory: *const c_char,
    descriptors: &'a mut [c_int],
    process_id: *mut c_char,
    process_id_digits: usize,
    parent: c_int,
    errno: c_int,
}

impl Spawner {
    pub(crate) fn new() -> Self {
        Spawner { stack: vec![0; STACK_SIZE / size_of::<u128>()].into_boxed_slice() }
    }

    /// Starts the program and returns once it has been executed; an error is that of the step that failed.
    ///
    /// The child is killed when the calling *thread* ends, see `PR_SET_PDEATHSIG` in prctl(2).
    pub(crate) fn spawn(&mut self, plan: Plan<'_>) -> io::Result<Spawned> {
        let arguments = pointers(&plan.arguments);
        let process_id_digits = 10;
        let mut patched = None;
        let mut environment = pointers(&plan.environment);
        if let Some(index) = plan.process_id_at {
            let mut entry = plan.environment[index].clone().into_bytes_with_nul();
            let start = entry.len() - 1 - process_id_digits;
            environment[index] = entry.as_ptr().cast();
            // SAFETY: `start` lies inside of the entry, whose last ten digits precede its NUL.
            patched = Some((unsafe { entry.as_mut_ptr().add(start) }.cast::<c_char>(), entry));
        }
        let mut descriptors: Vec<c_int> = plan.descriptors.iter().map(AsRawFd::as_raw_fd).collect();
        let mut shared = Shared {
            program: &plan.program,
            arguments: arguments.as_ptr(),
            environment: environment.as_ptr(),
            directory: plan.directory.as_ref().map_or(std::ptr::null(), |path| path.as_ptr()),
            descriptors: &mut descriptors,
            process_id: patched.as_ref().map_or(std::ptr::null_mut(), |(position, _)| *position),
            process_id_digits,
            parent: rustix::process::getpid().as_raw_nonzero().get(),
            errno: 0,
        };

        let mut pidfd: c_int = -1;
        // SAFETY: the end of the stack is one past the allocation and aligned to 16 bytes.
        let stack_top = unsafe { self.stack.as_mut_ptr().add(self.stack.len()) }.cast::<c_void>();
        let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD | libc::SIGCHLD;

        // A handler of ours that ran in the child would run in the parent's memory, so none may run
        // before the child has reset them all.
        let mask = super::signal::Mask::block_all();
        // SAFETY: `child` only reads and writes `shared` and makes async-signal-safe calls, never
        // returns, and has a stack of its own. CLONE_VFORK suspends this thread until the child has
        // executed the program or exited, so everything that `shared` borrows outlives the child's use
        // of it, and the stack can be used again. The child shares this thread's errno, which is
        // read here only after clone itself has failed.
        let pid = unsafe { libc::clone(child, stack_top, flags, (&raw mut shared).cast(), &raw mut pidfd) };
        let clone_error = io::Error::last_os_error();
        drop(mask);

        let Some(pid) = Pid::from_raw(pid.max(0)) else {
            return Err(clone_error);
        };
        // SAFETY: clone succeeded, so it stored a new descriptor, which nobody else owns.
        let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
        if shared.errno != 0 {
            let error = io::Error::from_raw_os_error(shared.errno);
            super::signal::reap(&pidfd)?;
            return Err(error);
        }
        Ok(Spawned { pid, pidfd })
    }
}

fn pointers(strings: &[CString]) -> Vec<*const c_char> {
    strings.iter().map(|string| string.as_ptr()).chain([std::ptr::null()]).collect()
}

/// Runs in the child until it executes. Only async-signal-safe functions may be called from here, and
/// nothing that allocates or panics: sigaction, setpgid, prctl, getppid, fcntl, dup2, close_range,
/// chdir, getpid, sigprocmask, execve, _exit.
extern "C" fn child(argument: *mut c_void) -> c_int {
    // SAFETY: the argument is the parent's `Shared`, and the parent is suspended.
    let shared = unsafe { &mut *argument.cast::<Shared<'_>>() };
    // SAFETY: see above for the calls made; every pointer handed to them comes from `shared`, which
    // was built from live, NUL-terminated strings and NULL-terminated lists of them.
    unsafe {
        // An ignored signal would stay ignored across execve, and a child that ignores SIGINT only
        // because somebody started the root in the background cannot be stopped gracefully.
        for number in 1..=libc::SIGRTMAX() {
            if number != libc::SIGKILL && number != libc::SIGSTOP {
                libc::signal(number, libc::SIG_DFL);
            }
        }
        libc::setpgid(0, 0);
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        if libc::getppid() != shared.parent {
            // The parent died before the wish was known to the kernel.
            libc::_exit(127);
        }
        if !place_descriptors(shared.descriptors) {
            return failed(shared);
        }
        if !shared.directory.is_null() && libc::chdir(shared.directory) != 0 {
            return failed(shared);
        }
        if !shared.process_id.is_null() {
            let mut rest = libc::getpid();
            for position in (0..shared.process_id_digits).rev() {
                *shared.process_id.add(position) = b'0' as c_char + (rest % 10) as c_char;
                rest /= 10;
            }
        }
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &none, std::ptr::null_mut());
        libc::execve(shared.program.as_ptr(), shared.arguments, shared.environment);
        failed(shared)
    }
}

/// Moves the descriptors to their places and marks everything above them to be closed by execve.
///
/// # Safety
/// To be called in the child only: it overwrites descriptors that others may own.
unsafe fn place_descriptors(descriptors: &mut [c_int]) -> bool {
    let end = FIRST_DESCRIPTOR + descriptors.len() as c_int;
    // SAFETY: plain system calls on descriptor numbers in a table that belongs to the child alone.
    unsafe {
        // First out of the way of each other, then into place.
        for descriptor in descriptors.iter_mut().filter(|descriptor| **descriptor < end) {
            *descriptor = libc::fcntl(*descriptor, libc::F_DUPFD_CLOEXEC, end);
            if *descriptor < 0 {
                return false;
            }
        }
        for (target, source) in (FIRST_DESCRIPTOR..).zip(descriptors.iter()) {
            if libc::dup2(*source, target) < 0 {
                return false;
            }
        }
        // Kernels before 5.11 do not know the flag. Nothing is lost there but the protection from
        // descriptors that the root itself inherited: ours are all close-on-exec.
        libc::syscall(libc::SYS_close_range, end, c_int::MAX, libc::CLOSE_RANGE_CLOEXEC);
    }
    true
}

/// Tells the parent why and ends the child.
fn failed(shared: &mut Shared<'_>) -> c_int {
    // SAFETY: reads the errno of this thread, and ends the process without running anything.
    unsafe {
        shared.errno = *libc::__errno_location();
        libc::_exit(127)
    }
}
