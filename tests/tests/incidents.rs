//! What is kept of processes that were ended for what they did: reading it has to tell what was wrong.

use std::{
    io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use async_container_supervisor_tests::{Dir, Program, Signal, Supervisor, wait_for};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(30);

fn start(dir: &Dir, scenario: &str) -> io::Result<Program> {
    dir.example("acs-incident")?.arg(scenario).start()
}

/// The directories of all incidents, the earliest first.
fn incidents(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = match std::fs::read_dir(directory) {
        Ok(entries) => entries.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error),
    };
    found.sort();
    Ok(found)
}

/// An incident of which all was written: only then has its directory that name.
fn complete(dir: &Dir) -> io::Result<PathBuf> {
    let directory = dir.file("incidents");
    wait_for("an incident", LIMIT, || {
        Ok(incidents(&directory)?.into_iter().find(|incident| incident.extension().is_none()))
    })
}

fn json(path: &Path) -> io::Result<Value> {
    Ok(serde_json::from_slice(&std::fs::read(path)?)?)
}

/// Runs a scenario until there is an incident, and gives what it says of the threads and tasks.
fn reports(scenario: &str) -> io::Result<(String, String, Value)> {
    let dir = Dir::new()?;
    let _program = start(&dir, scenario)?;
    let incident = complete(&dir)?;
    let read = |name: &str| std::fs::read_to_string(incident.join(name));
    Ok((read("threads.txt")?, read("tasks.txt")?, json(&incident.join("reason.json"))?))
}

#[test]
fn a_blocked_executor_is_named() -> io::Result<()> {
    let (threads, tasks, reason) = reports("blocked")?;
    assert!(threads.contains("block_the_executor") && threads.contains("acs-incident.rs"), "{threads}");
    assert!(tasks.contains("did not answer"), "{tasks}");
    assert!(tasks.contains("seen from outside") && tasks.contains("1 task blocks its executor:"), "{tasks}");
    assert!(tasks.lines().any(|line| line.contains("\"worker#1\" at ") && line.contains("BLOCKS")), "{tasks}");
    assert!(reason["reason"].as_str().unwrap().contains("health check"), "{reason}");
    assert_eq!(reason["name"], "worker#1");
    Ok(())
}

#[test]
fn both_sides_of_a_deadlock_are_named() -> io::Result<()> {
    let (threads, ..) = reports("deadlock")?;
    assert!(threads.contains("transfer_to_ledger") && threads.contains("transfer_to_accounts"), "{threads}");
    assert!(threads.contains("waits for a mutex"), "{threads}");
    Ok(())
}

#[test]
fn a_spin_is_named() -> io::Result<()> {
    let (threads, ..) = reports("spin")?;
    let spinning = threads.find("spin_without_end").unwrap_or_else(|| panic!("{threads}"));
    assert!(threads[..spinning].rfind(": running").is_some(), "{threads}");
    Ok(())
}

#[test]
fn a_stuck_await_is_named_with_where_it_was_spawned() -> io::Result<()> {
    let (threads, tasks, reason) = reports("stuck")?;
    assert!(tasks.contains("load configuration") && tasks.contains("acs-incident.rs"), "{tasks}");
    assert!(reason["reason"].as_str().unwrap().contains("start-up"), "{reason}");
    // It may be about to wait.
    assert!(threads.contains("epoll_wait"), "{threads}");
    Ok(())
}

#[test]
fn a_leak_is_named_by_what_lives_on_the_heap() -> io::Result<()> {
    let dir = Dir::new()?;
    let _program = dir.example("acs-incident")?.arg("leak").env("ACS_MEMORY_SAMPLING", "boot").start()?;
    let incident = complete(&dir)?;
    let memory = json(&incident.join("memory.json"))?;
    assert!(memory["process"]["vmrss"].as_u64() > Some(120 << 20), "{memory}");
    assert!(memory["process"]["private_dirty"].as_u64() > Some(100 << 20), "{memory}");
    let heap = &memory["heap"];
    // What reads first is whose it is, and where that is.
    assert_eq!(heap["by_crate"][0]["name"], "acs_incident", "{heap}");
    let location = heap["by_location"][0]["name"].as_str().unwrap();
    let leak = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/acs-incident.rs"))?;
    let line = leak.lines().position(|line| line.contains("forget(black_box(vec!")).unwrap() + 1;
    assert!(location.ends_with(&format!("acs-incident.rs:{line}")), "{heap}");
    assert!(heap["by_location"][0]["bytes"].as_u64() > Some(80 << 20), "{heap}");
    assert!(heap["stacks"].to_string().contains("acs_incident::leak"), "{heap}");
    Ok(())
}

#[test]
fn what_was_not_sampled_is_said_to_be_unknown_and_what_it_takes() -> io::Result<()> {
    let dir = Dir::new()?;
    let _program = start(&dir, "leak")?;
    let incident = complete(&dir)?;
    let memory = json(&incident.join("memory.json"))?;
    assert!(memory["process"]["vmrss"].as_u64() > Some(120 << 20), "{memory}");
    let why = memory["heap_unknown"].as_str().unwrap();
    assert!(why.contains("ACS_MEMORY_SAMPLING=boot"), "{why}");
    Ok(())
}

#[test]
fn everybody_is_told_where_it_is_and_nobody_else_can_read_it() -> io::Result<()> {
    let dir = Dir::new()?;
    let mut program = start(&dir, "blocked")?;
    let mut supervisor = Supervisor::of(&mut program, &dir.socket(), LIMIT)?;
    let path = wait_for("the incident of the child", LIMIT, || {
        let children = supervisor.ask("children", json!({}))?;
        let child = children["children"].as_array().into_iter().flatten().find(|child| child["name"] == "worker#1");
        Ok(child.and_then(|child| child["last_incident"].as_str().map(PathBuf::from)))
    })?;
    program.wait_for_stderr(&path.display().to_string(), LIMIT)?;
    wait_for("all of it", LIMIT, || Ok(path.is_dir().then_some(())))?;

    assert_eq!(path.metadata()?.mode() & 0o777, 0o700);
    assert_eq!(path.parent().unwrap().metadata()?.mode() & 0o777, 0o700);
    for name in ["reason.json", "status.json", "threads.txt", "tasks.txt", "memory.json"] {
        assert_eq!(path.join(name).metadata()?.mode() & 0o777, 0o600, "{name}");
    }
    let status = json(&path.join("status.json"))?;
    assert_eq!(status["child"]["service"], "worker");
    assert_eq!(status["state"]["name"], "worker");
    Ok(())
}

#[test]
fn another_program_is_looked_at_from_outside() -> io::Result<()> {
    let dir = Dir::new()?;
    let _program = start(&dir, "foreign")?;
    let incident = complete(&dir)?;
    let threads = std::fs::read_to_string(incident.join("threads.txt"))?;
    assert!(threads.contains("sleep 1000000") && threads.contains("waits for a time to pass"), "{threads}");
    Ok(())
}

/// The supervisor stops last, and so can look at those that do not.
#[test]
fn a_child_that_does_not_stop_is_looked_at_and_killed_in_time() -> io::Result<()> {
    // The last two seconds are for looking, or the second half.
    for (grace, before) in [(5, Duration::from_secs(3)), (3, Duration::from_millis(1500))] {
        let dir = Dir::new()?;
        let launch = dir.example("acs-incident")?.arg("obstinate");
        let mut program = launch.env("ASYNC_CONTAINER_GRACEFUL_STOP", grace.to_string()).start()?;
        let grace = Duration::from_secs(grace);
        program.wait_for_stderr("all children are ready", LIMIT)?;
        program.wait_for_stderr("worker registered", LIMIT)?;
        let start = Instant::now();
        program.signal(Signal::TERM)?;
        program.wait_for_stderr("having the child looked at before it is killed", LIMIT)?;
        assert!(start.elapsed() >= before, "{:?}", start.elapsed());
        program.wait_for_stderr("killed by SIGKILL", LIMIT)?;
        let killed = start.elapsed();
        // Not before its grace period is over, and then at once: the rest is for a machine that is busy with other tests.
        assert!(killed >= grace && killed < grace + Duration::from_millis(900), "{killed:?}");
        program.wait(LIMIT)?;

        let incident = incidents(&dir.file("incidents"))?.pop().expect("there is an incident");
        assert_eq!(incident.extension(), None, "it is complete when the application has ended");
        let reason = json(&incident.join("reason.json"))?;
        assert!(reason["reason"].as_str().unwrap().contains("after it was asked to stop"), "{reason}");
        let threads = std::fs::read_to_string(incident.join("threads.txt"))?;
        assert!(threads.contains("flush_for_ever") && threads.contains("acs-incident.rs"), "{threads}");
    }
    Ok(())
}

/// Starts one with so much time to stop that it ends by itself when it is being looked at, as soon as there is a file.
fn start_late(dir: &Dir) -> io::Result<Program> {
    let mut program = dir.example("acs-incident")?.arg("late").env("ASYNC_CONTAINER_GRACEFUL_STOP", "16").start()?;
    program.wait_for_stderr("all children are ready", LIMIT)?;
    program.wait_for_stderr("worker registered", LIMIT)?;
    Ok(program)
}

/// Has it end when it is being looked at.
fn end_late(dir: &Dir, program: &mut Program) -> io::Result<()> {
    program.wait_for_stderr("having the child looked at before it is killed", LIMIT)?;
    let begun = || Ok(incidents(&dir.file("incidents"))?.pop());
    let begun = program.wait_for("what is found", LIMIT, begun)?;
    program.wait_for("the tasks of the worker", LIMIT, || Ok(begun.join("status.json").exists().then_some(())))?;
    std::fs::write(dir.file("go"), "")
}

#[test]
fn of_a_child_that_stops_at_the_last_moment_nothing_is_kept() -> io::Result<()> {
    let dir = Dir::new()?;
    let mut program = start_late(&dir)?;
    program.signal(Signal::TERM)?;
    end_late(&dir, &mut program)?;
    assert!(program.wait(LIMIT)?.success());
    assert!(!program.stderr().contains("SIGKILL"), "{}", program.stderr());
    let kept = incidents(&dir.file("incidents"))?;
    assert!(kept.is_empty(), "{kept:?}, {}", program.stderr());
    Ok(())
}

#[test]
fn a_child_that_makes_room_at_the_last_moment_has_no_incident() -> io::Result<()> {
    let dir = Dir::new()?;
    let mut program = start_late(&dir)?;
    let mut supervisor = Supervisor::of(&mut program, &dir.socket(), LIMIT)?;
    let worker = supervisor.wait_for_workers("the worker", LIMIT, |workers| workers.len() == 1)?.remove(0);
    supervisor.ask("replace", json!({"process_id": worker.pid}))?;
    end_late(&dir, &mut program)?;
    supervisor.wait_for_workers("the next worker", LIMIT, |workers| workers.iter().any(|it| it.pid != worker.pid))?;
    let children = supervisor.ask("children", json!({}))?;
    let child = children["children"].as_array().into_iter().flatten().find(|child| child["name"] == "worker#1");
    assert_eq!(child.map(|child| &child["last_incident"]), Some(&Value::Null), "{children}");
    let directory = dir.file("incidents");
    program.wait_for("an empty directory", LIMIT, || Ok(incidents(&directory)?.is_empty().then_some(())))?;
    assert!(!program.stderr().contains("see what was found"), "it was told of: {}", program.stderr());
    Ok(())
}

#[test]
fn the_shortest_grace_leaves_a_whole_incident() -> io::Result<()> {
    let dir = Dir::new()?;
    let launch = dir.example("acs-incident")?.arg("obstinate");
    let mut program = launch.env("ASYNC_CONTAINER_GRACEFUL_STOP", "1").start()?;
    program.wait_for_stderr("all children are ready", LIMIT)?;
    program.wait_for_stderr("worker registered", LIMIT)?;
    program.signal(Signal::TERM)?;
    program.wait(LIMIT)?;
    let found = incidents(&dir.file("incidents"))?;
    let [incident] = &found[..] else { panic!("{found:?}, {}", program.stderr()) };
    assert_eq!(incident.extension(), None, "it is complete: {}", program.stderr());
    let threads = std::fs::read_to_string(incident.join("threads.txt"))?;
    // If there was no time for names, there are the addresses of functions.
    assert!(threads.contains("flush_for_ever") || threads.contains("acs-incident+0x"), "{threads}");
    for name in ["reason.json", "status.json", "tasks.txt", "memory.json"] {
        assert!(incident.join(name).is_file(), "{name}");
    }
    Ok(())
}

#[test]
fn what_a_supervisor_left_behind_that_was_killed_is_finished_by_the_next() -> io::Result<()> {
    let dir = Dir::new()?;
    let left = dir.file("incidents/incident-20260101T123456Z-worker#1-42.partial");
    std::fs::create_dir_all(&left)?;
    std::fs::write(left.join("reason.json"), "{}")?;
    std::fs::write(left.join("threads.txt.partial"), "half of it")?;
    let mut program = start(&dir, "late")?;
    program.wait_for_stderr("finished what a supervisor had found out", LIMIT)?;
    let mut names = incidents(&complete(&dir)?)?;
    names.iter_mut().for_each(|name| *name = name.file_name().unwrap_or_default().into());
    assert_eq!(names, [Path::new("incomplete.txt"), Path::new("reason.json")]);
    assert!(!left.exists());
    Ok(())
}

#[test]
fn only_so_many_are_kept() -> io::Result<()> {
    let dir = Dir::new()?;
    let _program = start(&dir, "few")?;
    let directory = dir.file("kept");
    let first = wait_for("the first incident", LIMIT, || Ok(incidents(&directory)?.into_iter().next()))?;
    wait_for("the end of the first incident", LIMIT, || Ok((!first.exists()).then_some(())))?;
    assert!(incidents(&directory)?.len() <= 2);
    Ok(())
}

#[test]
fn the_kill_waits_no_longer_than_it_may() -> io::Result<()> {
    let dir = Dir::new()?;
    let mut program = start(&dir, "slow")?;
    program.wait_for_stderr("having the child looked at before it is killed", LIMIT)?;
    let start = Instant::now();
    program.wait_for_stderr("killed by SIGKILL", LIMIT)?;
    let waited = start.elapsed();
    // The deadline is 2 s; the rest is for a machine that is busy with other tests.
    assert!(waited < Duration::from_secs(10), "{waited:?}");
    assert!(waited > Duration::from_secs(1), "nobody was waited for: {waited:?}");
    Ok(())
}

/// What a monitor has restarted is not the root's to kill before it was looked at, so that only the supervisor can end the wait.
#[test]
fn a_restart_that_a_monitor_wants_waits_no_longer_than_it_may() -> io::Result<()> {
    let dir = Dir::new()?;
    let mut program = start(&dir, "slow leak")?;
    program.wait_for_stderr("could not be looked at in time", LIMIT)?;
    program.wait_for_stderr("cause=\"memory\"", LIMIT)?;
    Ok(())
}

#[test]
fn without_a_black_box_nothing_is_kept() -> io::Result<()> {
    let dir = Dir::new()?;
    let mut program = start(&dir, "without")?;
    program.wait_for_stderr("killed by SIGKILL", LIMIT)?;
    assert!(incidents(&dir.file("incidents"))?.is_empty());
    Ok(())
}
