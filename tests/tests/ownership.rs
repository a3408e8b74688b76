//! No process is left behind, none is mistaken for another one, and no descriptor goes astray.

use std::{
    collections::BTreeSet,
    fs,
    hint::spin_loop,
    io,
    os::unix::process::ExitStatusExt as _,
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use async_container_supervisor_tests::{Dir, Program, Signal, Supervisor, proc, wait_for};
use serde_json::json;

const LIMIT: Duration = Duration::from_secs(60);

/// Multiplies what the tests here do in a loop, such as `ACS_TEST_REPEAT=10`.
fn repeat() -> usize {
    std::env::var("ACS_TEST_REPEAT").ok().and_then(|number| number.parse().ok()).unwrap_or(1)
}

/// The living processes of a program that was started in the directory, whosever children they are by now.
fn left(dir: &Dir) -> io::Result<Vec<proc::Process>> {
    let mut left = proc::processes()?;
    left.retain(|process| process.is_alive() && process.works_in(dir.path()));
    Ok(left)
}

fn root_of(program: &Program) -> io::Result<proc::Process> {
    let root = program.descendants()?.into_iter().find(|process| process.parent == program.pid());
    root.ok_or_else(|| io::Error::other("there is no root"))
}

/// Keeps the processors busy until dropped.
struct Load<'stop>(&'stop AtomicBool);

impl Drop for Load<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn under_load(work: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let _load = Load(&stop);
        for _ in 0..thread::available_parallelism().map_or(1, std::num::NonZero::get) {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    spin_loop();
                }
            });
        }
        work()
    })
}

/// How many times in a row the root and the guardian are killed.
const KILLS: usize = 20;
/// When all must be gone, on a machine that does nothing else a tenth of a second is more than enough.
const GONE: Duration = Duration::from_secs(5);

#[test]
fn no_process_is_left_when_the_root_or_the_guardian_is_killed() -> io::Result<()> {
    // One in the group; one in a session of its own; two that have also left their parents; and one that keeps starting
    // others, each in a session of its own.
    let script = "sleep 1000030 & setsid sleep 1000030 & (setsid sh -c 'sleep 1000030 & exec sleep 1000030' &)
        setsid sh -c 'while :; do setsid sleep 0.02 & sleep 0.005; done' & exec sleep 1000031";
    let mut slowest = Duration::ZERO;
    let kills = KILLS * repeat();
    under_load(|| {
        for kill in 0..kills {
            let dir = Dir::new()?;
            let mut program = dir.example("commands")?.args(["--count", "2", "--", "sh", "-c", script]).start()?;
            let pid = program.pid();
            program.wait_for("the grandchildren", LIMIT, || {
                let below = proc::descendants(pid)?;
                let sleepers = below.iter().filter(|it| it.arguments().get(1).is_some_and(|it| it == "1000030"));
                Ok((sleepers.count() == 8).then_some(()))
            })?;
            let root = root_of(&program)?;
            let begin = Instant::now();
            if kill % 2 == 0 {
                root.signal(Signal::KILL)?;
            } else {
                program.signal(Signal::KILL)?;
            }
            assert_eq!(program.wait(LIMIT)?.signal(), Some(9));
            if kill % 2 == 0 {
                // The guardian, which ends last, has seen to it.
                let left = left(&dir)?;
                assert!(left.is_empty(), "{left:?}");
            }
            wait_for("the end of all", LIMIT, || Ok(left(&dir)?.is_empty().then_some(())))?;
            slowest = slowest.max(begin.elapsed());
        }
        Ok(())
    })?;
    eprintln!("{kills} kills: nothing was left after {slowest:?} at most");
    assert!(slowest < GONE, "{slowest:?}");
    Ok(())
}

#[test]
fn orphans_that_end_are_collected() -> io::Result<()> {
    let dir = Dir::new()?;
    let script = "while :; do (setsid sh -c 'echo >>orphans' &); sleep 0.005; done";
    let mut program = dir.example("commands")?.args(["--count", "2", "--", "sh", "-c", script]).start()?;
    let orphans = dir.file("orphans");
    program.wait_for("many orphans", LIMIT, || {
        Ok((fs::read_to_string(&orphans).unwrap_or_default().lines().count() > 200).then_some(()))
    })?;
    let root = root_of(&program)?.pid;
    program.wait_for("a moment without zombies", LIMIT, || {
        let of_root = proc::processes()?.into_iter().filter(|process| process.parent == root);
        Ok((of_root.filter(|process| !process.is_alive()).count() == 0).then_some(()))
    })?;
    Ok(())
}

/// What starts a program as the first process of a pid namespace.
const NAMESPACE: [&str; 3] = ["--pid", "--fork", "--mount-proc"];

/// Whether such a namespace can be made here. Says so if not.
fn has_namespaces() -> bool {
    let done = Command::new("unshare").args(NAMESPACE).arg("true").stderr(Stdio::null()).status();
    let has = done.is_ok_and(|status| status.success());
    if !has {
        eprintln!("skipped: unshare, of util-linux, is missing or may not make a pid namespace");
    }
    has
}

/// The first process of the namespace that `unshare` was started for, seen from outside.
fn first(program: &mut Program) -> io::Result<proc::Process> {
    let unshare = program.pid();
    program.wait_for("the first process", LIMIT, || {
        let below = proc::descendants(unshare)?;
        Ok(below.into_iter().find(|process| {
            let status = fs::read_to_string(format!("/proc/{}/status", process.pid)).unwrap_or_default();
            status.lines().any(|line| line.starts_with("NSpid:") && line.ends_with("\t1"))
        }))
    })
}

#[test]
fn the_first_process_of_a_namespace_does_its_duties() -> io::Result<()> {
    if !has_namespaces() {
        return Ok(());
    }
    let fixture = async_container_supervisor_tests::example("acs-fixture")?;
    for (end, status) in [("term", 0), ("essential", 42), ("kill", 137)] {
        let dir = Dir::new()?;
        let mut program = dir.command("unshare").args(NAMESPACE).arg(&fixture).arg("essential").start()?;
        program.wait_for_stderr("all children are ready", LIMIT)?;
        let guardian = first(&mut program)?;
        let root = proc::descendants(guardian.pid)?.remove(0);
        assert_eq!(root.parent, guardian.pid);

        // What is let into the namespace from outside and left there is nobody else's child.
        let enter = ["--pid", "--target", &guardian.pid.to_string(), "sh", "-c", "sleep 1000032 &"];
        assert!(Command::new("nsenter").args(enter).current_dir(dir.path()).status()?.success());
        let guardians = |process: &proc::Process| {
            process.parent == guardian.pid && process.arguments().get(1).is_some_and(|it| it == "1000032")
        };
        let stray =
            program.wait_for("the stray process", LIMIT, || Ok(proc::processes()?.into_iter().find(guardians)))?;
        stray.signal(Signal::KILL)?;
        program.wait_for("the stray process to be collected", LIMIT, || {
            let now = proc::process(stray.pid);
            Ok(now.is_none_or(|process| process.started != stray.started).then_some(()))
        })?;

        match end {
            "term" => drop(guardian.signal(Signal::TERM)?),
            "kill" => drop(root.signal(Signal::KILL)?),
            // A file that is there has its content.
            _ => {
                fs::write(dir.file("next"), status.to_string())?;
                fs::rename(dir.file("next"), dir.file("end"))?;
            }
        }
        assert_eq!(program.wait(LIMIT)?.code(), Some(status), "{end}: {}", program.stderr());
        assert!(left(&dir)?.is_empty(), "{end}");
    }
    Ok(())
}

#[test]
fn a_supervisor_whose_root_is_gone_signals_nobody_in_its_place() -> io::Result<()> {
    if !has_namespaces() {
        return Ok(());
    }
    let dir = Dir::new()?;
    let fixture = async_container_supervisor_tests::example("acs-fixture")?;
    // The first process of the namespace is given the supervisor when that has lost its parent.
    let script = r#"
        trap 'echo signalled' HUP INT TERM USR1 USR2
        sh -c '"$1" server & until [ -S supervisor.ipc ]; do sleep 0.01; done; kill -KILL $$' sh "$1"
        touch orphaned
        until [ -e enough ]; do sleep 0.01; done
        echo done"#;
    let mut program = dir.command("unshare").args(NAMESPACE).args(["sh", "-c", script, "sh"]).arg(&fixture).start()?;
    program.wait_for("the end of the parent", LIMIT, || Ok(dir.file("orphaned").exists().then_some(())))?;
    let mut supervisor = Supervisor::of(&mut program, &dir.socket(), LIMIT)?;
    for signal in ["INT", "HUP"] {
        let error = supervisor.call("restart", json!({ "signal": signal })).unwrap_err().to_string();
        assert!(error.contains("NotSupported") && error.contains("gone"), "{error}");
    }
    // It goes on all the same.
    supervisor.ask("ping", json!({}))?;
    fs::write(dir.file("enough"), "")?;
    program.wait(LIMIT)?;
    assert_eq!(program.stdout(), "done\n");
    Ok(())
}

/// Since which version of Linux each pid namespace has process ids up to a number of its own.
const OWN_PID_MAX: (u32, u32) = (6, 14);

fn kernel_version() -> Option<(u32, u32)> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").ok()?;
    let mut numbers = release.split(['.', '-']);
    Some((numbers.next()?.parse().ok()?, numbers.next()?.trim().parse().ok()?))
}

/// How many processes must have been given the number of a child that has just ended.
const REUSES: usize = 40;

#[test]
fn no_signal_meets_a_process_that_was_given_a_number_again() -> io::Result<()> {
    if kernel_version().is_none_or(|version| version < OWN_PID_MAX) {
        eprintln!("skipped: before Linux 6.14 the largest process id is the same for the whole machine");
        return Ok(());
    }
    if !has_namespaces() {
        return Ok(());
    }
    let dir = Dir::new()?;
    let fixture = async_container_supervisor_tests::example("acs-fixture")?;
    // There are some 200 numbers for all. Whenever a child has ended, its number is given to a bystander, which leads a
    // group and a session as the child did, and fails if a signal ends it. Those whose number was given to somebody else
    // do not count.
    let script = r#"
        echo 500 >/proc/sys/kernel/pid_max || exit 1
        mkfifo log
        "$1" churns 2>log &
        application=$!
        reuses=0
        bystanders=
        while [ $reuses -lt $2 ] && read -r line; do
            case $line in
                *"child exited"*pid=* | *"child stopped"*pid=*) ;;
                *) continue ;;
            esac
            number=${line#*pid=}
            number=${number%% *}
            # It is told before the number is free.
            looks=0
            while [ -d /proc/$number ] && [ $looks -lt 10000 ]; do looks=$((looks + 1)); done
            echo $((number - 1)) >/proc/sys/kernel/ns_last_pid
            setsid sleep 0.5 &
            bystanders="$bystanders $!"
            [ $! -ne $number ] || reuses=$((reuses + 1))
            [ $((reuses % 10)) -ne 9 ] || kill -HUP $application
        done <log
        for bystander in $bystanders; do wait $bystander || echo "bystander $bystander ended with $?"; done
        cat log >/dev/null &
        kill -TERM $application
        wait $application || echo "the application ended with $?"
        echo $reuses"#;
    for _ in 0..repeat() {
        let reuses = REUSES.to_string();
        let launch = dir.command("unshare").args(NAMESPACE).args(["sh", "-c", script, "sh"]);
        let mut program = launch.arg(&fixture).arg(&reuses).start()?;
        let status = program.wait(LIMIT)?;
        assert!(status.success(), "{}", program.stderr());
        assert_eq!(program.stdout(), format!("{reuses}\n"));
        fs::remove_file(dir.file("log"))?;
    }
    Ok(())
}

const RESTARTS: usize = 1000;

#[test]
fn descriptors_are_the_same_after_a_thousand_restarts() -> io::Result<()> {
    let dir = Dir::new()?;
    // Notes what it has open, beside what `ls` opens: the standard streams, a socket and the notify pipe. The first one
    // waits for a word, all others end at once, until the last one stays.
    let script = r#"ls -m /proc/self/fd >>descriptors; echo '{"ready":true}' >&4
        until [ -e go ]; do sleep 0.01; done; [ ! -e stay ] || exec sleep 1000034"#;
    let mut program = dir.example("acs-fixture")?.args(["again", script]).env("RUST_LOG", "warn").start()?;
    let lines = || fs::read_to_string(dir.file("descriptors")).unwrap_or_default();
    program.wait_for("the first child", LIMIT, || Ok((lines().lines().count() == 1).then_some(())))?;
    let root = root_of(&program)?.pid;
    let open = |pid: u32| -> io::Result<usize> { Ok(fs::read_dir(format!("/proc/{pid}/fd"))?.count()) };
    let before = (open(root)?, open(program.pid())?);
    fs::write(dir.file("go"), "")?;
    program.wait_for("a thousand restarts", LIMIT * 2, || Ok((lines().lines().count() > RESTARTS).then_some(())))?;
    fs::write(dir.file("stay"), "")?;
    let pid = program.pid();
    program.wait_for("the last child", LIMIT, || {
        let below = proc::descendants(pid)?;
        let last = below.iter().any(|process| process.arguments().get(1).is_some_and(|it| it == "1000034"));
        Ok(last.then_some(()))
    })?;
    let text = lines();
    let kinds: BTreeSet<&str> = text.lines().collect();
    assert_eq!(kinds, BTreeSet::from(["0, 1, 2, 3, 4, 5"]));
    // Both looks may come when one is about to be closed; a thousand that were forgotten are not.
    program.wait_for("as few descriptors as before", LIMIT, || {
        Ok((open(root)? <= before.0 && open(pid)? <= before.1).then_some(()))
    })?;
    Ok(())
}
