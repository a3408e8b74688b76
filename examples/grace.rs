//! How children end when they are asked to: `cargo run --example grace -- --grace 1`
//!
//! Press Ctrl-C. `polite` brings what it is at to its end and leaves. `stubborn` blocks, hears nothing, and is killed when its
//! grace period is over. A second Ctrl-C would kill at once. The program ends with status 0: it was asked to.

use std::process::ExitCode;
use std::time::Duration;

use async_container_supervisor::{Application, BoxError, Instance, Service};
use clap::Parser;
use tracing::info;

#[derive(Clone, Parser)]
struct Arguments {
    /// How many seconds children have to end.
    #[arg(long, default_value_t = 10)]
    grace: u64,
}

fn main() -> ExitCode {
    let grace = Duration::from_secs(Arguments::parse().grace);
    Application::new("grace")
        .service(Service::new("polite", polite).count(1))
        .service(Service::new("stubborn", stubborn).count(1))
        .graceful_stop(grace)
        .run()
}

async fn polite(instance: Instance) -> Result<(), BoxError> {
    instance.ready()?;
    loop {
        tokio::select! {
            // One piece of work. It is not given up in the middle, because the wait for the end stands beside it, and not
            // around it.
            () = tokio::time::sleep(Duration::from_millis(300)) => {}
            () = instance.shutdown() => break,
        }
    }
    info!("polite: asked to end, finishing what I am at");
    tokio::time::sleep(Duration::from_millis(300)).await;
    info!("polite: finished");
    Ok(())
}

async fn stubborn(instance: Instance) -> Result<(), BoxError> {
    instance.ready()?;
    // Nothing else runs on this thread any more, so nobody hears the signal.
    std::thread::sleep(Duration::MAX);
    Ok(())
}
