//! The floors of the measurements do what they are to be compared for.

use std::{
    io::{Read as _, Write as _},
    os::unix::net::{UnixDatagram, UnixStream},
    path::Path,
    time::Duration,
};

use async_container_supervisor_tests::{Dir, Program, Signal};

const XTASK: &str = env!("CARGO_BIN_EXE_xtask");
const STAMP: &str = env!("CARGO_BIN_EXE_xtask-stamp");
const LIMIT: Duration = Duration::from_secs(10);

fn end(mut program: Program) {
    *program.input() = None;
    assert!(program.wait(LIMIT).unwrap().success(), "{}", program.stderr());
}

#[test]
fn the_bare_loop_restarts_what_was_killed() {
    let dir = Dir::new().unwrap();
    let path = dir.file("stamps");
    let stamps = UnixDatagram::bind(&path).unwrap();
    stamps.set_read_timeout(Some(LIMIT)).unwrap();
    let next = || {
        let mut buffer = [0; 128];
        let length = stamps.recv(&mut buffer).unwrap();
        std::str::from_utf8(&buffer[..length]).unwrap().split(' ').next().unwrap().parse::<u32>().unwrap()
    };

    let command = dir.command(XTASK).args(["bare-loop", "--count", "2", "--", STAMP]).arg(&path).with_input();
    let program = command.start().unwrap();
    let first = [next(), next()];
    let children = program.descendants_running(Path::new(STAMP)).unwrap();
    assert_eq!(children.len(), 2);
    assert!(children.iter().all(|child| first.contains(&child.pid)));

    assert!(children[0].signal(Signal::KILL).unwrap());
    let new = next();
    assert!(!first.contains(&new));
    end(program);
    assert!(children[1].pidfd().unwrap().is_none(), "nothing outlives the loop");
}

#[test]
fn the_echo_answers_with_as_many_bytes() {
    let dir = Dir::new().unwrap();
    let socket = dir.file("echo");
    let command = dir.command(XTASK).args(["echo", "--request", "3", "--response", "5", "--socket"]).arg(&socket);
    let mut server = command.with_input().start().unwrap();
    let mut client = server.wait_for("the socket", LIMIT, || Ok(UnixStream::connect(&socket).ok())).unwrap();
    client.set_read_timeout(Some(LIMIT)).unwrap();
    for request in [b"a".as_slice(), b"bc", b"def"] {
        client.write_all(request).unwrap();
        if request != b"a" {
            client.read_exact(&mut [0; 5]).unwrap();
        }
    }
    end(server);
}
