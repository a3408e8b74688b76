//! The container alone, without supervisor, socket or log: `cargo run --example minimal`
//!
//! Two workers that run code of this program, and nothing else. What this takes is in the crate `async-container`, here
//! under its name in the facade. Kill a worker, and another one takes its place; press Ctrl-C, and all of it ends.

use std::process::ExitCode;

use async_container_supervisor::container::{BoxError, Controller, Instance, Service};

fn main() -> ExitCode {
    Controller::new("minimal").service(Service::new("worker", work).count(2)).run()
}

async fn work(instance: Instance) -> Result<(), BoxError> {
    println!("{} is process {}", instance.name(), std::process::id());
    instance.ready()?;
    instance.shutdown().await;
    println!("{} ends", instance.name());
    Ok(())
}
