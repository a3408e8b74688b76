//! What the examples promise.

use std::{
    collections::BTreeSet,
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use async_container_supervisor_tests::{Dir, Program, Signal, Supervisor};

const LIMIT: Duration = Duration::from_secs(30);

/// Waits until so many lines of its standard output are as they should be.
fn lines(program: &mut Program, what: &str, count: usize, is_right: impl Fn(&str) -> bool) -> io::Result<Vec<String>> {
    let path = program.stdout_path().to_owned();
    program.wait_for(what, LIMIT, || {
        let text = std::fs::read_to_string(&path)?;
        let found: Vec<String> = text.lines().filter(|line| is_right(line)).map(str::to_owned).collect();
        Ok((found.len() >= count).then_some(found))
    })
}

/// What it says of monitors is that they are written so.
#[test]
fn a_monitor_of_ones_own_takes_twenty_lines() -> io::Result<()> {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/custom_monitor.rs");
    let text = std::fs::read_to_string(path)?;
    let monitor = text.split_once("#[derive(Default)]\n").and_then(|(_, rest)| rest.split_once("\nfn main()"));
    let (monitor, _) = monitor.ok_or_else(|| io::Error::other("where is it?"))?;
    let count = monitor.lines().filter(|line| !line.trim().is_empty()).count();
    assert!((10..=20).contains(&count), "{count} lines: {monitor}");
    Ok(())
}

#[test]
fn grace_is_given_and_ends() -> io::Result<()> {
    let dir = Dir::new()?;
    let mut program = dir.example("grace")?.args(["--grace", "1"]).start()?;
    program.wait_for_stderr("all children are ready", LIMIT)?;
    let start = Instant::now();
    program.signal(Signal::INT)?;
    assert_eq!(program.wait(LIMIT)?.code(), Some(0));
    assert!(start.elapsed() >= Duration::from_secs(1), "the stubborn one was given its time");
    let log = program.stderr();
    assert!(log.contains("polite: finished"), "{log}");
    assert!(log.contains("stubborn#1") && log.contains("SIGKILL"), "{log}");
    Ok(())
}

#[test]
fn workers_that_are_too_slow_for_their_health_check_are_replaced() -> io::Result<()> {
    let dir = Dir::new()?;
    let mut program = dir.example("health_check")?.start()?;
    program.wait_for_stderr("silent for 1s (health check)", LIMIT)?;
    program.signal(Signal::TERM)?;
    assert_eq!(program.wait(LIMIT)?.code(), Some(0));
    Ok(())
}

#[test]
fn work_is_fanned_out_and_gathered() -> io::Result<()> {
    let dir = Dir::new()?;
    let mut program = dir.example("fan_out")?.args(["--below", "10000", "--workers", "3"]).start()?;
    assert_eq!(program.wait(LIMIT)?.code(), Some(0), "{}", program.stderr());
    assert_eq!(program.stdout(), "1229 primes\n");
    Ok(())
}

#[test]
fn jobs_survive_the_workers_that_they_crash() -> io::Result<()> {
    let dir = Dir::new()?;
    let mut program = dir.example("queue")?.args(["--jobs", "12"]).start()?;
    assert_eq!(program.wait(LIMIT)?.code(), Some(0), "{}", program.stderr());
    assert_eq!(program.stdout(), "all 12 jobs are done\n");
    let log = program.stderr();
    for number in [5, 10] {
        assert!(log.contains(&format!("job {number} is too much for me")), "{log}");
    }
    assert_eq!(log.matches("a worker is gone: its job goes back").count(), 2, "{log}");
    Ok(())
}

#[test]
fn another_program_is_replaced_without_a_gap() -> io::Result<()> {
    let dir = Dir::new()?;
    let mut program = dir.example("exec_child")?.start()?;
    let first = lines(&mut program, "the first script", 1, |line| line.ends_with("is ready"))?;
    program.signal(Signal::HUP)?;
    lines(&mut program, "the end of the first script", 1, |line| line.ends_with(" ends"))?;
    let said = program.stdout();
    let said: Vec<(&str, &str)> = said.lines().filter_map(|line| line.split_once(' ')).collect();
    let old = first[0].split(' ').next().unwrap_or_default();
    assert_eq!(
        said.iter().map(|line| line.1).collect::<Vec<_>>(),
        ["is getting ready", "is ready", "is getting ready", "is ready", "ends"]
    );
    assert!(said[2].0 != old && said[3].0 == said[2].0 && said[4].0 == old, "{said:?}");
    program.signal(Signal::TERM)?;
    assert_eq!(program.wait(LIMIT)?.code(), Some(0));
    Ok(())
}

#[test]
fn the_container_needs_nothing_else() -> io::Result<()> {
    let dir = Dir::new()?;
    let mut program = dir.example("minimal")?.start()?;
    let said = lines(&mut program, "both workers", 2, |line| line.contains(" is process "))?;
    let process_id = |line: &str| line.rsplit(' ').next()?.parse::<u32>().ok();
    let victim = process_id(&said[0]).ok_or(io::ErrorKind::InvalidData)?;
    let descendants = program.descendants()?;
    descendants.iter().find(|it| it.pid == victim).ok_or(io::ErrorKind::NotFound)?.signal(Signal::KILL)?;
    let said = lines(&mut program, "a third one", 3, |line| line.contains(" is process "))?;
    assert_eq!(said.iter().filter_map(|line| process_id(line)).collect::<BTreeSet<_>>().len(), 3);
    assert!(!dir.socket().exists());
    program.signal(Signal::INT)?;
    assert_eq!(program.wait(LIMIT)?.code(), Some(0));
    assert_eq!(program.stdout().matches(" ends\n").count(), 2);
    Ok(())
}

#[test]
fn processes_have_threads() -> io::Result<()> {
    let dir = Dir::new()?;
    let mut program = dir.example("hybrid")?.args(["--processes", "2", "--threads", "3"]).start()?;
    let mut supervisor = Supervisor::of(&mut program, &dir.socket(), LIMIT)?;
    let workers = supervisor.wait_for_workers("all threads", LIMIT, |workers| workers.len() == 6)?;
    assert_eq!(workers.iter().map(|worker| worker.pid).collect::<BTreeSet<_>>().len(), 2);
    Ok(())
}

/// What a server answers to one request.
fn get(address: SocketAddr, path: &str) -> io::Result<String> {
    ask(&mut TcpStream::connect(address)?, path)
}

/// What a server answers to one request on this connection.
fn ask(stream: &mut TcpStream, path: &str) -> io::Result<String> {
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    match answer.starts_with("HTTP/1.1 200 OK\r\n") {
        true => Ok(answer),
        false => Err(io::Error::other(format!("{path} was answered with {answer:?}"))),
    }
}

#[test]
fn a_web_service_loses_no_request() -> io::Result<()> {
    let dir = Dir::new()?;
    // Free now; whoever takes it until the example has it makes this test fail, which is most unlikely.
    let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let mut program = dir.example("web")?.args(["--listen", &address.to_string()]).start()?;
    program.wait_for_stderr("all children are ready", LIMIT)?;
    let answer = get(address, "/")?;
    assert!(answer.contains("hello from web#"), "{answer}");

    let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let (stopped, counter) = (stop.clone(), answered.clone());
    let asking = thread::spawn(move || {
        while !stopped.load(Ordering::Relaxed) {
            get(address, "/")?;
            counter.fetch_add(1, Ordering::Relaxed);
        }
        Ok::<_, io::Error>(())
    });
    let wait_for_answers = |program: &mut Program| {
        let before = answered.load(Ordering::Relaxed);
        program.wait_for("answers", LIMIT, || {
            // One that is refused ends it, and is told below.
            let is_enough = answered.load(Ordering::Relaxed) > before + 10;
            Ok((is_enough || asking.is_finished()).then_some(()))
        })
    };
    wait_for_answers(&mut program)?;
    for _ in 0..3 {
        // A client that takes a while to say what it wants. It was accepted before one that has been answered.
        let mut hesitant = TcpStream::connect(address)?;
        get(address, "/")?;
        let mut acs = dir.binary("acs")?.args(["reload", "--wait"]).start()?;
        assert!(acs.wait(LIMIT)?.success(), "{}", acs.stderr());
        assert!(ask(&mut hesitant, "/")?.contains("hello from web#"));
        wait_for_answers(&mut program)?;
    }
    stop.store(true, Ordering::Relaxed);
    asking.join().expect("the thread does not panic")?;

    // What is under way when it is asked to end is answered.
    let mut slow = TcpStream::connect(address)?;
    write!(slow, "GET /slow HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    // One that is answered was accepted after this one, whose request is there: it is read, however late.
    get(address, "/")?;
    program.signal(Signal::TERM)?;
    let mut answer = String::new();
    slow.read_to_string(&mut answer)?;
    assert!(answer.contains("hello from web#"), "{answer}");
    assert_eq!(program.wait(LIMIT)?.code(), Some(0));
    assert!(get(address, "/").is_err());
    Ok(())
}

#[test]
fn crates_are_of_use_alone() -> io::Result<()> {
    let dir = Dir::new()?;
    let mut program = dir.example("rpc")?.start()?;
    assert!(program.wait(LIMIT)?.success(), "{}", program.stderr());
    let said = program.stdout();
    assert!(said.starts_with("the sum is 42\nheard 1\nheard 2\nheard 3\n"), "{said}");
    assert!(said.ends_with("it cannot dance: UnknownOperation: there is no operation 'dance'\n"), "{said}");

    let mut program = dir.example("dump_threads")?.start()?;
    assert!(program.wait(LIMIT)?.success(), "{}", program.stderr());
    let said = program.stdout();
    assert!(said.contains("\"stuck\"") && said.contains("wait_for_ever"), "{said}");

    let mut sleep = dir.command("sleep").arg("1000000").start()?;
    let pid = sleep.pid().to_string();
    let mut program = dir.example("watch_processes")?.args(["--interval", "0.05", "--limit", "0", &pid]).start()?;
    lines(&mut program, "two looks", 2, |line| line.contains(" MiB resident, of which "))?;
    lines(&mut program, "the limit", 1, |line| line.starts_with(&format!("{pid}: ")) && !line.contains("resident,"))?;
    sleep.signal(Signal::KILL)?;
    sleep.wait(LIMIT)?;
    assert!(program.wait(LIMIT)?.success(), "{}", program.stderr());
    assert!(program.stdout().ends_with(&format!("{pid}: has ended\n")), "{}", program.stdout());
    Ok(())
}

#[test]
fn a_root_of_ones_own_and_a_client_of_it() -> io::Result<()> {
    let dir = Dir::new()?;
    let mut program = dir.example("own_root")?.start()?;
    let mut supervisor = Supervisor::of(&mut program, &dir.socket(), LIMIT)?;
    supervisor.wait_for_workers("both workers", LIMIT, |workers| workers.len() == 2)?;
    let mut acs = dir.binary("acs")?.args(["call", "job#2", "add", "by=40"]).start()?;
    assert!(acs.wait(LIMIT)?.success(), "{}", acs.stderr());
    assert_eq!(acs.stdout(), "total: 42\n");
    program.signal(Signal::TERM)?;
    assert!(program.wait(LIMIT)?.success());
    drop(program);

    let mut program = dir.example("simple")?.args(["--workers", "1"]).start()?;
    program.wait_for_stderr("all children are ready", LIMIT)?;
    let mut supervisor = Supervisor::of(&mut program, &dir.socket(), LIMIT)?;
    supervisor.wait_for_workers("the worker", LIMIT, |workers| workers.len() == 1)?;
    let mut client = dir.example("client")?.start()?;
    assert!(client.wait(LIMIT)?.success(), "{}", client.stderr());
    let said = client.stdout();
    assert!(said.contains("\nworker#1 is ready, started again 0 times") && said.contains("Thread dump of"), "{said}");
    Ok(())
}

#[test]
fn every_example_says_how_to_run_it_and_is_listed() -> io::Result<()> {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).parent().ok_or(io::ErrorKind::NotFound)?;
    let readme = std::fs::read_to_string(root.join("README.md"))?;
    for entry in std::fs::read_dir(root.join("examples"))? {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "rs") {
            continue;
        }
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        let command = format!("`cargo run --example {name}");
        let text = std::fs::read_to_string(&path)?;
        assert!(
            text.lines().next().is_some_and(|line| line.contains(&command)),
            "{name} does not open with its command"
        );
        assert!(readme.contains(&command), "the README does not list {name}");
    }
    Ok(())
}

#[test]
fn what_the_benchmark_of_monitors_watches_has_all_of_them() -> io::Result<()> {
    let dir = Dir::new()?;
    let mut program = dir.example("acs-watched")?.args(["serve", "2"]).start()?;
    program.wait_for_stderr("all children are ready", LIMIT)?;
    let mut supervisor = Supervisor::of(&mut program, &dir.socket(), LIMIT)?;
    supervisor.wait_for_workers("both workers", LIMIT, |workers| workers.len() == 2)?;
    let status = serde_json::Value::from(supervisor.call("status", serde_json::json!({}))?).to_string();
    for monitor in ["memory", "process", "health", "utilization"] {
        assert!(status.contains(&format!(r#""{monitor}":"#)), "{monitor} in {status}");
    }
    program.signal(Signal::TERM)?;
    assert_eq!(program.wait(LIMIT)?.code(), Some(0));
    Ok(())
}
