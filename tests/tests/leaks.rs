//! Workers that really leak, hang and refuse to end, and the monitors that are to notice: with real memory.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use async_container_supervisor_tests::{Dir, Program, Signal, Supervisor, Worker, has_python, proc, wait_for};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(60);
const MEBIBYTE: u64 = 1 << 20;

/// A scenario of the fixture, and its worker.
fn start(dir: &Dir, scenario: &str) -> io::Result<(Program, Supervisor, Worker)> {
    let mut program = dir.example("acs-leaks")?.arg(scenario).start()?;
    let mut supervisor = Supervisor::of(&mut program, &dir.socket(), LIMIT)?;
    let workers = supervisor.wait_for_workers("the worker", LIMIT, |workers| workers.len() == 1)?;
    Ok((program, supervisor, workers[0].clone()))
}

fn leak(supervisor: &mut Supervisor, worker: &Worker, rate: u64, until: Option<u64>) -> io::Result<()> {
    let answer = supervisor.forward(worker, json!({"do": "leak", "rate": rate, "until": until}))?;
    assert_eq!(answer["accepted"], true);
    Ok(())
}

/// What the root says about the worker.
fn child(supervisor: &mut Supervisor) -> io::Result<Value> {
    let children = supervisor.ask("children", json!({}))?;
    let child = children["children"].as_array().into_iter().flatten().find(|child| child["name"] == "worker#1");
    child.cloned().ok_or_else(|| io::Error::other(format!("there is no worker: {children}")))
}

/// What the root says about the worker once it was replaced.
fn replaced(program: &mut Program, supervisor: &mut Supervisor) -> io::Result<Value> {
    program.wait_for("the replacement of the worker", LIMIT, || {
        let child = child(supervisor)?;
        let is_new =
            child["restarts"].as_u64() > Some(0) && child["state"] == "ready" && child["last_exit"].is_string();
        Ok(is_new.then_some(child))
    })
}

/// What a monitor shows.
fn monitor(supervisor: &mut Supervisor, name: &str) -> io::Result<Value> {
    let responses = supervisor.call("status", json!({}))?;
    let found = responses.iter().find_map(|response| response.get(name)).cloned();
    found.ok_or_else(|| io::Error::other(format!("there is no monitor {name}: {responses:?}")))
}

#[test]
fn a_fast_leak_is_caught_before_a_hard_limit() -> io::Result<()> {
    let dir = Dir::new()?;
    let (mut program, mut supervisor, worker) = start(&dir, "large")?;
    // By itself it would end at 1 GiB, with another status.
    leak(&mut supervisor, &worker, 200 * MEBIBYTE, None)?;
    let child = replaced(&mut program, &mut supervisor)?;
    let reason = child["last_exit"].as_str().unwrap_or_default();
    assert!(reason.starts_with("memory limit 300.0 MiB, was "), "{child}");
    assert_eq!((&child["last_exit_cause"], &child["exits"]["memory"]), (&json!("memory"), &json!(1)), "{child}");
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    let at = child["last_exit_at"].as_f64().unwrap_or_default();
    assert!(at <= now && at > now - LIMIT.as_secs_f64(), "{child}");
    assert!(child["time_to_ready"].as_f64() > Some(0.0), "{child}");
    program.wait_for_stderr("cause=\"memory\"", LIMIT)?;
    program.signal(Signal::INT)?;
    assert!(program.wait(LIMIT)?.success());
    Ok(())
}

#[test]
fn what_leaks_towards_its_limit_is_looked_at_more_often() -> io::Result<()> {
    let dir = Dir::new()?;
    let (mut program, mut supervisor, worker) = start(&dir, "seldom")?;
    // Every four seconds, of which the first is to see 200 MiB of it: the second one would see 400.
    live_through_checks(&mut program, &mut supervisor, 1)?;
    leak(&mut supervisor, &worker, 50 * MEBIBYTE, None)?;
    let line = program.wait_for_stderr("asking for a restart", LIMIT)?;
    let size = line.split_once("memory limit 320.0 MiB, was ").and_then(|(_, was)| was.split_once(" MiB"));
    let size = size.and_then(|(size, _)| size.parse::<f64>().ok());
    assert!(size.is_some_and(|size| size < 380.0), "{line}");
    Ok(())
}

#[test]
fn a_slow_leak_is_noticed_by_its_growth_and_another_worker_is_ready_first() -> io::Result<()> {
    let dir = Dir::new()?;
    let (mut program, mut supervisor, worker) = start(&dir, "growing")?;
    leak(&mut supervisor, &worker, 20 * MEBIBYTE, Some(300 * MEBIBYTE))?;
    let child = replaced(&mut program, &mut supervisor)?;
    let reason = child["last_exit"].as_str().unwrap_or_default();
    assert!(reason.starts_with("memory grew 3 times by more than 8.0 MiB, to "), "{child}");
    assert_eq!(child["restarts"], 1, "{child}");
    program.wait_for_stderr("child stopped child=\"worker#1\"", LIMIT)?;
    assert_successor_came_first(&program.stderr());
    program.wait_for("the supervisor and one worker", LIMIT, || {
        let children = supervisor.ask("children", json!({}))?;
        Ok((children["children"].as_array().map(Vec::len) == Some(2)).then_some(()))
    })?;
    let workers = supervisor.wait_for_workers("the new worker", LIMIT, |workers| workers.len() == 1)?;
    assert_eq!(child["process_id"], workers[0].pid);
    Ok(())
}

#[test]
fn a_worker_that_ignores_the_signal_is_killed() -> io::Result<()> {
    let dir = Dir::new()?;
    let (mut program, mut supervisor, worker) = start(&dir, "stubborn")?;
    leak(&mut supervisor, &worker, 200 * MEBIBYTE, Some(320 * MEBIBYTE))?;
    let child = replaced(&mut program, &mut supervisor)?;
    let reason = child["last_exit"].as_str().unwrap_or_default();
    assert!(reason.starts_with("memory limit 300.0 MiB, was ") && reason.ends_with(", killed by SIGKILL"), "{child}");
    Ok(())
}

#[test]
fn a_limit_below_the_size_at_the_start_is_said_and_no_kill_loop() -> io::Result<()> {
    let dir = Dir::new()?;
    let (mut program, mut supervisor, _) = start(&dir, "impossible")?;
    let line = program.wait_for_stderr("restarts do not help, so it is left alone", LIMIT)?;
    assert!(line.contains("memory limit 256.0 KiB, was "), "{line}");
    let workers = supervisor.wait_for_workers("the worker", LIMIT, |workers| workers.len() == 1)?;
    // It lives through checks that would have been the end of it.
    program.wait_for("checks", LIMIT, || {
        let status = monitor(&mut supervisor, "memory")?;
        let process = &status["processes"][0];
        Ok((process["process_id"] == workers[0].pid && process["sample_count"].as_u64() > Some(20)).then_some(()))
    })?;
    let child = child(&mut supervisor)?;
    assert_eq!((&child["restarts"], &child["exits"]), (&json!(1), &json!({"memory": 1})), "{child}");
    Ok(())
}

#[test]
fn settings_that_cannot_be_meant_are_said_and_end_the_first_start() -> io::Result<()> {
    let dir = Dir::new()?;
    fs::write(dir.file("nonsense"), "")?;
    let mut program = dir.example("acs-leaks")?.arg("changing").start()?;
    assert_eq!(program.wait(LIMIT)?.code(), Some(78), "{}", program.stderr());
    let stderr = program.stderr();
    let given_up = stderr.lines().find(|line| line.contains("giving up")).unwrap_or_default();
    assert!(given_up.contains("the monitor 'memory' cannot work so: pressure_limit is 20, "), "{stderr}");
    assert!(given_up.contains("for 20 % it is 0.2"), "{stderr}");
    assert!(!stderr.contains("all children are ready"), "{stderr}");
    Ok(())
}

#[test]
fn settings_that_cannot_be_meant_end_nothing_that_is_at_work() -> io::Result<()> {
    let dir = Dir::new()?;
    let (mut program, mut supervisor, worker) = start(&dir, "changing")?;
    program.wait_for_stderr("all children are ready", LIMIT)?;
    let first = supervisor.ask("ping", json!({}))?["process_id"].clone();
    fs::write(dir.file("nonsense"), "")?;
    program.signal(Signal::HUP)?;
    let line = program.wait_for_stderr("the new generation failed", LIMIT)?;
    assert!(line.contains("supervisor#1: exited with status 78: the monitor 'memory' cannot work so"), "{line}");
    assert_eq!(supervisor.ask("ping", json!({}))?["process_id"], first);
    assert_eq!(supervisor.workers()?[0].pid, worker.pid);

    // Nor does a supervisor that is needed, and cannot begin. It is tried again until it can.
    let old = proc::process(first.as_u64().unwrap_or_default() as u32).ok_or(io::ErrorKind::NotFound)?;
    assert!(old.signal(Signal::KILL)?);
    let attempts = || program.stderr().matches("the configuration is wrong").count();
    wait_for("more attempts", LIMIT, || Ok((attempts() > 3).then_some(())))?;
    fs::remove_file(dir.file("nonsense"))?;
    let mut supervisor = Supervisor::connect(&dir.socket())?;
    let workers = supervisor.wait_for_workers("the worker", LIMIT, |workers| workers.len() == 1)?;
    assert_eq!(workers[0].pid, worker.pid, "it went on all the time");
    program.signal(Signal::TERM)?;
    assert!(program.wait(LIMIT)?.success());
    Ok(())
}

#[test]
fn a_diagnostic_is_kept_of_what_is_replaced() -> io::Result<()> {
    let dir = Dir::new()?;
    let (mut program, mut supervisor, worker) = start(&dir, "diagnosed")?;
    leak(&mut supervisor, &worker, 200 * MEBIBYTE, Some(610 * MEBIBYTE))?;
    replaced(&mut program, &mut supervisor)?;
    let dump = kept(&dir, &format!("worker-{}-thread_dump-", worker.pid))?
        .unwrap_or_else(|| panic!("no thread dump: {}", program.stderr()));
    assert!(fs::read_to_string(&dump)?.contains("thread"), "{}", dump.display());
    Ok(())
}

/// The file in the directory whose name begins so.
fn kept(dir: &Dir, prefix: &str) -> io::Result<Option<PathBuf>> {
    let entries = fs::read_dir(dir.path())?.collect::<io::Result<Vec<_>>>()?;
    let found = entries.iter().find(|entry| entry.file_name().to_string_lossy().starts_with(prefix));
    Ok(found.map(|entry| entry.path()))
}

#[test]
fn a_worker_that_hangs_is_told_looked_into_and_replaced() -> io::Result<()> {
    let dir = Dir::new()?;
    let (mut program, mut supervisor, worker) = start(&dir, "health")?;
    program.wait_for("an answer", LIMIT, || {
        let status = monitor(&mut supervisor, "health")?;
        let worker = &status["workers"][0];
        Ok((worker["answers"].as_u64() > Some(0) && worker["round_trip"].as_f64() < Some(0.4)).then_some(()))
    })?;
    supervisor.forward(&worker, json!({"do": "hang"}))?;
    program.wait_for_stderr("a worker does not answer", LIMIT)?;
    let child = replaced(&mut program, &mut supervisor)?;
    assert!(child["last_exit"].as_str().unwrap_or_default().starts_with("no answer for "), "{child}");
    assert_eq!(child["last_exit_cause"], "health");
    // Whoever reads why it was replaced is told where to read what it did then, and not half a second before it was killed. Its
    // functions may get their names when it is gone.
    let incident = PathBuf::from(child["last_incident"].as_str().unwrap_or_else(|| panic!("{child}")));
    program.wait_for("all of the incident", LIMIT, || Ok(incident.is_dir().then_some(())))?;
    let reason: Value = serde_json::from_slice(&fs::read(incident.join("reason.json"))?)?;
    assert!(reason["reason"].as_str().unwrap_or_default().starts_with("no answer for "), "{reason}");
    let threads = fs::read_to_string(incident.join("threads.txt"))?;
    assert!(threads.contains("hang_for_ever") && threads.contains("acs-leaks.rs"), "{threads}");
    // A worker that hangs answers no operation: it was looked at from outside, if this machine allows that, and is fast
    // enough.
    let prefix = format!("worker-{}-thread_dump-", worker.pid);
    match wait_for("the dump", LIMIT, || {
        let stderr = program.stderr();
        // All of it is there by then.
        let kept = stderr.contains("kept a diagnostic").then(|| kept(&dir, &prefix)).transpose()?;
        Ok(kept.or(stderr.contains("a diagnostic came to nothing").then_some(None)))
    })? {
        Some(dump) => {
            let text = fs::read_to_string(dump)?;
            assert!(text.contains("hang_for_ever"), "{text}");
        }
        None => {
            let stderr = program.stderr();
            let line = stderr.lines().find(|line| line.contains("a diagnostic came to nothing"));
            eprintln!("skipped, what is in the dump: {}", line.unwrap_or_default());
        }
    }
    let workers = supervisor.wait_for_workers("the new worker", LIMIT, |workers| workers.len() == 1)?;
    program.wait_for("an answer of the new one", LIMIT, || {
        let status = monitor(&mut supervisor, "health")?;
        let worker = &status["workers"][0];
        Ok((worker["process_id"] == workers[0].pid && worker["state"] == "well").then_some(()))
    })?;
    Ok(())
}

#[test]
fn for_how_long_an_executor_does_nothing_else_is_measured_and_told() -> io::Result<()> {
    let dir = Dir::new()?;
    let (mut program, mut supervisor, worker) = start(&dir, "health")?;
    program.wait_for("an answer", LIMIT, || {
        Ok((monitor(&mut supervisor, "health")?["workers"][0]["answers"].as_u64() > Some(0)).then_some(()))
    })?;
    // Longer than what is warned of, and shorter than what it is restarted for.
    supervisor.forward(&worker, json!({"do": "block", "milliseconds": 800}))?;
    program.wait_for_stderr("a worker does not answer", LIMIT)?;
    program.wait_for_stderr("a worker answers again", LIMIT)?;
    program.wait_for("the most that an answer took", LIMIT, || {
        let seen = &monitor(&mut supervisor, "health")?["workers"][0];
        assert_eq!(seen["process_id"], worker.pid, "{seen}");
        // It is asked ten times a second.
        let is_told = seen["maximum_round_trip"].as_f64() >= Some(0.5) && seen["state"] == "well";
        Ok(is_told.then_some(()))
    })?;
    assert_eq!(child(&mut supervisor)?["restarts"], 0);
    Ok(())
}

#[test]
fn another_worker_is_ready_before_one_that_hangs_and_is_deaf_is_killed() -> io::Result<()> {
    let dir = Dir::new()?;
    let (mut program, mut supervisor, worker) = start(&dir, "health")?;
    supervisor.forward(&worker, json!({"do": "hang"}))?;
    let child = replaced(&mut program, &mut supervisor)?;
    let reason = child["last_exit"].as_str().unwrap_or_default();
    assert!(reason.starts_with("no answer for ") && reason.ends_with(", killed by SIGKILL"), "{child}");
    assert_eq!((&child["restarts"], &child["exits"]), (&json!(1), &json!({"health": 1})), "{child}");
    program.wait_for_stderr("child stopped child=\"worker#1\"", LIMIT)?;
    assert_successor_came_first(&program.stderr());
    Ok(())
}

/// The log is of a root whose only worker stopped once, and another one was ready in its place by then.
fn assert_successor_came_first(stderr: &str) {
    let at = |text: &str| stderr.find(text).unwrap_or_else(|| panic!("'{text}' was not logged: {stderr}"));
    let taken_over = at("a successor takes over");
    assert!(stderr[..taken_over].matches("child is ready child=\"worker#1\"").count() == 2, "{stderr}");
    assert!(taken_over < at("child stopped child=\"worker#1\""), "{stderr}");
}

/// A process that has so much memory and shares it with its child; both register as workers, or the first one alone.
const SHARING: &str = r#"
import json, os, socket, sys
held = bytearray(b"\x01") * int(sys.argv[1])
name = "parent" if os.fork() else "child"
connection = socket.socket(socket.AF_UNIX)
connection.connect("supervisor.ipc")
state = {"process_id": os.getpid(), "name": name}
if name == "parent" or sys.argv[2] == "both":
    connection.sendall((json.dumps({"id": 2, "do": "register", "state": state}) + "\n").encode())
for line in connection.makefile():
    pass
"#;

const SHARED: u64 = 1024 * MEBIBYTE;

/// Two processes that share so much, of which both register, or one alone. Nothing, and the reason printed, without a Python.
fn start_sharing(dir: &Dir, who: &str) -> io::Result<Option<(Program, Supervisor, Program)>> {
    if !has_python("import socket") {
        return Ok(None);
    }
    let (program, mut supervisor, _) = start(dir, "together")?;
    let sharing = dir.command("python3").args(["-c", SHARING, &SHARED.to_string(), who]).start()?;
    let count = if who == "both" { 3 } else { 2 };
    supervisor.wait_for_workers("those that share", LIMIT, |workers| workers.len() == count)?;
    Ok(Some((program, supervisor, sharing)))
}

#[test]
fn memory_that_a_fork_shares_counts_once() -> io::Result<()> {
    let dir = Dir::new()?;
    let Some((mut program, mut supervisor, _sharing)) = start_sharing(&dir, "both")? else { return Ok(()) };
    // They have it resident twice, and that is more than the limit, so it is looked at closely.
    let status = program.wait_for("the sizes", LIMIT, || {
        let status = monitor(&mut supervisor, "memory")?;
        let is_measured =
            processes(&status).filter(|process| process["current_shared_size"].as_u64() > Some(SHARED / 2));
        Ok((is_measured.count() == 2).then_some(status))
    })?;
    let resident: u64 = processes(&status).filter_map(|process| process["current_resident_size"].as_u64()).sum();
    let total = status["total_size"].as_u64().unwrap_or_default();
    assert!(resident > 2 * SHARED && total > SHARED && total < SHARED * 4 / 3, "{status}");
    for process in processes(&status).filter(|process| process["name"] != "worker") {
        let size = process["current_size"].as_u64().unwrap_or_default();
        assert!(size > SHARED / 2 && size < SHARED * 3 / 4, "half of it each: {status}");
    }
    live_through_checks(&mut program, &mut supervisor, 10)?;
    assert!(!program.stderr().contains("asking for a restart"), "{}", program.stderr());
    Ok(())
}

#[test]
fn memory_that_a_worker_shares_with_its_own_child_counts_once() -> io::Result<()> {
    let dir = Dir::new()?;
    let Some((mut program, mut supervisor, _sharing)) = start_sharing(&dir, "one")? else { return Ok(()) };
    let status = program.wait_for("the sizes of both", LIMIT, || {
        let status = monitor(&mut supervisor, "memory")?;
        let both = processes(&status).any(|process| process["current_resident_size"].as_u64() > Some(2 * SHARED));
        Ok(both.then_some(status))
    })?;
    live_through_checks(&mut program, &mut supervisor, 10)?;
    assert!(!program.stderr().contains("asking for a restart"), "{status}, {}", program.stderr());
    Ok(())
}

/// A worker that has mapped a file of that name, reads a part more of it at each line, and takes so much at the end.
const MAPPING: &str = r#"
import json, mmap, os, socket, sys
file = open(sys.argv[1], "r+b")
mapped = mmap.mmap(file.fileno(), 0)
connection = socket.socket(socket.AF_UNIX)
connection.connect("supervisor.ipc")
connection.sendall((json.dumps({"id": 0, "do": "register", "state": {"process_id": os.getpid(), "name": "mapping"}}) + "\n").encode())
part = len(mapped) // PARTS
for number in range(PARTS):
    sys.stdin.readline()
    sum(mapped[at] for at in range(number * part, number * part + part, 4096))
    print(number, flush=True)
sys.stdin.readline()
held = bytearray(b"\x01") * int(sys.argv[2])
sys.stdin.readline()
"#;

#[test]
fn files_that_a_worker_has_mapped_are_page_cache_and_not_its_own() -> io::Result<()> {
    let dir = Dir::new()?;
    if !has_python("import socket") || is_in_memory(&dir)? {
        return Ok(());
    }
    File::create(dir.file("large"))?.set_len(600 * MEBIBYTE)?;
    let (mut program, mut supervisor, _) = start(&dir, "mapped")?;
    let script = MAPPING.replace("PARTS", "6");
    let mut mapping =
        dir.command("python3").args(["-c", &script, "large", &(320 * MEBIBYTE).to_string()]).with_input().start()?;
    supervisor.wait_for_workers("the one that maps", LIMIT, |workers| workers.len() == 2)?;
    let next = |mapping: &mut Program| {
        let input = mapping.input().as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
        io::Write::write_all(input, b"\n")
    };
    for part in 0..6 {
        next(&mut mapping)?;
        wait_for("a part of the file", LIMIT, || Ok(mapping.stdout().contains(&part.to_string()).then_some(())))?;
        live_through_checks(&mut program, &mut supervisor, 2)?;
    }
    let status = monitor(&mut supervisor, "memory")?;
    let own = processes(&status).find(|process| process["name"] == "mapping").cloned().unwrap_or_default();
    assert!(own["current_resident_size"].as_u64() > Some(600 * MEBIBYTE), "{status}");
    let sizes = ["current_size", "current_private_size", "current_shared_size"].map(|key| own[key].as_u64());
    assert!(sizes.iter().all(|size| *size < Some(100 * MEBIBYTE)), "{own}");
    assert!(!program.stderr().contains("asking for a restart"), "{}", program.stderr());

    // And what it really takes is noticed.
    next(&mut mapping)?;
    let line = program.wait_for_stderr("asking for a restart", LIMIT)?;
    assert!(line.contains("memory limit 300.0 MiB, was ") && line.contains("name=\"mapping\""), "{line}");
    Ok(())
}

/// As daemons are: there was no moment at which a check could have seen it below its worker.
#[test]
fn what_is_left_to_the_root_at_once_counts_with_its_worker() -> io::Result<()> {
    let dir = Dir::new()?;
    let (mut program, mut supervisor, worker) = start(&dir, "daemons")?;
    let is_counted = |supervisor: &mut Supervisor| {
        let status = monitor(supervisor, "memory")?;
        let own = processes(&status).find(|process| process["process_id"] == worker.pid).cloned();
        Ok(own.filter(|own| own["current_resident_size"].as_u64() > Some(64 * MEBIBYTE)))
    };
    supervisor.forward(&worker, json!({"do": "daemon"}))?;
    program.wait_for("the daemon to count", LIMIT, || is_counted(&mut supervisor))?;
    // Another supervisor has not seen it begin.
    let old = supervisor.ask("ping", json!({}))?["process_id"].as_u64().unwrap_or_default();
    let old = proc::process(old as u32).ok_or(io::ErrorKind::NotFound)?;
    assert!(old.signal(Signal::KILL)?);
    program.wait_for("the next supervisor to count it", LIMIT, || {
        let Ok(mut supervisor) = Supervisor::connect(&dir.socket()) else { return Ok(None) };
        Ok(is_counted(&mut supervisor).unwrap_or_default())
    })?;
    Ok(())
}

/// What its parent has, and another that this one started, descends from no worker.
#[test]
fn what_is_beside_a_worker_does_not_count_with_it() -> io::Result<()> {
    const WORKER: &str = r#"
import json, os, socket, sys, time
if sys.argv[1:]:
    memory = b"x" * (64 << 20)
    open("large", "w").close()
else:
    while not os.path.exists("large"):
        time.sleep(0.01)
    connection = socket.socket(socket.AF_UNIX)
    connection.connect("supervisor.ipc")
    state = {"process_id": os.getpid(), "name": "worker"}
    connection.sendall(json.dumps({"id": 0, "do": "register", "state": state}).encode() + b"\n")
time.sleep(1000000)
"#;
    if !has_python("import socket") {
        return Ok(());
    }
    let dir = Dir::new()?;
    fs::write(dir.file("worker.py"), WORKER)?;
    let (mut program, mut supervisor, _) = start(&dir, "wrapped")?;
    live_through_checks(&mut program, &mut supervisor, 3)?;
    let status = monitor(&mut supervisor, "memory")?;
    let size = processes(&status).next().and_then(|process| process["current_resident_size"].as_u64());
    assert!(size.is_some_and(|size| size < 48 * MEBIBYTE), "{status}");
    Ok(())
}

fn processes(status: &Value) -> impl Iterator<Item = &Value> {
    status["processes"].as_array().into_iter().flatten()
}

/// Waits until the memory monitor has looked at everything so many times more.
fn live_through_checks(program: &mut Program, supervisor: &mut Supervisor, checks: u64) -> io::Result<()> {
    let mut count = || -> io::Result<u64> {
        let status = monitor(supervisor, "memory")?;
        Ok(processes(&status).filter_map(|process| process["sample_count"].as_u64()).max().unwrap_or_default())
    };
    let before = count()?;
    program.wait_for("checks", LIMIT, || Ok((count()? >= before + checks).then_some(())))
}

/// Whether what is written there is in memory, and no page cache; it says so then.
fn is_in_memory(dir: &Dir) -> io::Result<bool> {
    const TMPFS: i64 = 0x0102_1994;
    let is_in_memory = rustix::fs::statfs(dir.path())?.f_type as i64 == TMPFS;
    if is_in_memory {
        eprintln!("skipped: temporary files are in memory here");
    }
    Ok(is_in_memory)
}

/// A cgroup whose memory is limited, removed at the end.
struct Group(PathBuf);

impl Group {
    /// Says so where this user may not make one.
    fn make(limit: u64) -> Option<Group> {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let name = format!("acs-leaks-{}-{}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        let made = [("memory/", "memory.limit_in_bytes"), ("", "memory.max")].into_iter().find_map(|(mount, file)| {
            let path = Path::new("/sys/fs/cgroup").join(mount).join(&name);
            fs::create_dir(&path).ok()?;
            let group = Group(path);
            fs::write(group.0.join(file), limit.to_string()).ok().map(|()| group)
        });
        if made.is_none() {
            eprintln!("skipped: this user may not make a cgroup that limits memory");
        }
        made
    }

    /// Starts a scenario of the fixture in it.
    fn start(&self, dir: &Dir, scenario: &str) -> io::Result<Program> {
        let script = format!("echo $$ > {}/cgroup.procs && exec \"$0\" {scenario}", self.0.display());
        let fixture = async_container_supervisor_tests::example("acs-leaks")?;
        dir.command("sh").args(["-c", &script]).arg(fixture).env("ASYNC_CONTAINER_CGROUP", "none").start()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let removed = wait_for("the end of a cgroup", LIMIT, || Ok(fs::remove_dir(&self.0).is_ok().then_some(())));
        if let Err(error) = removed {
            eprintln!("{} stays: {error}", self.0.display());
        }
    }
}

#[test]
fn who_is_killed_for_want_of_memory_is_said_to_be() -> io::Result<()> {
    let Some(group) = Group::make(200 * MEBIBYTE) else { return Ok(()) };
    let dir = Dir::new()?;
    let mut program = group.start(&dir, "unlimited")?;
    let mut supervisor = Supervisor::of(&mut program, &dir.socket(), LIMIT)?;
    let workers = supervisor.wait_for_workers("the worker", LIMIT, |workers| workers.len() == 1)?;
    leak(&mut supervisor, &workers[0], 400 * MEBIBYTE, None)?;
    let ended = replaced(&mut program, &mut supervisor)?;
    assert_eq!(ended["last_exit"], "probably out of memory, killed by SIGKILL", "{ended}");
    // Whom somebody else kills is not.
    let workers = supervisor.wait_for_workers("another worker", LIMIT, |workers| workers.len() == 1)?;
    let another = proc::process(workers[0].pid).ok_or(io::ErrorKind::NotFound)?;
    assert!(another.signal(Signal::KILL)?);
    program.wait_for("its end", LIMIT, || {
        let child = child(&mut supervisor)?;
        Ok((child["last_exit"] == "killed by SIGKILL").then_some(()))
    })?;
    Ok(())
}

/// In a cgroup, for what is free of the host changes by what others do meanwhile, which looks as if restarts helped.
#[test]
fn too_little_free_memory_is_no_kill_loop_where_restarts_free_none() -> io::Result<()> {
    let Some(group) = Group::make(1024 * MEBIBYTE) else { return Ok(()) };
    let dir = Dir::new()?;
    let mut program = group.start(&dir, "cramped")?;
    let line = program.wait_for_stderr("restarting workers does not help", LIMIT)?;
    assert!(line.contains("rule=\"free_size\"") && line.contains("pause=30s"), "{line}");
    let mut supervisor = Supervisor::of(&mut program, &dir.socket(), LIMIT)?;
    supervisor.wait_for_workers("the worker", LIMIT, |workers| workers.len() == 1)?;
    live_through_checks(&mut program, &mut supervisor, 10)?;
    let status = monitor(&mut supervisor, "memory")?;
    assert!(status["left_alone"].as_f64() > Some(0.0), "{status}");
    assert_eq!(child(&mut supervisor)?["restarts"], 2, "{}", program.stderr());
    Ok(())
}

#[test]
fn page_cache_is_not_mistaken_for_exhaustion() -> io::Result<()> {
    let limit = 256 * MEBIBYTE;
    let Some(group) = Group::make(limit) else { return Ok(()) };
    let dir = Dir::new()?;
    if is_in_memory(&dir)? {
        return Ok(());
    }
    // Eight times as much as there is memory, and in no cache. It has holes alone, which nothing is read from disk for, and which
    // take as much of the cache as anything else.
    File::create(dir.file("large"))?.set_len(2048 * MEBIBYTE)?;

    let mut program = group.start(&dir, "free")?;
    let mut supervisor = Supervisor::of(&mut program, &dir.socket(), LIMIT)?;
    let workers = supervisor.wait_for_workers("the worker", LIMIT, |workers| workers.len() == 1)?;
    supervisor.forward(&workers[0], json!({"do": "read", "path": dir.file("large")}))?;
    let host = program.wait_for("a full cache", LIMIT, || {
        let host = monitor(&mut supervisor, "memory")?["host"].clone();
        Ok((host["free_size"].as_u64() < Some(100 * MEBIBYTE)).then_some(host))
    })?;
    assert_eq!(host["total_size"], limit, "{host}");
    assert!(host["available_size"].as_u64() > Some(150 * MEBIBYTE), "{host}");
    live_through_checks(&mut program, &mut supervisor, 10)?;
    assert!(!program.stderr().contains("asking for a restart"), "{}", program.stderr());

    // And what is really taken is noticed.
    leak(&mut supervisor, &workers[0], 100 * MEBIBYTE, Some(170 * MEBIBYTE))?;
    let child = replaced(&mut program, &mut supervisor)?;
    let reason = child["last_exit"].as_str().unwrap_or_default();
    assert!(reason.starts_with("memory available ") && reason.contains("minimum 100.0 MiB"), "{child}");
    drop(program);
    Ok(())
}
