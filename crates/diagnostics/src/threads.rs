//! What every thread of a process is doing.
//!
//! ```
//! use async_container_diagnostics::threads::ThreadDump;
//!
//! let dump = ThreadDump::take()?;
//! assert!(dump.threads.iter().any(|thread| thread.frames.iter().any(|frame| frame.function.contains("main"))));
//! println!("{dump}");
//! # Ok::<(), async_container_diagnostics::threads::ThreadDumpError>(())
//! ```
//!
//! # How it is done, and what it does to the program
//!
//! Each thread is sent a signal. Its handler copies the registers, and the thread goes on; everything else happens on the
//! thread that asked. The stack of a thread that waits in a system call is copied before it is asked, and believed if the
//! thread is still where it was and had no processor time meanwhile, so that it is held up for about a microsecond. Any other
//! thread copies up to 64 KiB of its stack itself, which takes a few. Nothing of the program is called and no lock is taken,
//! so it does not matter what a thread was in the middle of: an allocation, say.
//!
//! The signal is a real-time signal for which the program has no handler, found and installed with the first dump, or the
//! one that [`Options::signal`] names. System calls that it interrupts are started again (`SA_RESTART`), except for those that
//! Linux never does this for, such as `epoll_wait`, `poll` and `nanosleep`: those return early, with `EINTR`. The standard
//! library and the runtimes know that; C code that does not would take it for an error. `signal(7)` has the list.
//!
//! A thread that blocks the signal is not sent it. It is shown with what `/proc` tells, and, while it waits in a
//! system call, with the part of its stack that can be walked from there; so is one that does not answer in time.
//!
//! # What it gives away
//!
//! Names of functions and files, and what system calls were given: no contents of memory.

mod collect;
mod proc;
mod text;
mod waits;

use std::{io, sync::Arc, time::Duration};

use serde::Serialize;

use crate::{symbols::Frame, unwind::UnwindError};

pub(crate) use collect::{Walked, symbolise, turn, walk_copy};
pub(crate) use proc::{Task, command, cpu_time, tasks};

/// Why there is no dump.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ThreadDumpError {
    /// What is mapped in the process could not be read.
    #[error(transparent)]
    Unwind(#[from] UnwindError),
    /// The threads could not be listed.
    #[error("could not list the threads of process {process_id}")]
    Threads {
        /// The process.
        process_id: u32,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// No signal could be set up, or the one that was asked for is none of [`signals`].
    #[error("could not install a signal handler for the dump")]
    Signal(#[source] io::Error),
    /// There was no memory for the copies of stacks.
    #[error("could not get memory for copies of stacks")]
    Memory(#[source] io::Error),
    /// Another dump was under way all the time.
    #[error("another thread dump is under way: try again")]
    Busy,
}

/// The signals that can be chosen for dumps, as numbers: the real-time ones that the C library leaves to programs.
pub fn signals() -> std::ops::RangeInclusive<i32> {
    crate::sys::signal::choices()
}

/// How to take a dump.
#[derive(Clone, Debug)]
pub struct Options {
    deadline: Duration,
    signal: Option<i32>,
    only: Option<Vec<u32>>,
    measured: bool,
}

impl Options {
    const DEADLINE: Duration = Duration::from_secs(1);

    /// The defaults.
    pub fn new() -> Self {
        Self { deadline: Self::DEADLINE, signal: None, only: None, measured: false }
    }

    /// Sets how long to wait for threads to answer. It takes as long only if some cannot: threads that have no processor for
    /// the moment, or wait for a device. Default is 1 s.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Sets the signal, one of [`signals`]. If the program has a handler for it, that is called for what others send.
    /// Default is one that the program has no handler for, searched for from `SIGRTMAX - 3` downwards.
    pub fn signal(mut self, signal: i32) -> Self {
        self.signal = Some(signal);
        self
    }

    /// Also measures for how long each thread is held up, see [`Thread::stop`], which costs each of them two system calls
    /// more. Default is not to.
    pub fn measure_stops(mut self) -> Self {
        self.measured = true;
        self
    }

    /// Leaves all other threads alone. Default is to ask all.
    #[cfg(feature = "tasks")]
    pub(crate) fn only(mut self, ids: Vec<u32>) -> Self {
        self.only = Some(ids);
        self
    }

    /// Takes a dump of this process.
    ///
    /// It blocks, for milliseconds, and for up to a second when symbols are read for the first time: not for a thread that
    /// serves. Several at once come one after the other.
    pub fn take(&self) -> Result<ThreadDump, ThreadDumpError> {
        collect::take(self)
    }
}

impl Default for Options {
    fn default() -> Self {
        Self::new()
    }
}

/// All threads of a process. Its [`Display`](std::fmt::Display) is a report for people, its [`Serialize`] one for programs.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct ThreadDump {
    /// The process.
    pub process_id: u32,
    /// The program and its arguments, or its title.
    pub command: String,
    /// When it was taken, in seconds since 1970.
    pub taken_at: f64,
    /// How long it took to get all stacks, in seconds, before any symbol was looked up.
    pub duration: f64,
    /// The longest time for which a single thread was held up, in seconds. Another thread may have had its processor
    /// meanwhile.
    pub longest_stop: f64,
    /// Whether another process took it, which stopped all threads together.
    pub from_outside: bool,
    /// The threads, the first one of the process first.
    pub threads: Vec<Thread>,
    /// What to know when reading it: what a better build would add, for instance.
    pub notes: Vec<String>,
}

impl ThreadDump {
    /// Takes a dump of this process, see [`Options::take`].
    pub fn take() -> Result<Self, ThreadDumpError> {
        Options::new().take()
    }
}

/// One thread.
#[derive(Clone, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct Thread {
    /// Its id, as the kernel and tools such as top know it.
    pub id: u32,
    /// Its name.
    pub name: String,
    /// What the scheduler says: `running`, `sleeping`, `waiting for a device` or another of its states.
    pub state: &'static str,
    /// How much processor time it has had, in seconds.
    pub cpu_time: f64,
    /// What it waits for, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub waits_for: Option<String>,
    /// The system call that it is in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system_call: Option<SystemCall>,
    /// The function of the kernel that it waits in, where the kernel tells.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel_function: Option<String>,
    /// Its functions, the innermost first.
    pub frames: Vec<Frame>,
    /// Whether the stack goes on behind what was copied, or nothing says how.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub cut_off: bool,
    /// Why there is no better stack.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<Arc<str>>,
    /// What it took from the thread, if that was measured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop: Option<Stop>,
}

/// What a dump takes from a thread: its signal handler, from its first to its last instruction.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Stop {
    /// How much later the thread goes on, in seconds. Another thread may have had its processor meanwhile.
    pub duration: f64,
    /// The processor time of that, in seconds, without what it takes to measure it.
    pub cpu_time: f64,
}

/// A system call that a thread is in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct SystemCall {
    /// Its name, or its number if that is not one that threads usually wait in.
    pub name: String,
    /// Its arguments.
    pub arguments: [u64; 6],
}
