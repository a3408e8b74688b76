//! Children that speak as sd_notify(3) has it are understood, and nobody else is.

use std::{io, os::unix::ffi::OsStrExt as _, os::unix::net::UnixDatagram, path::PathBuf, time::Duration};

use async_container_supervisor_tests::{Dir, Program, Signal, proc};

const LIMIT: Duration = Duration::from_secs(60);

fn commands(dir: &Dir, scenario: &str, argument: &str) -> io::Result<Program> {
    dir.example("acs-commands")?.env("RUST_LOG", "debug").args([scenario, argument]).start()
}

/// The sleeper that a script ends as, and the socket that it was told of.
fn sleeper(program: &mut Program) -> io::Result<(proc::Process, PathBuf)> {
    let pid = program.pid();
    program.wait_for("the sleeper with a notify socket", LIMIT, || {
        let sleeps = |process: &proc::Process| process.arguments().first().is_some_and(|name| name == "sleep");
        let found = proc::descendants(pid)?.into_iter().find(sleeps);
        Ok(found.and_then(|process| {
            let path = process.variable("NOTIFY_SOCKET")?;
            Some((process, PathBuf::from(std::ffi::OsStr::from_bytes(&path))))
        }))
    })
}

/// How many times a child says that it is ready and ends at once: `ACS_TEST_BRIEF_CHILDREN`, or a thousand.
fn brief_children() -> usize {
    std::env::var("ACS_TEST_BRIEF_CHILDREN").ok().and_then(|text| text.parse().ok()).unwrap_or(1000)
}

#[test]
fn readiness_that_an_end_follows_at_once_is_never_lost() -> io::Result<()> {
    const BATCH: usize = 500;
    let mut left = brief_children();
    while left > 0 {
        let count = left.min(BATCH);
        left -= count;
        let dir = Dir::new()?;
        let mut program = dir.example("acs-commands")?.args(["brief", &count.to_string()]).start()?;
        assert!(program.wait(LIMIT)?.success(), "{}", program.stderr());
        let stderr = program.stderr();
        let occurrences = |text: &str| stderr.matches(text).count();
        assert_eq!(occurrences("child started"), count);
        assert_eq!(occurrences("child exited"), count);
        assert_eq!(occurrences("child is ready"), count);
        assert!(!stderr.contains("ignoring a notification"), "{stderr}");
    }
    Ok(())
}

#[test]
fn a_child_is_what_it_says() -> io::Result<()> {
    let dir = Dir::new()?;
    let script = "$0 say STATUS=Loading. ERRNO=2 FDSTORE=1 READY=1; $0 say RELOADING=1; \
                  $0 say READY=1 STOPPING=1; exec sleep 1000000";
    let mut program = commands(&dir, "speaks", script)?;
    program.wait_for_stderr("child is about to end", LIMIT)?;
    let (_, socket) = sleeper(&mut program)?;
    let stderr = program.stderr();
    assert!(stderr.contains("status=\"Loading.\""), "{stderr}");
    assert!(stderr.contains("child reports an error child=\"speaker#1\" errno=2"), "{stderr}");
    assert!(stderr.contains("none are stored for children"), "{stderr}");
    assert_eq!(stderr.matches("child is ready").count(), 2, "{stderr}");
    assert!(program.stdout().starts_with("FDSTORE=1 was heard\nBARRIER=1 was heard\n"), "{}", program.stdout());
    // The socket is there for this user alone, and gone at the end.
    use std::os::unix::fs::PermissionsExt as _;
    let directory = socket.parent().expect("a directory").to_owned();
    assert_eq!(std::fs::metadata(&directory)?.permissions().mode() & 0o777, 0o700);
    program.signal(Signal::TERM)?;
    assert!(program.wait(LIMIT)?.success());
    assert!(!directory.exists());
    Ok(())
}

#[test]
fn nothing_is_left_of_the_socket_when_the_root_is_killed() -> io::Result<()> {
    let dir = Dir::new()?;
    let mut program = commands(&dir, "speaks", "$0 say READY=1; exec sleep 1000000")?;
    let (_, socket) = sleeper(&mut program)?;
    let root = program.descendants()?.into_iter().find(|process| process.parent == program.pid()).expect("the root");
    root.signal(Signal::KILL)?;
    program.wait(LIMIT)?;
    assert!(!socket.exists() && !socket.parent().expect("a directory").exists());
    Ok(())
}

#[test]
fn a_descendant_in_another_session_speaks_for_its_child() -> io::Result<()> {
    let dir = Dir::new()?;
    let script = "setsid --wait $0 say READY=1; exec sleep 1000000";
    let mut program = commands(&dir, "speaks", script)?;
    program.wait_for_stderr("child is ready", LIMIT)?;
    assert!(!program.stderr().contains("ignoring a notification"), "{}", program.stderr());
    Ok(())
}

#[test]
fn strangers_are_ignored_and_logged_once() -> io::Result<()> {
    let dir = Dir::new()?;
    let mut program = commands(&dir, "speaks", "exec sleep 1000000")?;
    let (child, socket) = sleeper(&mut program)?;
    let ours = UnixDatagram::unbound()?;
    for _ in 0..3 {
        ours.send_to(b"READY=1", &socket)?;
    }
    program.wait_for_stderr("ignoring a notification", LIMIT)?;
    // A child that is heard after them shows that they were heard, too.
    child.signal(Signal::KILL)?;
    program.wait_for_stderr("child failed", LIMIT)?;
    let stderr = program.stderr();
    assert_eq!(stderr.matches("ignoring a notification").count(), 1, "{stderr}");
    assert!(stderr.contains(&format!("pid={}", std::process::id())), "{stderr}");
    assert!(!stderr.contains("child is ready"), "{stderr}");
    Ok(())
}

#[test]
fn a_child_of_another_user_reaches_the_socket() -> io::Result<()> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can start commands as another user");
        return Ok(());
    }
    // The program has to be one that the other user may execute.
    let dir = Dir::new()?;
    let script = "python3 -c 'import os, socket; \
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b\"READY=1\", os.environ[\"NOTIFY_SOCKET\"]); \
        os.execvp(\"sleep\", [\"sleep\", \"1000000\"])'";
    // The test's own directory is closed to the other user.
    let launch = dir.example("acs-commands")?.env("TMPDIR", "/tmp");
    let mut program = launch.args(["speaks-as", &format!("exec {script}"), "65534"]).start()?;
    program.wait_for_stderr("child is ready", LIMIT)?;
    program.signal(Signal::TERM)?;
    assert!(program.wait(LIMIT)?.success());
    Ok(())
}

#[test]
fn a_start_is_given_the_time_that_it_asks_for() -> io::Result<()> {
    let dir = Dir::new()?;
    // Longer than it may take without.
    let script = "$0 say EXTEND_TIMEOUT_USEC=60000000; sleep 3; $0 say READY=1; exec sleep 1000000";
    let mut program = commands(&dir, "speaks-soon", script)?;
    program.wait_for_stderr("child is ready", LIMIT)?;
    assert!(!program.stderr().contains("killing child"), "{}", program.stderr());

    let mut program = commands(&dir, "speaks-soon", "exec sleep 1000000")?;
    let line = program.wait_for_stderr("child failed", LIMIT)?;
    assert!(line.contains("not ready within 2s (start-up time-out), killed by SIGKILL"), "{line}");
    Ok(())
}

#[test]
fn a_watchdog_is_fed_by_datagrams() -> io::Result<()> {
    let dir = Dir::new()?;
    let script = "test $WATCHDOG_PID = $$ && test $WATCHDOG_USEC = 2000000 && $0 say READY=1; \
                  for i in 1 2 3 4 5; do sleep 0.5; $0 say WATCHDOG=1; done; exec sleep 1000000";
    let mut program = commands(&dir, "speaks-again", script)?;
    let line = program.wait_for_stderr("child failed", LIMIT)?;
    assert!(line.contains("silent for 2s (health check), killed by SIGKILL"), "{line}");
    assert!(
        program.stdout().matches("BARRIER=1 was heard").count() >= 6,
        "it was killed while it lived: {}",
        program.stdout()
    );

    let script = "$0 say READY=1 WATCHDOG=trigger; exec sleep 1000000";
    let mut program = commands(&dir, "speaks", script)?;
    let line = program.wait_for_stderr("child failed", LIMIT)?;
    assert!(line.contains("asked to be treated as hanging (watchdog trigger), killed by SIGKILL"), "{line}");
    Ok(())
}

#[test]
fn systemd_notify_is_understood() -> io::Result<()> {
    if std::process::Command::new("systemd-notify").arg("--version").output().is_err() {
        eprintln!("skipped: systemd-notify is not installed");
        return Ok(());
    }
    let dir = Dir::new()?;
    let script = "systemd-notify --ready --status='Ready to go.' && echo notified; exec sleep 1000000";
    let mut program = commands(&dir, "speaks", script)?;
    program.wait_for_stderr("child is ready", LIMIT)?;
    program.wait_for_stderr("status=\"Ready to go.\"", LIMIT)?;
    // It waits for its barrier.
    program.wait_for("the end of systemd-notify", LIMIT, || {
        let text = std::fs::read_to_string(dir.file("acs-commands-1.stdout"))?;
        Ok(text.contains("notified").then_some(()))
    })?;
    assert!(!program.stderr().contains("ignoring a notification"), "{}", program.stderr());
    Ok(())
}
