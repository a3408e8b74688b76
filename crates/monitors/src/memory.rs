//! Restarts workers that grew too large.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use serde::Serialize;

use crate::{
    Action, Event, Monitor, Status, Worker,
    monitor::SHORTEST_INTERVAL,
    roster::Roster,
    sample::{self, HostMemory, Process},
};

const DEFAULT_INTERVAL: Duration = Duration::from_secs(10);
const DEFAULT_COOLDOWN: Duration = Duration::from_secs(30);

/// Measures the resident size of every worker process, and asks for a restart of those that
/// exceed a limit. With each of these goes an event `leak`: `process_id`, `name`, `current_size` and
/// `maximum_size_limit`.
///
/// A check costs 1–2 µs a process. Where several workers connect from one process it counts once.
/// The size is the resident set, shared pages included, as in `ps`: set the limit above what is
/// shared. Once a restart was asked for, it is not asked for again until the process is gone
/// or the [cooldown](Self::cooldown) has passed, so a worker that takes its time to finish is
/// left to do so, and one that ignores the request is reported again.
///
/// # Status
///
/// Under the key `memory`; sizes are in bytes and as of the last check or, for a worker that came after it,
/// of its registration:
///
/// ```json
/// {
///   "maximum_size_limit": 524288000,
///   "total_size": 91234304,
///   "host": {"total_size": 25276502016, "available_size": 24932823040,
///            "swap_total_size": 0, "swap_used_size": 0},
///   "processes": [
///     {"process_id": 4242, "name": "web", "sample_count": 17, "current_size": 91234304,
///      "maximum_size": 93331456, "maximum_size_limit": 524288000}
///   ]
/// }
/// ```
///
/// `maximum_size` is the largest size seen, `total_size` the sum over all processes (so what they
/// share counts several times), `host` the memory of the host or, where that is less, of
/// the cgroup.
///
/// # Example
///
/// ```
/// use std::time::{Duration, Instant};
/// use async_container_monitors::{Action, MemoryMonitor, Monitor, Worker};
///
/// let mut monitor = MemoryMonitor::new()
///     .interval(Duration::from_secs(5))
///     .maximum_size_limit(4096); // One page: nothing is this small.
/// monitor.register(&Worker { id: "8c1f".into(), process_id: std::process::id(), name: "web".into() });
///
/// let actions = monitor.check(Instant::now());
/// let [Action::Event(leak), Action::Restart(restart)] = &actions[..] else { panic!("no action") };
/// assert_eq!(leak.name(), "leak");
/// assert_eq!(restart.process_id, std::process::id());
/// assert!(restart.reason.starts_with("memory limit 4.0 KiB, was "), "{}", restart.reason);
/// ```
pub struct MemoryMonitor {
    interval: Duration,
    cooldown: Duration,
    maximum_size_limit: Option<u64>,
    roster: Roster<Watch>,
    /// When a restart was asked for, by process id and start time. Apart from the roster, since a
    /// worker that connects anew is still the process that was asked.
    asked: HashMap<(u32, u64), Instant>,
    host: Option<HostMemory>,
}

/// What is known of one process.
struct Watch {
    source: Source,
    sample_count: u64,
    current_size: u64,
    maximum_size: u64,
}

enum Source {
    Open(Process),
    /// It could not be opened for a reason that may pass, such as too many open files.
    Failed,
    /// It ended. Its connections will be seen to end shortly.
    Ended,
}

impl Default for MemoryMonitor {
    fn default() -> Self {
        Self {
            interval: DEFAULT_INTERVAL,
            cooldown: DEFAULT_COOLDOWN,
            maximum_size_limit: None,
            roster: Roster::default(),
            asked: HashMap::new(),
            host: None,
        }
    }
}

impl MemoryMonitor {
    /// A monitor that measures, and asks for nothing until it is given a limit.
    pub fn new() -> Self {
        Self::default()
    }

    /// The time between two checks; at least one millisecond. It bounds how far a worker can grow beyond its limit.
    ///
    /// Default is 10 seconds.
    pub fn interval(mut self, interval: Duration) -> Self {
        self.interval = interval.max(SHORTEST_INTERVAL);
        self
    }

    /// The resident size in bytes above which a process is to be restarted.
    ///
    /// Default is no limit.
    pub fn maximum_size_limit(mut self, bytes: u64) -> Self {
        self.maximum_size_limit = Some(bytes);
        self
    }

    /// The time after which a restart that was asked for, of a process that is still there and
    /// still too large, is asked for again. It should exceed the grace period of a stop.
    ///
    /// Default is 30 seconds.
    pub fn cooldown(mut self, cooldown: Duration) -> Self {
        self.cooldown = cooldown;
        self
    }
}

impl Monitor for MemoryMonitor {
    fn name(&self) -> &str {
        "memory"
    }

    fn interval(&self) -> Duration {
        self.interval
    }

    fn register(&mut self, worker: &Worker) {
        let source = Source::open(worker.process_id);
        let start_time = source.start_time();
        let mut watch = Watch { source, sample_count: 0, current_size: 0, maximum_size: 0 };
        // So that `status` has something to show before the first check; whether it is too much is for the check to say.
        watch.sample();
        self.roster.register(worker, start_time, watch);
        self.host = self.host.or_else(HostMemory::read);
    }

    fn remove(&mut self, worker: &Worker) {
        self.roster.remove(worker);
    }

    fn check(&mut self, now: Instant) -> Vec<Action> {
        let Self { cooldown, maximum_size_limit, roster, asked, host, .. } = self;
        asked.retain(|_, at| now.saturating_duration_since(*at) < *cooldown);

        let mut actions = Vec::new();
        for (process_id, entry) in roster.iter_mut() {
            if matches!(entry.state.source, Source::Failed) {
                entry.state.source = Source::open(process_id);
                entry.start_time = entry.state.source.start_time();
            }
            let Some((size, process)) = entry.state.sample() else {
                continue;
            };
            let Some(limit) = *maximum_size_limit else {
                continue;
            };
            let identity = (process_id, process.start_time());
            if size <= limit || asked.contains_key(&identity) {
                continue;
            }

            asked.insert(identity, now);
            // For the reader of the log: only the private part comes free. The price of asking
            // is paid once, by a process that is about to be replaced.
            let memory = process.memory().ok();
            tracing::warn!(
                process_id,
                name = entry.name,
                current_size = size,
                private_size = memory.map(|memory| memory.private_size),
                proportional_size = memory.map(|memory| memory.proportional_size),
                maximum_size_limit = limit,
                "memory limit exceeded, asking for a restart"
            );
            let reason = format!("memory limit {}, was {}", mebibytes(limit), mebibytes(size));
            let leak = Leak { process_id, name: entry.name.clone(), current_size: size, maximum_size_limit: limit };
            actions.push(Action::Event(Event::new("leak", leak)));
            actions.push(Action::restart(process_id, reason));
        }

        *host = HostMemory::read();
        actions
    }

    fn status(&self) -> Status {
        let processes: Vec<_> = self
            .roster
            .iter()
            .map(|(process_id, entry)| ProcessStatus {
                process_id,
                name: entry.name.clone(),
                sample_count: entry.state.sample_count,
                current_size: entry.state.current_size,
                maximum_size: entry.state.maximum_size,
                maximum_size_limit: self.maximum_size_limit,
            })
            .collect();
        Box::new(MemoryStatus {
            maximum_size_limit: self.maximum_size_limit,
            total_size: processes.iter().map(|process| process.current_size).sum(),
            host: self.host,
            processes,
        })
    }
}

impl Source {
    fn open(process_id: u32) -> Self {
        match Process::open(process_id) {
            Ok(process) => Self::Open(process),
            Err(error) if sample::has_ended(&error) => Self::Ended,
            Err(error) => {
                tracing::warn!(
                    process_id,
                    error = &error as &dyn std::error::Error,
                    "cannot measure this process, trying again at the next check"
                );
                Self::Failed
            }
        }
    }

    fn start_time(&self) -> Option<u64> {
        match self {
            Self::Open(process) => Some(process.start_time()),
            Self::Failed | Self::Ended => None,
        }
    }
}

impl Watch {
    /// Takes a sample; nothing if there was nothing to measure.
    fn sample(&mut self) -> Option<(u64, &Process)> {
        let Source::Open(process) = &self.source else {
            return None;
        };
        match process.resident_size() {
            Ok(Some(size)) => {
                self.sample_count += 1;
                self.current_size = size;
                self.maximum_size = self.maximum_size.max(size);
            }
            Ok(None) => {
                self.source = Source::Ended;
                self.current_size = 0;
            }
            Err(error) => {
                tracing::warn!(
                    process_id = process.process_id(),
                    error = &error as &dyn std::error::Error,
                    "cannot measure this process, trying again at the next check"
                );
                return None;
            }
        }
        match &self.source {
            Source::Open(process) => Some((self.current_size, process)),
            Source::Failed | Source::Ended => None,
        }
    }
}

#[derive(Serialize)]
struct MemoryStatus {
    maximum_size_limit: Option<u64>,
    total_size: u64,
    host: Option<HostMemory>,
    processes: Vec<ProcessStatus>,
}

#[derive(Serialize)]
struct Leak {
    process_id: u32,
    name: String,
    current_size: u64,
    maximum_size_limit: u64,
}

#[derive(Serialize)]
struct ProcessStatus {
    process_id: u32,
    name: String,
    sample_count: u64,
    current_size: u64,
    maximum_size: u64,
    maximum_size_limit: Option<u64>,
}

/// A size for people, in KiB where MiB would round it to nothing.
fn mebibytes(bytes: u64) -> String {
    let kibibytes = bytes as f64 / 1024.0;
    if kibibytes < 1024.0 { format!("{kibibytes:.1} KiB") } else { format!("{:.1} MiB", kibibytes / 1024.0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_humane() {
        assert_eq!(mebibytes(100 << 20), "100.0 MiB");
        assert_eq!(mebibytes(109_261_619), "104.2 MiB");
        assert_eq!(mebibytes(4096), "4.0 KiB");
    }
}
