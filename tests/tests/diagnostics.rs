//! What workers can be asked about themselves, and what can be found out when they do not answer.

use std::{
    io,
    os::unix::fs::{MetadataExt as _, symlink},
    time::Duration,
};

use async_container_supervisor_tests::{Dir, Program, Supervisor, Worker, wait_for};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(30);

const THREADS: &str = "thread_dump";
const SCHEDULER: &str = "scheduler_dump";

/// An application with one worker, in which something is wrong.
fn start(dir: &Dir, scenario: &str) -> io::Result<(Program, Supervisor, Worker)> {
    let mut program = dir.example("acs-wrong")?.args([scenario]).start()?;
    let mut supervisor = Supervisor::of(&mut program, &dir.socket(), LIMIT)?;
    let workers = supervisor.wait_for_workers("the worker", LIMIT, |workers| workers.len() == 1)?;
    Ok((program, supervisor, workers[0].clone()))
}

/// Asks the worker for dumps of one kind, as text, until one has all of that in it.
fn dump_with(supervisor: &mut Supervisor, worker: &Worker, kind: &str, parts: &[&str]) -> io::Result<String> {
    let mut last = String::new();
    wait_for("a dump that shows what is wrong", LIMIT, || {
        let answer = supervisor.forward(worker, json!({"do": kind}))?;
        last = answer["data"].as_str().unwrap_or_default().to_owned();
        Ok(parts.iter().all(|part| last.contains(part)).then(|| last.clone()))
    })
    .map_err(|error| io::Error::other(format!("{error}: the last one was\n{last}")))
}

#[test]
fn a_deadlock_is_named_by_the_worker_itself() -> io::Result<()> {
    let dir = Dir::new()?;
    let (_program, mut supervisor, worker) = start(&dir, "deadlock")?;
    let parts = ["transfer_to_ledger", "transfer_to_accounts", "waits for a mutex", "acs-wrong.rs"];
    dump_with(&mut supervisor, &worker, THREADS, &parts)?;
    Ok(())
}

#[test]
fn a_spin_is_named_by_the_worker_itself() -> io::Result<()> {
    let dir = Dir::new()?;
    let (_program, mut supervisor, worker) = start(&dir, "spin")?;
    dump_with(&mut supervisor, &worker, THREADS, &["\"spinner\": running", "spin_without_end"])?;
    Ok(())
}

#[test]
fn a_blocked_executor_is_named_from_outside() -> io::Result<()> {
    let dir = Dir::new()?;
    let (_program, mut supervisor, worker) = start(&dir, "blocked")?;
    let socket = dir.socket();
    wait_for("a dump that shows what is wrong", LIMIT, || {
        let mut supervisor = Supervisor::connect(&socket)?;
        let dump = supervisor.ask("thread_dump", json!({"process_id": worker.pid}))?;
        let text = dump["data"].as_str().unwrap_or_default();
        Ok((text.contains("block_the_executor") && text.contains("waits for a time to pass")).then_some(()))
    })?;

    let dump = supervisor.ask("thread_dump", json!({"connection_id": worker.connection, "format": "json"}))?;
    assert_eq!(dump["process_id"], worker.pid);
    assert_eq!(dump["data"]["from_outside"], true);
    let strangers = supervisor.ask("thread_dump", json!({"process_id": std::process::id()})).unwrap_err();
    assert!(strangers.to_string().contains("none of this application's"), "{strangers}");
    let nobody = supervisor.ask("thread_dump", json!({})).unwrap_err();
    assert!(nobody.to_string().contains("InvalidParameters"), "{nobody}");
    Ok(())
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
    let text = dump_with(&mut supervisor, &worker, SCHEDULER, &parts)?;

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
        SCHEDULER,
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

#[test]
fn whoever_asks_a_blocked_worker_where_it_is_is_told_nevertheless() -> io::Result<()> {
    let dir = Dir::new()?;
    let (_program, mut supervisor, worker) = start(&dir, "blocked")?;
    wait_for("the executor to be blocked", LIMIT, || {
        let dump = supervisor.ask("thread_dump", json!({"process_id": worker.pid}))?;
        Ok(dump["data"].as_str().unwrap_or_default().contains("block_the_executor").then_some(()))
    })?;

    let (code, text, complaint) = dir.acs(&["thread-dump", "worker"], LIMIT)?;
    assert!(code == Some(0) && text.contains("wrongs::block_the_executor"), "{text}{complaint}");
    assert!(complaint.contains("worker#1 does not answer") && complaint.contains("from outside"), "{complaint}");

    let (code, text, complaint) = dir.acs(&["scheduler-dump", "worker"], LIMIT)?;
    assert!(code == Some(0) && text.contains("wrongs::block_the_executor"), "{text}{complaint}");
    assert!(complaint.contains("worker#1 does not answer") && complaint.contains("from outside"), "{complaint}");
    for part in
        ["1 task blocks its executor:", "\"worker#1\" at ", "BLOCKS ITS EXECUTOR, on thread", "\"connection to the"]
    {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }

    let (code, text, complaint) = dir.acs(&["scheduler-dump", "worker", "--external", "--format", "json"], LIMIT)?;
    assert!(code == Some(0) && complaint.is_empty(), "{text}{complaint}");
    let dump: Value = serde_json::from_str(&text)?;
    let tasks = dump["tasks"].as_array().cloned().unwrap_or_default();
    let blocking = tasks.iter().find(|task| task["name"] == "worker#1").cloned().unwrap_or_default();
    assert_eq!((&blocking["state"], &blocking["is_late"]), (&json!("running"), &json!(true)), "{text}");
    assert_eq!(blocking["thread"]["id"], worker.pid, "{text}");
    assert!(blocking["state_time"].as_f64() > Some(4.0), "for as long as the others took to find out: {text}");

    let other = dir.acs(&["scheduler-dump", "root", "--external"], LIMIT)?;
    assert!(other.0 == Some(0) && other.1.contains("0 registered tasks"), "the root has none: {other:?}");
    Ok(())
}

#[test]
fn a_profile_shows_where_the_time_goes_in_any_form() -> io::Result<()> {
    let dir = Dir::new()?;
    let (_program, mut supervisor, worker) = start(&dir, "spin")?;
    wait_for("a profile that shows what runs", LIMIT, || {
        let answer = supervisor.forward(&worker, json!({"do": "cpu_profile", "duration": 0.5}))?;
        let folded = answer["data"].as_str().unwrap_or_default();
        Ok(folded
            .lines()
            .any(|line| line.contains("thread spinner;") && line.contains("spin_without_end"))
            .then_some(()))
    })?;

    for (format, begin) in [("json", ""), ("text", ""), ("svg", "<?xml"), ("pprof", "H4sI")] {
        let call = json!({"do": "cpu_profile", "duration": 0.1, "format": format});
        // On a machine that is busy, what spins may have had no processor in that time, and then there is nothing to draw.
        wait_for(&format!("a profile as {format}"), LIMIT, || {
            let data = supervisor.forward(&worker, call.clone())?["data"].clone();
            // The form that is no text is base64 here.
            Ok(data.as_str().map_or(data.is_object(), |text| text.starts_with(begin)).then_some(()))
        })?;
    }

    let refused = supervisor.forward(&worker, json!({"do": "cpu_profile", "duration": 1, "frequency": 5000}));
    assert!(refused.unwrap_err().to_string().contains("from 1 to 1000"));
    Ok(())
}

#[test]
fn a_client_that_goes_away_leaves_nothing_running() -> io::Result<()> {
    let dir = Dir::new()?;
    let (_program, mut supervisor, worker) = start(&dir, "")?;
    let profile = json!({"do": "cpu_profile", "duration": 1000});
    let threads = format!("/proc/{}/task", worker.pid);
    let is_profiled = || {
        let names = std::fs::read_dir(&threads)?
            .filter_map(|entry| std::fs::read_to_string(entry.ok()?.path().join("comm")).ok());
        io::Result::Ok(names.into_iter().any(|name| name.trim() == "diagnostics"))
    };
    // A client that asks, and is gone before there can be an answer.
    let mut leaving = std::os::unix::net::UnixStream::connect(dir.socket())?;
    let call = json!({"id": 2, "do": "forward", "connection_id": worker.connection, "operation": profile});
    io::Write::write_all(&mut leaving, format!("{call}\n").as_bytes())?;
    wait_for("the profile", LIMIT, || Ok(is_profiled()?.then_some(())))?;
    drop(leaving);
    wait_for("the end of the profile", LIMIT, || Ok((!is_profiled()?).then_some(())))?;
    let timers = std::fs::read_to_string(format!("/proc/{}/timers", worker.pid)).unwrap_or_default();
    assert_eq!(timers, "");
    supervisor.forward(&worker, json!({"do": "cpu_profile", "duration": 0.05}))?;
    Ok(())
}

#[test]
fn reports_go_where_they_are_to_go() -> io::Result<()> {
    let dir = Dir::new()?;
    let (mut program, mut supervisor, worker) = start(&dir, "")?;
    let path = dir.path().join("threads.json");
    let dump =
        |path: &std::path::Path| json!({"do": "thread_dump", "path": path, "format": "json", "log": "look here"});

    let answer = supervisor.forward(&worker, dump(&path))?;
    assert_eq!(answer["path"], json!(path));
    assert!(answer["data"].is_null());
    assert_eq!(path.metadata()?.mode() & 0o777, 0o600);
    let report: Value = serde_json::from_slice(&std::fs::read(&path)?)?;
    assert_eq!(report["process_id"], worker.pid);
    program.wait_for_stderr("look here", LIMIT)?;

    let refused = supervisor.forward(&worker, dump(&path)).unwrap_err().to_string();
    assert!(refused.contains("InvalidParameters") && refused.contains("is there already"), "{refused}");
    let link = dir.path().join("link.json");
    symlink(dir.path().join("target.json"), &link)?;
    supervisor.forward(&worker, dump(&link)).unwrap_err();
    assert!(!dir.path().join("target.json").exists());
    for nowhere in [dir.path().join("missing/threads.json"), path.join("threads.json")] {
        let refused = supervisor.forward(&worker, dump(&nowhere)).unwrap_err().to_string();
        assert!(refused.contains("InvalidParameters") && refused.contains("irectory"), "{refused}");
    }
    for long in [dir.path().join("x".repeat(300)), dir.path().join("x\0y")] {
        let refused = supervisor.forward(&worker, dump(&long)).unwrap_err().to_string();
        assert!(refused.contains("InvalidParameters") && refused.contains("could not create"), "{refused}");
    }
    let unknown = supervisor.forward(&worker, json!({"do": "thread_dump", "format": "svg"})).unwrap_err().to_string();
    assert!(unknown.contains("text, json"), "{unknown}");
    Ok(())
}
