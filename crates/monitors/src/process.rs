//! Measures every process of the application.

mod census;
mod metrics;
mod reading;

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use serde::{Serialize, Serializer};

use self::{
    census::{Census, Entry},
    metrics::Identity,
};
use crate::{
    Action, Monitor, Status, Worker,
    monitor::validate_interval,
    roster::Roster,
    sample::{self, Directory, Memory, Stat, Switches},
    turns::{self, Turns},
};

const DEFAULT_INTERVAL: Duration = Duration::from_secs(60);

/// What takes a look at more than one file of a process is measured anew in this part of the interval, of as many as that is
/// enough for, and of the others in turn: 1 in 2,000.
const LOOK_SHARE: u32 = 2_000;

/// Memory is looked at closely as often as this part of the time allows: 1 in 1,000.
const CLOSE_SHARE: u32 = 1_000;

/// Measures every process of the application, and reports each in one structured log event.
///
/// The application is the tree below [its root](Self::root_process_id), the root included, and
/// every registered worker wherever it runs. It never asks for anything to be done.
///
/// A check looks for processes that were started since the one before, by their ids where these are few, and in a list of all that are
/// visible otherwise; it reads the clock of those of the application, and `stat`, through descriptors that it keeps, of those that had the
/// processor for a millisecond since, or were not read for 10 seconds: 1 and 4–6 µs each. So of a process that does next to nothing, all but
/// its processor time may be that old. The command, the descriptors, the switches and the memory are read at the first check of a process,
/// and then as far as half a thousandth of the interval goes, in turn: at the default interval that is all of five hundred, at one second
/// the ten that were not looked at for longest. Of a process that is large, looking at the memory is
/// dear; it is done so rarely that it takes at most a thousandth of the time, which for 4 GB means once in 46 seconds.
///
/// # Status
///
/// Under the key `process`: `{"root_process_id": …, "processes": [ProcessMetrics…]}`, parents
/// before their children, as of the last check. `root_process_id` is null before the first one.
///
/// # Example
///
/// ```
/// use std::{sync::mpsc, time::Instant};
/// use async_container_monitors::{Monitor, ProcessMonitor};
///
/// let (sender, receiver) = mpsc::channel();
/// let mut monitor = ProcessMonitor::new()
///     .root_process_id(std::process::id())
///     .emit(move |metrics| { let _ = sender.send(metrics.clone()); });
/// monitor.check(Instant::now());
///
/// let metrics = receiver.recv().unwrap();
/// assert_eq!(metrics.process_id, std::process::id());
/// assert!(metrics.resident_size > 0);
/// ```
pub struct ProcessMonitor {
    interval: Duration,
    root_process_id: Option<u32>,
    emit: Box<dyn FnMut(&ProcessMetrics) + Send>,
    roster: Roster<()>,
    /// It follows the processes of the last check, which the next one reads first of all.
    census: Census<Known>,
    /// The root as it was found at the first check; a later process with its id is not the root.
    root: Option<(u32, Option<u64>)>,
    /// Shared with what is being shown.
    processes: Arc<Vec<ProcessMetrics>>,
    /// What is told of them in metrics beside that.
    identities: Vec<Identity>,
}

/// What is remembered of a process from one check to the next.
struct Known {
    /// The clock of the last utilization, and the processor time used by then.
    at: Duration,
    processor_time: Duration,
    utilization: f64,
    /// What takes a look at more than one file, and when that was.
    details: Option<Details>,
    /// What is told of it in metrics beside its figures, and whether its name is final.
    identity: Identity,
    is_named: bool,
    looked: Duration,
    memory: Option<ProcessMemory>,
    /// When the memory may be looked at closely again.
    memory_due: Duration,
}

/// What was measured of one process. Sizes are in bytes; times serialise as seconds.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct ProcessMetrics {
    /// The process's id.
    pub process_id: u32,
    /// The process that started it, or the reaper that it came to.
    pub parent_process_id: u32,
    /// Its process group.
    pub process_group_id: u32,
    /// The processors that it kept busy since the check before: 1.0 is one core all the time.
    /// At the first check of a process it is the average since it was started. Where the system does not tell processor time but in
    /// ticks of 10 ms, it would be noise over less than 50 ms, so then it goes on from the check before that.
    pub processor_utilization: f64,
    /// The memory that it accounts for: the proportional size, where a page shared by two counts
    /// half for each; the resident size where the kernel does not tell, as of a process of
    /// another user. For a large process it may be some checks old.
    pub total_size: u64,
    /// Its address space.
    pub virtual_size: u64,
    /// What it has resident, shared pages included.
    pub resident_size: u64,
    /// The processor time of all its threads since it was started, user and system.
    #[serde(serialize_with = "seconds")]
    pub processor_time: Duration,
    /// The same of those of its children that have ended and that it has waited for, and of theirs: of processes that may have come
    /// and gone between two checks.
    #[serde(serialize_with = "seconds")]
    pub children_processor_time: Duration,
    /// The time since it was started.
    #[serde(serialize_with = "seconds")]
    pub elapsed_time: Duration,
    /// Its command line, cut to 4 KiB, or the name of its executable if that is empty.
    pub command: String,
    /// How many threads it has.
    pub threads: u64,
    /// How many file descriptors it has open; nothing for a process of another user.
    pub open_files: Option<u64>,
    /// How often its threads waited for something, those that are there now.
    pub voluntary_switches: u64,
    /// How often they had to give way to others.
    pub involuntary_switches: u64,
    /// How often it used memory that was not mapped yet, and was there.
    pub minor_faults: u64,
    /// How often it used memory that had to be read from disk or swap.
    pub major_faults: u64,
    /// Where its memory is; nothing for a process of another user. For a large process it may be some checks old.
    pub memory: Option<ProcessMemory>,
}

/// Where the memory of a process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ProcessMemory {
    /// How many mappings its address space has.
    pub map_count: u64,
    /// The sizes, in bytes.
    #[serde(flatten)]
    pub sizes: Memory,
}

impl Default for ProcessMonitor {
    fn default() -> Self {
        Self {
            interval: DEFAULT_INTERVAL,
            root_process_id: None,
            emit: Box::new(log),
            roster: Roster::default(),
            census: Census::default(),
            root: None,
            processes: Arc::default(),
            identities: Vec::new(),
        }
    }
}

impl ProcessMonitor {
    /// A monitor of the tree that the parent of this process is the root of.
    pub fn new() -> Self {
        Self::default()
    }

    /// The time between two checks; it has to be one millisecond at least.
    ///
    /// Default is 60 seconds.
    pub fn interval(mut self, interval: Duration) -> Self {
        self.interval = interval;
        self
    }

    /// The process whose tree is measured. Set it where the supervisor was not started by the
    /// application's root, for example by hand.
    ///
    /// Default is the parent, at the first check, of the process that runs the monitor.
    pub fn root_process_id(mut self, process_id: u32) -> Self {
        self.root_process_id = Some(process_id);
        self
    }

    /// What to do with the metrics of each process at each check.
    ///
    /// Default is a `tracing` event "process metrics captured" at level info, with the metrics as
    /// its fields.
    pub fn emit(mut self, emit: impl FnMut(&ProcessMetrics) + Send + 'static) -> Self {
        self.emit = Box::new(emit);
        self
    }

    /// Where the root is, if it is (still) the process that it was at the first check.
    fn find_root(&mut self) -> Option<usize> {
        let census = &mut self.census;
        let (process_id, start_time) = *self.root.get_or_insert_with(|| {
            let process_id = self.root_process_id.unwrap_or_else(std::os::unix::process::parent_id);
            let start_time = census.find(process_id).map(|index| census.entry(index).stat.start_time);
            (process_id, start_time)
        });
        let index = census.find(process_id)?;
        (Some(census.entry(index).stat.start_time) == start_time).then_some(index)
    }

    /// Where the processes of the application are, parents first.
    fn find_processes(&mut self) -> Vec<usize> {
        let root = self.find_root();
        let census = &mut self.census;
        let mut found = root.map_or_else(Vec::new, |root| census.tree(root));
        census.follow_only(&found);
        for (process_id, entry) in self.roster.iter() {
            let Some(index) = census.find(process_id) else { continue };
            let process = census.entry(index);
            // Else it has ended, and another one has its id.
            if Some(process.stat.start_time) == entry.start_time && process.follow() {
                found.push(index);
            }
        }
        found
    }

    /// Takes a look at more than one file of those that were not looked at for longest, as far as the time for that goes: beyond it, all
    /// have their turn.
    fn look(&mut self, found: &[usize], turns: &mut Turns) {
        let until = Instant::now() + self.interval / LOOK_SHARE;
        let mut queue: Vec<(Duration, usize)> = Vec::with_capacity(found.len());
        queue.extend(found.iter().filter_map(|index| Some((self.census.entry(*index).known.as_ref()?.looked, *index))));
        queue.sort_unstable();
        for (_, index) in queue {
            if Instant::now() >= until {
                break;
            }
            turns.give_way();
            let Entry { stat, known, .. } = self.census.entry(index);
            // It may have ended since it was listed, or not be ours to read.
            let _ = known.as_mut().map(|known| known.look(stat));
        }
    }
}

impl Monitor for ProcessMonitor {
    fn name(&self) -> &str {
        "process"
    }

    fn interval(&self) -> Duration {
        self.interval
    }

    fn validate(&self) -> Result<(), String> {
        validate_interval(self.interval)
    }

    fn register(&mut self, worker: &Worker) {
        let start_time = Stat::read(worker.process_id).ok().map(|stat| stat.start_time);
        self.roster.register(worker, start_time, ());
    }

    fn remove(&mut self, worker: &Worker) {
        self.roster.remove(worker);
    }

    fn check(&mut self, _now: Instant) -> Vec<Action> {
        for (process_id, _) in self.roster.iter() {
            self.census.follow(process_id);
        }
        if let Err(error) = self.census.take() {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "cannot list processes, trying again at the next check"
            );
            return Vec::new();
        }

        let mut turns = Turns::new();
        let found = self.find_processes();
        self.look(&found, &mut turns);
        // In the place of those of before, unless somebody is shown them still.
        let mut processes = Arc::get_mut(&mut self.processes).map(std::mem::take).unwrap_or_default();
        processes.clear();
        processes.reserve(found.len());
        self.identities.clear();
        for index in found {
            let Entry { stat, known, .. } = self.census.entry(index);
            match measure(stat, known) {
                Ok(metrics) => {
                    (self.emit)(&metrics);
                    processes.push(metrics);
                    self.identities.push(known.as_ref().map(|known| known.identity.clone()).unwrap_or_default());
                }
                // It may have ended since it was listed.
                Err(_) => *known = None,
            }
            turns.give_way();
        }
        self.processes = Arc::new(processes);
        Vec::new()
    }

    fn metrics(&self) -> Vec<crate::Family> {
        metrics::families(&self.processes, &self.identities)
    }

    fn status(&self) -> Status {
        Box::new(ProcessStatus {
            root_process_id: self.root.map(|(process_id, _)| process_id),
            processes: self.processes.clone(),
        })
    }
}

#[derive(Serialize)]
struct ProcessStatus {
    root_process_id: Option<u32>,
    #[serde(serialize_with = "in_turns")]
    processes: Arc<Vec<ProcessMetrics>>,
}

fn in_turns<S: Serializer>(processes: &Arc<Vec<ProcessMetrics>>, serializer: S) -> Result<S::Ok, S::Error> {
    turns::serialize(&**processes, serializer)
}

fn measure(stat: &Stat, known: &mut Option<Known>) -> io::Result<ProcessMetrics> {
    let known = known.get_or_insert_with(|| Known::new(stat));
    known.advance(stat.at, stat.processor_time);
    if known.details.is_none() {
        known.look(stat)?;
    }
    let details = known.details.clone().unwrap_or_default();

    Ok(ProcessMetrics {
        process_id: stat.process_id,
        parent_process_id: stat.parent_process_id,
        process_group_id: stat.process_group_id,
        processor_utilization: known.utilization,
        total_size: known.memory.map_or(stat.resident_size, |memory| memory.sizes.proportional_size),
        virtual_size: stat.virtual_size,
        resident_size: stat.resident_size,
        processor_time: stat.processor_time,
        children_processor_time: stat.children_processor_time,
        elapsed_time: stat.elapsed_time(),
        command: details.command,
        threads: stat.threads,
        open_files: details.open_files,
        voluntary_switches: details.switches.voluntary,
        involuntary_switches: details.switches.involuntary,
        minor_faults: stat.minor_faults,
        major_faults: stat.major_faults,
        memory: known.memory,
    })
}

/// What takes a look at more than one file.
#[derive(Clone, Default)]
struct Details {
    command: String,
    switches: Switches,
    open_files: Option<u64>,
}

impl Known {
    /// Of the first time, as if it had been seen when it was started.
    fn new(stat: &Stat) -> Self {
        Self {
            at: stat.at.saturating_sub(stat.elapsed_time()),
            processor_time: Duration::ZERO,
            utilization: 0.0,
            details: None,
            identity: Identity { name: Arc::default(), began: stat.began() },
            is_named: false,
            looked: Duration::ZERO,
            memory: None,
            memory_due: Duration::ZERO,
        }
    }

    /// Reads what takes a look at more than one file.
    fn look(&mut self, stat: &Stat) -> io::Result<()> {
        let directory = Directory::open(stat.process_id)?;
        let command = directory.command()?;
        self.call(&command, stat.elapsed_time());
        self.details =
            Some(Details { command, switches: directory.switches()?, open_files: directory.open_files().ok() });
        self.looked = stat.at;
        if stat.at >= self.memory_due {
            let before = sample::uptime();
            let map_count = directory.map_count().unwrap_or(0);
            self.memory = directory.memory().ok().map(|sizes| ProcessMemory { map_count, sizes });
            self.memory_due = stat.at + sample::uptime().saturating_sub(before) * CLOSE_SHARE;
        }
        Ok(())
    }

    /// So long a process may take until it is called what it is to be called, as by `exec` or by its title.
    const YOUNG: Duration = Duration::from_secs(1);

    /// Names it after its command line, if that is not what it was named after already.
    fn call(&mut self, command: &str, age: Duration) {
        if !self.is_named {
            self.identity.name = metrics::name(command);
            self.is_named = age >= Self::YOUNG;
        }
    }

    /// Where processor time counts in ticks of 10 ms, the utilization over less than a few of them would be noise.
    const SHORTEST: Duration = Duration::from_millis(50);

    fn advance(&mut self, at: Duration, processor_time: Duration) {
        let elapsed = at.saturating_sub(self.at);
        let used = processor_time.saturating_sub(self.processor_time);
        if elapsed >= Self::SHORTEST {
            self.utilization = used.as_secs_f64() / elapsed.as_secs_f64();
            self.at = at;
            self.processor_time = processor_time;
        }
    }
}

fn log(metrics: &ProcessMetrics) {
    let memory = metrics.memory;
    let sizes = memory.map(|memory| memory.sizes);
    tracing::info!(
        process_id = metrics.process_id,
        parent_process_id = metrics.parent_process_id,
        process_group_id = metrics.process_group_id,
        processor_utilization = metrics.processor_utilization,
        total_size = metrics.total_size,
        virtual_size = metrics.virtual_size,
        resident_size = metrics.resident_size,
        processor_time = metrics.processor_time.as_secs_f64(),
        children_processor_time = metrics.children_processor_time.as_secs_f64(),
        elapsed_time = metrics.elapsed_time.as_secs_f64(),
        command = metrics.command,
        threads = metrics.threads,
        open_files = metrics.open_files,
        voluntary_switches = metrics.voluntary_switches,
        involuntary_switches = metrics.involuntary_switches,
        minor_faults = metrics.minor_faults,
        major_faults = metrics.major_faults,
        map_count = memory.map(|memory| memory.map_count),
        proportional_size = sizes.map(|sizes| sizes.proportional_size),
        proportional_file_size = sizes.map(|sizes| sizes.proportional_file_size),
        private_size = sizes.map(|sizes| sizes.private_size),
        private_clean_size = sizes.map(|sizes| sizes.private_clean_size),
        private_dirty_size = sizes.map(|sizes| sizes.private_dirty_size),
        shared_size = sizes.map(|sizes| sizes.shared_size),
        shared_clean_size = sizes.map(|sizes| sizes.shared_clean_size),
        shared_dirty_size = sizes.map(|sizes| sizes.shared_dirty_size),
        referenced_size = sizes.map(|sizes| sizes.referenced_size),
        anonymous_size = sizes.map(|sizes| sizes.anonymous_size),
        swap_size = sizes.map(|sizes| sizes.swap_size),
        proportional_swap_size = sizes.map(|sizes| sizes.proportional_swap_size),
        "process metrics captured"
    );
}

fn seconds<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(duration.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn utilization_is_of_the_last_interval_and_not_of_an_instant() {
        let seconds = Duration::from_secs;
        let known = Known::new(&Stat::read(std::process::id()).unwrap());
        let mut known = Known { at: seconds(100), processor_time: seconds(10), utilization: 0.25, ..known };
        known.advance(seconds(100) + Duration::from_millis(1), seconds(10) + Duration::from_millis(10));
        assert_eq!(known.utilization, 0.25);
        known.advance(seconds(110), seconds(25));
        assert_eq!(known.utilization, 1.5);
    }

    #[test]
    fn a_process_is_named_once_it_is_called_what_it_is_to_be_called() {
        let mut known = Known::new(&Stat::read(std::process::id()).unwrap());
        let mut name = |command, milliseconds| {
            known.call(command, Duration::from_millis(milliseconds));
            known.identity.name.to_string()
        };
        assert_eq!(name("my-app", 2), "my-app");
        assert_eq!(name("my-app: web#1", 999), "my-app: web#1");
        assert_eq!(name("my-app: web#1 (1 request)", 5_000), "my-app: web#1 (1 request)");
        assert_eq!(name("my-app: web#1 (2 requests)", 6_000), "my-app: web#1 (1 request)");
    }
}
