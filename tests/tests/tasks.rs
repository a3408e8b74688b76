//! What workers can be asked about their tasks.

use std::{io, time::Duration};

use async_container_supervisor_tests::{Dir, Program, Supervisor, Worker, wait_for};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(30);

/// An application with one worker, in which something is wrong.
fn start(dir: &Dir, scenario: &str) -> io::Result<(Program, Supervisor, Worker)> {
    let mut program = dir.example("acs-wrong")?.args([scenario]).start()?;
    let mut supervisor = Supervisor::of(&mut program, &dir.socket(), LIMIT)?;
    let workers = supervisor.wait_for_workers("the worker", LIMIT, |workers| workers.len() == 1)?;
    Ok((program, supervisor, workers[0].clone()))
}

/// Asks the worker for dumps of its tasks, as text, until one has all of that in it.
fn dump_with(supervisor: &mut Supervisor, worker: &Worker, parts: &[&str]) -> io::Result<String> {
    let mut last = String::new();
    wait_for("a dump that shows what is wrong", LIMIT, || {
        let answer = supervisor.forward(worker, json!({"do": "scheduler_dump"}))?;
        last = answer["data"].as_str().unwrap_or_default().to_owned();
        Ok(parts.iter().all(|part| last.contains(part)).then(|| last.clone()))
    })
    .map_err(|error| io::Error::other(format!("{error}: the last one was\n{last}")))
}

#[test]
fn an_await_that_is_stuck_is_named_with_its_place() -> io::Result<()> {
    let dir = Dir::new()?;
    let (_program, mut supervisor, worker) = start(&dir, "stuck")?;
    let parts = [
        "\"worker#1\" at ",
        "\"bookkeeper\" at ",
        ": idle for ",
        "waits at tokio::sync::mutex::Mutex<T>::lock",
        "in acs_wrong::write_to_the_ledger at ",
    ];
    let text = dump_with(&mut supervisor, &worker, &parts)?;

    // The tasks that it spawned stand below the work of the instance; what supervision adds, beside it.
    let indent = |name: &str| {
        let line = text.lines().find(|line| line.contains(&format!("\"{name}\" at "))).unwrap_or_default();
        line.len() - line.trim_start().len()
    };
    assert_eq!([indent("worker#1"), indent("bookkeeper"), indent("connection to the supervisor")], [0, 2, 0], "{text}");
    Ok(())
}

#[test]
fn a_task_that_blocks_its_executor_is_named() -> io::Result<()> {
    let dir = Dir::new()?;
    let (_program, mut supervisor, worker) = start(&dir, "another blocked")?;
    let text = dump_with(
        &mut supervisor,
        &worker,
        &["1 task blocks its executor:", "BLOCKS ITS EXECUTOR, on thread", "block_the_executor at "],
    )?;
    assert!(text.lines().any(|line| line.contains("\"blocker\" at ") && line.contains("BLOCKS")), "{text}");

    let dump = supervisor.forward(&worker, json!({"do": "scheduler_dump", "format": "json", "stacks": false}))?;
    let tasks = dump["data"]["tasks"].as_array().cloned().unwrap_or_default();
    let blocker = tasks.iter().find(|task| task["name"] == "blocker").cloned().unwrap_or_default();
    assert_eq!(blocker["state"], "running", "{dump:#}");
    assert_eq!(blocker["is_late"], true);
    assert!(blocker["thread"]["id"].is_u64() && blocker["state_time"].as_f64() > Some(0.1), "{blocker}");
    assert!(tasks.iter().all(|task| task["waits_at"] == Value::Null), "no stacks were asked for: {dump:#}");
    Ok(())
}
