//! What every process uses, measured: `cargo run --example process_monitor`
//!
//! One worker computes, the other waits. Every two seconds the process monitor logs the CPU use, memory and more of
//! all processes of the application; `cargo run --bin acs -- status` shows the latest.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use async_container_supervisor::monitors::{MemoryMonitor, ProcessMonitor};
use async_container_supervisor::{Application, BoxError, Instance, Service};

fn main() -> ExitCode {
    Application::new("process_monitor")
        .service(Service::new("busy", compute).count(1).supervised())
        .service(Service::new("idle", wait).count(1).supervised())
        .supervisor(|supervisor| {
            supervisor
                .monitor(ProcessMonitor::new().interval(Duration::from_secs(2)))
                .monitor(MemoryMonitor::new().interval(Duration::from_secs(5)).maximum_size_limit(500 << 20))
        })
        .run()
}

/// Keeps half a processor busy.
async fn compute(instance: Instance) -> Result<(), BoxError> {
    instance.ready()?;
    let slice = Duration::from_millis(10);
    loop {
        let start = Instant::now();
        while start.elapsed() < slice {
            std::hint::spin_loop();
        }
        tokio::time::sleep(slice).await;
    }
}

async fn wait(instance: Instance) -> Result<(), BoxError> {
    instance.ready()?;
    instance.shutdown().await;
    Ok(())
}
