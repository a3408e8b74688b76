//! What every task of a program is doing: the tasks that were given a name, as a tree.
//!
//! [`spawn`] instead of `tokio::spawn` registers a task under a name until it ends. [`instrument`] does the same for a future
//! that is polled where it stands, or spawned by other means: a `JoinSet`, say. A [`TaskDump`] shows all of them, with the
//! place in the source that made each, how often and for how long it was polled, and what it is doing now.
//!
//! ```
//! use async_container_diagnostics::tasks::{self, TaskDump};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let (sender, receiver) = tokio::sync::oneshot::channel::<()>();
//! let waiting = tasks::spawn("waiting for a message", receiver);
//! tokio::task::yield_now().await;
//!
//! let dump = TaskDump::take();
//! let task = dump.tasks.iter().find(|task| task.name == "waiting for a message").unwrap();
//! assert_eq!(task.state, tasks::State::Idle);
//! println!("{dump}");
//!
//! sender.send(()).unwrap();
//! waiting.await.unwrap().unwrap();
//! # }
//! ```
//!
//! # What a dump tells
//!
//! - **A blocked executor.** A task whose poll does not return, because it computes or waits in a call that blocks, keeps its
//!   executor from all other tasks of that thread. It is shown as *running*, with the time since the poll began and the
//!   thread that it runs on; with `Options::stacks`, also with the functions that it is in. The dump has to be taken on another
//!   thread, for instance one that was made for that: [`TaskDump::take`] needs no runtime, and waits for nothing.
//!   Whoever asks for it by way of the blocked runtime, as supervised workers are asked, gets no answer: also where it has
//!   other threads, because tokio may have left none of them awake to look for what comes in. Another process that runs
//!   the same program can read it from outside, with `Options::take_from_outside`.
//! - **An executor that does not come to a task.** One that was woken and is not polled is shown as *woken*. If no task is
//!   running for long, something that is not registered blocks the executor, or it has too much to do.
//! - **A task that waits for what does not come.** All others are *idle*, since the end of their last poll. With
//!   [`Options::stacks`], the functions are shown in which they wait, down to the `await` in question: what
//!   async-backtrace does for functions that are marked with an attribute, here for all that are below a registered task.
//!
//! Tasks that were spawned by `tokio::spawn` alone are in no registry that could be read on stable Rust. They are counted, by
//! the metrics of the runtime, and the dump says how many there are.
//!
//! # What others know
//!
//! - **async-backtrace**, with the feature of that name: dumps show a tree for each of its tasks, of the functions with its
//!   attribute. A task that is being polled is not waited for. Each of its tasks takes a lock of its own with every poll, for as
//!   long as that takes, which a dump only tries to get; tasks that begin or end while a dump reads them wait for it, if they are in
//!   the same part of its table.
//! - **tokio's own dump**, with the feature `tokio-taskdump`: `Options::unregistered` shows tasks that nobody
//!   registered. It has its dangers, which are told there.
//!
//! # What it costs
//!
//! A poll reads the time twice, from a counter of the processor where the kernel does so, too, and writes to one cache line that belongs to the task; it takes no lock, and allocates only
//! when somebody else begins to poll the task. To register a task and to take it out again takes a lock each, one of
//! sixty-four. A dump holds each of these for as long as it takes to go through that part of the tasks, and nothing that a
//! poll needs. `cargo xtask bench diagnostics` has the figures.
//!
//! # What is left out
//!
//! - **`tokio::task::block_in_place`**: a task that is in it is shown as blocking its executor, which is not known to have
//!   moved to another thread.

#[cfg(feature = "async-backtrace")]
mod backtraces;
mod clock;
mod dump;
mod future;
mod observed;
#[cfg(feature = "stacks")]
mod outside;
mod record;
mod registry;
#[cfg(feature = "stacks")]
mod stacks;
mod text;
#[cfg(feature = "tokio-taskdump")]
mod unregistered;

use std::{borrow::Cow, panic::Location};

use tokio::{runtime::Handle, task::JoinHandle};

pub use dump::{Options, Runtime, State, Task, TaskDump, Thread, Worker};
pub use future::Instrumented;
#[cfg(feature = "tokio-taskdump")]
pub use unregistered::Unregistered;

use registry::Registration;

/// Spawns a future as a task that is registered under this name until it ends, is aborted, or panics.
///
/// Its parent is the task that calls this, and its place is where it is called. What was said of `tokio::spawn` holds: the
/// task runs whether or not the handle is awaited.
///
/// # Panics
///
/// Outside of a tokio runtime, as `tokio::spawn` does.
#[track_caller]
pub fn spawn<F>(name: impl Into<Cow<'static, str>>, future: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    let handle = Handle::current();
    let registration = Registration::new(name.into(), Location::caller(), true);
    let record = registration.record().clone();
    let task = handle.spawn(Instrumented::new(future, registration));
    // It may run already, and then knows itself.
    record.settle(|| Some(handle), || Some(task.id()));
    task
}

/// Makes a future a registered task under this name, until it is done or dropped: one that is polled by the task that awaits
/// it, or is then spawned in a way of its own.
///
/// Its parent is the task that calls this, and its place is where it is called: around what is awaited, it names what a task
/// waits for.
///
/// ```
/// use async_container_diagnostics::tasks;
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// # let cache = tokio::sync::Mutex::new(());
/// let guard = tasks::instrument("lock of the cache", cache.lock()).await;
///
/// let mut set = tokio::task::JoinSet::new();
/// set.spawn(tasks::instrument("one of many", async {}));
/// # set.join_next().await;
/// # }
/// ```
#[track_caller]
pub fn instrument<F: Future>(name: impl Into<Cow<'static, str>>, future: F) -> Instrumented<F> {
    instrument_at(name, Location::caller(), future)
}

/// As [`instrument`], for a future whose place is somewhere else.
pub fn instrument_at<F: Future>(
    name: impl Into<Cow<'static, str>>,
    place: &'static Location<'static>,
    future: F,
) -> Instrumented<F> {
    Instrumented::new(future, Registration::new(name.into(), place, false))
}
