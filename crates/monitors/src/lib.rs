//! Monitors of worker processes: the contract, and the ones that nearly everybody wants.
//!
//! A [`Monitor`] is told which workers come and go, looks at them at its own interval, and answers
//! with the [`Action`]s that it thinks right. It never carries them out: who owns the processes
//! does, so a monitor needs no privileges, no socket and no runtime, and a test can ask it
//! "what would you do?" without a process in danger. [`Status`] is what it shows to a person.
//!
//! With the feature `memory`, `MemoryMonitor` restarts workers that grew too large; with
//! `process`, `ProcessMonitor` measures every process of the application; with `health`, `HealthMonitor` restarts
//! workers that do not answer. These are on by default, and the first two read `/proc` through `sample`. With `utilization`, `UtilizationMonitor` adds up what workers
//! count in shared memory. Without features this crate is the trait and its types
//! alone: someone who writes a monitor depends on
//! `async-container-monitors = { version = "…", default-features = false }` and builds next to nothing.
//!
//! What is deliberately absent: threads, timers, and signals. The supervisor provides them.
//!
//! # A monitor of one's own
//!
//! This one replaces workers that have lived for long enough.
//!
//! ```
//! use std::{collections::HashMap, time::{Duration, Instant}};
//! use async_container_monitors::{Action, Monitor, Status, Worker};
//!
//! struct AgeMonitor {
//!     limit: Duration,
//!     since: HashMap<String, (Worker, Instant)>,
//! }
//!
//! impl Monitor for AgeMonitor {
//!     fn name(&self) -> &str {
//!         "age"
//!     }
//!
//!     fn interval(&self) -> Duration {
//!         Duration::from_secs(60)
//!     }
//!
//!     fn register(&mut self, worker: &Worker) {
//!         // A worker that only changed its state keeps its age.
//!         self.since.entry(worker.id.clone()).or_insert_with(|| (worker.clone(), Instant::now()));
//!     }
//!
//!     fn remove(&mut self, worker: &Worker) {
//!         self.since.remove(&worker.id);
//!     }
//!
//!     fn check(&mut self, now: Instant) -> Vec<Action> {
//!         self.since
//!             .values()
//!             .filter(|(_, since)| now.duration_since(*since) > self.limit)
//!             .map(|(worker, _)| Action::restart(worker.process_id, format!("older than {:?}", self.limit)))
//!             .collect()
//!     }
//!
//!     fn status(&self) -> Status {
//!         Box::new(HashMap::from([("workers", self.since.len())]))
//!     }
//! }
//!
//! let mut monitor = AgeMonitor { limit: Duration::from_secs(3600), since: HashMap::new() };
//! let worker = Worker { id: "8c1f".into(), process_id: 4242, name: "web".into() };
//! monitor.register(&worker);
//! assert!(monitor.check(Instant::now()).is_empty());
//!
//! let later = Instant::now() + Duration::from_secs(3601);
//! assert!(matches!(&monitor.check(later)[..], [Action::Restart(restart)] if restart.process_id == 4242));
//! ```

#![forbid(unsafe_code)]

mod action;
mod call;
mod metrics;
mod monitor;
mod parameters;
#[cfg(any(feature = "memory", feature = "health"))]
mod restarts;

#[cfg(feature = "health")]
pub mod health;
#[cfg(feature = "memory")]
pub mod memory;
#[cfg(feature = "process")]
pub mod process;
#[cfg(any(feature = "memory", feature = "process"))]
mod roster;
#[cfg(feature = "sample")]
pub mod sample;
#[cfg(any(feature = "memory", feature = "process", feature = "health", feature = "utilization"))]
mod turns;
#[cfg(feature = "utilization")]
pub mod utilization;

pub use action::{Action, Destination, Diagnosis, Restart};
pub use call::{Answer, Call, CallFailure};
pub use metrics::{Family, Kind, Sample, Value};
pub use monitor::{Event, Monitor, Status, Worker};

#[cfg(feature = "health")]
pub use health::HealthMonitor;
#[cfg(feature = "memory")]
pub use memory::MemoryMonitor;
#[cfg(feature = "process")]
pub use process::{ProcessMemory, ProcessMetrics, ProcessMonitor};
#[cfg(feature = "utilization")]
pub use utilization::{ServiceUtilization, UtilizationMonitor};
