//! Reading what is known of all tasks.

use std::{
    borrow::Cow,
    collections::{HashMap, HashSet},
    fs,
    time::{Duration, Instant},
};

use serde::Serialize;
use tokio::runtime::{Handle, RuntimeFlavor};

use super::{
    clock::Reading,
    observed::{Counts, Observed},
    record::Record,
    registry,
};
#[cfg(feature = "stacks")]
use crate::symbols::Frame;

/// How to take a dump.
#[derive(Clone, Debug)]
pub struct Options {
    blocked_after: Duration,
    #[cfg(feature = "stacks")]
    stacks: usize,
    #[cfg(feature = "stacks")]
    deadline: Duration,
    #[cfg(feature = "stacks")]
    threads: crate::threads::Options,
    #[cfg(feature = "tokio-taskdump")]
    unregistered: bool,
}

impl Options {
    const BLOCKED_AFTER: Duration = Duration::from_millis(100);
    #[cfg(feature = "stacks")]
    const DEADLINE: Duration = Duration::from_millis(250);

    /// The defaults.
    pub fn new() -> Self {
        Self {
            blocked_after: Self::BLOCKED_AFTER,
            #[cfg(feature = "stacks")]
            stacks: 0,
            #[cfg(feature = "stacks")]
            deadline: Self::DEADLINE,
            #[cfg(feature = "stacks")]
            threads: crate::threads::Options::new().deadline(Self::DEADLINE),
            #[cfg(feature = "tokio-taskdump")]
            unregistered: false,
        }
    }

    /// Sets for how long a poll has to be running to count as blocking its executor, and for how long a task has to be woken
    /// without being polled to be called to attention. Default is 100 ms.
    pub fn blocked_after(mut self, time: Duration) -> Self {
        self.blocked_after = time;
        self
    }

    /// Also shows where tasks wait, for so many of them, those that have been idle for longest. Default is none.
    ///
    /// For tasks that block their executor, it shows the functions that they are in, by a [dump](crate::threads) of their
    /// threads, whatever the limit is.
    ///
    /// To find out where others wait, each of these tasks is polled once more by its executor, which every future has to put up with, and its
    /// stack is walked while what it waits for takes note of its waker: some ten microseconds for each. The dump then waits
    /// for them, see [`deadline`](Self::deadline), and looks symbols up: it is for a thread that may block, and not for one
    /// that polls tasks.
    #[cfg(feature = "stacks")]
    pub fn stacks(mut self, limit: usize) -> Self {
        self.stacks = limit;
        self
    }

    /// Sets how long to wait for tasks to be polled for their stacks, which takes so long only if an executor is blocked.
    /// Default is 250 ms.
    #[cfg(feature = "stacks")]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Sets how to look at the threads of tasks that block their executor: by which signal, for instance. Default is what
    /// [`threads::Options`](crate::threads::Options) has, but for a deadline of 250 ms.
    #[cfg(feature = "stacks")]
    pub fn threads(mut self, options: crate::threads::Options) -> Self {
        self.threads = options;
        self
    }

    /// Also shows tasks that nobody registered and where they wait, by tokio's own dump. Default is not to.
    ///
    /// **It may be the end of the program.** With tokio 1.54, a task that wakes itself or another one while it is polled for
    /// the dump makes tokio panic, and some tasks of that runtime are never polled again. What is built of `select!`, channels
    /// and timers of tokio alone does not do that; `FuturesUnordered` and many others do. Take such a dump of a program that has
    /// to be restarted anyway.
    ///
    /// It is taken of runtimes of the current thread only: in one of several workers, one may hang for ever after it. It takes a
    /// program for Linux that was built with `RUSTFLAGS="--cfg tokio_unstable"`. All tasks of the runtime are polled once more,
    /// and nothing else happens in it meanwhile; the dump waits no longer for it than the [`deadline`](Self::deadline). A note
    /// says for which runtime there is none, and why.
    #[cfg(feature = "tokio-taskdump")]
    pub fn unregistered(mut self) -> Self {
        self.unregistered = true;
        self
    }

    /// Takes a dump. Several may be taken at once.
    pub fn take(&self) -> TaskDump {
        let start = Instant::now();
        let records = registry::all();
        let reading = Reading::take();
        let mut runtimes = Runtimes::default();
        let mut notes = Vec::new();
        let living: HashSet<u64> = records.iter().map(|record| record.id).collect();
        let process_id = std::process::id();
        let tasks = records.iter().map(|record| {
            let mut task = self.task(Observed::of(record), process_id, &reading, &living);

            if let Some(home) = record.home() {
                task.runtime = home.runtime.as_ref().map(|handle| runtimes.count(handle, home.task));
                task.task_id = home.task.map(|task| task.to_string());
            }

            task
        });
        let tasks = arranged(tasks.collect());
        let read = runtimes.read();
        let unregistered: usize = read.iter().map(|runtime| runtime.unregistered).sum();
        let duration = start.elapsed().as_secs_f64();

        if tasks.is_empty() {
            notes.push(
                "no task is registered: spawn tasks by tasks::spawn, or wrap futures in tasks::instrument".into(),
            );
        }

        let mut dump = TaskDump { duration, tasks, runtimes: read, notes, ..TaskDump::of(process_id, &reading) };

        #[cfg(feature = "tokio-taskdump")]
        if self.unregistered {
            dump.add_unregistered(&runtimes, self.deadline);
        }

        if unregistered > 0 && dump.shows_none_unregistered() {
            dump.notes.push(format!(
                "{unregistered} more task{} of these runtimes {} not registered, and not shown: tokio::spawn alone gives no name",
                plural(unregistered),
                if unregistered == 1 { "is" } else { "are" },
            ));
        }

        #[cfg(feature = "async-backtrace")]
        {
            dump.async_backtrace = super::backtraces::trees();
        }

        #[cfg(feature = "stacks")]
        if self.stacks > 0 {
            self.add_stacks(&records, &mut dump.tasks, &mut dump.notes);
            self.add_what_blocks(&records, &mut dump.tasks, &mut dump.notes);
        }

        dump
    }

    /// Whether a task has been running for too long.
    #[cfg(feature = "stacks")]
    pub(super) fn blocks(&self, counts: &Counts, reading: &Reading) -> bool {
        let running = reading.seconds(reading.now.saturating_sub(counts.started));
        counts.is_polled() && running >= self.blocked_after.as_secs_f64()
    }

    #[cfg(feature = "stacks")]
    pub(super) fn are_stacks_wanted(&self) -> bool {
        self.stacks > 0
    }

    pub(super) fn task(&self, task: Observed, process_id: u32, reading: &Reading, living: &HashSet<u64>) -> Task {
        let Observed { created, counts, .. } = task;
        let Counts { started, ended, woken, busy, .. } = counts;
        // The clock may have been read before the poll began.
        let now = reading.now.max(started).max(ended).max(created);
        let (state, since) = match () {
            () if started == 0 => (State::New, created),
            () if counts.is_polled() => (State::Running, started),
            () if woken >= started => (State::Woken, woken.max(ended)),
            () => (State::Idle, ended),
        };
        let running = if state == State::Running { now - started } else { 0 };
        let time = reading.seconds(now.saturating_sub(since));
        let busy = busy + running;
        let age = now - created;
        let is_late = time >= self.blocked_after.as_secs_f64();
        let thread = (state == State::Running).then(|| Thread::of(process_id, counts.thread));
        let (parent, spawned_by) = task.parent.unzip();
        Task {
            id: task.id,
            name: task.name,
            file: task.file,
            line: task.line,
            parent: parent.filter(|id| living.contains(id)),
            spawned_by,
            in_place: !task.spawned,
            runtime: None,
            task_id: None,
            state,
            state_time: time,
            since: reading.wall_at(since),
            is_late: is_late && state != State::Idle,
            thread,
            running: None,
            polls: counts.polls + u64::from(state == State::Running),
            busy: reading.seconds(busy),
            idle: reading.seconds(age.saturating_sub(busy)),
            delay: reading.seconds(counts.delay),
            longest_poll: reading.seconds(counts.longest.max(running)),
            age: reading.seconds(age),
            #[cfg(feature = "stacks")]
            waits_at: Vec::new(),
            #[cfg(feature = "stacks")]
            runs_at: Vec::new(),
        }
    }

    /// Looks at the threads of tasks that block their executor.
    #[cfg(feature = "stacks")]
    fn add_what_blocks(&self, records: &[std::sync::Arc<Record>], tasks: &mut [Task], notes: &mut Vec<String>) {
        let blocking = |task: &Task| task.is_late && task.state == State::Running;
        let ids: Vec<u32> =
            tasks.iter().filter(|task| blocking(task)).filter_map(|task| Some(task.thread.as_ref()?.id)).collect();

        if ids.is_empty() {
            return;
        }

        let dump = match self.threads.clone().only(ids).take() {
            Ok(dump) => dump,
            Err(error) => {
                notes.push(format!("what blocks an executor is not shown: {error}"));
                return;
            }
        };

        for (record, task) in records.iter().zip(tasks).filter(|(_, task)| blocking(task)) {
            let thread = dump.threads.iter().find(|thread| Some(thread.id) == task.thread.as_ref().map(|its| its.id));
            let Some(thread) = thread else { continue };

            // The thread may do something else by now.
            let now = Counts::of(&record.counters);

            if now.polls + 1 == task.polls && now.is_polled() {
                task.show_what_blocks(&thread.frames);
            }
        }
    }

    /// Asks tasks that wait where they do.
    #[cfg(feature = "stacks")]
    fn add_stacks(&self, records: &[std::sync::Arc<Record>], tasks: &mut [Task], notes: &mut Vec<String>) {
        use crate::{symbols::Symbols, unwind::Unwinder};

        let unwinder = match Unwinder::of_this_process() {
            Ok(unwinder) => unwinder,
            Err(error) => {
                notes.push(format!("where tasks wait is not shown: {error}"));
                return;
            }
        };
        let mut waiting: Vec<usize> = (0..tasks.len()).filter(|&index| tasks[index].state == State::Idle).collect();
        waiting.sort_by(|&one, &other| tasks[other].state_time.total_cmp(&tasks[one].state_time));
        let left_out = waiting.len().saturating_sub(self.stacks);
        waiting.truncate(self.stacks);
        let by_id: HashMap<u64, usize> = waiting.iter().map(|&index| (tasks[index].id, index)).collect();

        let (sender, answers) = std::sync::mpsc::channel();
        let wish = super::stacks::Wish::new(unwinder.clone(), sender);

        for &index in &waiting {
            records[index].ask(wish.clone());
        }

        // The channel ends when every task has answered, or ended: this is the last one that could answer besides.
        let source = wish.into_source();
        let deadline = Instant::now() + self.deadline;
        let mut answered = HashMap::new();

        while let Ok((id, stacks)) = answers.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            answered.insert(id, stacks);
        }

        for &index in &waiting {
            records[index].withdraw(&source);
        }

        let silent = waiting.iter().filter(|&&index| !answered.contains_key(&tasks[index].id)).count();

        if silent > 0 {
            notes.push(format!(
                "{silent} task{} did not come to be polled within {:.0} ms, to show where they wait: see what blocks their \
                 executor",
                plural(silent),
                self.deadline.as_secs_f64() * 1e3,
            ));
        }

        if left_out > 0 {
            notes.push(format!(
                "where {left_out} more tasks wait was not asked: only the {} that have been idle for longest were",
                self.stacks
            ));
        }

        let symbols = Symbols::shared();
        let mut hint = None;

        for (id, stacks) in answered {
            let Some(task) = by_id.get(&id).and_then(|&index| tasks.get_mut(index)) else { continue };

            for addresses in stacks {
                let places = symbols.resolve(unwinder.modules(), &addresses);
                hint = hint.or(places.iter().find_map(|place| place.note));
                let frames = of_the_task(places.iter().flat_map(|place| &place.frames));

                if !frames.is_empty() && !task.waits_at.contains(&frames) {
                    task.waits_at.push(frames);
                }
            }
        }

        notes.extend(hint.map(str::to_owned));
    }
}

impl Default for Options {
    fn default() -> Self {
        Self::new()
    }
}

/// A task that polls another one runs for as long as that does, and is not the one to be looked at.
pub(super) fn arranged(mut tasks: Vec<Task>) -> Vec<Task> {
    let inner: Vec<(u64, u64, Option<Thread>)> = tasks
        .iter()
        .filter(|task| task.state == State::Running && task.in_place)
        .filter_map(|task| Some((task.parent?, task.id, task.thread.clone())))
        .collect();

    for (outer, inner, thread) in inner {
        // They are in the order of their age, but not of their numbers.
        let outer = tasks.iter_mut().find(|task| task.id == outer && task.thread == thread);

        if let Some(outer) = outer {
            outer.is_late = false;
            outer.running = Some(inner);
        }
    }

    tasks
}

/// Whether a function is one of those that poll tasks here. When it was inlined, it has a name without a path, but a file.
#[cfg(feature = "stacks")]
fn is_own(frame: &Frame) -> bool {
    let here = file!().trim_end_matches("dump.rs");
    frame.function.trim_start_matches('<').starts_with(concat!(env!("CARGO_CRATE_NAME"), "::tasks::"))
        || frame.file.as_ref().is_some_and(|file| file.contains(here))
}

/// What of a stack belongs to the program: neither how the waker got cloned, nor how functions of the standard library
/// pass a poll on.
#[cfg(feature = "stacks")]
pub(super) fn of_the_task<'a>(frames: impl Iterator<Item = &'a Frame>) -> Vec<Frame> {
    const MODULES: [&str; 5] = [concat!(env!("CARGO_CRATE_NAME"), "::"), "core::", "alloc::", "std::", "__rust_try"];
    const SOURCES: [&str; 3] = ["/library/core/src/", "/library/alloc/src/", "/library/std/src/"];
    let is_passed_on = |frame: &&Frame| {
        let function = frame.function.trim_start_matches(['<', '&']);
        let file = frame.file.as_deref().unwrap_or_default();
        is_own(frame)
            || MODULES.iter().any(|module| function.starts_with(module))
            || SOURCES.iter().any(|source| file.contains(source))
    };
    frames.filter(|frame| !is_passed_on(frame)).cloned().collect()
}

/// All registered tasks of this process. Its [`Display`](std::fmt::Display) is a report for people, its [`Serialize`] one for
/// programs.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct TaskDump {
    /// The process.
    pub process_id: u32,
    /// When it was taken, in seconds since 1970.
    pub taken_at: f64,
    /// How long it took to read all tasks, in seconds.
    pub duration: f64,
    /// Whether another process took it.
    pub from_outside: bool,
    /// The tasks, the oldest first. [`Task::parent`] makes a tree of them.
    pub tasks: Vec<Task>,
    /// The runtimes that they belong to, and the one that the dump was taken in.
    pub runtimes: Vec<Runtime>,
    /// Tasks that nobody registered, if they were [asked for](Options::unregistered).
    #[cfg(feature = "tokio-taskdump")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unregistered: Vec<super::Unregistered>,
    /// The tasks of async-backtrace, each a tree of the functions with its attribute that it is in, as text.
    #[cfg(feature = "async-backtrace")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub async_backtrace: Vec<String>,
    /// What to know when reading it: what is not shown, for instance.
    pub notes: Vec<String>,
}

impl TaskDump {
    /// One of nothing.
    pub(super) fn of(process_id: u32, reading: &Reading) -> Self {
        Self {
            process_id,
            taken_at: reading.wall,
            duration: 0.0,
            from_outside: false,
            tasks: Vec::new(),
            runtimes: Vec::new(),
            #[cfg(feature = "tokio-taskdump")]
            unregistered: Vec::new(),
            #[cfg(feature = "async-backtrace")]
            async_backtrace: Vec::new(),
            notes: Vec::new(),
        }
    }

    #[cfg(feature = "tokio-taskdump")]
    fn add_unregistered(&mut self, runtimes: &Runtimes, deadline: Duration) {
        let Self { runtimes: read, tasks, notes, unregistered, .. } = self;
        *unregistered = super::unregistered::find(runtimes, read, tasks, deadline, notes);
    }

    fn shows_none_unregistered(&self) -> bool {
        #[cfg(feature = "tokio-taskdump")]
        return self.unregistered.is_empty();
        #[cfg(not(feature = "tokio-taskdump"))]
        true
    }

    /// Takes a dump, on any thread. It waits for nothing but short-lived locks, and no task notices.
    pub fn take() -> Self {
        Options::new().take()
    }
}

/// What a task is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum State {
    /// It was not polled yet.
    New,
    /// It is being polled.
    Running,
    /// It was woken, and not polled since.
    Woken,
    /// It waits to be woken.
    Idle,
}

/// One task.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Task {
    /// Its number in this process. Of two tasks that one thread made, the later one has the higher number.
    pub id: u64,
    /// Its name.
    pub name: String,
    /// The source file in which it was made.
    pub file: Cow<'static, str>,
    /// The line in it.
    pub line: u32,
    /// The task that made it, if that lives.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<u64>,
    /// The name of the task that made it, also if that has ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spawned_by: Option<String>,
    /// Whether it was not spawned by [`spawn`](super::spawn): usually, its parent polls it.
    pub in_place: bool,
    /// Which of the [runtimes](TaskDump::runtimes) polls it, counted from 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runtime: Option<usize>,
    /// Tokio's number of the task that it is, or is part of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub task_id: Option<String>,
    /// What it is doing.
    pub state: State,
    /// For how long, in seconds.
    pub state_time: f64,
    /// Since when, in seconds since 1970.
    pub since: f64,
    /// Whether it is running, or waits to be polled, for longer than [`Options::blocked_after`]. Of tasks that poll each other,
    /// it is the innermost one.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub is_late: bool,
    /// The thread that polls it now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub thread: Option<Thread>,
    /// The task that it is polling in turn.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub running: Option<u64>,
    /// How often it was polled.
    pub polls: u64,
    /// How long its polls took, together, in seconds: also the one that is under way.
    pub busy: f64,
    /// The rest of its life, in seconds.
    pub idle: f64,
    /// How much of that it was waiting to be polled, having been woken, in seconds: more than a few milliseconds for each poll
    /// means that the executor has too much to do.
    pub delay: f64,
    /// The longest poll, in seconds.
    pub longest_poll: f64,
    /// How long ago it was made, in seconds.
    pub age: f64,
    /// Where it waits, if that was [asked for](Options::stacks): for each thing that it waits for, the functions, the innermost
    /// first.
    #[cfg(feature = "stacks")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub waits_at: Vec<Vec<Frame>>,
    /// Where it is, if it blocks its executor and [stacks](Options::stacks) were asked for: the functions, the innermost
    /// first.
    #[cfg(feature = "stacks")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub runs_at: Vec<Frame>,
}

#[cfg(feature = "stacks")]
impl Task {
    /// Shows where it is, by the stack of the thread that polls it.
    pub(super) fn show_what_blocks(&mut self, frames: &[Frame]) {
        let own = frames.iter().position(is_own).unwrap_or(frames.len());
        self.runs_at = frames.get(..own).unwrap_or_default().to_vec();
    }
}

/// A thread that polls a task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Thread {
    /// Its id, as the kernel and thread dumps know it.
    pub id: u32,
    /// Its name.
    pub name: String,
}

impl Thread {
    fn of(process_id: u32, id: u32) -> Self {
        let name = fs::read_to_string(format!("/proc/{process_id}/task/{id}/comm")).unwrap_or_default();
        Self { id, name: name.trim_end().to_owned() }
    }
}

/// A runtime, and what it says of itself.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Runtime {
    /// Tokio's number of it.
    pub id: String,
    /// `current thread` or `multi thread`.
    pub flavor: &'static str,
    /// How many tasks live in it, those of local sets and blocking ones not counted.
    pub alive_tasks: usize,
    /// How many of these are not registered.
    pub unregistered: usize,
    /// How many tasks wait in the queue that all workers share.
    pub global_queue: usize,
    /// Its workers.
    pub workers: Vec<Worker>,
}

/// A worker of a runtime: a thread that polls tasks.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Worker {
    /// How long it was not parked, in seconds, up to the last time that it parked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub busy: Option<f64>,
    /// How often it had nothing to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parks: Option<u64>,
    /// Whether it has nothing to do now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub is_parked: Option<bool>,
}

/// The runtimes that are met while tasks are read.
#[derive(Default)]
pub(super) struct Runtimes {
    /// With the tasks of each that are registered.
    pub(super) found: Vec<(Handle, HashSet<tokio::task::Id>)>,
    by_id: HashMap<tokio::runtime::Id, usize>,
}

impl Runtimes {
    /// Counts a registered task, and gives the number of its runtime.
    fn count(&mut self, handle: &Handle, task: Option<tokio::task::Id>) -> usize {
        let index = *self.by_id.entry(handle.id()).or_insert_with(|| {
            self.found.push((handle.clone(), HashSet::new()));
            self.found.len() - 1
        });

        if let (Some(task), Some((_, tasks))) = (task, self.found.get_mut(index)) {
            tasks.insert(task);
        }

        index
    }

    fn read(&mut self) -> Vec<Runtime> {
        if let Ok(handle) = Handle::try_current() {
            self.count(&handle, None);
        }

        self.found.iter().map(|(handle, registered)| Runtime::read(handle, registered.len())).collect()
    }
}

impl Runtime {
    fn read(handle: &Handle, registered: usize) -> Self {
        let metrics = handle.metrics();
        let alive_tasks = metrics.num_alive_tasks();
        Self {
            id: handle.id().to_string(),
            flavor: match handle.runtime_flavor() {
                RuntimeFlavor::CurrentThread => "current thread",
                RuntimeFlavor::MultiThread => "multi thread",
                _ => "unknown",
            },
            alive_tasks,
            unregistered: alive_tasks.saturating_sub(registered),
            global_queue: metrics.global_queue_depth(),
            workers: (0..metrics.num_workers()).map(|worker| Worker::read(&metrics, worker)).collect(),
        }
    }
}

impl Worker {
    #[cfg(target_has_atomic = "64")]
    fn read(metrics: &tokio::runtime::RuntimeMetrics, worker: usize) -> Self {
        Self {
            busy: Some(metrics.worker_total_busy_duration(worker).as_secs_f64()),
            parks: Some(metrics.worker_park_count(worker)),
            // It counts parking and unparking.
            is_parked: Some(metrics.worker_park_unpark_count(worker) % 2 == 1),
        }
    }

    #[cfg(not(target_has_atomic = "64"))]
    fn read(_metrics: &tokio::runtime::RuntimeMetrics, _worker: usize) -> Self {
        Self { busy: None, parks: None, is_parked: None }
    }
}

pub(super) fn plural(count: usize) -> &'static str {
    if count == 1 { "" } else { "s" }
}
