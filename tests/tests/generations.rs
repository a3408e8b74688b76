//! Blue/green: SIGHUP.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    time::Duration,
};

use async_container_supervisor_tests::{Dir, Program, Signal, Supervisor};
use serde_json::json;

const LIMIT: Duration = Duration::from_secs(30);

fn children(program: &Program) -> io::Result<BTreeSet<u32>> {
    let everybody = program.descendants()?;
    let root = everybody.iter().find(|process| process.parent == program.pid()).map_or(0, |root| root.pid);
    Ok(everybody.iter().filter(|process| process.parent == root).map(|process| process.pid).collect())
}

#[test]
fn a_new_generation_replaces_the_old_one() -> io::Result<()> {
    let dir = Dir::new()?;
    let mut program = dir.example("acs-fixture")?.arg("breakable").start()?;
    program.wait_for_stderr("all children are ready", LIMIT)?;
    let old = children(&program)?;
    assert_eq!(old.len(), 4);
    program.signal(Signal::HUP)?;
    program.wait_for_stderr("the new generation is ready", LIMIT)?;
    let root = program.pid();
    program.wait_for("four other children", LIMIT, || {
        let everybody = async_container_supervisor_tests::proc::descendants(root)?;
        let now: BTreeSet<u32> = everybody.iter().map(|process| process.pid).collect();
        Ok((now.len() == 5 && now.is_disjoint(&old)).then_some(()))
    })?;
    program.signal(Signal::INT)?;
    assert!(program.wait(LIMIT)?.success());
    Ok(())
}

#[test]
fn a_generation_that_fails_leaves_the_old_one_as_it_was() -> io::Result<()> {
    let dir = Dir::new()?;
    let mut program = dir.example("acs-fixture")?.arg("breakable").start()?;
    program.wait_for_stderr("all children are ready", LIMIT)?;
    let old = children(&program)?;
    std::fs::write(dir.file("broken"), "")?;
    program.signal(Signal::HUP)?;
    let line = program.wait_for_stderr("the new generation failed", LIMIT)?;
    assert!(line.contains("exited with status 1"), "{line}");
    let root = program.pid();
    program.wait_for("the old children alone", LIMIT, || {
        let everybody = async_container_supervisor_tests::proc::descendants(root)?;
        let now: BTreeSet<u32> = everybody.iter().map(|process| process.pid).collect();
        Ok((now.len() == 5 && old.is_subset(&now)).then_some(()))
    })?;

    // The old one is still looked after, and once the cause is gone a reload succeeds.
    std::fs::remove_file(dir.file("broken"))?;
    program.signal(Signal::HUP)?;
    program.wait_for_stderr("the new generation is ready", LIMIT)?;
    Ok(())
}

#[test]
fn no_connection_is_refused_meanwhile() -> io::Result<()> {
    let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
    let dir = Dir::new()?;
    let mut program = dir.example("acs-fixture")?.args(["listens", &address]).start()?;
    program.wait_for_stderr("all children are ready", LIMIT)?;
    program.signal(Signal::HUP)?;
    let mut connections = 0;
    program.wait_for("the new generation", LIMIT, || {
        let mut stream = TcpStream::connect(&address)?;
        // An old child may end before it has accepted or answered; refused is nobody.
        let mut answer = [0; 4];
        let _ = stream.write_all(b"ping").and_then(|()| stream.read_exact(&mut answer));
        connections += 1;
        let text = std::fs::read_to_string(dir.file("acs-fixture-1.stderr"))?;
        Ok((text.matches("child stopped").count() == 2).then_some(()))
    })?;
    assert!(connections > 0);
    let mut stream = TcpStream::connect(&address)?;
    stream.write_all(b"ping")?;
    let mut answer = [0; 4];
    stream.read_exact(&mut answer)?;
    assert_eq!(&answer, b"ping");
    Ok(())
}

/// The lines of the log about starts, readiness and ends of workers: what happened, and to which process.
fn workers_history(program: &Program) -> Vec<(String, u32)> {
    let mut history = Vec::new();
    for line in program.stderr().lines().filter(|line| line.contains("child=\"worker#")) {
        let pid = line.split_once(" pid=").and_then(|(_, rest)| rest.split(' ').next()?.parse().ok());
        for what in ["child is ready", "child stopped", "child failed"] {
            if let (true, Some(pid)) = (line.contains(what), pid) {
                history.push((what.to_owned(), pid));
            }
        }
    }
    history
}

#[test]
fn a_rolling_reload_never_has_fewer_children_than_before() -> io::Result<()> {
    let dir = Dir::new()?;
    let mut program = dir.example("acs-fixture")?.arg("rolling").start()?;
    program.wait_for_stderr("all children are ready", LIMIT)?;
    let old = children(&program)?;
    program.signal(Signal::HUP)?;
    program.wait_for_stderr("the new generation is ready", LIMIT)?;
    let root = program.pid();
    program.wait_for("five other children", LIMIT, || {
        let now: BTreeSet<u32> =
            async_container_supervisor_tests::proc::descendants(root)?.iter().map(|process| process.pid).collect();
        Ok((now.len() == 6 && now.is_disjoint(&old)).then_some(()))
    })?;
    let (mut ready, mut most, mut full) = (0, 0, false);
    for (what, pid) in workers_history(&program) {
        match what.as_str() {
            "child is ready" => ready += 1,
            "child stopped" => ready -= 1,
            other => panic!("{other} {pid}"),
        }
        full |= ready == 4;
        assert!(!full || ready >= 4, "{:?}", workers_history(&program));
        most = most.max(ready);
    }
    assert_eq!(most, 5, "one at a time: {:?}", workers_history(&program));

    // The supervisor was replaced last, and knows everybody.
    let mut supervisor = async_container_supervisor_tests::Supervisor::connect(&dir.socket())?;
    supervisor.wait_for_workers("the workers", LIMIT, |workers| workers.len() == 4)?;
    let ready = supervisor.ask("ready", serde_json::json!({}))?;
    assert_eq!((&ready["ready"], &ready["generation"]), (&true.into(), &2.into()), "{ready}");
    Ok(())
}

#[test]
fn a_rolling_reload_ends_at_the_first_failure() -> io::Result<()> {
    let dir = Dir::new()?;
    let mut program = dir.example("acs-fixture")?.arg("rolling").start()?;
    program.wait_for_stderr("all children are ready", LIMIT)?;
    let old = children(&program)?;
    program.signal(Signal::HUP)?;
    // In the middle of it, starts begin to fail.
    program.wait_for("the first replacement", LIMIT, || {
        let text = std::fs::read_to_string(dir.file("acs-fixture-1.stderr"))?;
        Ok(text.contains("child stopped child=\"worker#1\"").then_some(()))
    })?;
    std::fs::write(dir.file("broken"), "")?;
    let line = program.wait_for_stderr("the new generation failed", LIMIT)?;
    assert!(line.contains("exited with status 1"), "{line}");
    let root = program.pid();
    let now = program.wait_for("the supervisor and four workers", LIMIT, || {
        let now: BTreeSet<u32> =
            async_container_supervisor_tests::proc::descendants(root)?.iter().map(|process| process.pid).collect();
        Ok((now.len() == 6).then_some(now))
    })?;
    let kept = now.intersection(&old).count();
    assert!((1..5).contains(&kept), "{kept} of the old ones are left");

    // Those that were replaced and those that were not are looked after alike, and the next reload replaces all.
    std::fs::remove_file(dir.file("broken"))?;
    program.signal(Signal::HUP)?;
    program.wait_for("nobody of before", LIMIT, || {
        let later: BTreeSet<u32> =
            async_container_supervisor_tests::proc::descendants(root)?.iter().map(|process| process.pid).collect();
        Ok((later.len() == 6 && later.intersection(&now).count() == 1).then_some(()))
    })?;
    program.signal(Signal::TERM)?;
    assert!(program.wait(LIMIT)?.success());
    Ok(())
}

/// The processes of the children that run now, by name, once as many attempts to reload have ended.
fn processes(dir: &Dir, program: &mut Program, reloads: u64) -> io::Result<(BTreeMap<String, u64>, serde_json::Value)> {
    let socket = dir.socket();
    program.wait_for(&format!("the end of reload {reloads}"), LIMIT, || {
        let answer = Supervisor::connect(&socket).and_then(|mut supervisor| supervisor.ask("children", json!({})));
        let root = match answer {
            Ok(root) => root,
            // The supervisor is just being replaced.
            Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe) => {
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let children = root["children"].as_array().cloned().unwrap_or_default();
        let settled =
            root["reloads"] == json!(reloads) && children.iter().all(|child| child["state"] == json!("ready"));
        let running = children.iter().filter_map(|child| {
            let name = child["name"].as_str().filter(|name| !name.starts_with("supervisor"))?;
            Some((name.to_owned(), child["process_id"].as_u64()?))
        });
        let running: BTreeMap<String, u64> = running.collect();
        Ok(settled.then_some((running, root["reload_error"].clone())))
    })
}

#[test]
fn what_did_not_change_is_kept_and_what_is_gone_is_stopped() -> io::Result<()> {
    let dir = Dir::new()?;
    let configure = |text: &str| std::fs::write(dir.file("services"), text);
    configure("a 1\nb 1\n")?;
    let mut program = dir.example("acs-fixture")?.arg("configured").start()?;
    Supervisor::of(&mut program, &dir.socket(), LIMIT)?;
    let (first, _) = processes(&dir, &mut program, 0)?;
    assert_eq!(first.keys().collect::<Vec<_>>(), ["a#1", "b#1"]);

    configure("a 1\nc 1\n")?;
    program.signal(Signal::HUP)?;
    let (second, error) = processes(&dir, &mut program, 1)?;
    assert_eq!(second.keys().collect::<Vec<_>>(), ["a#1", "c#1"], "{error}");
    assert_eq!(second["a#1"], first["a#1"], "it is the same as before");

    configure("a 2\nc 1\n")?;
    program.signal(Signal::HUP)?;
    let (third, _) = processes(&dir, &mut program, 2)?;
    assert_ne!(third["a#1"], second["a#1"], "it has changed");
    assert_eq!(third["c#1"], second["c#1"]);

    // What makes no sense changes nothing, and says what is wrong.
    configure("a 3\na 3\n")?;
    program.signal(Signal::HUP)?;
    let (fourth, error) = processes(&dir, &mut program, 3)?;
    assert_eq!(fourth, third);
    assert!(error.as_str().is_some_and(|error| error.contains("two services are named \"a\"")), "{error}");
    std::fs::remove_file(dir.file("services"))?;
    program.signal(Signal::HUP)?;
    let (fifth, error) = processes(&dir, &mut program, 4)?;
    assert_eq!(fifth, third);
    assert!(
        error.as_str().is_some_and(|error| error.contains("cannot tell which services to run: No such file")),
        "{error}"
    );

    // A child that was kept over reloads is looked after as any other.
    let victim = third["c#1"];
    async_container_supervisor_tests::proc::process(victim as u32).expect("it runs").signal(Signal::KILL)?;
    program.wait_for_stderr("killed by SIGKILL", LIMIT)?;
    let (sixth, _) = processes(&dir, &mut program, 4)?;
    assert_eq!(sixth["a#1"], third["a#1"]);
    program.signal(Signal::TERM)?;
    assert!(program.wait(LIMIT)?.success());
    Ok(())
}

#[test]
fn a_generation_that_never_becomes_ready_is_given_up() -> io::Result<()> {
    let dir = Dir::new()?;
    let mut program = dir.example("acs-fixture")?.arg("slow-reload").start()?;
    program.wait_for_stderr("all children are ready", LIMIT)?;
    let old = children(&program)?;
    std::fs::write(dir.file("slow"), "")?;
    program.signal(Signal::HUP)?;
    for name in ["worker#1", "worker#2"] {
        program.wait_for_stderr(&format!("{name} will never be ready"), LIMIT)?;
    }
    // The old ones are looked after meanwhile.
    let victim = *old.iter().next().expect("a child");
    std::fs::remove_file(dir.file("slow"))?;
    async_container_supervisor_tests::proc::process(victim).expect("it runs").signal(Signal::KILL)?;
    program.wait_for_stderr("child failed", LIMIT)?;
    let line = program.wait_for_stderr("the new generation failed", LIMIT)?;
    assert!(line.contains("not ready within 300ms: worker#"), "{line}");
    program.wait_for("two children", LIMIT, || {
        let text = std::fs::read_to_string(dir.file("acs-fixture-1.stderr"))?;
        Ok((text.matches("child stopped").count() >= 2).then_some(()))
    })?;
    let now = children(&program)?;
    assert_eq!((now.len(), now.intersection(&old).count()), (2, 1), "{}", program.stderr());
    Ok(())
}
