//! What workers can be asked about themselves, and what can be found out when they do not answer.

use std::{
    io,
    os::unix::fs::{MetadataExt as _, symlink},
    time::Duration,
};

use async_container_supervisor_tests::{Dir, Program, Supervisor, Worker, wait_for};
use serde_json::json;

const LIMIT: Duration = Duration::from_secs(30);

/// An application with one worker, in which something is wrong.
fn start(dir: &Dir, scenario: &str) -> io::Result<(Program, Supervisor, Worker)> {
    let mut program = dir.example("acs-wrong")?.args([scenario]).start()?;
    let mut supervisor = Supervisor::of(&mut program, &dir.socket(), LIMIT)?;
    let workers = supervisor.wait_for_workers("the worker", LIMIT, |workers| workers.len() == 1)?;
    Ok((program, supervisor, workers[0].clone()))
}

/// Asks the worker for dumps of its threads, as text, until one has all of that in it.
fn dump_with(supervisor: &mut Supervisor, worker: &Worker, parts: &[&str]) -> io::Result<String> {
    let mut last = String::new();
    wait_for("a dump that shows what is wrong", LIMIT, || {
        let answer = supervisor.forward(worker, json!({"do": "thread_dump"}))?;
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
    dump_with(&mut supervisor, &worker, &parts)?;
    Ok(())
}

#[test]
fn a_spin_is_named_by_the_worker_itself() -> io::Result<()> {
    let dir = Dir::new()?;
    let (_program, mut supervisor, worker) = start(&dir, "spin")?;
    dump_with(&mut supervisor, &worker, &["\"spinner\": running", "spin_without_end"])?;
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
        let data = supervisor.forward(&worker, call)?["data"].clone();
        // The form that is no text is base64 here.
        assert!(data.as_str().map_or(data.is_object(), |text| text.starts_with(begin)), "{format}: {data}");
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
    let report: serde_json::Value = serde_json::from_slice(&std::fs::read(&path)?)?;
    assert_eq!(report["process_id"], worker.pid);
    program.wait_for_stderr("look here", LIMIT)?;

    let refused = supervisor.forward(&worker, dump(&path)).unwrap_err().to_string();
    assert!(refused.contains("InvalidParameters") && refused.contains("is there already"), "{refused}");
    let link = dir.path().join("link.json");
    symlink(dir.path().join("target.json"), &link)?;
    supervisor.forward(&worker, dump(&link)).unwrap_err();
    assert!(!dir.path().join("target.json").exists());
    let unknown = supervisor.forward(&worker, json!({"do": "thread_dump", "format": "svg"})).unwrap_err().to_string();
    assert!(unknown.contains("text, json"), "{unknown}");
    Ok(())
}
