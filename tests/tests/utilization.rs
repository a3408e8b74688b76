//! What workers count in shared memory, as the supervisor shows it: through the example.

use std::{
    io::{self, BufRead as _, BufReader, Write as _},
    net::TcpStream,
    process::{Command, Stdio},
    time::Duration,
};

use async_container_supervisor_tests::{Dir, Program, Signal, Supervisor, has_python, proc, wait_for};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(30);

/// Where the echo servers listen.
fn address(program: &mut Program) -> io::Result<String> {
    let line = program.wait_for_stderr("listening listener=\"echo\"", LIMIT)?;
    let address = line.split("address=\"").nth(1).and_then(|rest| rest.split('"').next());
    address.map(str::to_owned).ok_or_else(|| io::Error::other(line.clone()))
}

fn echo(stream: &mut BufReader<TcpStream>, times: usize) -> io::Result<()> {
    for _ in 0..times {
        stream.get_mut().write_all(b"hello\n")?;
        let mut line = String::new();
        stream.read_line(&mut line)?;
        assert_eq!(line, "hello\n");
    }
    Ok(())
}

/// What the monitor says, once it says what is wanted.
fn utilization(dir: &Dir, what: &str, is_wanted: impl Fn(&Value) -> bool) -> io::Result<Value> {
    wait_for(what, LIMIT, || {
        let Ok(responses) = Supervisor::connect(&dir.socket())?.call("status", json!({})) else { return Ok(None) };
        let monitor = responses.into_iter().find_map(|mut response| response.get_mut("utilization").map(Value::take));
        Ok(monitor.filter(|monitor| is_wanted(monitor)))
    })
}

/// The metrics of a process, read by the example. Nothing, and the reason printed, without a Python.
fn read_in_python(pid: u32, descriptor: i64) -> io::Result<Option<Value>> {
    let program = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/python/metrics.py");
    if !has_python("import mmap") {
        return Ok(None);
    }
    let arguments = [program, &pid.to_string(), &descriptor.to_string()];
    let output = Command::new("python3").args(arguments).stdin(Stdio::null()).output()?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metric = |line: &str| {
        let mut words = line.split(' ');
        let (name, value) = (words.next()?, words.nth(1)?);
        Some((name.to_owned(), serde_json::from_str(value).ok()?))
    };
    let lines = String::from_utf8_lossy(&output.stdout);
    let metrics = lines.lines().map(|line| metric(line).ok_or_else(|| io::Error::other(line.to_owned())));
    Ok(Some(Value::Object(metrics.collect::<io::Result<_>>()?)))
}

fn signal(pid: u32, signal: Signal) -> io::Result<()> {
    let process = proc::process(pid).ok_or_else(|| io::Error::other(format!("there is no process {pid}")))?;
    process.signal(signal).map(drop)
}

#[test]
fn what_workers_count_is_seen_and_survives_everybody() -> io::Result<()> {
    let dir = Dir::new()?;
    let arguments = ["--listen", "127.0.0.1:0", "--workers", "2"];
    let mut program = dir.example("utilization")?.args(arguments).start()?;
    let address = address(&mut program)?;
    let mut supervisor = Supervisor::of(&mut program, &dir.socket(), LIMIT)?;
    let workers = supervisor.wait_for_workers("the workers", LIMIT, |workers| workers.len() == 2)?;

    // Asked for where its metrics are, a worker tells the whole schema.
    let mut streams = Vec::new();
    for _ in 0..5 {
        let mut stream = BufReader::new(TcpStream::connect(&address)?);
        echo(&mut stream, 4)?;
        streams.push(stream);
    }
    let expected = json!({"connections_active": 5, "connections_total": 5, "requests_total": 20});
    let sums = |monitor: &Value| {
        (monitor["services"]["echo"]["worker_count"].clone(), monitor["services"]["echo"]["metrics"].clone())
    };
    let seen = utilization(&dir, "all that was counted", |monitor| sums(monitor) == (json!(2), expected.clone()))?;
    let connections = |monitor: &Value, pid: u32| {
        let workers = monitor["workers"].as_array().into_iter().flatten();
        let worker = workers.into_iter().find(|worker| worker["process_id"] == json!(pid));
        worker.and_then(|worker| worker["metrics"]["connections_active"].as_u64()).unwrap_or(0)
    };
    let each = workers.iter().map(|worker| connections(&seen, worker.pid));
    assert_eq!(each.sum::<u64>(), 5, "{seen}");
    program.wait_for_stderr("utilization service=\"echo\" worker_count=2 metrics=connections_active=5", LIMIT)?;

    // One connection goes before this worker does: it must have others.
    let counting = workers.iter().max_by_key(|worker| connections(&seen, worker.pid)).expect("there are two");
    let answer = supervisor.forward(counting, json!({"do": "utilization"}))?;
    assert_eq!(answer["schema"][0], json!(["connections_total", "u64", 64]));
    assert_eq!(answer["path"], json!(format!("/proc/{}/fd/{}", counting.pid, answer["descriptor"])));
    // Another language reads it by the page alone.
    let descriptor = answer["descriptor"].as_i64().unwrap_or(-1);
    if let Some(read) = read_in_python(counting.pid, descriptor)? {
        let own = seen["workers"].as_array().into_iter().flatten().find(|one| one["process_id"] == json!(counting.pid));
        assert_eq!(Some(&read), own.map(|own| &own["metrics"]));
    }

    let refused = supervisor.forward(counting, json!({"do": "setup_utilization_observer", "path": "a", "size": 1}));
    let refused = refused.expect_err("nobody has it write elsewhere").to_string();
    assert!(refused.contains("NotSupported") && refused.contains("call 'utilization'"), "{refused}");

    // Another supervisor finds everything as it is, and what happened meanwhile.
    let process_id = supervisor.ask("ping", json!({}))?["process_id"].as_u64().unwrap_or_default();
    signal(process_id as u32, Signal::KILL)?;
    echo(&mut streams[0], 1)?;
    drop(streams.pop());
    let expected = json!({"connections_active": 4, "connections_total": 5, "requests_total": 21});
    utilization(&dir, "all of it again", |monitor| sums(monitor) == (json!(2), expected.clone()))?;

    // A worker is killed: what was going on there is over, what has been done stays.
    let lost = streams.len() as u64;
    signal(counting.pid, Signal::KILL)?;
    let after = utilization(&dir, "the worker's end", |monitor| {
        let (count, metrics) = sums(monitor);
        count == json!(2) && metrics["connections_active"].as_u64() < Some(lost)
    })?;
    assert_eq!(after["services"]["echo"]["metrics"]["requests_total"], json!(21), "{after}");
    assert_eq!(after["services"]["echo"]["metrics"]["connections_total"], json!(5), "{after}");

    program.signal(Signal::TERM)?;
    assert!(program.wait(LIMIT)?.success());
    Ok(())
}

/// Workers, each a connection of its own, that say that their metrics are in what is none of theirs to show, and one whose memory
/// looks right when it is opened, and then, if there is a file `go-mad`, changes without end.
const HOSTILE: &str = r#"
import fcntl, json, os, selectors, socket, sys
SEAL, SHRINK, GROW = 1033, 2, 4
def memory(content, seals):
    descriptor = os.memfd_create("metrics", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.write(descriptor, content)
    fcntl.fcntl(descriptor, SEAL, seals)
    return descriptor
genuine = open(sys.argv[1], "rb").read()
os.mkfifo("fifo")
os.symlink("/etc/passwd", "link")
open("file", "wb").write(genuine)
unsealed = memory(genuine, 0)
mad = memory(genuine, SHRINK)
kinds = {
    "unsealed": unsealed, "mad": mad, "garbage": memory(os.urandom(65536), SHRINK | GROW), "short": memory(b"metrics", SHRINK),
    "empty": memory(b"", SHRINK), "fifo": os.open("fifo", os.O_RDWR), "directory": os.open(".", os.O_RDONLY),
    "link": os.open("link", os.O_PATH | os.O_NOFOLLOW), "file": os.open("file", os.O_RDWR), "device": os.open("/dev/zero", os.O_RDWR),
    "closed": 9999, "negative": -1, "large": 1 << 40, "text": "seven",
}
selector = selectors.DefaultSelector()
for name, descriptor in kinds.items():
    connection = socket.socket(socket.AF_UNIX)
    connection.connect("supervisor.ipc")
    connection.sendall((json.dumps({"id": 2, "do": "register", "state": {"process_id": os.getpid(), "name": name}}) + "\n").encode())
    selector.register(connection, selectors.EVENT_READ, (connection.makefile(), descriptor))
while True:
    for key, _ in selector.select(0.001):
        lines, descriptor = key.data
        call = json.loads(lines.readline() or sys.exit())
        if call.get("do") == "utilization":
            answer = {"id": call["id"], "finished": True, "descriptor": descriptor}
            key.fileobj.sendall((json.dumps(answer) + "\n").encode())
    for size in (0, len(genuine)):
        os.ftruncate(unsealed, size)
    if os.path.exists("go-mad"):
        os.pwrite(mad, os.urandom(len(genuine) - 64), 64)
"#;

#[test]
fn what_is_no_memory_of_metrics_takes_nobody_down() -> io::Result<()> {
    if !has_python("import os; os.memfd_create") {
        return Ok(());
    }
    let dir = Dir::new()?;
    let mut program = dir.example("utilization")?.args(["--listen", "127.0.0.1:0", "--workers", "1"]).start()?;
    let address = address(&mut program)?;
    let mut supervisor = Supervisor::of(&mut program, &dir.socket(), LIMIT)?;
    let workers = supervisor.wait_for_workers("the worker", LIMIT, |workers| workers.len() == 1)?;
    let mut stream = BufReader::new(TcpStream::connect(&address)?);
    echo(&mut stream, 1)?;
    let pid_of_supervisor = supervisor.ask("ping", json!({}))?["process_id"].clone();
    let path = supervisor.forward(&workers[0], json!({"do": "utilization"}))?["path"].clone();
    let path = path.as_str().unwrap_or_default().to_owned();
    let mut hostile = dir.command("python3").args(["-c", HOSTILE, &path]).start()?;

    let of = |monitor: &Value, name: &str| {
        let workers = monitor["workers"].as_array().into_iter().flatten();
        workers.into_iter().find(|worker| worker["name"] == name).cloned().unwrap_or_default()
    };
    let reasons = [
        ("unsealed", "could be taken away"),
        ("garbage", "not a segment of metrics"),
        ("short", "not a segment of metrics"),
        ("empty", "not a segment of metrics"),
        ("fifo", "it is no file"),
        ("directory", "it is no file"),
        ("link", "it is no file"),
        ("file", "could be taken away"),
        ("device", "it is no file"),
        ("closed", "could not open descriptor 9999"),
        ("negative", "could not open descriptor -1"),
        ("large", "makes no sense"),
        ("text", "makes no sense"),
    ];
    let seen = hostile.wait_for("a word on each of them", LIMIT, || {
        let responses = supervisor.call("status", json!({}))?;
        let monitor = responses.into_iter().find_map(|mut response| response.get_mut("utilization").map(Value::take));
        Ok(monitor.filter(|monitor| reasons.iter().all(|(name, _)| of(monitor, name)["error"].is_string())))
    })?;
    for (name, reason) in reasons {
        let error = of(&seen, name)["error"].as_str().unwrap_or_default().to_owned();
        assert!(error.contains(reason), "{name}: {error}");
    }
    assert!(of(&seen, "mad")["metrics"]["requests_total"].is_number(), "{seen}");

    std::fs::write(dir.file("go-mad"), "")?;
    let before = of(&seen, "mad")["metrics"].clone();
    utilization(&dir, "other numbers", |monitor| of(monitor, "mad")["metrics"] != before)?;

    // Nobody was lost, and who counts goes on.
    echo(&mut stream, 6)?;
    utilization(&dir, "what was counted since", |monitor| {
        monitor["services"]["echo"]["metrics"]["requests_total"] == json!(7)
    })?;
    assert_eq!(supervisor.ask("ping", json!({}))?["process_id"], pid_of_supervisor);
    assert_eq!(supervisor.workers()?.len(), reasons.len() + 2);
    let told = program.stderr();
    assert!(told.lines().filter(|line| line.contains("utilization is not read")).count() >= reasons.len(), "{told}");
    Ok(())
}
