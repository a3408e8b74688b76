//! A monitor of one's own: `cargo run --example custom_monitor`
//!
//! It has every worker replaced that has grown too old, one at a time. `cargo run --bin acs -- status` shows the ages.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use async_container_supervisor::monitors::{Action, Monitor, Status, Worker};
use async_container_supervisor::{Application, BoxError, Instance, Service};

/// Has workers replaced when they are older than this.
struct AgeMonitor {
    maximum_age: Duration,
    born: BTreeMap<u32, Instant>,
}

impl Monitor for AgeMonitor {
    fn name(&self) -> &str {
        "age"
    }

    fn interval(&self) -> Duration {
        Duration::from_secs(1)
    }

    fn register(&mut self, worker: &Worker) {
        self.born.entry(worker.process_id).or_insert_with(Instant::now);
    }

    fn remove(&mut self, worker: &Worker) {
        self.born.remove(&worker.process_id);
    }

    fn check(&mut self, now: Instant) -> Vec<Action> {
        let oldest = self.born.iter().min_by_key(|(_, born)| **born);
        let too_old = oldest.filter(|(_, born)| now.duration_since(**born) > self.maximum_age);
        let reason = format!("older than {:?}", self.maximum_age);
        too_old.map(|(process_id, _)| Action::restart(*process_id, reason)).into_iter().collect()
    }

    fn status(&self) -> Status {
        let ages: BTreeMap<u32, u64> = self.born.iter().map(|(id, born)| (*id, born.elapsed().as_secs())).collect();
        Box::new(ages)
    }
}

fn main() -> ExitCode {
    Application::new("custom_monitor")
        .service(Service::new("worker", work).count(3).supervised())
        .supervisor(|supervisor| {
            supervisor.monitor(AgeMonitor { maximum_age: Duration::from_secs(5), born: BTreeMap::new() })
        })
        .run()
}

async fn work(instance: Instance) -> Result<(), BoxError> {
    instance.ready()?;
    instance.shutdown().await;
    Ok(())
}
