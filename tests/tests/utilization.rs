//! What workers count in shared memory, as the supervisor shows it: through the example.

use std::{
    io::{self, BufRead as _, BufReader, Write as _},
    net::TcpStream,
    process::{Command, Stdio},
    time::Duration,
};

use async_container_supervisor_tests::{Dir, Program, Signal, Supervisor, proc, wait_for};
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

/// The metrics of a process, read by the program in docs/utilization.md. Nothing, and the reason printed, without a Python.
fn read_in_python(pid: u32, descriptor: i64) -> io::Result<Option<Value>> {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/utilization.md"))?;
    let program = page.split("```python\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap_or_default();
    let program = format!("{program}\nimport json\nprint(json.dumps(dict(read({pid}, {descriptor}))))\n");
    match Command::new("python3").args(["-c", &program]).stdin(Stdio::null()).output() {
        Ok(output) if output.status.success() => Ok(Some(serde_json::from_slice(&output.stdout)?)),
        Ok(output) => Err(io::Error::other(String::from_utf8_lossy(&output.stderr).into_owned())),
        Err(error) => {
            eprintln!("skipped: there is no python3 to read metrics with: {error}");
            Ok(None)
        }
    }
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
