//! What happens when a child ends, where the application has a say in it.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Read as _, Write as _},
    net::{Shutdown, TcpStream},
    time::Duration,
};

use async_container_supervisor_tests::{Dir, Program, Signal, proc};

const LIMIT: Duration = Duration::from_secs(30);

fn fixture(dir: &Dir, scenario: &str) -> io::Result<Program> {
    dir.example("acs-fixture")?.arg(scenario).start()
}

/// The lines about starts, readiness and ends, as (what, child, pid), in their order.
fn history(program: &Program) -> Vec<(String, String, u32)> {
    let field = |line: &str, name: &str| {
        let (_, rest) = line.split_once(&format!(" {name}="))?;
        Some(rest.split(' ').next().unwrap_or_default().trim_matches('"').to_owned())
    };
    let mut history = Vec::new();
    for line in program.stderr().lines() {
        for what in ["child started", "child is ready", "child stopped", "child failed", "child exited"] {
            if let (true, Some(child), Some(pid)) = (line.contains(what), field(line, "child"), field(line, "pid")) {
                history.push((what.to_owned(), child, pid.parse().unwrap_or_default()));
            }
        }
    }
    history
}

/// The process of each child that was started last.
fn latest(program: &Program) -> BTreeMap<String, u32> {
    history(program)
        .into_iter()
        .filter(|(what, ..)| what == "child started")
        .map(|(_, child, pid)| (child, pid))
        .collect()
}

fn started(program: &mut Program, count: usize) -> io::Result<()> {
    let path = program_log(program);
    program.wait_for(&format!("{count} starts"), LIMIT, || {
        Ok((std::fs::read_to_string(&path)?.matches("child started").count() >= count).then_some(()))
    })
}

fn program_log(program: &Program) -> std::path::PathBuf {
    std::fs::read_link(format!("/proc/{}/fd/2", program.pid())).unwrap_or_default()
}

#[test]
fn too_many_failures_are_the_end_and_have_their_own_status() -> io::Result<()> {
    let dir = Dir::new()?;
    let mut program = fixture(&dir, "gives-up")?;
    assert_eq!(program.wait(LIMIT)?.code(), Some(75));
    let stderr = program.stderr();
    assert_eq!(stderr.matches("giving up").count(), 1, "{stderr}");
    assert!(stderr.contains("failures within 60s, more than 6"), "{stderr}");
    assert!(stderr.contains("a policy failed") && stderr.contains("a policy panicked"), "{stderr}");
    Ok(())
}

#[test]
fn a_policy_may_give_a_hanging_child_more_time() -> io::Result<()> {
    let dir = Dir::new()?;
    let mut program = fixture(&dir, "patient")?;
    program.wait_for_stderr("child failed", LIMIT)?;
    let stderr = program.stderr();
    let failed = stderr.find("child failed").unwrap_or_default();
    assert_eq!(stderr[..failed].matches("given the same time once more").count(), 2, "{stderr}");
    Ok(())
}

#[test]
fn the_end_of_an_essential_child_is_the_end_with_its_status() -> io::Result<()> {
    for (status, expected) in [("0", 0), ("42", 42)] {
        let dir = Dir::new()?;
        let mut program = fixture(&dir, "essential")?;
        program.wait_for_stderr("all children are ready", LIMIT)?;
        std::fs::write(dir.file("end"), status)?;
        assert_eq!(program.wait(LIMIT)?.code(), Some(expected));
        let stderr = program.stderr();
        assert!(stderr.contains("essential child vital#1 exited with status"), "{stderr}");
        // An end without a failure is no error.
        let words =
            if expected == 0 { "the work is done: stopping everything" } else { "giving up: stopping everything" };
        assert!(stderr.contains(words) && stderr.contains("next_try=never"), "{stderr}");
        assert_eq!(stderr.contains("ERROR"), expected != 0, "{stderr}");
    }
    let dir = Dir::new()?;
    let mut program = fixture(&dir, "essential")?;
    program.wait_for_stderr("all children are ready", LIMIT)?;
    proc::process(latest(&program)["vital#1"]).expect("it runs").signal(Signal::KILL)?;
    assert_eq!(program.wait(LIMIT)?.code(), Some(128 + 9));
    Ok(())
}

#[test]
fn an_essential_child_that_is_asked_to_stop_is_no_loss() -> io::Result<()> {
    let dir = Dir::new()?;
    let mut program = fixture(&dir, "essential")?;
    program.wait_for_stderr("all children are ready", LIMIT)?;
    program.signal(Signal::TERM)?;
    assert!(program.wait(LIMIT)?.success());
    Ok(())
}

#[test]
fn exit_statuses_may_decide_about_the_restart() -> io::Result<()> {
    let dir = Dir::new()?;
    let mut program = fixture(&dir, "statuses")?;
    // One of them failed, and is not to be started again.
    assert_eq!(program.wait(LIMIT)?.code(), Some(1));
    let starts = |name: &str| {
        history(&program).iter().filter(|(what, child, _)| what == "child started" && child == name).count()
    };
    assert_eq!((starts("enough#1"), starts("fine#1"), starts("again#1")), (1, 1, 2));
    Ok(())
}

#[test]
fn all_are_started_again_in_their_order() -> io::Result<()> {
    let dir = Dir::new()?;
    let mut program = fixture(&dir, "one-for-all")?;
    program.wait_for_stderr("all children are ready", LIMIT)?;
    let before = latest(&program);
    proc::process(before["second#1"]).expect("it runs").signal(Signal::KILL)?;
    started(&mut program, 8)?;
    let after = latest(&program);
    assert!(before.iter().all(|(child, pid)| after[child] != *pid), "{before:?} {after:?}");
    // Nothing is started before everything has ended.
    let history = history(&program);
    let names: Vec<&str> = history[history.len() - 4..].iter().map(|(_, child, _)| child.as_str()).collect();
    assert!(history[history.len() - 4..].iter().all(|(what, ..)| what == "child started"), "{history:?}");
    assert_eq!(names, ["first#1", "second#1", "second#2", "third#1"]);
    program.signal(Signal::TERM)?;
    assert!(program.wait(LIMIT)?.success());
    Ok(())
}

#[test]
fn those_behind_are_started_again_with_it() -> io::Result<()> {
    let dir = Dir::new()?;
    let mut program = fixture(&dir, "rest-for-one")?;
    program.wait_for_stderr("all children are ready", LIMIT)?;
    let before = latest(&program);
    proc::process(before["second#2"]).expect("it runs").signal(Signal::KILL)?;
    started(&mut program, 6)?;
    let after = latest(&program);
    let replaced: BTreeSet<&str> =
        before.iter().filter(|(child, pid)| after[*child] != **pid).map(|(child, _)| child.as_str()).collect();
    assert_eq!(replaced, BTreeSet::from(["second#2", "third#1"]));
    Ok(())
}

#[test]
fn services_start_after_those_that_they_depend_on_and_stop_before_them() -> io::Result<()> {
    let dir = Dir::new()?;
    let mut program = fixture(&dir, "dependent")?;
    program.wait_for_stderr("child started child=\"database#1\"", LIMIT)?;
    assert_eq!(latest(&program).len(), 1, "nothing else is started before the database is ready");
    std::fs::write(dir.file("go"), "")?;
    program.wait_for_stderr("all children are ready", LIMIT)?;
    program.signal(Signal::TERM)?;
    assert!(program.wait(LIMIT)?.success());

    let history = history(&program);
    let position = |what: &str, child: &str| {
        let found = history.iter().position(|(it, name, _)| it == what && name == child);
        found.unwrap_or_else(|| panic!("{what} {child} is not in {history:?}"))
    };
    let (ready, stopped) = ("child is ready", "child stopped");
    assert!(position(ready, "database#1") < position("child started", "cache#1"));
    for web in ["web#1", "web#2"] {
        assert!(position(ready, "cache#1") < position("child started", web));
        assert!(position(stopped, web) < position(stopped, "cache#1"));
    }
    assert!(position(stopped, "cache#1") < position(stopped, "database#1"));
    Ok(())
}

#[test]
fn a_second_signal_does_not_wait_for_an_order() -> io::Result<()> {
    let dir = Dir::new()?;
    let mut program = fixture(&dir, "dependent")?;
    program.wait_for_stderr("child started child=\"database#1\"", LIMIT)?;
    // Two children that were never started do not hold up the end.
    program.signal(Signal::TERM)?;
    assert!(program.wait(LIMIT)?.success());
    Ok(())
}

#[test]
fn children_that_ask_for_it_are_replaced_and_nobody_waits_for_an_answer() -> io::Result<()> {
    let dir = Dir::new()?;
    let mut program = fixture(&dir, "recycles")?;
    let line = program.wait_for_stderr("listening", LIMIT)?;
    let address = line.split('"').find(|text| text.starts_with("127.0.0.1:")).unwrap_or_default();
    program.wait_for_stderr("all children are ready", LIMIT)?;
    let stopped = |program: &Program| program.stderr().matches("child stopped").count();
    // Until every one of the first was replaced, and their successors, too.
    let mut connections = 0;
    while stopped(&program) < 4 {
        let mut stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(LIMIT))?;
        stream.write_all(b"hello")?;
        stream.shutdown(Shutdown::Write)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        assert_eq!(answer, "hello", "after {connections} connections");
        connections += 1;
        assert!(connections < 100_000, "{}", program.stderr());
    }
    let mut ready = 0;
    let mut full = false;
    for (what, child, _) in history(&program) {
        match what.as_str() {
            "child is ready" => ready += 1,
            "child started" => {}
            "child stopped" => ready -= 1,
            other => panic!("{other} {child}"),
        }
        full |= ready == 2;
        assert!(!full || ready >= 2, "one is missing: {:?}", history(&program));
    }
    let text = program.stderr();
    assert!(text.contains("reason=\"20 connections, ") && text.contains("cause=\"recycle\""), "{text}");
    program.signal(Signal::TERM)?;
    assert!(program.wait(LIMIT)?.success());
    Ok(())
}

#[test]
fn old_children_are_replaced_one_at_a_time() -> io::Result<()> {
    let dir = Dir::new()?;
    let mut program = fixture(&dir, "ages")?;
    program.wait_for_stderr("all children are ready", LIMIT)?;
    started(&mut program, 3 + 6)?;
    let mut ready: BTreeSet<String> = BTreeSet::new();
    let mut full = false;
    for (what, child, _) in history(&program) {
        match what.as_str() {
            "child is ready" => {
                ready.insert(child);
            }
            "child started" => {}
            "child stopped" => {
                ready.remove(&child);
            }
            other => panic!("{other} {child}"),
        }
        full |= ready.len() == 3;
        assert!(!full || ready.len() >= 2, "more than one is missing: {:?}", history(&program));
    }
    assert!(program.stderr().contains("older than 300ms"), "{}", program.stderr());
    Ok(())
}
