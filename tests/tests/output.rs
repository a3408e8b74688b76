//! What commands write goes to the log, and neither they nor the log can stop the root.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _},
    os::unix::fs::OpenOptionsExt as _,
    time::Duration,
};

use async_container_supervisor_tests::{Dir, Program, Signal, example, proc, wait_for};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::OFlags,
};

const LIMIT: Duration = Duration::from_secs(60);

/// What is logged of a script that writes and ends.
fn log_of(script: &str) -> io::Result<String> {
    let dir = Dir::new()?;
    let mut program = dir.example("acs-commands")?.args(["writes", script]).start()?;
    assert!(program.wait(LIMIT)?.success(), "{}", program.stderr());
    assert_eq!(program.stdout(), "");
    Ok(program.stderr())
}

#[test]
fn lines_are_events_and_come_before_the_end() -> io::Result<()> {
    let log = log_of(r#"printf 'one\ntwo "2"\r\n\n'; echo three >&2; printf 'bad \377\033[0m\nno end'"#)?;
    let position = |text: &str| log.find(text).ok_or_else(|| io::Error::other(format!("no {text}: {log}")));
    let stdout =
        [r#"line="one""#, r#"line="two \"2\"""#, r#"line="""#, "line=\"bad \u{fffd}\\u{1b}[0m\"", r#"line="no end""#];
    let positions = stdout
        .iter()
        .map(|line| position(&format!("INFO async_container::output: child=\"writer#1\" stream=stdout {line}")))
        .collect::<io::Result<Vec<_>>>()?;
    assert!(positions.is_sorted(), "{log}");
    let end = position("child exited")?;
    assert!(positions.iter().all(|position| *position < end), "{log}");
    assert!(position(r#"stream=stderr line="three""#)? < end, "{log}");
    assert_eq!(log.matches("async_container::output").count(), 6, "{log}");
    Ok(())
}

#[test]
fn a_long_line_comes_in_pieces() -> io::Result<()> {
    let log = log_of("head -c 40000 /dev/zero | tr '\\0' x; echo; echo short")?;
    let lengths: Vec<(usize, bool)> = log
        .lines()
        .filter_map(|line| {
            let (_, text) = line.split_once("line=\"")?;
            Some((text.find('"')?, text.ends_with("continued=true")))
        })
        .collect();
    assert_eq!(lengths, [(16_384, true), (16_384, true), (7_232, false), (5, false)]);
    Ok(())
}

#[test]
fn every_line_of_a_burst_is_logged_or_counted() -> io::Result<()> {
    // More than a pipe and its share hold, and less than what may wait to be written.
    const LINES: usize = 15_000;
    let log = log_of(&format!("seq 1 {LINES}"))?;
    let logged: Vec<usize> =
        log.lines().filter_map(|line| line.split_once("line=\"")?.1.strip_suffix('"')?.parse().ok()).collect();
    assert!(logged.iter().copied().eq(1..=logged.len()), "{} lines, not in order", logged.len());
    let dropped = log.lines().find(|line| line.contains("dropping the rest")).map_or(0, |line| {
        let (_, count) = line.split_once("lines=").expect("the number of lines");
        count.split(' ').next().and_then(|count| count.parse().ok()).expect("a number")
    });
    assert_eq!(logged.len() + dropped, LINES);
    Ok(())
}

/// The child that says nothing.
fn quiet(program: &mut Program, but: Option<u32>) -> io::Result<proc::Process> {
    let pid = program.pid();
    program.wait_for("the quiet child", LIMIT, || {
        let is_quiet = |process: &proc::Process| process.arguments().first().is_some_and(|name| name == "sleep");
        Ok(proc::descendants(pid)?.into_iter().find(|process| is_quiet(process) && Some(process.pid) != but))
    })
}

/// Kills the quiet child, and waits for another one.
fn replace_quiet(program: &mut Program) -> io::Result<()> {
    let before = quiet(program, None)?;
    before.signal(Signal::KILL)?;
    quiet(program, Some(before.pid)).map(drop)
}

/// What the kernel says of the root: a number in a file of its folder in /proc.
fn of_root(program: &Program, file: &str, name: &str) -> io::Result<u64> {
    let root = program.descendants()?.into_iter().find(|process| process.parent == program.pid()).expect("the root");
    let text = std::fs::read_to_string(format!("/proc/{}/{file}", root.pid))?;
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next()?.parse().ok());
    value.ok_or_else(|| io::Error::other(format!("there is no {name} in {text}")))
}

#[test]
fn a_child_that_writes_without_end_stops_nothing() -> io::Result<()> {
    let dir = Dir::new()?;
    let mut program = dir.example("acs-commands")?.arg("noisy").start()?;
    let logged = |lines: usize| {
        let path = dir.file("acs-commands-1.stderr");
        move || Ok((std::fs::read_to_string(&path)?.matches("line=\"xx").count() >= lines).then_some(()))
    };
    program.wait_for("some lines", LIMIT, logged(5_000))?;
    replace_quiet(&mut program)?;
    let before = of_root(&program, "status", "VmRSS:")?;
    program.wait_for("many more lines", LIMIT, logged(15_000))?;
    let after = of_root(&program, "status", "VmRSS:")?;
    assert!(after < before + 4096, "from {before} to {after} KiB");
    program.signal(Signal::TERM)?;
    assert!(program.wait(LIMIT)?.success());
    Ok(())
}

/// A root whose standard error is a pipe that is full, since nobody reads it.
fn with_full_stderr(dir: &Dir) -> io::Result<(Program, File)> {
    let path = dir.file("pipe");
    rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, 0o600.into(), 0)?;
    let nonblocking = OFlags::NONBLOCK.bits().cast_signed();
    let pipe = OpenOptions::new().read(true).custom_flags(nonblocking).open(&path)?;
    let write = OpenOptions::new().write(true).custom_flags(nonblocking).open(&path)?;
    let script = "exec \"$0\" noisy 2>pipe";
    let mut program = dir.command("sh").args(["-c", script]).arg(example("acs-commands")?).start()?;
    program.wait_for("a full pipe", LIMIT, || {
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        Ok((poll(&mut [PollFd::new(&write, PollFlags::OUT)], Some(&now))? == 0).then_some(()))
    })?;
    Ok((program, pipe))
}

#[test]
fn a_log_that_nobody_reads_stops_nothing() -> io::Result<()> {
    let dir = Dir::new()?;
    let (mut program, pipe) = with_full_stderr(&dir)?;
    for _ in 0..3 {
        replace_quiet(&mut program)?;
    }
    program.signal(Signal::TERM)?;
    assert!(program.wait(LIMIT)?.success());
    drop(pipe);
    Ok(())
}

#[test]
fn what_a_log_has_no_room_for_is_counted() -> io::Result<()> {
    let dir = Dir::new()?;
    let (mut program, mut pipe) = with_full_stderr(&dir)?;
    // More than the root keeps, and the pipe holds.
    let before = of_root(&program, "io", "rchar:")?;
    wait_for("six more megabytes of noise", LIMIT, || {
        Ok((of_root(&program, "io", "rchar:")? > before + (6 << 20)).then_some(()))
    })?;
    let mut text = Vec::new();
    let line = program.wait_for("the number of events that were dropped", LIMIT, || {
        let mut buffer = [0; 64 * 1024];
        match pipe.read(&mut buffer) {
            Ok(length) => text.extend_from_slice(&buffer[..length]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        let text = String::from_utf8_lossy(&text);
        Ok(text.lines().find(|line| line.contains("log events were dropped")).map(str::to_owned))
    })?;
    assert!(line.contains("standard error was not read in time"), "{line}");
    Ok(())
}

#[test]
fn last_words_are_written_wherever_a_child_ends() -> io::Result<()> {
    let dir = Dir::new()?;
    let mut program = dir.example("acs-fixture")?.arg("exits").start()?;
    assert_eq!(program.wait(LIMIT)?.code(), Some(1));
    // Four instances, whose threads that write had no time to come to it.
    let log = program.stderr();
    for line in 1..=100 {
        assert_eq!(log.matches(&format!("last words line={line}\n")).count(), 4, "{line}: {log}");
    }
    Ok(())
}
