//! A supervisor whose root is gone: its new parent has nothing to do with it, and must get none of the root's signals.

use std::{
    io::{BufRead as _, BufReader, Read as _},
    process::{Command, Stdio},
};

use async_container_supervisor_server::{ParentProcess, Root, RootError, Signal};
use rustix::{
    event::{PollFd, PollFlags, poll},
    process::{PidfdFlags, getppid, pidfd_open},
};

/// Tells the test that runs this in a process of its own to be the one that loses its parent.
const ROLE: &str = "TEST_LOSES_ITS_PARENT";

#[test]
fn supervisor() {
    if std::env::var_os(ROLE).is_none() {
        return;
    }

    let before = getppid().unwrap();
    let parent = pidfd_open(before, PidfdFlags::empty()).unwrap();
    let root = ParentProcess::new();
    root.check().unwrap();
    eprintln!("has a root");
    poll(&mut [PollFd::new(&parent, PollFlags::IN)], None).unwrap();

    // It has ended; that this process has been given to another one is a moment later.
    while getppid() == Some(before) {
        std::thread::yield_now();
    }

    let gone = |result| matches!(result, Err(RootError::Gone { process_id }) if process_id == before.as_raw_nonzero().get() as u32);
    assert!(gone(root.check()));
    assert!(gone(root.signal(Signal::Term)));
    eprintln!("signalled nobody");
}

#[test]
fn parent_that_took_the_place_of_the_root_gets_no_signal() {
    // The shell is the root, until its standard input ends.
    let mut root = Command::new("sh")
        .args(["-c", "\"$0\" --exact supervisor --nocapture < /dev/null & read line"])
        .arg(std::env::current_exe().unwrap())
        .env(ROLE, "yes")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut told = BufReader::new(root.stderr.take().unwrap());
    let mut line = String::new();
    told.read_line(&mut line).unwrap();
    assert_eq!(line, "has a root\n");
    drop(root.stdin.take());
    root.wait().unwrap();
    let mut rest = String::new();
    told.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "signalled nobody\n");
}
