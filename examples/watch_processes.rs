//! Monitors and their samples alone, of any processes: `cargo run --example watch_processes -- 1234 5678`
//!
//! Prints what each of them uses, once a second, until none is left, and says when one has grown beyond the limit. Nothing
//! has to run below a supervisor for that. In the facade it is `monitors`, by itself the crate `async-container-monitors`.

use std::time::{Duration, Instant};

use async_container_supervisor::BoxError;
use async_container_supervisor::monitors::sample::{Process, has_ended};
use async_container_supervisor::monitors::{Action, MemoryMonitor, Monitor, Worker};
use clap::Parser;

#[derive(Parser)]
struct Arguments {
    /// The processes to watch.
    #[arg(required = true)]
    processes: Vec<u32>,
    /// How many MiB each may have resident.
    #[arg(long, default_value_t = 500)]
    limit: u64,
    /// How many seconds to wait between two looks.
    #[arg(long, default_value_t = 1.0)]
    interval: f64,
}

fn main() -> Result<(), BoxError> {
    let Arguments { processes, limit, interval } = Arguments::parse();
    let mut monitor = MemoryMonitor::new().maximum_size_limit(limit << 20);
    let mut watched = Vec::new();

    for process_id in processes {
        watched.push(Process::open(process_id)?);
        monitor.register(&Worker { id: process_id.to_string(), process_id, name: "watched".to_owned() });
    }

    while !watched.is_empty() {
        watched.retain(|process| match process.memory() {
            Ok(memory) => {
                let mebibytes = |bytes: u64| bytes as f64 / f64::from(1 << 20);
                let (resident, shared) = (mebibytes(memory.resident_size), mebibytes(memory.shared_size));
                println!("{}: {resident:.1} MiB resident, of which {shared:.1} shared", process.process_id());
                true
            }
            Err(error) => {
                println!(
                    "{}: {}",
                    process.process_id(),
                    if has_ended(&error) { "has ended".into() } else { error.to_string() }
                );
                false
            }
        });

        // A monitor says what should be done, and does nothing itself.
        for action in monitor.check(Instant::now()) {
            if let Action::Restart(restart) = action {
                println!("{}: {}", restart.process_id, restart.reason);
            }
        }

        std::thread::sleep(Duration::from_secs_f64(interval));
    }

    Ok(())
}
