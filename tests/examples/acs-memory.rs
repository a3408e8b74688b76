//! A worker that allocates, for the tests of what can be asked about its memory: `acs-memory [leak|branches]`
//!
//! It takes the signal that a limit on the size of files brings, so that writing fails instead.

#![forbid(unsafe_code)]

use std::{process::ExitCode, sync::Mutex, thread, time::Duration};

use async_container_supervisor::{
    Application, BoxError, Instance, Service,
    diagnostics::memory::{self, Allocator},
    protocol::{Failure, Operations, Request},
};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

#[global_allocator]
static ALLOCATOR: Allocator = Allocator::system();

/// The number of the signal for a file that becomes too large.
const FILE_TOO_LARGE: i32 = 25;

static KEPT: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());

fn main() -> ExitCode {
    Application::new("memory")
        .service(Service::new("worker", work).count(1).supervised())
        .worker(|_, worker| {
            let recorded = |_: &Request| Ok::<_, Failure>(json!({"recorded": memory::recording().is_some()}));
            worker.operations(Operations::new().immediate("recorded", recorded))
        })
        .supervisor(|supervisor| supervisor)
        .run()
}

async fn work(instance: Instance) -> Result<(), BoxError> {
    let _too_large = signal(SignalKind::from_raw(FILE_TOO_LARGE))?;

    if std::env::args().nth(1).as_deref() == Some("leak") {
        thread::spawn(|| {
            loop {
                keep_more();
                thread::sleep(Duration::from_millis(1));
            }
        });
    }

    if std::env::args().nth(1).as_deref() == Some("branches") {
        (0..1 << BRANCHES).for_each(|path| branch(path, BRANCHES));
    }

    instance.ready()?;
    instance.shutdown().await;
    Ok(())
}

/// So many times the way to a block that is kept parts, which makes 8192 stacks of them.
const BRANCHES: u32 = 13;

fn branch(path: u32, left: u32) {
    match (left, path & 1) {
        (0, _) => KEPT.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push(vec![1; 100]),
        (_, 0) => even(path >> 1, left - 1),
        _ => odd(path >> 1, left - 1),
    }
}

#[inline(never)]
fn even(path: u32, left: u32) {
    branch(path, left);
}

#[inline(never)]
fn odd(path: u32, left: u32) {
    branch(path, left);
}

/// Keeps 64 KiB more.
#[inline(never)]
fn keep_more() {
    let mut kept = KEPT.lock().unwrap_or_else(|poisoned| poisoned.into_inner());

    // As much as the tests need, and no more than a machine has.
    if kept.len() < 2000 {
        kept.push(vec![1; 64 << 10]);
    }
}
