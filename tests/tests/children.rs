//! Children that misbehave, and applications that cannot be.

use std::{
    io,
    time::{Duration, Instant},
};

use async_container_supervisor_tests::{Dir, Program, Signal, proc};

const LIMIT: Duration = Duration::from_secs(30);

fn fixture(dir: &Dir, scenario: &str) -> io::Result<Program> {
    dir.example("acs-fixture")?.args(scenario.split(' ')).start()
}

#[test]
fn an_application_that_makes_no_sense_is_refused() -> io::Result<()> {
    for (scenario, complaint) in [
        ("nameless", "a service has an empty name"),
        ("odd-name", "service name \"a#1\" contains '#'"),
        ("twins", "two services are named \"twin\""),
        ("none", "there is no service to run"),
        ("zero", "service \"worker\" has a count of 0: it must be at least 1"),
        ("circular", "services depend on each other in a circle: a -> b -> a"),
        ("inside-runtime", "called inside of an async runtime: call `run` first thing in a plain `fn main`"),
        ("dangling", "service \"a\" is to start after \"nothing\", but there is no such service"),
    ] {
        let dir = Dir::new()?;
        let mut program = fixture(&dir, scenario)?;
        assert_eq!(program.wait(LIMIT)?.code(), Some(78), "{scenario}");
        assert!(program.stderr().contains(complaint), "{scenario}: {}", program.stderr());
    }
    Ok(())
}

#[test]
fn a_socket_that_cannot_be_bound_is_refused() -> io::Result<()> {
    let dir = Dir::new()?;
    std::fs::create_dir(dir.file("directory"))?;
    std::fs::write(dir.file("file"), "precious")?;
    let long = "x".repeat(120);
    for (path, complaint) in [
        (long.as_str(), "has 120 bytes, but the limit is 107"),
        ("directory", "directory exists and is a directory, not a socket"),
        ("file", "file exists and is a file, not a socket"),
        ("no/socket", "directory no for the socket does not exist"),
    ] {
        let mut program = fixture(&dir, &format!("socket {path}"))?;
        assert_eq!(program.wait(LIMIT)?.code(), Some(73), "{path}");
        assert!(program.stderr().contains(complaint), "{path}: {}", program.stderr());
        assert!(!program.stderr().contains("child started"), "{path}: {}", program.stderr());
    }
    assert_eq!(std::fs::read_to_string(dir.file("file"))?, "precious");

    let mut first = fixture(&dir, "socket live")?;
    first.wait_for_stderr("all children are ready", LIMIT)?;
    let root = first.descendants()?.into_iter().find(|process| process.parent == first.pid()).expect("the root");
    let mut second = fixture(&dir, "socket live")?;
    assert_eq!(second.wait(LIMIT)?.code(), Some(73));
    let complaint = format!("process {} already listens at live", root.pid);
    assert!(second.stderr().contains(&complaint), "{}", second.stderr());

    // What a killed application leaves behind is removed, and would be replaced.
    drop(std::os::unix::net::UnixListener::bind(dir.file("stale"))?);
    let mut third = fixture(&dir, "socket stale")?;
    third.wait_for_stderr("all children are ready", LIMIT)?;
    first.signal(Signal::INT)?;
    assert!(first.wait(LIMIT)?.success());
    assert!(!dir.file("live").exists());
    root_of(&third)?.signal(Signal::KILL)?;
    third.wait(LIMIT)?;
    assert!(!dir.file("stale").exists());
    Ok(())
}

fn root_of(program: &Program) -> io::Result<proc::Process> {
    let children = program.descendants()?.into_iter().find(|process| process.parent == program.pid());
    children.ok_or_else(|| io::Error::other("there is no root"))
}

#[test]
fn garbage_on_the_notify_pipe_is_logged_once_and_ignored() -> io::Result<()> {
    let dir = Dir::new()?;
    let mut program = fixture(&dir, "garbage")?;
    program.wait_for_stderr("all children are ready", LIMIT)?;
    let stderr = program.stderr();
    assert_eq!(stderr.matches("no message on the notify pipe").count(), 1, "{stderr}");
    assert!(stderr.contains("line=\"garbage\""), "{stderr}");
    assert!(!stderr.contains("child failed"), "{stderr}");
    Ok(())
}

#[test]
fn children_that_notify_without_end_stop_nothing() -> io::Result<()> {
    let dir = Dir::new()?;
    let mut program = fixture(&dir, "talks")?;
    program.wait_for_stderr("all children are ready", LIMIT)?;
    program.signal(Signal::TERM)?;
    assert!(program.wait(LIMIT)?.success(), "{}", program.stderr());
    Ok(())
}

#[test]
fn a_child_that_closes_its_notify_pipe_lives_on() -> io::Result<()> {
    let dir = Dir::new()?;
    let mut program = dir.example("acs-fixture")?.arg("closes-pipe").env("RUST_LOG", "debug").start()?;
    program.wait_for_stderr("the notify pipe was closed", LIMIT)?;
    program.wait_for_stderr("all children are ready", LIMIT)?;
    program.signal(Signal::TERM)?;
    assert!(program.wait(LIMIT)?.success());
    assert!(!program.stderr().contains("child failed"), "{}", program.stderr());
    Ok(())
}

#[test]
fn a_child_that_does_not_become_ready_is_replaced() -> io::Result<()> {
    let dir = Dir::new()?;
    let mut program = fixture(&dir, "never-ready")?;
    let line = program.wait_for_stderr("child failed", LIMIT)?;
    assert!(line.contains("not ready within 200ms (start-up time-out), killed by SIGKILL"), "{line}");
    program.wait_for("the second try", LIMIT, || {
        let text = std::fs::read_to_string(dir.file("acs-fixture-1.stderr"))?;
        Ok((text.matches("child failed").count() >= 2).then_some(()))
    })?;
    Ok(())
}

#[test]
fn a_child_that_stops_beating_is_replaced() -> io::Result<()> {
    let dir = Dir::new()?;
    let mut program = fixture(&dir, "hangs")?;
    let line = program.wait_for_stderr("child failed", LIMIT)?;
    assert!(line.contains("silent for 300ms (health check), killed by SIGKILL"), "{line}");
    // The next one, too, has no chance to hear that it is to stop.
    program.wait_for("the next one", LIMIT, || {
        let text = std::fs::read_to_string(dir.file("acs-fixture-1.stderr"))?;
        Ok((text.matches("child is ready").count() >= 2).then_some(()))
    })?;
    program.signal(Signal::INT)?;
    program.wait_for_stderr("stopping", LIMIT)?;
    program.signal(Signal::INT)?;
    assert!(program.wait(LIMIT)?.success());
    Ok(())
}

#[test]
fn nobody_is_taken_for_dead_by_a_root_that_did_not_run() -> io::Result<()> {
    let dir = Dir::new()?;
    let mut program = fixture(&dir, "beat")?;
    program.wait_for_stderr("all children are ready", LIMIT)?;
    let root = program.descendants()?.into_iter().find(|process| process.parent == program.pid()).expect("the root");
    let children: Vec<proc::Process> =
        program.descendants()?.into_iter().filter(|process| process.parent == root.pid).collect();
    assert_eq!(children.len(), 80);

    for all in [false, true] {
        root.signal(Signal::STOP)?;
        if all {
            children.iter().try_for_each(|child| child.signal(Signal::STOP).map(|_| ()))?;
        }
        // So long that every limit, of a second, is over by more than a second.
        let since = Instant::now();
        program.wait_for("time to pass", LIMIT, || Ok((since.elapsed() > Duration::from_secs(4)).then_some(())))?;
        root.signal(Signal::CONT)?;
        if all {
            program.wait_for_stderr("the root did not run for a while", LIMIT)?;
            children.iter().try_for_each(|child| child.signal(Signal::CONT).map(|_| ()))?;
        }
        // It sees to this one only after all that it has heard.
        let started = program.stderr().matches("child started").count();
        children[usize::from(all)].signal(Signal::KILL)?;
        program.wait_for("the next one", LIMIT, || {
            let text = std::fs::read_to_string(dir.file("acs-fixture-1.stderr"))?;
            Ok((text.matches("child started").count() > started).then_some(()))
        })?;
        // Those that went on have said so, and need not be given more time.
        assert_eq!(program.stderr().contains("the root did not run for a while"), all, "{}", program.stderr());
    }
    program.signal(Signal::TERM)?;
    assert!(program.wait(LIMIT)?.success());
    let text = program.stderr();
    assert_eq!(text.matches("child failed").count(), 2, "{text}");
    assert!(!text.contains("health check"), "{text}");
    Ok(())
}

#[test]
fn a_child_that_ignores_the_stop_is_killed_after_its_grace() -> io::Result<()> {
    let dir = Dir::new()?;
    let mut program = fixture(&dir, "stubborn 300")?;
    program.wait_for_stderr("all children are ready", LIMIT)?;
    let start = Instant::now();
    program.signal(Signal::INT)?;
    assert!(program.wait(LIMIT)?.success());
    assert!(start.elapsed() >= Duration::from_millis(300));
    assert_eq!(program.stderr().matches("it did not end within its grace period").count(), 2, "{}", program.stderr());
    Ok(())
}

#[test]
fn a_second_signal_ends_the_grace() -> io::Result<()> {
    let dir = Dir::new()?;
    let mut program = fixture(&dir, "stubborn 1000000")?;
    program.wait_for_stderr("all children are ready", LIMIT)?;
    program.signal(Signal::TERM)?;
    program.wait_for_stderr("stopping", LIMIT)?;
    program.signal(Signal::INT)?;
    assert!(program.wait(LIMIT)?.success());
    Ok(())
}

#[test]
fn a_stopped_root_honours_graceful_stop_from_the_environment() -> io::Result<()> {
    let dir = Dir::new()?;
    let mut program = dir.example("acs-fixture")?.arg("hangs").env("ASYNC_CONTAINER_GRACEFUL_STOP", "abc").start()?;
    assert_eq!(program.wait(LIMIT)?.code(), Some(78));
    assert!(program.stderr().contains("ASYNC_CONTAINER_GRACEFUL_STOP is \"abc\""), "{}", program.stderr());

    let mut program =
        dir.example("acs-fixture")?.arg("garbage").env("ASYNC_CONTAINER_GRACEFUL_STOP", "false").start()?;
    program.wait_for_stderr("all children are ready", LIMIT)?;
    program.signal(Signal::INT)?;
    assert!(program.wait(LIMIT)?.success());
    assert!(program.stderr().contains("killed by SIGKILL"), "{}", program.stderr());
    Ok(())
}

#[test]
fn the_end_of_all_children_is_the_end_of_the_root() -> io::Result<()> {
    let dir = Dir::new()?;
    let mut failing = fixture(&dir, "fails-once")?;
    assert_eq!(failing.wait(LIMIT)?.code(), Some(1));
    assert!(failing.stderr().contains("exited with status 3"), "{}", failing.stderr());
    let mut succeeding = fixture(&dir, "succeeds-once")?;
    assert_eq!(succeeding.wait(LIMIT)?.code(), Some(0));
    // A supervisor with nothing left to supervise is no reason to go on.
    for (status, expected) in [("0", 0), ("5", 1)] {
        let mut supervised = fixture(&dir, &format!("supervised-once {status}"))?;
        assert_eq!(supervised.wait(LIMIT)?.code(), Some(expected));
        assert!(!dir.socket().exists());
    }
    Ok(())
}

#[test]
fn a_panic_is_a_failure_like_any_other() -> io::Result<()> {
    let dir = Dir::new()?;
    let mut program = fixture(&dir, "panics")?;
    let line = program.wait_for_stderr("child failed", LIMIT)?;
    assert!(line.contains("exited with status 101"), "{line}");
    Ok(())
}

#[test]
fn a_command_is_started_as_it_was_described() -> io::Result<()> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: another user can only be chosen as root");
        return Ok(());
    }
    let dir = Dir::new()?;
    let mut program = fixture(&dir, "settings daemon")?;
    assert!(program.wait(LIMIT)?.success(), "{}", program.stderr());
    let out = std::fs::read_to_string(dir.file("settings.out"))?;
    assert_eq!(std::fs::read_to_string(dir.file("settings.err"))?, "");
    for line in ["Uid:\t1\t1\t1\t1", "Gid:\t1\t1\t1\t1", "Groups:\t1 "] {
        assert!(out.lines().any(|it| it == line), "{line}: {out}");
    }
    assert!(out.ends_with("77\n0027\n3\n/\n/usr/sbin daemon hello\n"), "{out}");

    let mut program = fixture(&dir, "settings no-such-user")?;
    assert_eq!(program.wait(LIMIT)?.code(), Some(78));
    assert!(program.stderr().contains("there is no user \"no-such-user\""), "{}", program.stderr());
    Ok(())
}

#[test]
fn what_a_child_detached_may_be_kept_until_the_end() -> io::Result<()> {
    let dir = Dir::new()?;
    let mut program = fixture(&dir, "keeps-descendants")?;
    let root = program.pid();
    let running = |argument: &str| -> io::Result<Vec<proc::Process>> {
        let mut found = proc::descendants(root)?;
        found.retain(|process| process.arguments().get(1).is_some_and(|first| first == argument));
        Ok(found)
    };
    let child = program.wait_for("child and descendant", LIMIT, || {
        let descendants = running("1000009")?.len() == 1 && running("1000011")?.len() == 1;
        let child = running("1000010")?;
        Ok((descendants && child.len() == 1).then_some(child))
    })?;
    child[0].signal(Signal::KILL)?;
    program.wait_for("the next child, and both descendants", LIMIT, || {
        Ok((running("1000010")?.len() == 1 && running("1000009")?.len() == 2).then_some(()))
    })?;
    // What did not detach itself went with the child: this is the next one's.
    program.wait_for("the next one's process", LIMIT, || Ok((running("1000011")?.len() == 1).then_some(())))?;
    program.signal(Signal::TERM)?;
    assert!(program.wait(LIMIT)?.success());
    let left = proc::processes()?.into_iter().filter(|process| process.is_alive() && process.works_in(dir.path()));
    assert_eq!(left.count(), 0);
    Ok(())
}

#[test]
fn signals_without_a_meaning_do_no_harm() -> io::Result<()> {
    let dir = Dir::new()?;
    let mut program = fixture(&dir, "garbage")?;
    program.wait_for_stderr("all children are ready", LIMIT)?;
    let root = root_of(&program)?;
    for signal in [Signal::USR1, Signal::USR2] {
        program.signal(signal)?;
        root.signal(signal)?;
    }
    program.wait_for("all four to be logged", LIMIT, || {
        let text = std::fs::read_to_string(dir.file("acs-fixture-1.stderr"))?;
        Ok((text.matches("ignoring a signal").count() == 4).then_some(()))
    })?;
    program.signal(Signal::TERM)?;
    assert!(program.wait(LIMIT)?.success());
    Ok(())
}

#[test]
fn the_number_of_instances_is_that_of_processors_unless_told_otherwise() -> io::Result<()> {
    let dir = Dir::new()?;
    let count = |program: &mut Program| -> io::Result<usize> {
        program.wait_for_stderr("all children are ready", LIMIT)?;
        Ok(program.stderr().matches("child started").count())
    };
    let mut commands = dir.example("commands")?.args(["--", "sleep", "1000000"]).start()?;
    assert_eq!(count(&mut commands)?, std::thread::available_parallelism()?.get());
    let variable = "ASYNC_CONTAINER_PROCESSOR_COUNT";
    let mut commands = dir.example("commands")?.env(variable, "5").args(["--", "sleep", "1000000"]).start()?;
    assert_eq!(count(&mut commands)?, 5);
    for wrong in ["0", "-1", "many"] {
        let mut commands = dir.example("commands")?.env(variable, wrong).args(["--", "sleep", "1000000"]).start()?;
        assert_eq!(commands.wait(LIMIT)?.code(), Some(78));
        let complaint = format!("{variable} is \"{wrong}\": it must be a whole number of at least 1");
        assert!(commands.stderr().contains(&complaint), "{}", commands.stderr());
    }
    Ok(())
}

/// The original waits 0.1 s whenever it sees a child's pipe close before its end, which is one restart in ten.
#[test]
fn no_restart_waits_for_a_fixed_time() -> io::Result<()> {
    const CHILDREN: usize = 80;
    const WAIT: Duration = Duration::from_millis(100);
    // On a machine that is busy a restart may take as long for other reasons, but not one in ten of all, each time.
    const ROUNDS: usize = 5;
    let mut slowest = Vec::new();
    for _ in 0..ROUNDS {
        let dir = Dir::new()?;
        let (pipe, stamps) = (dir.file("pipe"), Stamps::open(dir.file("pipe"))?);
        // Each is killed once: from the second end on, a restart is delayed on purpose.
        let mut program = dir
            .example("commands")?
            .args(["--count", &CHILDREN.to_string(), "--", "sh", "-c", "echo $$ >\"$0\"; exec sleep 1000000"])
            .arg(&pipe)
            .start()?;
        let mut victims = Vec::new();
        for _ in 0..CHILDREN {
            victims.push(stamps.next(&mut program)?);
        }
        let mut times = Vec::new();
        for victim in victims {
            let child = proc::process(victim).ok_or_else(|| io::Error::other("a child ended by itself"))?;
            let begin = Instant::now();
            child.signal(Signal::KILL)?;
            assert_ne!(stamps.next(&mut program)?, victim);
            times.push(begin.elapsed());
        }
        times.sort();
        slowest = times.split_off(CHILDREN - 10);
        if slowest.iter().all(|time| *time < WAIT) {
            return Ok(());
        }
    }
    panic!("in each of {ROUNDS} rounds of {CHILDREN} restarts some waited for {WAIT:?}, in the last one: {slowest:?}");
}

/// A named pipe that children write their ids to.
struct Stamps(std::fs::File);

impl Stamps {
    fn open(path: std::path::PathBuf) -> io::Result<Stamps> {
        use rustix::fs::{CWD, FileType, Mode, mknodat};
        mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)?;
        // Open for writing as well, it never comes to an end.
        Ok(Stamps(std::fs::File::options().read(true).write(true).open(path)?))
    }

    fn next(&self, program: &mut Program) -> io::Result<u32> {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        use std::io::Read as _;
        let timeout = Timespec { tv_sec: LIMIT.as_secs() as i64, tv_nsec: 0 };
        if poll(&mut [PollFd::new(&self.0, PollFlags::IN)], Some(&timeout))? == 0 {
            return Err(io::Error::other(format!("no child was started: {}", program.stderr())));
        }
        let mut line = Vec::new();
        let mut byte = [0];
        while line.last() != Some(&b'\n') {
            (&self.0).read_exact(&mut byte)?;
            line.extend(byte);
        }
        String::from_utf8_lossy(&line).trim_end().parse().map_err(io::Error::other)
    }
}

#[test]
fn failed_health_checks_are_counted() -> io::Result<()> {
    use std::io::{Read as _, Write as _};
    let dir = Dir::new()?;
    let mut program = dir.example("acs-fixture")?.arg("hangs-visibly").start()?;
    let ask = || -> io::Result<String> {
        let mut stream = std::os::unix::net::UnixStream::connect(dir.file("metrics.ipc"))?;
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    program.wait_for("two failed health checks", LIMIT, || {
        let Ok(answer) = ask() else { return Ok(None) };
        let is_count = |line: &&str| line.contains("child_exits_total{") && line.contains("cause=\"health_check\"");
        let count = answer.lines().find(is_count).and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
        Ok(count.filter(|count| *count >= 2.0))
    })?;
    Ok(())
}
