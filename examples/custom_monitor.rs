//! A monitor of one's own: `cargo run --example custom_monitor`
//!
//! It has every worker replaced that has grown too old, the oldest first, looking once a second: that is the default. What
//! became of them, and why, is in `cargo run --bin acs -- status`.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use async_container_supervisor::monitors::{Action, Monitor, Worker};
use async_container_supervisor::{Application, BoxError, Instance, Service};

const MAXIMUM_AGE: Duration = Duration::from_secs(5);

#[derive(Default)]
struct AgeMonitor(BTreeMap<u32, Instant>);

impl Monitor for AgeMonitor {
    fn name(&self) -> &str {
        "age"
    }

    fn register(&mut self, worker: &Worker) {
        self.0.entry(worker.process_id).or_insert_with(Instant::now);
    }

    fn remove(&mut self, worker: &Worker) {
        self.0.remove(&worker.process_id);
    }

    fn check(&mut self, now: Instant) -> Vec<Action> {
        let oldest = self.0.iter().min_by_key(|(_, born)| **born).filter(|(_, born)| now - **born > MAXIMUM_AGE);
        oldest.map(|(id, _)| Action::restart(*id, format!("older than {MAXIMUM_AGE:?}"))).into_iter().collect()
    }
}

fn main() -> ExitCode {
    Application::new("custom_monitor")
        .service(Service::new("worker", work).count(3).supervised())
        .supervisor(|supervisor| supervisor.monitor(AgeMonitor::default()))
        .run()
}

async fn work(instance: Instance) -> Result<(), BoxError> {
    instance.ready()?;
    instance.shutdown().await;
    Ok(())
}
