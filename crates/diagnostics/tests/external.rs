//! Looking into other processes.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    sync::{Arc, Barrier, Mutex},
    thread,
    time::{Duration, Instant},
};

use async_container_diagnostics::{
    external::{ExternalDump, ExternalError},
    threads::{Thread, ThreadDump},
};

const PROGRAM: &str = "EXTERNAL_TEST_PROGRAM";

/// This test program again, as one of the programs below. It ends with the test.
struct Program(Child);

impl Program {
    fn start(name: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "programs", "--nocapture", "--test-threads", "1"])
            .env(PROGRAM, name)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.map_while(Result::ok).any(|line| line.ends_with("ready")), "it ended before it was ready");
        Self(child)
    }

    fn dump(&self) -> ThreadDump {
        ExternalDump::new(self.0.id()).take().unwrap()
    }

    /// Takes dumps until one shows what it is to show.
    fn dump_with(&self, wanted: impl Fn(&ThreadDump) -> bool) -> ThreadDump {
        let start = Instant::now();

        loop {
            let dump = self.dump();

            if wanted(&dump) {
                return dump;
            }

            assert!(start.elapsed() < Duration::from_secs(20), "{dump}");
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn programs() {
    match std::env::var(PROGRAM).as_deref() {
        Ok("deadlock") => deadlock(),
        Ok("spin") => spin(),
        Ok("crowd") => crowd(),
        _ => {}
    }
}

fn deadlock() {
    let (one, other) = (Arc::new(Mutex::new(())), Arc::new(Mutex::new(())));
    let both = Arc::new(Barrier::new(2));
    let (its_one, its_other, its_both) = (one.clone(), other.clone(), both.clone());
    thread::spawn(move || take_both(&its_one, &its_other, &its_both));
    take_both(&other, &one, &both);
}

#[inline(never)]
fn take_both(first: &Mutex<()>, second: &Mutex<()>, both: &Barrier) {
    let _first = first.lock();
    if both.wait().is_leader() {
        println!("ready");
    }
    drop(second.lock());
}

#[inline(never)]
fn spin() {
    println!("ready");
    loop {
        std::hint::spin_loop();
    }
}

fn crowd() {
    let barrier = Arc::new(Barrier::new(200));
    for _ in 0..198 {
        let barrier = barrier.clone();
        thread::spawn(move || barrier.wait());
    }
    println!("ready");
    barrier.wait();
}

fn count(dump: &ThreadDump, function: &str) -> usize {
    let has = |thread: &Thread| thread.frames.iter().any(|frame| frame.function.contains(function));
    dump.threads.iter().filter(|thread| has(thread)).count()
}

#[test]
fn a_deadlock_is_named_with_its_lines() {
    let program = Program::start("deadlock");
    let dump = program.dump_with(|dump| {
        let waiting = dump
            .threads
            .iter()
            .filter(|thread| thread.waits_for.as_deref().is_some_and(|what| what.starts_with("a mutex")));
        count(dump, "take_both") == 2 && waiting.count() == 2
    });
    assert!(dump.from_outside);
    let frames = dump.threads.iter().flat_map(|thread| &thread.frames);
    let lines: Vec<_> = frames.filter(|frame| frame.function.contains("take_both")).collect();
    assert!(lines.iter().all(|frame| frame.file.as_deref().unwrap().ends_with("tests/external.rs")), "{lines:?}");
}

#[test]
fn a_spin_is_named_and_goes_on() {
    let program = Program::start("spin");

    for _ in 0..10 {
        let dump = program.dump_with(|dump| count(dump, "external::spin") == 1);
        let spinning = dump.threads.iter().find(|thread| thread.state == "running");
        assert!(spinning.is_some(), "{dump}");
    }
}

#[test]
fn two_hundred_threads_are_all_there_and_stopped_for_milliseconds() {
    let program = Program::start("crowd");
    let dump = program.dump_with(|dump| count(dump, "Barrier") == 199);
    assert!(dump.threads.iter().all(|thread| !thread.frames.is_empty() && !thread.cut_off), "{dump}");
    // It takes a few; the limit is for a machine that is busy with other tests.
    assert!(dump.duration < 0.5, "{}", dump.duration);
}

#[test]
fn a_program_without_symbols_is_shown_as_far_as_it_goes() {
    let mut child = Command::new("sleep").arg("60").spawn().unwrap();
    let dump = ExternalDump::new(child.id()).take();
    child.kill().unwrap();
    child.wait().unwrap();
    let dump = dump.unwrap();
    assert_eq!(dump.threads.len(), 1);
    assert!(!dump.threads[0].frames.is_empty(), "{dump}");
}

/// The state of a process, as the kernel has it: `T` for one that is stopped.
fn state(process_id: u32) -> char {
    let stat = std::fs::read_to_string(format!("/proc/{process_id}/stat")).unwrap();
    stat.rsplit_once(") ").unwrap().1.chars().next().unwrap()
}

fn wait_for_state(process_id: u32, wanted: char) {
    let start = Instant::now();

    while state(process_id) != wanted {
        assert!(start.elapsed() < Duration::from_secs(20), "{}", state(process_id));
        thread::yield_now();
    }
}

#[test]
fn a_program_that_is_stopped_stays_so_and_goes_on_when_it_is_told_to() {
    let program = Program::start("spin");
    let signal = |signal| {
        let process_id = nix::unistd::Pid::from_raw(program.0.id().cast_signed());
        nix::sys::signal::kill(process_id, signal).unwrap();
    };
    signal(nix::sys::signal::Signal::SIGSTOP);
    wait_for_state(program.0.id(), 'T');

    for _ in 0..10 {
        // What the dump before this one has let go takes a moment, and a processor, to stop again.
        let dump = program.dump_with(|dump| dump.threads.iter().all(|thread| thread.state == "stopped"));
        assert!(count(&dump, "external::spin") == 1, "{dump}");
        wait_for_state(program.0.id(), 'T');
    }

    signal(nix::sys::signal::Signal::SIGCONT);
    program.dump_with(|dump| dump.threads.iter().any(|thread| thread.state == "running"));
}

#[test]
fn what_is_no_program_any_more_or_never_was_one_is_told_as_what_it_is() {
    let mut child = Command::new("true").spawn().unwrap();
    wait_for_state(child.id(), 'Z');
    let error = ExternalDump::new(child.id()).take().unwrap_err().to_string();
    child.wait().unwrap();
    assert!(error.contains("it has ended already"), "{error}");

    // The first thread of the kernel, where the namespace of this process has it.
    if std::fs::read_to_string("/proc/2/comm").is_ok_and(|name| name.trim() == "kthreadd") {
        let error = ExternalDump::new(2).take().unwrap_err().to_string();
        assert!(error.contains("it is a thread of the kernel"), "{error}");
    } else {
        eprintln!("skipped: no thread of the kernel is to be seen here");
    }
}

#[test]
fn what_cannot_be_looked_into_says_why() {
    let mut child = Command::new("true").spawn().unwrap();
    child.wait().unwrap();
    assert!(matches!(ExternalDump::new(child.id()).take(), Err(ExternalError::Gone { .. })));
    assert!(matches!(ExternalDump::new(std::process::id()).take(), Err(ExternalError::Trace { .. })));
}
