//! Blue/green: SIGHUP.

use std::{
    collections::BTreeSet,
    io::{self, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    time::Duration,
};

use async_container_supervisor_tests::{Dir, Program, Signal};

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
