//! Workers that leak, and a monitor that has them replaced at 100 MB: `cargo run --example memory_leak`
//!
//! Each worker keeps a megabyte more twenty times a second or so. The memory monitor looks once a second, and asks the
//! root to replace the ones that are over the limit. See why in the log, or with `cargo run --bin acs -- status`; and see
//! where it leaks, by crate, file and line, which the allocator below is for:
//!
//! ```text
//! cargo run --bin acs -- memory-sample worker#1 --duration 1s
//! cargo run --bin acs -- memory-dump worker#2 --output leak.svg
//! ```

use std::process::ExitCode;
use std::time::Duration;

use async_container_supervisor::diagnostics::memory::{Allocator, Mode};
use async_container_supervisor::monitors::MemoryMonitor;
use async_container_supervisor::{Application, BoxError, Instance, Service};

const LIMIT: u64 = 100_000_000;
const LEAK: usize = 1_000_000;

// Looks at one byte in 512 KiB, all the time, so that a dump can tell what lives. Without `record_from_start`, it costs next to
// nothing until a sample is taken.
#[global_allocator]
static ALLOCATOR: Allocator = Allocator::system().record_from_start(Mode::SAMPLED);

fn main() -> ExitCode {
    Application::new("memory_leak")
        .service(Service::new("worker", work).count(2).supervised())
        .supervisor(|supervisor| {
            let monitor = MemoryMonitor::new().interval(Duration::from_secs(1)).maximum_size_limit(LIMIT);
            supervisor.monitor(monitor)
        })
        .run()
}

async fn work(instance: Instance) -> Result<(), BoxError> {
    instance.ready()?;
    let shutdown = instance.shutdown();
    tokio::pin!(shutdown);
    // The second worker is slower, so that they do not leave together.
    let pace = Duration::from_millis(30 + 30 * u64::from(instance.index()));
    let mut leak: Vec<Vec<u8>> = Vec::new();
    loop {
        tokio::select! {
            () = tokio::time::sleep(pace) => leak.push(vec![1; LEAK]),
            () = &mut shutdown => return Ok(()),
        }
    }
}
