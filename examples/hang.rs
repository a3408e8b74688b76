//! A worker that stops beating, and is replaced: `cargo run --example hang`
//!
//! An instance beats from the loop that does its work, so a loop that is stuck in blocking code does not. When the
//! root has heard nothing for two seconds it kills the worker and starts another one.

use std::process::ExitCode;
use std::time::Duration;

use async_container_supervisor::{Application, BoxError, Instance, Service};
use tracing::info;

const TIMEOUT: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    Application::new("hang")
        .service(Service::new("worker", work).count(1).health_check_timeout(TIMEOUT).supervised())
        .supervisor(|supervisor| supervisor)
        .run()
}

async fn work(instance: Instance) -> Result<(), BoxError> {
    instance.ready()?;
    info!("working for a while");
    tokio::time::sleep(TIMEOUT).await;
    info!("hanging from now on");
    std::thread::sleep(Duration::MAX);
    Ok(())
}
