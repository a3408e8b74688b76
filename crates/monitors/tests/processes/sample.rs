use std::io;

use async_container_monitors::sample::{self, Process, Stat};

use crate::helper::Helper;

#[test]
fn an_open_process_is_never_another_one() {
    let mut helper = Helper::spawn();
    let process = Process::open(helper.process_id()).unwrap();
    assert!(process.resident_size().unwrap().is_some());
    assert_eq!(process.process_id(), helper.process_id());
    helper.kill();
    assert_eq!(process.resident_size().unwrap(), None);
    helper.reap();
    assert_eq!(process.resident_size().unwrap(), None);
    let error = process.memory().unwrap_err();
    assert!(sample::has_ended(&error), "{error}");
}

#[test]
fn a_process_that_is_not_there_has_ended() {
    let mut helper = Helper::spawn();
    let process_id = helper.process_id();
    helper.kill();
    helper.reap();
    let errors: [io::Error; 2] = [Process::open(process_id).unwrap_err(), Stat::read(process_id).unwrap_err()];
    assert!(errors.iter().all(sample::has_ended), "{errors:?}");
}

#[test]
fn names_with_parentheses_are_read() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a) R (1");
    std::os::unix::fs::symlink(std::env::current_exe().unwrap(), &path).unwrap();
    let mut helper = Helper::spawn_as(&path);
    // The main thread's name is that of the executable once the program runs.
    helper.run("free");
    let stat = Stat::read(helper.process_id()).unwrap();
    assert_eq!(stat.executable, "a) R (1");
    assert_eq!(stat.parent_process_id, std::process::id());
    assert!(!stat.ended);
}

#[test]
fn memory_adds_up() {
    let mut helper = Helper::spawn();
    helper.run("allocate 30000000");
    let process = Process::open(helper.process_id()).unwrap();
    let memory = process.memory().unwrap();
    assert!(memory.private_size > 30_000_000, "{memory:?}");
    assert_eq!(memory.private_size + memory.shared_size, memory.resident_size);
    assert!(memory.proportional_size >= memory.private_size);
    assert!(memory.proportional_size <= memory.resident_size);
}
