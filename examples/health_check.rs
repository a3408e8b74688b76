//! Workers that are sometimes too slow for their health check: `cargo run --example health_check`
//!
//! Ten workers have to give a sign of life every second, which they do by themselves as long as their loop turns. But each
//! blocks it for a random time of up to 1.2 s, again and again. Those that block for too long are killed and started again;
//! the log says which, and why. `cargo run --bin acs -- status` shows how often.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::process::ExitCode;
use std::time::Duration;

use async_container_supervisor::{Application, BoxError, Instance, Service};

/// How long a worker may say nothing.
const TIMEOUT: Duration = Duration::from_secs(1);

/// How long it blocks at most.
const LONGEST: Duration = Duration::from_millis(1200);

fn main() -> ExitCode {
    Application::new("health_check")
        .service(Service::new("worker", work).count(10).health_check_timeout(TIMEOUT).supervised())
        .supervisor(|supervisor| supervisor)
        .run()
}

async fn work(instance: Instance) -> Result<(), BoxError> {
    instance.ready()?;
    loop {
        tokio::select! {
            () = tokio::time::sleep(Duration::from_millis(1)) => std::thread::sleep(LONGEST.mul_f64(random())),
            () = instance.shutdown() => return Ok(()),
        }
    }
}

/// A number from 0 to 1, good enough for an example.
fn random() -> f64 {
    RandomState::new().build_hasher().finish() as f64 / u64::MAX as f64
}
