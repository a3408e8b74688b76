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

use rustix::fs::{Mode, OFlags};
use rustix::process::Pid;

/// The first descriptor after standard input, output and error.
pub(crate) const FIRST_DESCRIPTOR: c_int = 3;

/// The digits in which an entry of the environment is told the process id.
pub(crate) const PROCESS_ID_DIGITS: usize = 10;

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
    /// Standard input, output and error, where they are not the parent's.
    pub stdio: [Option<BorrowedFd<'fd>>; 3],
    /// Limits on resources, by number, soft and hard.
    pub limits: Vec<(c_int, libc::rlimit)>,
    /// The scheduling priority, from -20 to 19.
    pub nice: Option<c_int>,
    /// The file mode creation mask.
    pub umask: Option<libc::mode_t>,
    /// Whom to run as.
    pub credentials: Option<Credentials>,
    /// The directory of the cgroup to start in, if it is not the parent's.
    pub cgroup: Option<BorrowedFd<'fd>>,
    /// Indices into `environment` of `NAME=` entries that end in at least ten zeros, to be overwritten with the child's own
    /// process id. `LISTEN_PID` of sd_listen_fds(3) and `WATCHDOG_PID` of sd_watchdog_enabled(3) need it.
    pub process_id_at: Vec<usize>,
}

/// A user, with all groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Credentials {
    pub user: libc::uid_t,
    pub group: libc::gid_t,
    pub groups: Vec<libc::gid_t>,
}

/// Why no process was started: the step that failed, and its error.
#[derive(Debug)]
pub(crate) struct Failed {
    pub step: &'static str,
    pub error: io::Error,
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Self {
        Failed { step: "make a process", error }
    }
}

/// A process that was started.
pub(crate) struct Spawned {
    pub pid: Pid,
    pub pidfd: OwnedFd,
}

/// Starts programs; keeps the stack that every child borrows until it executes.
pub(crate) struct Spawner {
    stack: Box<[u128]>,
    /// False once it is known that a process cannot begin in another cgroup here, but has to move there.
    clones_into: bool,
}

/// What parent and child share. The child runs in the parent's memory while the parent is suspended.
struct Shared<'a> {
    program: &'a CStr,
    arguments: *const *const c_char,
    environment: *const *const c_char,
    directory: *const c_char,
    stdio: [c_int; 3],
    descriptors: &'a mut [c_int],
    limits: &'a [(c_int, libc::rlimit)],
    nice: Option<c_int>,
    umask: Option<libc::mode_t>,
    credentials: Option<&'a Credentials>,
    process_ids: &'a [*mut c_char],
    /// The file through which the child moves itself to its cgroup, or -1.
    cgroup: c_int,
    parent: c_int,
    /// What the child is doing, for the case that it fails.
    step: &'static str,
    errno: c_int,
}

impl Spawner {
    pub(crate) fn new() -> Self {
        Spawner { stack: vec![0; STACK_SIZE / size_of::<u128>()].into_boxed_slice(), clones_into: true }
    }

    /// Starts the program and returns once it has been executed; an error is that of the step that failed.
    ///
    /// The child is killed when the calling *thread* ends, see `PR_SET_PDEATHSIG` in prctl(2).
    pub(crate) fn spawn(&mut self, plan: Plan<'_>) -> Result<Spawned, Failed> {
        let arguments = pointers(&plan.arguments);
        let mut environment = pointers(&plan.environment);
        let mut patched: Vec<Vec<u8>> =
            plan.process_id_at.iter().map(|index| plan.environment[*index].clone().into_bytes_with_nul()).collect();
        let mut process_ids = Vec::with_capacity(patched.len());
        for (index, entry) in plan.process_id_at.iter().zip(&mut patched) {
            let start = entry.len() - 1 - PROCESS_ID_DIGITS;
            environment[*index] = entry.as_ptr().cast();
            // SAFETY: `start` lies inside of the entry, whose last ten digits precede its NUL.
            process_ids.push(unsafe { entry.as_mut_ptr().add(start) }.cast::<c_char>());
        }
        let mut descriptors: Vec<c_int> = plan.descriptors.iter().map(AsRawFd::as_raw_fd).collect();
        let mut shared = Shared {
            program: &plan.program,
            arguments: arguments.as_ptr(),
            environment: environment.as_ptr(),
            directory: plan.directory.as_ref().map_or(std::ptr::null(), |path| path.as_ptr()),
            stdio: plan.stdio.map(|descriptor| descriptor.map_or(-1, |descriptor| descriptor.as_raw_fd())),
            descriptors: &mut descriptors,
            limits: &plan.limits,
            nice: plan.nice,
            umask: plan.umask,
            credentials: plan.credentials.as_ref(),
            process_ids: &process_ids,
            cgroup: -1,
            parent: rustix::process::getpid().as_raw_nonzero().get(),
            step: "",
            errno: 0,
        };

        let mut pidfd: c_int = -1;
        let argument = (&raw mut shared).cast::<c_void>();

        // A handler of ours that ran in the child would run in the parent's memory, so none may run
        // before the child has reset them all.
        let mask = super::signal::Mask::block_all();
        // SAFETY: `child` only reads and writes `shared` and makes async-signal-safe calls, never
        // returns, and has a stack of its own. CLONE_VFORK suspends this thread until the child has
        // executed the program or exited, so everything that `shared` borrows outlives the child's use
        // of it, and the stack can be used again.
        let cloned = plan
            .cgroup
            .filter(|_| self.clones_into)
            .map(|cgroup| unsafe { super::clone::clone_into(cgroup, &mut self.stack, child, argument, &mut pidfd) });
        // Open until the child has used it.
        let mut processes = None;
        self.clones_into &= !matches!(&cloned, Some(Err(error)) if is_unknown_call(error));
        let cloned = match (cloned, plan.cgroup) {
            (Some(cloned), _) if self.clones_into => cloned,
            (_, Some(cgroup)) => {
                shared.cgroup = processes.insert(open_processes(cgroup)?).as_raw_fd();
                self.clone_here((&raw mut shared).cast(), &mut pidfd)
            }
            (_, None) => self.clone_here(argument, &mut pidfd),
        };
        drop(mask);

        let Some(pid) = Pid::from_raw(cloned?) else {
            return Err(io::Error::from_raw_os_error(libc::EINVAL).into());
        };
        // SAFETY: clone succeeded, so it stored a new descriptor, which nobody else owns.
        let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
        if shared.errno != 0 {
            let failed = Failed { step: shared.step, error: io::Error::from_raw_os_error(shared.errno) };
            super::signal::reap(&pidfd)?;
            return Err(failed);
        }
        Ok(Spawned { pid, pidfd })
    }

    /// Makes a child in the cgroup of the parent. `argument` has to be the `Shared` that it is to work with.
    fn clone_here(&mut self, argument: *mut c_void, pidfd: &mut c_int) -> io::Result<c_int> {
        // SAFETY: the end of the stack is one past the allocation and aligned to 16 bytes.
        let stack_top = unsafe { self.stack.as_mut_ptr().add(self.stack.len()) }.cast::<c_void>();
        let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD | libc::SIGCHLD;
        // SAFETY: as in `spawn`. The child shares this thread's errno, which is read here only after clone itself has
        // failed.
        let pid = unsafe { libc::clone(child, stack_top, flags, argument, std::ptr::from_mut(pidfd)) };
        if pid < 0 { Err(io::Error::last_os_error()) } else { Ok(pid) }
    }
}

/// True where a process cannot begin in another cgroup: the kernel is older than 5.7, or a filter of system calls, as
/// containers have, does not let the call through.
fn is_unknown_call(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EPERM | libc::E2BIG | libc::EINVAL))
}

/// The file of a cgroup that moves to it whoever writes to it.
fn open_processes(cgroup: BorrowedFd<'_>) -> Result<OwnedFd, Failed> {
    let flags = OFlags::WRONLY | OFlags::CLOEXEC;
    rustix::fs::openat(cgroup, "cgroup.procs", flags, Mode::empty())
        .map_err(|error| Failed { step: "open the cgroup", error: error.into() })
}

fn pointers(strings: &[CString]) -> Vec<*const c_char> {
    strings.iter().map(|string| string.as_ptr()).chain([std::ptr::null()]).collect()
}

/// Runs in the child until it executes. Only async-signal-safe functions may be called from here, and
/// nothing that allocates or panics: signal, setpgid, write, prctl, getppid, fcntl, dup2, close_range, setrlimit, setpriority,
/// umask, setgroups, setresgid, setresuid, chdir, getpid, sigprocmask, execve, _exit. Those that change the user are made as system
/// calls: the C library's functions would tell the threads of the parent, whose memory this is, to do the same.
extern "C" fn child(argument: *mut c_void) -> c_int {
    // SAFETY: the argument is the parent's `Shared`, and the parent is suspended.
    let shared = unsafe { &mut *argument.cast::<Shared<'_>>() };
    // SAFETY: this is the child, and see above for the calls made.
    if unsafe { prepare(shared) } {
        // SAFETY: every pointer comes from `shared`, which was built from live, NUL-terminated strings and
        // NULL-terminated lists of them.
        unsafe {
            let mut none: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&mut none);
            libc::sigprocmask(libc::SIG_SETMASK, &none, std::ptr::null_mut());
            shared.step = "execute the program";
            libc::execve(shared.program.as_ptr(), shared.arguments, shared.environment);
        }
    }
    // SAFETY: reads the errno of this thread, and ends the process without running anything.
    unsafe {
        shared.errno = *libc::__errno_location();
        libc::_exit(127)
    }
}

/// Everything before the program is executed. False if a step failed.
///
/// # Safety
/// To be called in the child only, which must have nothing but `shared` in common with the parent.
unsafe fn prepare(shared: &mut Shared<'_>) -> bool {
    // SAFETY: system calls on what belongs to the child alone, with pointers into `shared`.
    unsafe {
        // An ignored signal would stay ignored across execve, and a child that ignores SIGINT only
        // because somebody started the root in the background cannot be stopped gracefully.
        for number in 1..=libc::SIGRTMAX() {
            if number != libc::SIGKILL && number != libc::SIGSTOP {
                libc::signal(number, libc::SIG_DFL);
            }
        }
        libc::setpgid(0, 0);

        shared.step = "enter the cgroup";
        if shared.cgroup >= 0 && libc::write(shared.cgroup, c"0".as_ptr().cast(), 1) != 1 {
            return false;
        }
        shared.step = "pass on file descriptors";
        if !place_descriptors(&mut shared.stdio, shared.descriptors) {
            return false;
        }
        shared.step = "set a resource limit";
        for (resource, limit) in shared.limits {
            // The type of the number differs between C libraries.
            if libc::setrlimit(*resource as _, limit) != 0 {
                return false;
            }
        }
        shared.step = "set the priority";
        if let Some(nice) = shared.nice
            && libc::setpriority(libc::PRIO_PROCESS, 0, nice) != 0
        {
            return false;
        }
        if let Some(umask) = shared.umask {
            libc::umask(umask);
        }
        shared.step = "change the user";
        if let Some(Credentials { user, group, groups }) = shared.credentials
            && (libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) != 0
                || libc::syscall(libc::SYS_setresgid, *group, *group, *group) != 0
                || libc::syscall(libc::SYS_setresuid, *user, *user, *user) != 0)
        {
            return false;
        }
        // After the change of the user, which would undo it.
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        if libc::getppid() != shared.parent {
            // The parent died before the wish was known to the kernel.
            libc::_exit(127);
        }
        shared.step = "change the directory";
        if !shared.directory.is_null() && libc::chdir(shared.directory) != 0 {
            return false;
        }
        for process_id in shared.process_ids {
            // Without leading zeros: with them it would be an octal number to libsystemd.
            let mut rest = libc::getpid();
            let (mut digits, mut bound) = (1, 10);
            while digits < PROCESS_ID_DIGITS && rest >= bound {
                digits += 1;
                bound = bound.saturating_mul(10);
            }
            for position in (0..digits).rev() {
                *process_id.add(position) = b'0' as c_char + (rest % 10) as c_char;
                rest /= 10;
            }
            *process_id.add(digits) = 0;
        }
    }
    true
}

/// Moves the descriptors to their places and marks everything above them to be closed by execve.
///
/// # Safety
/// To be called in the child only: it overwrites descriptors that others may own.
unsafe fn place_descriptors(stdio: &mut [c_int; 3], descriptors: &mut [c_int]) -> bool {
    let end = FIRST_DESCRIPTOR + descriptors.len() as c_int;
    // SAFETY: plain system calls on descriptor numbers in a table that belongs to the child alone.
    unsafe {
        // First out of the way of each other, then into place.
        for descriptor in
            stdio.iter_mut().chain(descriptors.iter_mut()).filter(|descriptor| (0..end).contains(*descriptor))
        {
            *descriptor = libc::fcntl(*descriptor, libc::F_DUPFD_CLOEXEC, end);
            if *descriptor < 0 {
                return false;
            }
        }
        for (target, source) in (0..).zip(stdio.iter().chain(descriptors.iter())) {
            if *source >= 0 && libc::dup2(*source, target) < 0 {
                return false;
            }
        }
        // Kernels before 5.11 do not know the flag. Nothing is lost there but the protection from
        // descriptors that the root itself inherited: ours are all close-on-exec.
        libc::syscall(libc::SYS_close_range, end, c_int::MAX, libc::CLOSE_RANGE_CLOEXEC);
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read as _;
    use std::path::{Path, PathBuf};

    fn plan<'fd>(script: &str, output: BorrowedFd<'fd>, cgroup: Option<BorrowedFd<'fd>>) -> Plan<'fd> {
        let text = |text: &str| CString::new(text).unwrap();
        Plan {
            program: text("/bin/sh"),
            arguments: ["sh", "-c", script].map(text).to_vec(),
            environment: vec![text("PATH=/usr/bin:/bin")],
            directory: None,
            descriptors: Vec::new(),
            stdio: [None, Some(output), None],
            limits: Vec::new(),
            nice: None,
            umask: None,
            credentials: None,
            cgroup,
            process_id_at: Vec::new(),
        }
    }

    /// A cgroup of version 2 for a test, if it may make one.
    struct Group(PathBuf);

    impl Group {
        fn make(name: &str) -> Option<Group> {
            let mounts = std::fs::read_to_string("/proc/self/mounts").ok()?;
            let point = mounts.lines().find_map(|line| {
                let mut fields = line.split(' ').skip(1);
                let point = fields.next()?;
                (fields.next() == Some("cgroup2")).then(|| point.to_owned())
            })?;
            let path = Path::new(&point).join(format!("{name}-{}", std::process::id()));
            std::fs::create_dir(&path).ok().map(|()| Group(path))
        }
    }

    impl Drop for Group {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir(&self.0);
        }
    }

    #[test]
    fn a_program_begins_in_its_cgroup_whether_or_not_the_kernel_can_do_that_at_once() {
        let Some(group) = Group::make("spawn-test") else {
            eprintln!("skipped: this user may not make a cgroup of version 2");
            return;
        };
        let directory = std::fs::File::open(&group.0).unwrap();
        for clones_into in [true, false] {
            let mut spawner = Spawner { clones_into, ..Spawner::new() };
            for _ in 0..10 {
                let (mut reader, writer) = io::pipe().unwrap();
                let cgroup = std::os::fd::AsFd::as_fd(&directory);
                let output = std::os::fd::AsFd::as_fd(&writer);
                let spawned = spawner.spawn(plan("cat /proc/self/cgroup", output, Some(cgroup))).unwrap();
                drop(writer);
                let mut text = String::new();
                reader.read_to_string(&mut text).unwrap();
                let status = super::super::signal::reap(&spawned.pidfd).unwrap();
                assert!(status.is_some_and(crate::exit::ExitStatus::success), "{status:?}");
                let line = text.lines().find(|line| line.starts_with("0::")).unwrap();
                assert!(group.0.ends_with(line.rsplit_once('/').unwrap().1), "{line}");
            }
            assert_eq!(spawner.clones_into, clones_into);
        }
    }

    #[test]
    fn a_cgroup_that_is_none_is_an_error() {
        let (_reader, writer) = io::pipe().unwrap();
        let output = std::os::fd::AsFd::as_fd(&writer);
        let mut spawner = Spawner::new();
        assert!(spawner.spawn(plan("true", output, Some(output))).is_err());
        // It can start others after that.
        let spawned = spawner.spawn(plan("exit 3", output, None)).unwrap();
        let status = super::super::signal::reap(&spawned.pidfd).unwrap();
        assert_eq!(status, Some(crate::exit::ExitStatus::Exited(3)));
    }
}
