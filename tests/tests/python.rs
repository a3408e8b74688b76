//! The examples in Python, against a real application: what is in docs/protocol.md is enough to write a worker and a client.
//! Where there is no python3, or it has no package msgpack, these pass and say so.

use std::{io, path::PathBuf, time::Duration};

use async_container_supervisor_tests::{Dir, Launch, Program, Signal, Supervisor, Worker, has_python, proc, wait_for};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(30);

fn examples() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../examples/python")
}

fn python(dir: &Dir, example: &str) -> Launch {
    dir.command("python3").arg(examples().join(example))
}

/// An application with a worker of its own and one in Python.
fn start(dir: &Dir) -> io::Result<(Program, Program, Supervisor)> {
    let mut program = dir.example("simple")?.args(["--workers", "1"]).start()?;
    let mut supervisor = Supervisor::of(&mut program, &dir.socket(), LIMIT)?;
    let worker = python(dir, "worker.py").start()?;
    supervisor.wait_for_workers("both workers", LIMIT, |workers| workers.len() == 2)?;
    Ok((program, worker, supervisor))
}

fn the_one_in_python(supervisor: &mut Supervisor) -> io::Result<Worker> {
    let worker = supervisor.workers()?.into_iter().find(|worker| worker.name == "python");
    worker.ok_or_else(|| io::Error::other("the worker in Python is not connected"))
}

/// What the client prints, line by line, and its exit status.
fn ask(dir: &Dir, arguments: &[&str]) -> io::Result<(Vec<Value>, Option<i32>, String)> {
    let mut client = python(dir, "client.py").args(arguments).start()?;
    let status = client.wait(LIMIT)?;
    let lines = client.stdout().lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    Ok((lines, status.code(), client.stderr()))
}

#[test]
fn without_its_package_an_example_says_what_installs_it() -> io::Result<()> {
    if !has_python("") {
        return Ok(());
    }

    let dir = Dir::new()?;

    for example in ["client.py", "worker.py"] {
        let path = examples().join(example);
        // Without what was installed beside python itself.
        let mut program = dir.command("python3").arg("-S").arg(path).start()?;
        assert_eq!(program.wait(LIMIT)?.code(), Some(1));
        let said = program.stderr();
        assert!(said.contains("python3 -m pip install msgpack") && said.lines().count() == 1, "{said}");
    }

    Ok(())
}

#[test]
fn worker_in_python_answers_and_comes_back() -> io::Result<()> {
    if !has_python("import msgpack") {
        return Ok(());
    }

    let dir = Dir::new()?;
    let (mut program, worker, mut supervisor) = start(&dir)?;
    let python = the_one_in_python(&mut supervisor)?;
    assert_eq!(python.pid, worker.pid());

    let greeting = supervisor.forward(&python, json!({"do": "greet", "name": "you"}))?;
    assert_eq!(greeting["greeting"], "hello you, this is Python");
    let forward = |operation| json!({"connection_id": python.connection, "operation": operation});
    let counted = supervisor.call("forward", forward(json!({"do": "count", "to": 3})))?;
    let numbers: Vec<&Value> = counted.iter().map(|response| &response["number"]).collect();
    assert_eq!(numbers, [&json!(1), &json!(2), &json!(3), &Value::Null]);
    let error = supervisor.forward(&python, json!({"do": "greet"})).unwrap_err().to_string();
    assert!(error.contains("InvalidParameters"), "{error}");
    let error = supervisor.forward(&python, json!({"do": "nonsense"})).unwrap_err().to_string();
    assert!(error.contains("UnknownOperation"), "{error}");

    // The supervisor is replaced, and both workers are back.
    let old = supervisor.ask("ping", json!({}))?["process_id"].as_u64().unwrap_or_default();
    let process = u32::try_from(old).ok().and_then(proc::process).ok_or_else(|| io::Error::other("no supervisor"))?;
    process.signal(Signal::KILL)?;
    let mut supervisor = program.wait_for("another supervisor", LIMIT, || {
        let Ok(mut supervisor) = Supervisor::connect(&dir.socket()) else { return Ok(None) };
        let answer = supervisor.ask("ping", json!({}));
        Ok(answer.is_ok_and(|answer| answer["process_id"].as_u64() != Some(old)).then_some(supervisor))
    })?;
    supervisor.wait_for_workers("both workers again", LIMIT, |workers| workers.len() == 2)?;
    let again = the_one_in_python(&mut supervisor)?;
    assert_eq!(again.pid, python.pid);
    assert_ne!(again.connection, python.connection);
    Ok(())
}

/// What `metrics.py` reads of what it, and others, have written.
const READING: &str = r#"
import fcntl, os, metrics

segment = metrics.Segment()
segment.metric("jobs").add(7)
view = metrics.View(os.getpid(), segment.descriptor)
read = lambda: list(view.values())
assert read() == [("jobs", "u64", 7)], read()

# It grows, to the end.
for index in range(4094):
    segment.metric(f"metric_{index}", ["u64", "f32", "i32"][index % 3]).add(index)
assert len(read()) == 4095 and read()[-1] == ("metric_4093", "f32", 4093.0), read()[-1]
try:
    segment.metric("one_more")
    raise SystemExit("there was room for it")
except MemoryError as error:
    assert "one_more is one metric too many" in str(error), error

# Whoever made it is not believed.
other = metrics.Segment()
other.metric("jobs").add(7)
view = metrics.View(os.getpid(), other.descriptor)
for count in [2, 15, 16, 4096, (1 << 64) - 1]:
    other._count[0] = count
    assert read() == [("jobs", "u64", 7)], (count, read())
for place, byte in [(128, 0), (128, 9), (129, 255), (129, 0), (136, 0), (136, ord("9"))]:
    before, other._memory[place] = other._memory[place], byte
    assert read() == [], (place, byte, read())
    other._memory[place] = before

def refused(descriptor):
    try:
        metrics.View(os.getpid(), descriptor)
    except ValueError as error:
        return str(error)
    raise SystemExit(f"{descriptor} was read")

for place, byte in [(0, 0), (8, 2), (12, 0), (17, 0), (20, 0)]:
    before, other._memory[place] = other._memory[place], byte
    refused(other.descriptor)
    other._memory[place] = before
assert refused(os.pipe()[0]) == "it is no file"
assert "sealed" in refused(os.open(metrics.__file__, os.O_RDONLY))
unsealed = os.memfd_create("other", os.MFD_ALLOW_SEALING)
assert "sealed" in refused(unsealed)
fcntl.fcntl(unsealed, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
assert refused(unsealed) == "it does not begin as a segment"
"#;

#[test]
fn metrics_in_python_believe_nobody() -> io::Result<()> {
    if !has_python("") {
        return Ok(());
    }

    let dir = Dir::new()?;
    let mut program = dir.command("python3").args(["-c", READING]).env("PYTHONPATH", examples()).start()?;
    let status = program.wait(LIMIT)?;
    assert!(status.success(), "{}", program.stderr());
    Ok(())
}

/// In memory that a supervisor in Rust reads; the other way around is tested with the metrics of workers in Rust.
#[test]
fn metrics_in_python_are_read_by_the_supervisor() -> io::Result<()> {
    if !has_python("import msgpack") {
        return Ok(());
    }

    let dir = Dir::new()?;
    let mut program = dir.example("utilization")?.args(["--listen", "127.0.0.1:0", "--workers", "1"]).start()?;
    let mut supervisor = Supervisor::of(&mut program, &dir.socket(), LIMIT)?;
    let mut worker = python(&dir, "worker.py").start()?;
    supervisor.wait_for_workers("both workers", LIMIT, |workers| workers.len() == 2)?;
    let python_worker = the_one_in_python(&mut supervisor)?;
    supervisor.forward(&python_worker, json!({"do": "greet", "name": "you"}))?;

    let mut service = |what: &str, is_wanted: &dyn Fn(&Value) -> bool| {
        program.wait_for(what, LIMIT, || {
            let status = supervisor.call("status", json!({}))?;
            let services = status.iter().find_map(|response| response["utilization"]["services"].as_object());
            let service = services.and_then(|services| services.get("python")).cloned().unwrap_or_default();
            Ok(is_wanted(&service).then_some(service))
        })
    };
    // That it is asked for where they are is a call, too, and so is each ping.
    let counted = service("what it has counted", &|service| service["metrics"]["calls_total"].as_u64() >= Some(2))?;
    assert_eq!((&counted["worker_count"], &counted["metrics"]["calls_active"]), (&json!(1), &json!(0)), "{counted}");
    worker.signal(Signal::KILL)?;
    worker.wait(LIMIT)?;
    let left = service("its end", &|service| service["worker_count"] == json!(0))?;
    assert!(left["metrics"]["calls_total"].as_u64() >= counted["metrics"]["calls_total"].as_u64(), "{left}");
    assert_eq!(left["metrics"]["calls_active"], Value::Null, "{left}");

    let mut reader = python(&dir, "metrics.py").args([&program.pid().to_string(), "0"]).start()?;
    assert_eq!(reader.wait(LIMIT)?.code(), Some(1));
    let said = reader.stderr();
    assert!(said.starts_with("cannot read it: ") && said.lines().count() == 1, "{said}");
    Ok(())
}

#[test]
fn client_in_python_asks_and_follows() -> io::Result<()> {
    if !has_python("import msgpack") {
        return Ok(());
    }

    let dir = Dir::new()?;
    let (_program, _worker, _) = start(&dir)?;

    let (status, code, _) = ask(&dir, &["supervisor", "status"])?;
    assert_eq!(code, Some(0));
    assert_eq!(status.last().map(|last| last["connections"].as_array().map_or(0, Vec::len)), Some(2));
    assert!(status[0]["memory"]["processes"].is_array(), "{status:?}");

    let (greeting, ..) = ask(&dir, &["worker", "greet", "name=you"])?;
    assert_eq!(greeting, [json!({"greeting": "hello you, this is worker#1"})]);
    let (numbers, ..) = ask(&dir, &["python", "count", "to=2"])?;
    assert_eq!(numbers, [json!({"number": 1}), json!({"number": 2}), json!({})]);
    let (lines, code, error) = ask(&dir, &["python", "nonsense"])?;
    assert!(lines.is_empty() && code == Some(1) && error.starts_with("UnknownOperation: "), "{error}");
    let (lines, code, error) = ask(&dir, &["supervisor"])?;
    assert!(lines.is_empty() && code == Some(1) && error.starts_with("A client in Python"), "{error}");
    let (lines, code, error) = ask(&Dir::new()?, &["supervisor", "status"])?;
    assert!(lines.is_empty() && code == Some(1) && error.contains("No such file"), "{error}");

    let watch =
        python(&dir, "client.py").args(["supervisor", "subscribe", r#"events=["register","remove"]"#]).start()?;
    // Others come and go until the subscription, which has no answer of its own, is there to hear of it.
    let events = wait_for("events", LIMIT, || {
        Supervisor::connect(&dir.socket())?.ask("register", json!({"state": {"name": "guest"}}))?;
        let output = watch.stdout();
        let whole = output.rfind('\n').map_or("", |end| &output[..end]);
        let events: Vec<Value> = whole.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
        Ok((events.len() >= 2).then_some(events))
    })?;
    assert!(events.iter().all(|event| event["name"] == "guest" && event["at"].is_f64()), "{events:?}");
    Ok(())
}
