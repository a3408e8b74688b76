//! A worker that allocates by jemalloc, for the tests of what that one tells of the heap.

#![forbid(unsafe_code)]

use std::{process::ExitCode, sync::Mutex};

use async_container_supervisor::{
    Application, BoxError, Instance, Service,
    diagnostics::memory::{Allocator, Jemalloc},
};

#[global_allocator]
static ALLOCATOR: Allocator<Jemalloc> = Allocator::jemalloc();

static KEPT: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());

fn main() -> ExitCode {
    Application::new("jemalloc")
        .service(Service::new("worker", work).count(1).supervised())
        .supervisor(|supervisor| supervisor)
        .run()
}

async fn work(instance: Instance) -> Result<(), BoxError> {
    keep_twenty_megabytes();
    instance.ready()?;
    instance.shutdown().await;
    Ok(())
}

#[inline(never)]
fn keep_twenty_megabytes() {
    let mut kept = KEPT.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    kept.extend((0..320).map(|_| vec![1; 64 << 10]));
}
