//! What every thread of another process is doing, seen from outside: for one that does not answer any more.
//!
//! ```
//! use std::process::Command;
//! use async_container_diagnostics::external::ExternalDump;
//!
//! let mut child = Command::new("sleep").arg("60").spawn()?;
//! let dump = ExternalDump::new(child.id()).take()?;
//! assert_eq!(dump.threads.len(), 1);
//! println!("{dump}");
//! # child.kill()?;
//! # child.wait()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The kernel stops all threads of the process (`ptrace(2)`), their registers and stacks are copied, and they go on: this
//! takes milliseconds. Stacks are walked and symbols looked up afterwards. Nothing runs in the other process, so it does not
//! matter what state it is in, and whether it is written in Rust at all.
//!
//! To its threads it is as if they had been stopped and continued: system calls that wait go on, but for a few that Linux
//! ends with `EINTR`, such as `epoll_wait`; see `signal(7)`.
//!
//! # Who may do that
//!
//! A process of the same user, unless the kernel is set up to be stricter: where Yama is
//! (`/proc/sys/kernel/yama/ptrace_scope`), the other process has to be a descendant, or has to have
//! [allowed it](allow_relatives). Otherwise it takes `CAP_SYS_PTRACE`.

use std::{
    fs::Metadata,
    io,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use rustix::process::{PTracer, Pid, set_ptracer};

use crate::{
    symbols,
    sys::{
        memory,
        trace::{Stop, Traced},
    },
    threads::{self, Task, Thread, ThreadDump, Walked, tasks},
    unwind::{Cache, End, Registers, UnwindError, Unwinder},
};

/// How much of each stack is copied.
const STACK_LIMIT: usize = 256 << 10;

/// How often to look for threads that were started while the others were being stopped.
const ROUNDS: usize = 4;

/// Why a process could not be looked into.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExternalError {
    /// There is no such process, or it has ended meanwhile.
    #[error("there is no process {process_id}")]
    Gone {
        /// The process.
        process_id: u32,
    },
    /// It may not be looked into.
    #[error("process {process_id} may not be looked into: {remedy}")]
    Forbidden {
        /// The process.
        process_id: u32,
        /// What would change that.
        remedy: String,
    },
    /// Its tasks cannot be told from outside, because it does not run the same file as this process.
    #[error(
        "process {process_id} does not run the same program as this one: its tasks can be seen only from inside, or by one that does"
    )]
    OtherProgram {
        /// The process.
        process_id: u32,
    },
    /// What is mapped in it could not be read.
    #[error(transparent)]
    Unwind(#[from] UnwindError),
    /// Something else went wrong.
    #[error("could not look into process {process_id}")]
    Trace {
        /// The process.
        process_id: u32,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

/// How to take a dump of another process.
#[derive(Clone, Debug)]
pub struct ExternalDump {
    process_id: u32,
    deadline: Duration,
}

impl ExternalDump {
    const DEADLINE: Duration = Duration::from_secs(1);

    /// One of that process.
    pub fn new(process_id: u32) -> Self {
        Self { process_id, deadline: Self::DEADLINE }
    }

    /// Sets how long to wait for threads to stop. Those that have not by then, because they wait for a device, are shown with
    /// what `/proc` tells. Default is 1 s.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Takes it. It blocks, for milliseconds, and for up to a second when symbols are read for the first time.
    pub fn take(&self) -> Result<ThreadDump, ExternalError> {
        self.stacks().map(Stacks::symbolise)
    }

    /// Copies the stacks of all threads, which takes milliseconds. From then on, the process is not needed any more.
    pub fn stacks(&self) -> Result<Stacks, ExternalError> {
        let Self { process_id, deadline } = *self;

        if process_id == std::process::id() {
            let source = io::Error::new(io::ErrorKind::InvalidInput, "it is this process, which cannot stop itself");
            return Err(ExternalError::Trace { process_id, source });
        }

        let unwinder = Unwinder::of_process(process_id).map_err(|error| unreadable(process_id, error))?;
        // The kernel ties what is traced to the thread that traces it, and lets it go when that thread ends.
        let tracing = std::thread::Builder::new()
            .name("external dump".to_owned())
            .spawn(move || copy(process_id, deadline))
            .map_err(|source| ExternalError::Trace { process_id, source })?;
        let copied = tracing.join().unwrap_or_else(|_| Err(io::Error::other("the thread that traces it panicked")));
        let copied = copied.map_err(|source| refused(process_id, source))?;
        let program = std::fs::metadata(format!("/proc/{process_id}/exe")).ok();
        let taken_at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
        let mut cache = Cache::new();
        let found = copied.threads.into_iter().map(|thread| {
            let (addresses, end) = match &thread.registers {
                Some(registers) => threads::walk_copy(&unwinder, &mut cache, registers, &thread.stack),
                None => (Vec::new(), End::Complete),
            };
            let walked = Walked { addresses, cut_off: end == End::CutOff, note: thread.note, stop: None };
            (thread.task.into_thread(process_id, thread.cpu_time), walked)
        });
        let threads = found.collect();
        let (command, stopped) = (threads::command(process_id), copied.stopped);
        Ok(Stacks { process_id, command, taken_at, stopped, threads, program, unwinder })
    }
}

/// The stacks of another process, before any symbol was looked up.
pub struct Stacks {
    process_id: u32,
    command: String,
    taken_at: f64,
    stopped: Duration,
    threads: Vec<(Thread, Walked)>,
    program: Option<Metadata>,
    unwinder: Unwinder,
}

impl Stacks {
    /// For how long the process was stopped.
    pub fn stopped(&self) -> Duration {
        self.stopped
    }

    /// What is known without looking functions up, which takes no time: an address for each, in the file that it is from. Tools such
    /// as `addr2line` know what they stand for.
    pub fn unnamed(&self) -> ThreadDump {
        let threads = self.threads.iter().map(|(thread, walked)| {
            let frames = walked.addresses.iter().map(|&address| symbols::unnamed(self.unwinder.modules(), address));
            let mut thread = thread.clone();
            thread.frames = frames.collect();
            thread.cut_off = walked.cut_off;
            thread.note = walked.note.map(Into::into);
            thread
        });
        let notes = vec![
            "there was no time to look functions up: these are addresses in files, as addr2line takes them".to_owned(),
        ];
        self.dump(threads.collect(), notes)
    }

    /// Looks all functions up.
    pub fn symbolise(mut self) -> ThreadDump {
        let found = std::mem::take(&mut self.threads);
        let (threads, notes) = threads::symbolise(&self.unwinder, self.program.as_ref(), found);
        self.dump(threads, notes)
    }

    fn dump(&self, threads: Vec<Thread>, notes: Vec<String>) -> ThreadDump {
        ThreadDump {
            process_id: self.process_id,
            command: self.command.clone(),
            taken_at: self.taken_at,
            duration: self.stopped.as_secs_f64(),
            longest_stop: self.stopped.as_secs_f64(),
            from_outside: true,
            threads,
            notes,
        }
    }
}

impl std::fmt::Debug for Stacks {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Stacks").field("process_id", &self.process_id).finish_non_exhaustive()
    }
}

/// Lets the parent of this process, and all that descend from it, look into this process, where the kernel would let only
/// ancestors do so. A supervisor is no ancestor of its workers, but has the same parent.
///
/// Where the kernel has no such rule, it does nothing.
pub fn allow_relatives() {
    if let Some(parent) = rustix::process::getppid()
        && parent != Pid::INIT
        && let Err(error) = set_ptracer(PTracer::ProcessID(parent))
    {
        tracing::debug!(%error, "this kernel has no rule about who may look into this process");
    }
}

/// What was copied of a process.
struct Copied {
    threads: Vec<CopiedThread>,
    /// How long its threads were stopped.
    stopped: Duration,
}

struct CopiedThread {
    task: Task,
    cpu_time: f64,
    registers: Option<Registers>,
    stack: Vec<u8>,
    note: Option<&'static str>,
}

/// Stops all threads, copies their registers and stacks, and lets them go.
fn copy(process_id: u32, deadline: Duration) -> io::Result<Copied> {
    let mut buffer = Vec::new();
    // What they wait for is to be seen before they are stopped.
    let known: Vec<Task> =
        tasks(process_id)?.into_iter().filter_map(|id| Task::read(process_id, id, &mut buffer)).collect();
    let mut traced: Vec<Traced> = Vec::new();
    let start = Instant::now();

    // Until there is a round in which none is new: those that are stopped start none.
    for _ in 0..ROUNDS {
        let before = traced.len();

        for id in tasks(process_id)? {
            if traced.iter().any(|traced| traced.id == id) {
                continue;
            }

            match Traced::interrupt(id) {
                Ok(thread) => traced.push(thread),
                Err(error) if error.raw_os_error() == Some(libc::ESRCH) => {}
                // Those that are traced already are let go with this thread.
                Err(error) => return Err(error),
            }
        }

        if traced.len() == before {
            break;
        }
    }

    let mut threads = Vec::with_capacity(traced.len());
    let mut running: Vec<Traced> = traced;
    let mut stopped = Vec::new();

    while !running.is_empty() && start.elapsed() < deadline {
        let before = running.len();
        running = running
            .into_iter()
            .filter_map(|mut thread| match thread.poll() {
                Stop::NotYet => Some(thread),
                Stop::Ended => None,
                Stop::Stopped => {
                    stopped.push(thread);
                    None
                }
            })
            .collect();

        if running.len() == before {
            std::thread::sleep(Duration::from_micros(100));
        }
    }

    let mut buffer = vec![0; STACK_LIMIT];

    for thread in &stopped {
        let registers = thread.registers().ok();
        let stack = registers.map(|registers| {
            let length = memory::read_into(process_id, registers.stack_pointer, &mut buffer).unwrap_or(0);
            buffer.get(..length).unwrap_or_default().to_vec()
        });
        threads.push((thread.id, registers, stack.unwrap_or_default(), None));
    }

    for thread in stopped {
        thread.release();
    }

    let time = start.elapsed();
    threads.extend(running.iter().map(|thread| {
        (thread.id, None, Vec::new(), Some("did not stop in time: it waits in the kernel, so this is what /proc tells"))
    }));
    let task = |id| known.iter().find(|task| task.id == id).cloned().unwrap_or_else(|| Task::unknown(id));
    let mut threads: Vec<CopiedThread> = threads
        .into_iter()
        .map(|(id, registers, stack, note)| {
            let cpu_time = threads::cpu_time(process_id, id).unwrap_or_default();
            CopiedThread { task: task(id), cpu_time, registers, stack, note }
        })
        .collect();
    threads.sort_by_key(|thread| thread.task.id);
    Ok(Copied { threads, stopped: time })
}

pub(crate) fn unreadable(process_id: u32, error: UnwindError) -> ExternalError {
    match error {
        UnwindError::Mappings { source, .. } => refused(process_id, source),
    }
}

pub(crate) fn refused(process_id: u32, source: io::Error) -> ExternalError {
    match source.raw_os_error() {
        Some(libc::ESRCH | libc::ENOENT) => ExternalError::Gone { process_id },
        Some(libc::EPERM | libc::EACCES) => ExternalError::Forbidden { process_id, remedy: remedy(process_id) },
        _ => ExternalError::Trace { process_id, source },
    }
}

/// Finds out what stands in the way.
fn remedy(process_id: u32) -> String {
    let status = std::fs::read_to_string(format!("/proc/{process_id}/status")).unwrap_or_default();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(":\t"))?;
        line.split_ascii_whitespace().next().and_then(|number| number.parse::<u32>().ok())
    };
    let own = rustix::process::geteuid().as_raw();

    if status.lines().any(|line| line.starts_with("State:\tZ")) {
        return "it has ended already, and waits for its parent to collect it".to_owned();
    }

    if !status.is_empty() && field("VmSize").is_none() {
        return "it is a thread of the kernel".to_owned();
    }

    if let Some(tracer) = field("TracerPid").filter(|&tracer| tracer != 0) {
        return format!("process {tracer} traces it already, a debugger perhaps: end that first");
    }

    if let Some(user) = field("Uid").filter(|&user| user != own && own != 0) {
        return format!("it belongs to user {user} and this is user {own}: do it as that user, or with CAP_SYS_PTRACE");
    }

    match std::fs::read_to_string("/proc/sys/kernel/yama/ptrace_scope").unwrap_or_default().trim() {
        "1" => {
            "kernel.yama.ptrace_scope is 1, by which only an ancestor may: run with CAP_SYS_PTRACE, have the process \
                allow it by allow_relatives, or set kernel.yama.ptrace_scope to 0"
                .to_owned()
        }
        "2" => "kernel.yama.ptrace_scope is 2, by which it takes CAP_SYS_PTRACE".to_owned(),
        "3" => "kernel.yama.ptrace_scope is 3, by which nobody may until the system is started again".to_owned(),
        _ => "it has dropped or gained privileges, or a rule of the container or of a security module forbids it: \
              give this process CAP_SYS_PTRACE, in a container by --cap-add SYS_PTRACE"
            .to_owned(),
    }
}
