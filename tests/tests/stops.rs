//! Stopping always comes to an end.

use std::{
    fs, io,
    path::PathBuf,
    time::{Duration, Instant},
};

use async_container_supervisor_tests::{Dir, Program, Signal, proc};

const LIMIT: Duration = Duration::from_secs(60);

/// `commands` with two copies of a shell script, once both run and the script has said `up`.
fn start(dir: &Dir, script: &str, grace: &str) -> io::Result<Program> {
    let mut program = dir
        .example("commands")?
        .env("ASYNC_CONTAINER_GRACEFUL_STOP", grace)
        .args(["--count", "2", "--", "sh", "-c", &format!("{script}; echo up >>up; while :; do sleep 1000000; done")])
        .start()?;
    let up = dir.file("up");
    program.wait_for("both copies", LIMIT, || {
        Ok((fs::read_to_string(&up).unwrap_or_default().lines().count() == 2).then_some(()))
    })?;
    Ok(program)
}

fn nothing_left(dir: &Dir) -> io::Result<()> {
    let left = proc::processes()?.into_iter().filter(|process| process.is_alive() && process.works_in(dir.path()));
    assert_eq!(left.count(), 0);
    Ok(())
}

fn shells(program: &Program) -> io::Result<Vec<proc::Process>> {
    let mut shells = program.descendants()?;
    shells.retain(|process| process.arguments().first().is_some_and(|name| name == "sh"));
    Ok(shells)
}

#[test]
fn a_child_that_ignores_signals_is_named_with_what_it_does() -> io::Result<()> {
    let dir = Dir::new()?;
    let mut program = start(&dir, "trap '' TERM INT HUP", "0.2")?;
    program.signal(Signal::TERM)?;
    assert!(program.wait(LIMIT)?.success());
    let stderr = program.stderr();
    let lines: Vec<&str> = stderr.lines().filter(|line| line.contains("did not end within its grace period")).collect();
    assert_eq!(lines.len(), 2, "{stderr}");
    assert!(lines[0].contains("doing=\"S (sleeping)"), "{}", lines[0]);
    nothing_left(&dir)
}

#[test]
fn a_stopped_child_is_ended() -> io::Result<()> {
    // One that listens to the signal does so once it is continued, long before the end of its grace.
    let dir = Dir::new()?;
    let mut program = start(&dir, ":", "1000000")?;
    for shell in shells(&program)? {
        shell.signal(Signal::STOP)?;
    }
    program.signal(Signal::TERM)?;
    assert!(program.wait(LIMIT)?.success());
    nothing_left(&dir)
}

#[test]
fn a_child_that_is_waiting_to_be_started_again_is_not() -> io::Result<()> {
    let dir = Dir::new()?;
    let mut program = dir.example("commands")?.args(["--count", "3", "--", "sh", "-c", "exit 1"]).start()?;
    program.wait_for_stderr("next_try=in ", LIMIT)?;
    program.signal(Signal::TERM)?;
    program.wait_for_stderr("stopping", LIMIT)?;
    let starts = program.stderr().matches("child started").count();
    assert!(program.wait(LIMIT)?.success());
    assert_eq!(program.stderr().matches("child started").count(), starts, "{}", program.stderr());
    Ok(())
}

#[test]
fn a_start_in_progress_does_not_hold_it_up() -> io::Result<()> {
    for pause in 0..30 {
        let dir = Dir::new()?;
        let mut program = dir.example("commands")?.args(["--count", "8", "--", "sleep", "1000000"]).start()?;
        // At another moment of the start each time; how it is met does not matter.
        let begin = Instant::now();
        while begin.elapsed() < Duration::from_micros(400 * pause) {
            std::hint::spin_loop();
        }
        program.signal(Signal::TERM)?;
        let status = program.wait(LIMIT)?;
        // Before the root has taken over, the signal ends the program as it would any other.
        let killed = std::os::unix::process::ExitStatusExt::signal(&status) == Some(15);
        assert!(status.success() || killed, "{status}: {}", program.stderr());
        nothing_left(&dir)?;
    }
    Ok(())
}

/// A frozen cgroup, whose processes end for no signal, as those in an uninterruptible call.
struct Freezer {
    path: PathBuf,
}

impl Freezer {
    fn new() -> Option<Freezer> {
        let path = PathBuf::from(format!("/sys/fs/cgroup/freezer/acs-test-{}", std::process::id()));
        fs::create_dir(&path).ok()?;
        Some(Freezer { path })
    }

    fn freeze(&self, process: &proc::Process) -> io::Result<()> {
        fs::write(self.path.join("cgroup.procs"), process.pid.to_string())?;
        fs::write(self.path.join("freezer.state"), "FROZEN")
    }
}

impl Drop for Freezer {
    fn drop(&mut self) {
        let _ = fs::write(self.path.join("freezer.state"), "THAWED");
        let _ = async_container_supervisor_tests::wait_for("the cgroup to be empty", LIMIT, || {
            Ok(fs::remove_dir(&self.path).is_ok().then_some(()))
        });
    }
}

#[test]
fn a_child_that_cannot_be_ended_is_left_behind() -> io::Result<()> {
    let Some(freezer) = Freezer::new() else {
        eprintln!("skipped: there is no freezer cgroup that may be used");
        return Ok(());
    };
    let dir = Dir::new()?;
    let mut program = start(&dir, ":", "0.2")?;
    freezer.freeze(&shells(&program)?[0])?;
    program.signal(Signal::TERM)?;
    assert!(program.wait(LIMIT)?.success());
    let stderr = program.stderr();
    assert_eq!(stderr.matches("leaving child behind").count(), 1, "{stderr}");
    drop(freezer);
    Ok(())
}

#[test]
fn a_child_that_is_not_ready_yet_is_asked_to_end_like_others() -> io::Result<()> {
    let dir = Dir::new()?;
    let mut program = dir.example("acs-fixture")?.arg("slow-start").start()?;
    program.wait_for_stderr("slow#1 is starting", LIMIT)?;
    program.wait_for_stderr("slow#2 is starting", LIMIT)?;
    program.signal(Signal::TERM)?;
    assert!(program.wait(LIMIT)?.success(), "{}", program.stderr());
    let log = program.stderr();
    for child in ["slow#1", "slow#2"] {
        assert!(log.contains(&format!("{child} takes its leave\n")), "{log}");
        assert!(log.contains(&format!("child stopped child=\"{child}\"")), "{log}");
    }
    assert!(!log.contains("killing"), "{log}");
    Ok(())
}

#[test]
fn a_stop_that_nothing_resists_is_no_cause_for_complaint() -> io::Result<()> {
    let dir = Dir::new()?;
    let mut program = dir.example("acs-fixture")?.arg("essential").start()?;
    program.wait_for_stderr("all children are ready", LIMIT)?;
    program.signal(Signal::TERM)?;
    assert!(program.wait(LIMIT)?.success());
    let log = program.stderr();
    assert_eq!(log.matches("child stopped").count(), 3, "{log}");
    assert!(log.lines().all(|line| line.contains(" INFO ")), "{log}");
    Ok(())
}

#[test]
fn limits_that_never_come_are_none() -> io::Result<()> {
    let dir = Dir::new()?;
    let mut program = dir.example("acs-fixture")?.arg("endless").start()?;
    program.wait_for_stderr("all children are ready", LIMIT)?;
    program.signal(Signal::HUP)?;
    program.wait_for_stderr("the new generation is ready", LIMIT)?;
    // The first restart comes at once, the second one never.
    std::fs::write(dir.file("go"), "")?;
    let line = program.wait_for_stderr("next_try=in ", LIMIT)?;
    assert!(line.contains("child failed"), "{line}");
    program.signal(Signal::TERM)?;
    assert!(program.wait(LIMIT)?.success(), "{}", program.stderr());
    Ok(())
}

#[test]
fn a_grace_that_was_set_in_code_counts_whatever_the_environment_says() -> io::Result<()> {
    let dir = Dir::new()?;
    let launch = dir.example("acs-fixture")?.args(["stubborn", "200"]).env("ASYNC_CONTAINER_GRACEFUL_STOP", "100000");
    let mut program = launch.start()?;
    program.wait_for_stderr("all children are ready", LIMIT)?;
    program.signal(Signal::TERM)?;
    assert!(program.wait(LIMIT)?.success());
    let line = program.wait_for_stderr("stopping grace", LIMIT)?;
    assert!(line.ends_with("stopping grace=200ms"), "{line}");
    Ok(())
}

#[test]
fn a_child_that_is_looked_at_before_it_is_killed_is_not_started_again() -> io::Result<()> {
    let dir = Dir::new()?;
    let mut program = dir.example("acs-fixture")?.arg("hangs-visibly").start()?;
    program.wait_for_stderr("having the child looked at before it is killed", LIMIT)?;
    program.signal(Signal::TERM)?;
    assert_eq!(program.wait(LIMIT)?.code(), Some(0));
    let stderr = program.stderr();
    let (_, after) = stderr.split_once("stopping grace").expect("it says that it stops");
    assert!(!after.contains("child started"), "{stderr}");
    nothing_left(&dir)
}

/// Starts a program that is told to stop in the moment in which its handler is being put in place, in the root or in a
/// child, and waits for its end.
fn stopped_in_the_window(process: &str) -> io::Result<String> {
    let dir = Dir::new()?;
    let mut program = dir.example("acs-window")?.arg(process).start()?;
    let status = program.wait(LIMIT)?;
    assert!(status.success(), "{status}: {}", program.stderr());
    nothing_left(&dir)?;
    Ok(program.stdout())
}

#[test]
fn a_child_misses_no_signal_while_its_handler_is_put_in_place() -> io::Result<()> {
    assert_eq!(stopped_in_the_window("child")?, "worker was asked to stop\n");
    Ok(())
}

#[test]
fn the_root_misses_no_signal_while_its_handler_is_put_in_place() -> io::Result<()> {
    stopped_in_the_window("root").map(drop)
}
