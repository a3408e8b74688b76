//! Commands that do not say how they are, are asked.

use std::{io, net::TcpListener, time::Duration};

use async_container_supervisor_tests::{Dir, Program, Signal, Supervisor, proc, wait_for};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(60);

fn commands(dir: &Dir, scenario: &str, argument: &str) -> io::Result<Program> {
    dir.example("acs-commands")?.env("RUST_LOG", "debug").args([scenario, argument]).start()
}

/// An address that nobody listens at: of a loopback network that nobody else uses.
fn address() -> io::Result<String> {
    let [_, high, low, _] = std::process::id().to_be_bytes();
    let listener = TcpListener::bind(format!("127.77.{high}.{low}:0"))?;
    Ok(listener.local_addr()?.to_string())
}

/// Waits until so many processes are below the program whose arguments contain `argument`.
fn running(program: &mut Program, argument: &str, count: usize) -> io::Result<Vec<proc::Process>> {
    let pid = program.pid();
    program.wait_for(&format!("{count} processes with {argument}"), LIMIT, || {
        let mut found = proc::descendants(pid)?;
        found.retain(|process| process.arguments().iter().any(|it| it == argument));
        Ok((found.len() == count).then_some(found))
    })
}

#[test]
fn a_server_that_starts_late_is_ready_when_it_listens() -> io::Result<()> {
    let dir = Dir::new()?;
    let mut program = commands(&dir, "starts-late", &address()?)?;
    // Its failures, many more than its threshold, mean only that it has to be asked again.
    program.wait_for("some attempts", LIMIT, || {
        let text = std::fs::read_to_string(dir.file("acs-commands-1.stderr"))?;
        Ok((text.matches("an attempt of a probe failed").count() >= 5).then_some(()))
    })?;
    let stderr = program.stderr();
    assert!(stderr.contains("probe=start-up probe failure=connection refused"), "{stderr}");
    assert!(!stderr.contains("child is ready") && !stderr.contains("child failed"), "{stderr}");
    std::fs::write(dir.file("open"), "")?;
    program.wait_for_stderr("child is ready", LIMIT)?;
    program.wait_for_stderr("all children are ready", LIMIT)?;
    program.signal(Signal::TERM)?;
    assert!(program.wait(LIMIT)?.success());
    Ok(())
}

#[test]
fn a_server_that_never_starts_is_killed_with_what_its_probe_found() -> io::Result<()> {
    let dir = Dir::new()?;
    let mut program = commands(&dir, "never-starts", &address()?)?;
    let line = program.wait_for_stderr("child failed", LIMIT)?;
    let expected = "not ready within 500ms (start-up time-out), start-up probe: connection refused, killed by SIGKILL";
    assert!(line.contains(expected), "{line}");
    Ok(())
}

/// What the root says about the server.
fn server(supervisor: &mut Supervisor) -> io::Result<Value> {
    let children = supervisor.ask("children", json!({}))?;
    let mut list = children["children"].as_array().into_iter().flatten();
    list.find(|child| child["name"] == "server#1").cloned().ok_or_else(|| io::Error::other("there is no server"))
}

#[test]
fn an_endpoint_that_turns_bad_makes_a_child_unready_and_no_more() -> io::Result<()> {
    let dir = Dir::new()?;
    std::fs::write(dir.file("open"), "")?;
    let mut program = commands(&dir, "turns-bad", &address()?)?;
    let mut supervisor = Supervisor::of(&mut program, &dir.socket(), LIMIT)?;
    let mut in_state = |program: &mut Program, state: &str| {
        program.wait_for(&format!("the state {state}"), LIMIT, || {
            Ok(Some(server(&mut supervisor)?).filter(|child| child["state"] == state))
        })
    };
    let before = in_state(&mut program, "ready")?;
    std::fs::write(dir.file("bad"), "")?;
    let bad = in_state(&mut program, "unready")?;
    std::fs::remove_file(dir.file("bad"))?;
    let after = in_state(&mut program, "ready")?;
    assert!(before["process_id"].is_u64(), "{before}");
    assert_eq!([&bad["process_id"], &after["process_id"]], [&before["process_id"]; 2]);
    let line = program.wait_for_stderr("child is not ready any more", LIMIT)?;
    assert!(line.contains("failure=HTTP status 503 attempts=3"), "{line}");
    Ok(())
}

#[test]
fn a_child_that_is_not_alive_is_replaced() -> io::Result<()> {
    let dir = Dir::new()?;
    std::fs::write(dir.file("open"), "")?;
    let mut program = commands(&dir, "turns-bad-for-good", &address()?)?;
    program.wait_for_stderr("child is ready", LIMIT)?;
    std::fs::write(dir.file("bad"), "")?;
    let line = program.wait_for_stderr("child failed", LIMIT)?;
    let expected = "liveness probe failed 2 times, at last: HTTP status 503, killed by SIGKILL";
    assert!(line.contains(expected), "{line}");
    std::fs::remove_file(dir.file("bad"))?;
    program.wait_for("the second one to be ready", LIMIT, || {
        let text = std::fs::read_to_string(dir.file("acs-commands-1.stderr"))?;
        Ok((text.matches("child is ready").count() == 2).then_some(()))
    })?;
    Ok(())
}

#[test]
fn a_program_is_asked_about_the_process() -> io::Result<()> {
    let dir = Dir::new()?;
    let mut program =
        commands(&dir, "asked", "echo noise; test -e started || exit 3; kill -0 $MAINPID && echo $MAINPID >pid")?;
    program.wait_for_stderr("probe=start-up probe failure=exited with status 3", LIMIT)?;
    std::fs::write(dir.file("started"), "")?;
    program.wait_for_stderr("child is ready", LIMIT)?;
    let child = running(&mut program, "1000000", 1)?.remove(0);
    assert_eq!(std::fs::read_to_string(dir.file("pid"))?.trim(), child.pid.to_string());
    assert_eq!(program.stdout(), "");
    Ok(())
}

/// A probe that hangs, with a process in its group and one that has left it.
const HANGS: &str = "setsid sleep 1000007 & sleep 1000007 & exec sleep 1000007";

#[test]
fn a_program_that_hangs_is_killed_with_all_that_it_started() -> io::Result<()> {
    let dir = Dir::new()?;
    let mut program = commands(&dir, "hanging-probe", HANGS)?;
    let first = running(&mut program, "1000007", 3)?;
    let line = program.wait_for_stderr("child failed", LIMIT)?;
    assert!(line.contains("liveness probe failed 1 times, at last: no answer within 500ms"), "{line}");
    wait_for("the end of the first probe", LIMIT, || {
        let left = first.iter().filter(|it| proc::process(it.pid).is_some_and(|now| now.started == it.started));
        Ok((left.count() == 0).then_some(()))
    })?;
    // The next child is asked by another one; both go with the root.
    running(&mut program, "1000007", 3)?;
    program.signal(Signal::TERM)?;
    assert!(program.wait(LIMIT)?.success());
    let left = proc::processes()?.into_iter().filter(|process| process.is_alive() && process.works_in(dir.path()));
    assert_eq!(left.count(), 0);
    Ok(())
}

#[test]
fn a_probe_ends_with_its_child() -> io::Result<()> {
    let dir = Dir::new()?;
    let mut program = commands(&dir, "patient-probe", HANGS)?;
    for round in 0..5 {
        let probes = running(&mut program, "1000007", 3)?;
        let child = running(&mut program, "1000000", 1)?.remove(0);
        child.signal(Signal::KILL)?;
        program.wait_for_stderr(&format!("child failed child=\"asked#1\" pid={}", child.pid), LIMIT)?;
        wait_for(&format!("the end of the probe in round {round}"), LIMIT, || {
            let left = probes.iter().filter(|it| proc::process(it.pid).is_some_and(|now| now.started == it.started));
            Ok((left.count() == 0).then_some(()))
        })?;
    }
    let stderr = program.stderr();
    assert!(!stderr.contains("killing child") && stderr.matches("child failed").count() == 5, "{stderr}");
    Ok(())
}

#[test]
fn a_probe_that_makes_no_sense_is_refused() -> io::Result<()> {
    let dir = Dir::new()?;
    let mut program = commands(&dir, "probe-nowhere", "nowhere")?;
    assert_eq!(program.wait(LIMIT)?.code(), Some(78));
    let complaint = "liveness probe of service \"asked\": \"nowhere\" is not an address to connect to: use HOST:PORT";
    assert!(program.stderr().contains(complaint), "{}", program.stderr());
    Ok(())
}
