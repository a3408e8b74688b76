//! Instances that are threads of the root.

use std::{collections::BTreeSet, fs, io, time::Duration};

use async_container_supervisor_tests::{Dir, Program, Signal};

const LIMIT: Duration = Duration::from_secs(30);

fn start(dir: &Dir) -> io::Result<Program> {
    let mut program = dir.example("acs-fixture")?.arg("root-threads").start()?;
    program.wait_for_stderr("all children are ready", LIMIT)?;
    Ok(program)
}

/// The lines of standard error that have the text.
fn lines(program: &Program, text: &str) -> Vec<String> {
    program.stderr().lines().filter(|line| line.contains(text)).map(str::to_owned).collect()
}

#[test]
fn they_are_started_again_and_end_with_the_others() -> io::Result<()> {
    let dir = Dir::new()?;
    let mut program = start(&dir)?;
    // Two threads of one process, which is the root, and one socket between them.
    let said: BTreeSet<String> =
        lines(&program, "shares port").iter().map(|line| line[line.find(" of ").unwrap_or(0)..].to_owned()).collect();
    assert_eq!(said.len(), 1, "{said:?}");
    let below = program.descendants()?;
    let root = below.iter().find(|process| process.parent == program.pid()).expect("a root");
    assert!(said.first().is_some_and(|line| line.contains(&format!(" of process {} ", root.pid))), "{said:?}");
    // The root and the worker: no process of their own.
    assert_eq!(below.len(), 2, "{below:?}");

    fs::write(dir.file("fail-inner#1"), "")?;
    let line = program.wait_for_stderr("child failed child=\"inner#1\"", LIMIT)?;
    assert!(line.contains("reason=\"told to fail\""), "{line}");
    fs::write(dir.file("panic-inner#2"), "")?;
    let line = program.wait_for_stderr("child failed child=\"inner#2\"", LIMIT)?;
    assert!(line.contains("reason=\"panicked\""), "{line}");
    let log = dir.file("acs-fixture-1.stderr");
    program.wait_for("both to be there again", LIMIT, || {
        Ok((fs::read_to_string(&log)?.matches("child is ready child=\"inner#").count() == 4).then_some(()))
    })?;

    program.signal(Signal::HUP)?;
    program.wait_for_stderr("the new generation is ready", LIMIT)?;
    program.signal(Signal::TERM)?;
    assert!(program.wait(LIMIT)?.success(), "{}", program.stderr());
    assert_eq!(lines(&program, "child stopped child=\"inner#").len(), 4, "{}", program.stderr());
    assert_eq!(lines(&program, "leaving thread behind"), [""; 0]);
    Ok(())
}

#[test]
fn one_that_hangs_ends_the_application() -> io::Result<()> {
    let dir = Dir::new()?;
    let mut program = start(&dir)?;
    fs::write(dir.file("hang-inner#2"), "")?;
    assert_eq!(program.wait(LIMIT)?.code(), Some(70), "{}", program.stderr());
    let left = lines(&program, "leaving thread behind");
    assert_eq!(left.len(), 1, "{left:?}");
    assert!(left[0].contains("child=\"inner#2\" reason=\"silent for 500ms (health check)\""), "{left:?}");
    assert_eq!(lines(&program, "thread inner#2 of the root hangs").len(), 1);
    // The others were asked to end.
    assert_eq!(lines(&program, "child stopped child=\"worker#1\"").len(), 1, "{}", program.stderr());
    Ok(())
}

#[test]
fn one_that_does_not_hear_a_stop_is_left_behind_after_its_grace() -> io::Result<()> {
    let dir = Dir::new()?;
    let mut program = start(&dir)?;
    fs::write(dir.file("deaf"), "")?;
    program.signal(Signal::TERM)?;
    assert!(program.wait(LIMIT)?.success(), "{}", program.stderr());
    let left = lines(&program, "leaving thread behind");
    assert_eq!(left.len(), 2, "{left:?}");
    assert!(left.iter().all(|line| line.contains("it did not end within its grace period")), "{left:?}");
    Ok(())
}

#[test]
fn what_only_a_process_can_do_is_refused() -> io::Result<()> {
    let dir = Dir::new()?;
    let mut program = dir.example("acs-fixture")?.arg("root-thread-supervised").start()?;
    assert_eq!(program.wait(LIMIT)?.code(), Some(78));
    let text = program.stderr();
    assert!(text.contains("service \"inner\" is a thread of the root, which has no use for supervised"), "{text}");
    Ok(())
}
