//! What is left of a million calls, and of a million workers that came and went: nothing.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use async_container_protocol::Client;
use async_container_supervisor_tests::{Dir, Supervisor, proc};
use serde_json::json;

use super::{
    START_LIMIT,
    report::{Report, Row, Target, Unit, megabytes},
    settle,
};
use crate::Result;

const TOTAL: usize = 1_000_000;

/// What comes before the first look: by then, everything that is kept for the next time is there.
const FIRST: usize = TOTAL / 100;

const TASKS: usize = 64;

/// By how much the supervisor may have grown, in megabytes: what an allocator does not give back at once.
const GROWTH: f64 = 1.0;

pub(super) fn measure() -> Result<Report> {
    let dir = Dir::new()?;
    // Two lines in the log for each worker would be what is measured.
    let mut program = dir.example("simple")?.args(["--workers", "1"]).env("RUST_LOG", "warn").start()?;
    let socket = dir.socket();
    let mut supervisor = Supervisor::of(&mut program, &socket, START_LIMIT)?;
    supervisor.wait_for_workers("the worker", START_LIMIT, |workers| workers.len() == 1)?;
    let worker = supervisor.workers()?.pop().ok_or("there is no worker")?.connection;
    let pid = supervisor.ask("ping", json!({}))?["process_id"].as_u64().ok_or("no process id")?;
    let pid = u32::try_from(pid)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut report =
        Report::new("soak", format!("a supervisor after {TOTAL} of each, compared with after the first {FIRST}"));

    let client = runtime.block_on(Client::connect(&socket))?;
    let mut forwards = |count| {
        runtime.block_on(repeat(count, {
            let (client, worker) = (client.clone(), worker.clone());
            move || forward(client.clone(), worker.clone())
        }))
    };
    rows(&mut report, "forwards", pid, &mut forwards)?;
    let mut cycles = |count| {
        runtime.block_on(repeat(count, {
            let socket = socket.clone();
            move || cycle(socket.clone())
        }))
    };
    rows(&mut report, "workers that came and went", pid, &mut cycles)?;
    Ok(report)
}

/// Does something a hundredth as often, looks, does the rest, and looks again.
fn rows(report: &mut Report, what: &str, pid: u32, run: &mut dyn FnMut(usize) -> Result<()>) -> Result<()> {
    run(FIRST)?;
    let (memory, files) = look(pid)?;
    run(TOTAL - FIRST)?;
    let (memory_after, files_after) = look(pid)?;
    report.row(Row {
        what: format!("memory, more by, after {what}"),
        unit: Unit::Megabytes,
        floor: None,
        ours: megabytes(memory_after) - megabytes(memory),
        target: Some(Target::AtMost(GROWTH)),
    });
    report.row(Row {
        what: format!("open files, more by, after {what}"),
        unit: Unit::Times,
        floor: None,
        ours: files_after as f64 - files as f64,
        target: Some(Target::AtMost(0.0)),
    });
    Ok(())
}

fn look(pid: u32) -> Result<(u64, usize)> {
    // Connections that were closed have yet to be seen to be.
    settle(Duration::from_secs(1));
    let files = fs::read_dir(Path::new("/proc").join(pid.to_string()).join("fd"))?.count();
    Ok((proc::proportional_set_size(pid)?, files))
}

/// Does something so often, by many tasks.
async fn repeat<F, R>(count: usize, act: F) -> Result<()>
where
    F: Fn() -> R + Clone + Send + 'static,
    R: Future<Output = Result<()>> + Send,
{
    let left = Arc::new(AtomicUsize::new(count));
    let tasks: Vec<_> = (0..TASKS)
        .map(|_| {
            let (left, act) = (left.clone(), act.clone());
            tokio::spawn(async move {
                while left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).is_ok() {
                    act().await?;
                }
                Ok(())
            })
        })
        .collect();
    for task in tasks {
        task.await?.map_err(|error: Box<dyn std::error::Error + Send + Sync>| error)?;
    }
    Ok(())
}

async fn forward(client: Client, worker: String) -> Result<()> {
    let forward = json!({"connection_id": worker, "operation": {"do": "ping"}});
    client.call("forward", &forward).finish().await?;
    Ok(())
}

async fn cycle(socket: PathBuf) -> Result<()> {
    let client = Client::connect(socket).await?;
    client.call("register", &json!({"state": {"name": "guest"}})).finish().await?;
    Ok(())
}
