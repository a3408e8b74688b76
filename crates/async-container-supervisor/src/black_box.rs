//! What is found out about processes before they are ended, and kept.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::LazyLock,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use async_container::{ChildStatus, Instance, Link};
use async_container_diagnostics::{
    external::{ExternalDump, Stacks},
    incident::{Incident, Store},
    output, tasks,
};
use async_container_protocol::{CallError, Fields, describe};
use async_container_supervisor_server::{Case, Examination, Examiner, Worker, Workers};
use serde::Serialize;
use tokio::{
    sync::watch,
    task::{JoinHandle, spawn_blocking},
    time::{Instant, sleep_until, timeout_at},
};

use crate::external::named;

/// Looks at a process before it is ended for what it did not do, or for what it uses, and keeps what it found.
///
/// Whenever a health check, a start-up time-out or a probe is about to have a child killed, or a monitor to have a worker
/// restarted, or a child has not ended although it was asked to, a directory is made, named for when it was and for which process:
///
/// | file | what it tells |
/// | --- | --- |
/// | `reason.json` | which process, why, and when |
/// | `threads.txt` | what each of its threads did, from outside: also of one that does not answer, and of other programs |
/// | `tasks.txt` | its tasks, and which of them runs or waits since when; if it does not answer any more, from outside |
/// | `memory.json` | what the kernel says of its memory, and what lives on its heap, by crate, file, line, type and stack, if it samples that |
/// | `status.json` | what the root and the supervisor knew of it |
///
/// The name of the directory ends in `.partial` until all of this is in it, which may be after the end of the process. If the
/// supervisor is killed before that, the next one finishes it, with what there is and a file `incomplete.txt`.
///
/// The process is ended as soon as this was copied from it, and never later than the deadline. One that was asked to end has its
/// grace period, and is killed when that is over and not later: it is looked at so long before as the deadline is, or in the second
/// half of a shorter grace period. If it ends by itself after all, nothing was wrong, and nothing is kept. That also holds when the
/// whole application stops, since the supervisor stops last. If its own grace period is too short to look functions up,
/// `threads.txt` has their addresses.
///
/// All of it is for the owner of the application alone (0700 and 0600). It may hold secrets, as any report of diagnostics may.
///
/// ```no_run
/// use std::time::Duration;
/// use async_container_supervisor::{Application, BlackBox};
///
/// let application = Application::new("my-app")
///     .black_box(BlackBox::new("/var/lib/my-app/incidents").deadline(Duration::from_secs(1)).count_limit(100));
/// ```
#[derive(Clone, Debug)]
pub struct BlackBox {
    store: Store,
    deadline: Duration,
}

impl BlackBox {
    const DIRECTORY: &str = "incidents";
    const DEADLINE: Duration = Duration::from_secs(2);

    /// One that keeps incidents in that directory, which is made when there is one. Default is `incidents` in the working
    /// directory.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self { store: Store::new(directory), deadline: Self::DEADLINE }
    }

    /// Sets how long a process that is to be ended may go on because of it. Default is 2 s.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Sets how many incidents are kept; the oldest go. Default is 20.
    pub fn count_limit(mut self, limit: usize) -> Self {
        self.store = self.store.count_limit(limit);
        self
    }

    /// Sets how many bytes all incidents may take; the oldest go. Default is 64 MiB.
    pub fn size_limit(mut self, limit: u64) -> Self {
        self.store = self.store.size_limit(limit);
        self
    }

    /// How long a process that is to be ended may go on because of it.
    pub(crate) fn limit(&self) -> Duration {
        self.deadline
    }

    pub(crate) fn examiner(self, workers: Workers, link: Option<Link>) -> impl Examiner {
        let store = self.store.clone();
        // Of a supervisor that was killed, for instance.
        drop(spawn_blocking(move || recover(&store)));
        Recorder { store: self.store, deadline: self.deadline, workers, link }
    }
}

impl Default for BlackBox {
    fn default() -> Self {
        Self::new(Self::DIRECTORY)
    }
}

struct Recorder {
    store: Store,
    deadline: Duration,
    workers: Workers,
    link: Option<Link>,
}

impl Examiner for Recorder {
    fn limit(&self) -> Duration {
        self.deadline
    }

    fn examine(&self, case: Case) -> Examination {
        let store = self.store.clone();
        let worker = self.workers.all().into_iter().find(|worker| worker.process_id() == Some(case.process_id));
        let child = self.link.as_ref().and_then(|link| {
            let status = link.status();
            let status = status.borrow();
            status.children.values().find(|child| child.process_id == Some(case.process_id)).cloned()
        });
        let kill_at = child.as_ref().and_then(|child| child.kill_at).map(from_now);
        let limit = kill_at.map_or(self.deadline, |limit| limit.min(self.deadline));
        // Something is left for what follows the last answer.
        let until = Instant::now() + limit.mul_f64(0.9);
        let ending = self.link.clone().zip(kill_at).map(|(link, limit)| Ending {
            process_id: case.process_id,
            link,
            limit: Instant::now() + limit + KILL_LIMIT,
        });
        // Not dropped with what waits for it: what was begun is written to its end.
        let recording = tokio::spawn(record(store, case, worker, child, until, ending, Writing::begin()));
        Box::pin(async move { recording.await.ok().flatten() })
    }
}

/// How many incidents are being written by this process.
static WRITING: LazyLock<watch::Sender<usize>> = LazyLock::new(watch::Sender::default);

/// An incident that is being written.
struct Writing;

impl Writing {
    fn begin() -> Self {
        WRITING.send_modify(|number| *number += 1);
        Self
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        WRITING.send_modify(|number| *number -= 1);
    }
}

/// How much incidents that are being written have to hurry.
static HASTE: LazyLock<watch::Sender<Haste>> = LazyLock::new(|| watch::Sender::new(Haste::None));

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Haste {
    None,
    /// What is not known to have ended by itself is taken to have been killed.
    Decide,
    /// And functions have no names.
    Finish,
}

/// Completes when there is so much haste.
async fn haste(haste: Haste) {
    // Here and below: it fails if there is no sender any more, and these are there for ever.
    let _ = HASTE.subscribe().wait_for(|it| *it >= haste).await;
}

/// The end of a supervisor, which has a grace period as any child.
pub(crate) struct End {
    link: Option<Link>,
    /// When it was asked to end.
    asked: JoinHandle<Instant>,
}

impl End {
    /// What it may take of its grace period to look functions up. The rest is for writing, on a machine that has other things to do.
    const SHARE: f64 = 0.6;

    /// How long the news of the end of a child may take that came right before.
    const NEWS: Duration = Duration::from_millis(250);

    pub(crate) fn of(instance: &Instance) -> Self {
        let shutdown = instance.shutdown();
        let asked = async move {
            shutdown.await;
            Instant::now()
        };
        Self { link: instance.link().cloned(), asked: tokio::spawn(asked) }
    }

    /// Completes when no incident is being written any more: a supervisor that ends before would leave it unfinished. What there is no
    /// time for is left out.
    pub(crate) async fn written(self) {
        let Self { link, asked } = self;
        let asked = if asked.is_finished() { asked.await.ok() } else { None };
        let grace = link.map(|link| link.status().borrow().root.graceful_stop).unwrap_or_default();
        let until = asked.unwrap_or_else(Instant::now) + grace.mul_f64(Self::SHARE);
        let mut writing = WRITING.subscribe();

        // All others have ended, unless this is the supervisor of a generation that goes.
        if timeout_at(until.min(Instant::now() + Self::NEWS), writing.wait_for(|number| *number == 0)).await.is_ok() {
            return;
        }

        HASTE.send_replace(Haste::Decide);

        if timeout_at(until, writing.wait_for(|number| *number == 0)).await.is_err() {
            HASTE.send_replace(Haste::Finish);
            let _ = writing.wait_for(|number| *number == 0).await;
        }
    }
}

/// How long a process that was killed may take to be gone. One that takes longer is held by the kernel.
const KILL_LIMIT: Duration = Duration::from_secs(5);

/// A process that was asked to end, and is killed if it does not.
struct Ending {
    process_id: u32,
    link: Link,
    /// When it has been killed, and all is known that there will ever be.
    limit: Instant,
}

impl Ending {
    /// Waits for its end, and tells whether that was by itself.
    async fn is_spared(&self) -> bool {
        let mut status = self.link.status();
        let is_gone = |status: &async_container::Status| {
            status.children.values().all(|child| child.process_id != Some(self.process_id))
        };

        tokio::select! {
            biased;
            gone = status.wait_for(is_gone) => gone.is_ok_and(|status| status.root.spared.contains(&self.process_id)),
            () = sleep_until(self.limit) => false,
            () = haste(Haste::Decide) => false,
        }
    }
}

/// How long it is until then, in seconds since 1970.
fn from_now(at: f64) -> Duration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    Duration::try_from_secs_f64(at - now).unwrap_or_default()
}

fn recover(store: &Store) {
    for incident in store.recover() {
        tracing::warn!(incident = %incident.display(), "finished what a supervisor had found out about a process when it ended");
    }
}

#[derive(Serialize)]
struct Reason<'a> {
    process_id: u32,
    name: Option<&'a str>,
    reason: &'a str,
    /// In seconds since 1970.
    at: f64,
}

#[derive(Serialize)]
struct Status<'a> {
    child: Option<&'a ChildStatus>,
    connection_id: Option<&'a str>,
    state: Option<&'a Fields>,
    /// What the kernel tells of the process, in its own words.
    kernel: BTreeMap<String, String>,
}

/// What is known of the memory of a process.
struct Memory {
    /// What the kernel says, in bytes.
    process: BTreeMap<String, u64>,
    /// What lives on its heap, as JSON, or why that is not known.
    heap: Result<Vec<u8>, String>,
}

impl Memory {
    /// One document of JSON, of which a part is one already.
    fn to_json(&self) -> std::io::Result<Vec<u8>> {
        let process = output::to_json(&self.process)?;
        let (key, heap) = match &self.heap {
            Ok(heap) => ("heap", heap.clone()),
            Err(why) => ("heap_unknown", output::to_json(why)?),
        };
        Ok([
            b"{\"process\": ",
            process.trim_ascii_end(),
            b",\n\"",
            key.as_bytes(),
            b"\": ",
            heap.trim_ascii_end(),
            b"}\n",
        ]
        .concat())
    }
}

/// What a worker answered.
struct Answer {
    fields: Fields,
    /// What it streamed before that, put together.
    chunks: String,
}

impl Answer {
    fn text(&self) -> String {
        self.fields.get::<String>("data").ok().flatten().unwrap_or_default()
    }

    fn to_json(&self) -> Result<Vec<u8>, String> {
        if !self.chunks.is_empty() {
            return Ok(self.chunks.clone().into_bytes());
        }

        let data = self.fields.nested("data").map_err(|error| error.to_string())?.unwrap_or_default();
        output::to_json(&data).map_err(|error| error.to_string())
    }
}

/// Finds out what there is, and gives where it is kept once the process is not needed any more.
async fn record(
    store: Store,
    case: Case,
    worker: Option<Worker>,
    child: Option<ChildStatus>,
    until: Instant,
    ending: Option<Ending>,
    writing: Writing,
) -> Option<PathBuf> {
    let process_id = case.process_id;
    let begun = {
        let (case, worker) = (case.clone(), worker.clone());
        spawn_blocking(move || {
            recover(&store);
            begin(&store, &case, worker.as_ref(), child.as_ref())
        })
        .await
    };
    let incident = match begun {
        Ok(Ok(incident)) => incident,
        Ok(Err(error)) => {
            tracing::error!(process_id, error = describe(&error), "cannot keep what is found out about a process");
            return None;
        }
        Err(error) => {
            tracing::error!(process_id, %error, "cannot keep what is found out about a process");
            return None;
        }
    };

    // A thread that waits for a device does not stop, and must not take all of the time.
    let stopping = until.saturating_duration_since(Instant::now()) / 3;
    // First, so that what the worker does in order to answer is not in the picture.
    let stacks = spawn_blocking(move || {
        let stacks = ExternalDump::new(process_id).deadline(stopping).stacks();
        // Read in case that it does not answer: what its threads do is known already.
        let tasks = tasks::Options::new().take_from_outside(process_id);
        let tasks = tasks.map(|dump| dump.to_string()).map_err(|error| describe(&error));
        (stacks.map_err(|error| describe(&error)), tasks, sizes(process_id))
    });
    let (stacks, outside, sizes) =
        stacks.await.unwrap_or_else(|error| (Err(error.to_string()), Err(error.to_string()), BTreeMap::new()));
    let worker = worker.as_ref();
    let (threads, tasks, heap) =
        tokio::join!(threads(stacks, worker, until), tasks(outside, worker, until), heap(worker, until));
    let path = incident.path().to_owned();
    let memory = Memory { process: sizes, heap };
    // The process is not needed for what follows, which may take a second, and may end meanwhile.
    tokio::spawn(async move {
        conclude(incident, threads, tasks, memory, ending).await;
        drop(writing);
    });
    Some(path)
}

/// Finishes the incident, or discards it if the process has ended by itself.
async fn conclude(incident: Incident, threads: Threads, tasks: String, memory: Memory, ending: Option<Ending>) {
    let (unnamed, named) = match threads {
        Threads::Text(text) => (text, None),
        Threads::Copied(stacks) => {
            let unnamed = stacks.unnamed().to_string();
            (unnamed, Some(spawn_blocking(move || named(|| stacks.symbolise().to_string()))))
        }
    };
    let last = match ending {
        Some(ending) if ending.is_spared().await => spawn_blocking(move || discard(incident)),
        _ => {
            let threads = match named {
                Some(named) => tokio::select! {
                    named = named => named.ok(),
                    () = haste(Haste::Finish) => None,
                },
                None => None,
            };
            spawn_blocking(move || finish(incident, &threads.unwrap_or(unnamed), &tasks, &memory))
        }
    };

    if let Err(error) = last.await {
        tracing::error!(%error, "what was found out about a process could not be kept");
    }
}

enum Threads {
    Copied(Box<Stacks>),
    Text(String),
}

fn begin(
    store: &Store,
    case: &Case,
    worker: Option<&Worker>,
    child: Option<&ChildStatus>,
) -> Result<Incident, output::OutputError> {
    let name = child.map(|child| child.name.as_str()).or(case.name.as_deref());
    let incident = store.begin(name.unwrap_or("process"), case.process_id)?;
    let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    let reason = Reason { process_id: case.process_id, name, reason: &case.reason, at };
    write_json(&incident, "reason.json", &reason);
    let status = Status {
        child,
        connection_id: worker.map(Worker::connection_id),
        state: worker.map(Worker::state),
        kernel: kernel(case.process_id),
    };
    write_json(&incident, "status.json", &status);
    Ok(incident)
}

fn discard(incident: Incident) {
    let path = incident.path().to_owned();
    match incident.discard() {
        Ok(()) => tracing::debug!(incident = %path.display(), "a process ended by itself: what was found is not kept"),
        Err(error) => {
            tracing::error!(incident = %path.display(), %error, "cannot remove what was found about a process")
        }
    }
}

fn finish(incident: Incident, threads: &str, tasks: &str, memory: &Memory) {
    write(&incident, "tasks.txt", tasks.as_bytes());
    match memory.to_json() {
        Ok(json) => write(&incident, "memory.json", &json),
        Err(error) => tracing::error!(%error, "a report could not be encoded"),
    }
    write(&incident, "threads.txt", threads.as_bytes());
    match incident.finish() {
        Ok(path) => tracing::info!(incident = %path.display(), "kept what was found out about a process"),
        Err(error) => tracing::error!(error = describe(&error), "cannot keep what was found out about a process"),
    }
}

fn write_json<T: Serialize>(incident: &Incident, name: &str, report: &T) {
    match output::to_json(report) {
        Ok(json) => write(incident, name, &json),
        Err(error) => tracing::error!(%error, name, "a report could not be encoded"),
    }
}

fn write(incident: &Incident, name: &str, contents: &[u8]) {
    if let Err(error) = incident.write(name, contents) {
        tracing::error!(error = describe(&error), "cannot keep what was found out about a process");
    }
}

/// The stacks that were copied from outside. If they could not be, what the worker says itself, or why nothing is known.
async fn threads(stacks: Result<Stacks, String>, worker: Option<&Worker>, until: Instant) -> Threads {
    let outside = match stacks {
        Ok(stacks) => return Threads::Copied(Box::new(stacks)),
        Err(outside) => outside,
    };
    let Some(worker) = worker else {
        return Threads::Text(format!("nothing is known of its threads: {outside}\n"));
    };

    match ask(worker, "thread_dump", &[], until).await {
        Ok(answer) => Threads::Text(answer.text()),
        Err(inside) => Threads::Text(format!("nothing is known of its threads: {outside}; {inside}\n")),
    }
}

/// What the worker says of its tasks, or what was seen of them from outside, or why they are not known.
async fn tasks(outside: Result<String, String>, worker: Option<&Worker>, until: Instant) -> String {
    let inside = match worker {
        Some(worker) => ask(worker, "scheduler_dump", &[], until).await.map(|answer| answer.text()),
        None => Err("no worker is connected from this process".to_owned()),
    };

    match (inside, outside) {
        (Ok(text), _) => text,
        (Err(why), Ok(text)) => format!("{why}: threads.txt may say what blocks it\n\n{text}"),
        (Err(why), Err(outside)) => format!("{why}, so nothing is known of its tasks: {outside}\n"),
    }
}

/// What lives on the worker's heap, or why that is not known.
async fn heap(worker: Option<&Worker>, until: Instant) -> Result<Vec<u8>, String> {
    let worker = worker.ok_or("no worker is connected from this process")?;
    ask(worker, "memory_dump", &[("format", "json")], until).await?.to_json()
}

/// Asks the worker for a report, in whatever form it comes.
async fn ask(worker: &Worker, operation: &str, parameters: &[(&str, &str)], until: Instant) -> Result<Answer, String> {
    let start = Instant::now();
    let parameters: BTreeMap<&str, &str> = parameters.iter().copied().collect();
    let answer = async {
        let mut call = worker.client().call(operation, &parameters);
        let mut chunks = String::new();

        while let Some(fields) = call.next().await? {
            chunks.push_str(&fields.get::<String>("chunk").ok().flatten().unwrap_or_default());
        }

        Ok::<_, CallError>(Answer { fields: call.finish().await?, chunks })
    };

    match timeout_at(until, answer).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(format!("the worker cannot tell: {}", describe(&error))),
        Err(_) => Err(format!("the worker did not answer within {:.1} s", start.elapsed().as_secs_f64())),
    }
}

/// What the kernel says of the memory of a process, in bytes.
fn sizes(process_id: u32) -> BTreeMap<String, u64> {
    let read = |name: &str| std::fs::read_to_string(format!("/proc/{process_id}/{name}")).unwrap_or_default();
    let sizes = |text: String| -> Vec<(String, u64)> {
        let line = |line: &str| {
            let (name, value) = line.split_once(':')?;
            let kilobytes: u64 = value.trim().strip_suffix(" kB")?.parse().ok()?;
            Some((name.to_lowercase(), kilobytes * 1024))
        };
        text.lines().filter_map(line).collect()
    };
    sizes(read("status")).into_iter().chain(sizes(read("smaps_rollup"))).collect()
}

/// What else the kernel says of a process.
fn kernel(process_id: u32) -> BTreeMap<String, String> {
    const SHOWN: [&str; 8] = [
        "State",
        "Threads",
        "FDSize",
        "SigPnd",
        "ShdPnd",
        "voluntary_ctxt_switches",
        "nonvoluntary_ctxt_switches",
        "VmRSS",
    ];
    let status = std::fs::read_to_string(format!("/proc/{process_id}/status")).unwrap_or_default();
    let fields = status.lines().filter_map(|line| line.split_once(":\t"));
    fields
        .filter(|(name, _)| SHOWN.contains(name))
        .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
        .collect()
}
