//! Processes of several threads each: `cargo run --example hybrid -- --processes 2 --threads 3`
//!
//! Each thread has a runtime and an instance of its own, and beats for itself: one that blocks for more than two seconds has
//! its process replaced, with all of its threads, because a thread cannot be killed. Each registers with the supervisor by
//! itself, too: `cargo run --bin acs -- workers` lists them.

use std::process::ExitCode;
use std::time::Duration;

use async_container_supervisor::{Application, BoxError, Instance, Service};
use clap::Parser;
use tracing::info;

#[derive(Clone, Copy, Parser)]
struct Arguments {
    /// How many processes there are.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..))]
    processes: u32,
    /// How many threads each of them has.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    threads: u32,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    Application::new("hybrid")
        .service(
            Service::new("worker", work)
                .count(arguments.processes)
                .threads(arguments.threads)
                .health_check_timeout(Duration::from_secs(2))
                .supervised(),
        )
        .supervisor(|supervisor| supervisor)
        .run()
}

async fn work(instance: Instance) -> Result<(), BoxError> {
    info!(process_id = std::process::id(), "{} works", instance.name());
    instance.ready()?;
    instance.shutdown().await;
    Ok(())
}
