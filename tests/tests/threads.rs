//! Instances of several threads.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use async_container_supervisor_tests::{Dir, Program, Signal, Supervisor};

const LIMIT: Duration = Duration::from_secs(30);

struct Hybrid {
    dir: Dir,
    program: Program,
    log: PathBuf,
}

impl Hybrid {
    /// Starts two processes of three threads each, and waits until they are ready.
    fn start() -> io::Result<Hybrid> {
        let dir = Dir::new()?;
        let mut program = dir.example("acs-fixture")?.arg("threads").start()?;
        let log = dir.file("acs-fixture-1.stderr");
        // The third threads are not ready yet.
        program.wait_for_stderr("thread hybrid#2.3 of process", LIMIT)?;
        assert!(!program.stderr().contains("child is ready child=\"hybrid"), "{}", program.stderr());
        std::fs::write(dir.file("go"), "")?;
        program.wait_for_stderr("all children are ready", LIMIT)?;
        Ok(Hybrid { dir, program, log })
    }

    fn tell(&self, what: &str, thread: &str) -> io::Result<()> {
        std::fs::write(self.dir.file(format!("{what}-{thread}")), "")
    }

    /// Waits until the text stands in the log so many times.
    fn wait_for(&mut self, text: &str, times: usize) -> io::Result<()> {
        let log: &Path = &self.log;
        self.program.wait_for(&format!("{times} times `{text}`"), LIMIT, || {
            Ok((std::fs::read_to_string(log)?.matches(text).count() >= times).then_some(()))
        })
    }

    fn restarts(&mut self) -> usize {
        self.program.stderr().matches("child failed").count()
    }
}

#[test]
fn every_thread_is_a_worker_and_one_signal_ends_them_all() -> io::Result<()> {
    let mut hybrid = Hybrid::start()?;
    let mut supervisor = Supervisor::connect(&hybrid.dir.socket())?;
    let workers = supervisor.wait_for_workers("six workers", LIMIT, |workers| workers.len() == 6)?;
    let mut processes: Vec<u32> = workers.iter().map(|worker| worker.pid).collect();
    processes.dedup();
    assert_eq!(processes.len(), 2);
    hybrid.program.signal(Signal::INT)?;
    assert!(hybrid.program.wait(LIMIT)?.success());
    assert_eq!(hybrid.restarts(), 0, "{}", hybrid.program.stderr());
    Ok(())
}

#[test]
fn a_thread_that_fails_is_started_again_in_its_process() -> io::Result<()> {
    let mut hybrid = Hybrid::start()?;
    hybrid.tell("fail", "hybrid#1.2")?;
    hybrid.wait_for("thread hybrid#1.2 of process", 2)?;
    assert!(
        hybrid
            .program
            .stderr()
            .contains("thread failed thread=\"hybrid#1.2\" error=\"told to fail\" next_try=\"at once\"")
    );
    hybrid.tell("panic", "hybrid#1.2")?;
    hybrid.wait_for("thread hybrid#1.2 of process", 3)?;
    assert!(hybrid.program.stderr().contains("error=\"panicked\""), "{}", hybrid.program.stderr());
    assert_eq!(hybrid.program.stderr().matches("thread hybrid#1.1 of process").count(), 1);
    assert_eq!(hybrid.restarts(), 0);
    // It ends also while a thread waits to be started again.
    hybrid.tell("panic", "hybrid#1.2")?;
    hybrid.wait_for("error=\"panicked\"", 2)?;
    hybrid.program.signal(Signal::INT)?;
    assert!(hybrid.program.wait(LIMIT)?.success());
    Ok(())
}

#[test]
fn a_thread_that_hangs_has_its_process_replaced() -> io::Result<()> {
    let mut hybrid = Hybrid::start()?;
    hybrid.tell("hang", "hybrid#2.1")?;
    let line = hybrid.program.wait_for_stderr("child failed", LIMIT)?;
    assert!(line.contains("child=\"hybrid#2\"") && line.contains("silent for 2s (health check)"), "{line}");
    assert!(hybrid.program.stderr().contains("thread hangs"), "{}", hybrid.program.stderr());
    hybrid.wait_for("thread hybrid#2.1 of process", 2)?;
    assert_eq!(hybrid.program.stderr().matches("thread hybrid#1.1 of process").count(), 1);
    Ok(())
}
