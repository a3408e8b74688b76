//! The whole: root, supervisor, workers and monitors, through the examples.

use std::{
    collections::BTreeSet,
    io::{self, Read as _, Write as _},
    os::unix::{fs::PermissionsExt as _, net::UnixStream},
    time::Duration,
};

use async_container_supervisor_tests::{Dir, Program, Signal, Supervisor, Worker, proc};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(30);

/// An example, running, and a connection to its supervisor once that many workers have registered.
fn start(dir: &Dir, example: &str, arguments: &[&str], count: usize) -> io::Result<(Program, Supervisor)> {
    let mut program = dir.example(example)?.args(arguments).start()?;
    let mut supervisor = Supervisor::of(&mut program, &dir.socket(), LIMIT)?;
    supervisor.wait_for_workers("the workers", LIMIT, |workers| workers.len() == count)?;
    Ok((program, supervisor))
}

fn pids(workers: &[Worker]) -> BTreeSet<u32> {
    workers.iter().map(|worker| worker.pid).collect()
}

fn signal(pid: u32, signal: Signal) -> io::Result<()> {
    let process = proc::process(pid).ok_or_else(|| io::Error::other(format!("there is no process {pid}")))?;
    process.signal(signal).map(drop)
}

/// What the root says about a child.
fn child(supervisor: &mut Supervisor, name: &str) -> io::Result<Value> {
    let children = supervisor.ask("children", json!({}))?;
    let child = children["children"].as_array().into_iter().flatten().find(|child| child["name"] == json!(name));
    child.cloned().ok_or_else(|| io::Error::other(format!("there is no child {name}: {children}")))
}

/// Waits until a child has been restarted and is ready again, and gives how it ended.
fn last_exit(program: &mut Program, dir: &Dir, name: &str) -> io::Result<String> {
    let socket = dir.socket();
    program.wait_for(&format!("the replacement of {name}"), LIMIT, || {
        let child = child(&mut Supervisor::connect(&socket)?, name)?;
        let replaced = child["restarts"].as_u64() > Some(0) && child["state"] == json!("ready");
        // Where another one was started first, the old one may not have ended yet.
        Ok(child["last_exit"].as_str().filter(|_| replaced).map(str::to_owned))
    })
}

#[test]
fn workers_register_answer_and_are_replaced() -> io::Result<()> {
    let dir = Dir::new()?;
    let (mut program, mut supervisor) = start(&dir, "simple", &["--workers", "3"], 3)?;
    assert_eq!(std::fs::metadata(dir.socket())?.permissions().mode() & 0o777, 0o600);

    let workers = supervisor.workers()?;
    let instances: Vec<Option<u64>> = workers.iter().map(|worker| worker.instance).collect();
    assert_eq!(instances, [Some(1), Some(2), Some(3)]);
    let greeting = supervisor.forward(&workers[1], json!({"do": "greet", "name": "you"}))?;
    assert_eq!(greeting["greeting"], "hello you, this is worker#2");
    let error = supervisor.forward(&workers[1], json!({"do": "greet"})).unwrap_err().to_string();
    assert!(error.contains("InvalidParameters") && error.contains("name"), "{error}");
    let pong = supervisor.forward(&workers[0], json!({"do": "ping"}))?;
    assert_eq!(pong["process_id"], json!(workers[0].pid));

    signal(workers[0].pid, Signal::KILL)?;
    let after = supervisor.wait_for_workers("the replacement", LIMIT, |after| {
        after.len() == 3 && !pids(after).contains(&workers[0].pid)
    })?;
    assert_eq!(after[0].instance, Some(1));
    assert_eq!(last_exit(&mut program, &dir, "worker#1")?, "killed by SIGKILL");

    program.signal(Signal::TERM)?;
    assert!(program.wait(LIMIT)?.success());
    assert!(!dir.socket().exists());
    assert!(!program.stderr().contains("child failed child=\"worker#2\""), "{}", program.stderr());
    Ok(())
}

#[test]
fn a_killed_supervisor_comes_back_with_all_workers() -> io::Result<()> {
    let dir = Dir::new()?;
    let (mut program, mut supervisor) = start(&dir, "simple", &["--workers", "3"], 3)?;
    let workers = pids(&supervisor.workers()?);
    let first = supervisor.ask("ping", json!({}))?["process_id"].clone();
    for _ in 0..3 {
        let pid = supervisor.ask("ping", json!({}))?["process_id"].as_u64().unwrap_or_default();
        signal(pid as u32, Signal::KILL)?;
        // Never refused, since the root listens.
        supervisor = Supervisor::connect(&dir.socket())?;
        while supervisor.ask("ping", json!({})).is_err() {
            supervisor = Supervisor::connect(&dir.socket())?;
        }
        let back = supervisor.wait_for_workers("the workers", LIMIT, |workers| workers.len() == 3)?;
        assert_eq!(pids(&back), workers);
    }
    assert_ne!(supervisor.ask("ping", json!({}))?["process_id"], first);
    assert_eq!(child(&mut supervisor, "supervisor#1")?["restarts"], 3);
    program.signal(Signal::INT)?;
    assert!(program.wait(LIMIT)?.success());
    Ok(())
}

#[test]
fn a_hanging_supervisor_is_replaced_and_its_workers_stay() -> io::Result<()> {
    let dir = Dir::new()?;
    let mut program = dir.example("acs-fixture")?.arg("impatient").start()?;
    let mut supervisor = Supervisor::of(&mut program, &dir.socket(), LIMIT)?;
    let workers = pids(&supervisor.wait_for_workers("the workers", LIMIT, |workers| workers.len() == 2)?);
    let hung = supervisor.ask("ping", json!({}))?["process_id"].as_u64().unwrap_or_default();
    signal(hung as u32, Signal::STOP)?;

    // The socket belongs to the root: whoever asks while nobody answers is answered by the next one, or loses the connection
    // with the one that hung.
    let socket = dir.socket();
    program.wait_for("another supervisor", LIMIT, || {
        let answer = Supervisor::connect(&socket)?.ask("ping", json!({}));
        Ok(answer.ok().filter(|pong| pong["process_id"] != json!(hung)))
    })?;
    let mut supervisor = Supervisor::connect(&socket)?;
    let back = supervisor.wait_for_workers("the workers", LIMIT, |workers| workers.len() == 2)?;
    assert_eq!(pids(&back), workers);
    let child = child(&mut supervisor, "supervisor#1")?;
    assert_eq!(child["restarts"], 1);
    assert_eq!(child["last_exit"], "silent for 2s (health check), killed by SIGKILL");
    program.signal(Signal::TERM)?;
    assert!(program.wait(LIMIT)?.success());
    Ok(())
}

#[test]
fn a_reload_replaces_everything_and_says_when() -> io::Result<()> {
    let dir = Dir::new()?;
    let (mut program, mut supervisor) = start(&dir, "simple", &["--workers", "2"], 2)?;
    let before = pids(&supervisor.workers()?);
    let ready = supervisor.ask("ready", json!({"wait": true}))?;
    assert_eq!((&ready["ready"], &ready["generation"], &ready["reloads"]), (&json!(true), &json!(1), &json!(0)));
    supervisor.ask("restart", json!({"signal": "HUP"}))?;
    // This connection ends with the old supervisor; the question is asked until one answers.
    let socket = dir.socket();
    let ready = program.wait_for("the answer", LIMIT, || {
        let answer = Supervisor::connect(&socket)?.ask("ready", json!({"wait": true, "reloads": 0}));
        match answer {
            Ok(ready) => Ok(Some(ready)),
            Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe) => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    })?;
    assert_eq!((&ready["generation"], &ready["reloads"]), (&json!(2), &json!(1)));
    let mut supervisor = Supervisor::connect(&dir.socket())?;
    let after = supervisor.wait_for_workers("the new workers", LIMIT, |workers| {
        workers.len() == 2 && pids(workers).is_disjoint(&before)
    })?;
    assert!(pids(&after).is_disjoint(&before));
    Ok(())
}

#[test]
fn a_failed_reload_is_told_to_whoever_asks() -> io::Result<()> {
    let dir = Dir::new()?;
    let mut program = dir.example("acs-fixture")?.arg("breakable").start()?;
    let mut supervisor = Supervisor::of(&mut program, &dir.socket(), LIMIT)?;
    supervisor.ask("ready", json!({"wait": true}))?;
    std::fs::write(dir.file("broken"), "")?;
    supervisor.ask("restart", json!({"signal": "HUP"}))?;
    let ready = supervisor.ask("ready", json!({"wait": true, "reloads": 0}))?;
    assert_eq!((&ready["generation"], &ready["reloads"]), (&json!(1), &json!(1)));
    let error = ready["reload_error"].as_str().unwrap_or_default();
    assert!(error.contains("worker#") && error.contains("exited with status 1"), "{ready}");
    Ok(())
}

#[test]
fn clients_that_send_garbage_lose_their_connection_alone() -> io::Result<()> {
    let dir = Dir::new()?;
    let (_program, mut supervisor) = start(&dir, "simple", &["--workers", "1"], 1)?;
    for garbage in [
        &b"\x00\x00\x00\x00"[..],    // an empty frame
        b"\xff\xff\xff\xff",         // a frame of 4 GiB
        b"\x00\x00\x00\x03abc",      // no map
        b"{\"id\":2,\"do\":\n",      // no JSON
        b"\x00\x00\x00\x02\x80\x80", // more than one value
        b"{\"id\":2,\"do\":7}\n",    // an operation without a name
    ] {
        let mut stream = UnixStream::connect(dir.socket())?;
        stream.set_read_timeout(Some(LIMIT))?;
        stream.write_all(garbage)?;
        // It is closed, perhaps after a last word.
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
    }
    // Half a frame, and silence, holds up nobody.
    let mut silent = UnixStream::connect(dir.socket())?;
    silent.write_all(b"\x00\x00\x01\x00half")?;
    assert_eq!(supervisor.workers()?.len(), 1);
    Ok(())
}

#[test]
fn leaking_workers_are_replaced() -> io::Result<()> {
    let dir = Dir::new()?;
    let mut program = dir.example("memory_leak")?.start()?;
    Supervisor::of(&mut program, &dir.socket(), LIMIT)?
        .wait_for_workers("the workers", LIMIT, |workers| workers.len() == 2)?;
    let reason = last_exit(&mut program, &dir, "worker#1")?;
    assert!(reason.starts_with("memory limit 95.4 MiB, was "), "{reason}");
    let stderr = program.stderr();
    assert!(stderr.contains("replacing child child=\"worker#1\""), "{stderr}");
    program.signal(Signal::INT)?;
    assert!(program.wait(LIMIT)?.success());
    Ok(())
}

#[test]
fn a_hanging_worker_is_replaced() -> io::Result<()> {
    let dir = Dir::new()?;
    let (mut program, _) = start(&dir, "hang", &[], 1)?;
    assert_eq!(last_exit(&mut program, &dir, "worker#1")?, "silent for 2s (health check), killed by SIGKILL");
    Ok(())
}

#[test]
fn processes_are_measured() -> io::Result<()> {
    let dir = Dir::new()?;
    let (mut program, mut supervisor) = start(&dir, "process_monitor", &[], 2)?;
    let busy = supervisor.workers()?.into_iter().find(|worker| worker.name == "busy").expect("the busy one");
    let utilization = program.wait_for("the measure of half a processor", LIMIT, || {
        let responses = supervisor.call("status", json!({}))?;
        let processes = responses.iter().find_map(|response| response["process"]["processes"].as_array());
        let measured = processes.into_iter().flatten().find(|process| process["process_id"] == json!(busy.pid));
        // A busy machine leaves it less than half a processor, but never nothing.
        Ok(measured.and_then(|process| process["processor_utilization"].as_f64()).filter(|part| *part > 0.05))
    })?;
    assert!(utilization < 0.9, "{utilization}");
    program.wait_for_stderr("process metrics captured", LIMIT)?;
    Ok(())
}

#[test]
fn a_monitor_of_ones_own_acts() -> io::Result<()> {
    let dir = Dir::new()?;
    let (mut program, mut supervisor) = start(&dir, "custom_monitor", &[], 3)?;
    let first = supervisor.workers()?;
    let line = program.wait_for_stderr("replacing child", LIMIT)?;
    assert!(line.contains("older than 5s"), "{line}");
    supervisor
        .wait_for_workers("a replacement", LIMIT, |workers| workers.len() == 3 && pids(workers) != pids(&first))?;
    Ok(())
}
