//! A supervisor and a few workers that do nothing: `cargo run --example simple -- --workers 4`
//!
//! Look at it from another terminal, in the same directory:
//!
//! ```text
//! cargo run --bin acs -- status          # everything at a glance
//! cargo run --bin acs -- call worker#2 greet name=you
//! cargo run --bin acs -- reload --wait   # SIGHUP: new workers beside the old ones, then the old ones go
//! ```
//!
//! Kill a worker, or the supervisor, and both are back at once. Ctrl-C stops everything.

use std::process::ExitCode;
use std::time::Duration;

use async_container_supervisor::monitors::MemoryMonitor;
use async_container_supervisor::protocol::{Failure, Operations};
use async_container_supervisor::{Application, BoxError, Instance, Service};
use clap::Parser;
use serde::{Deserialize, Serialize};

#[derive(Parser)]
struct Arguments {
    /// How many workers to run.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..))]
    workers: u32,
}

#[derive(Deserialize)]
struct Greet {
    name: String,
}

#[derive(Serialize)]
struct Greeting {
    greeting: String,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    Application::new("simple")
        .service(Service::new("worker", work).count(arguments.workers).supervised())
        .worker(|instance, worker| {
            let me = instance.name();
            worker.operations(Operations::new().typed("greet", move |Greet { name }| {
                let greeting = format!("hello {name}, this is {me}");
                async move { Ok::<_, Failure>(Greeting { greeting }) }
            }))
        })
        .supervisor(|supervisor| {
            let monitor = MemoryMonitor::new().interval(Duration::from_secs(1)).maximum_size_limit(400 << 20);
            supervisor.monitor(monitor)
        })
        .run()
}

async fn work(instance: Instance) -> Result<(), BoxError> {
    instance.ready()?;
    instance.shutdown().await;
    Ok(())
}
