//! The `commands` example: children that are other programs.

use std::{collections::BTreeSet, io, os::unix::fs::PermissionsExt as _, time::Duration};

use async_container_supervisor_tests::{Dir, Program, Signal, proc};

const LIMIT: Duration = Duration::from_secs(30);

/// Waits until exactly so many processes run whose first argument is `argument`.
fn running(program: &mut Program, argument: &str, count: usize) -> io::Result<Vec<proc::Process>> {
    let root = program.pid();
    program.wait_for(&format!("{count} processes with {argument}"), LIMIT, || {
        let mut found = proc::descendants(root)?;
        found.retain(|process| process.arguments().get(1).is_some_and(|first| first == argument));
        Ok((found.len() == count).then_some(found))
    })
}

fn pids(processes: &[proc::Process]) -> BTreeSet<u32> {
    processes.iter().map(|process| process.pid).collect()
}

#[test]
fn a_killed_child_is_replaced_and_the_others_are_left_alone() -> io::Result<()> {
    let dir = Dir::new()?;
    let mut program = dir.example("commands")?.args(["--count", "3", "--", "sleep", "1000000"]).start()?;
    let before = running(&mut program, "1000000", 3)?;
    before[0].signal(Signal::KILL)?;
    program.wait_for_stderr("killed by SIGKILL", LIMIT)?;
    let after = running(&mut program, "1000000", 3)?;
    assert_eq!(pids(&before).intersection(&pids(&after)).count(), 2);

    program.signal(Signal::TERM)?;
    assert!(program.wait(LIMIT)?.success());
    assert_eq!(program.stdout(), "");
    Ok(())
}

/// What another program means by it nobody knows; code of the own program ends a first start with it.
#[test]
fn a_program_that_exits_like_a_wrong_configuration_is_tried_again() -> io::Result<()> {
    let dir = Dir::new()?;
    let mut program = dir.example("commands")?.args(["--count", "1", "--", "sh", "-c", "exit 78"]).start()?;
    let path = dir.file("commands-1.stderr");
    program.wait_for("another try", LIMIT, || {
        let failures = std::fs::read_to_string(&path)?.matches("exited with status 78").count();
        Ok((failures >= 3).then_some(()))
    })?;
    program.signal(Signal::INT)?;
    assert!(program.wait(LIMIT)?.success());
    Ok(())
}

#[test]
fn a_child_that_keeps_failing_is_started_at_growing_intervals() -> io::Result<()> {
    let dir = Dir::new()?;
    let mut program = dir.example("commands")?.args(["--count", "1", "--", "sh", "-c", "exit 7"]).start()?;
    let path = dir.file("commands-1.stderr");
    let tries = program.wait_for("four failures", LIMIT, || {
        let text = std::fs::read_to_string(&path)?;
        let failures: Vec<String> =
            text.lines().filter(|line| line.contains("child failed")).map(str::to_owned).collect();
        Ok((failures.len() >= 4).then_some(failures))
    })?;
    // At once, then after 100 ms, 200 ms, 400 ms, each shortened by chance by up to 30 %.
    assert!(tries[0].ends_with("next_try=at once"), "{}", tries[0]);
    for (line, full) in tries[1..4].iter().zip([100.0, 200.0, 400.0]) {
        assert!(line.contains("exited with status 7"), "{line}");
        let (_, wait) = line.rsplit_once("next_try=in ").expect("the time of the next try");
        let milliseconds: f64 = wait.trim_end_matches("ms").parse().expect("milliseconds");
        assert!((0.699 * full..=full).contains(&milliseconds), "{line}");
    }
    // Stopping does not wait for the next try.
    program.signal(Signal::INT)?;
    assert!(program.wait(LIMIT)?.success());
    Ok(())
}

#[test]
fn what_cannot_be_started_is_said_before_anything_is() -> io::Result<()> {
    let dir = Dir::new()?;
    std::fs::write(dir.file("plain"), "#!/bin/sh\n")?;
    std::fs::set_permissions(dir.file("plain"), std::fs::Permissions::from_mode(0o644))?;
    for (command, complaint) in [
        (
            "no-such-program",
            "service \"command\" cannot start: program no-such-program was not found in any directory of PATH",
        ),
        ("./missing", "program ./missing does not exist"),
        ("./plain", "./plain is not an executable file"),
        ("/", "/ is not an executable file"),
    ] {
        let mut program = dir.example("commands")?.args(["--count", "2", "--", command]).start()?;
        assert_eq!(program.wait(LIMIT)?.code(), Some(78), "{command}");
        assert!(program.stderr().contains(complaint), "{command}: {}", program.stderr());
        assert_eq!(program.stdout(), "");
    }
    let mut program = dir.example("commands")?.args(["--count", "0", "--", "sleep", "1"]).start()?;
    assert_eq!(program.wait(LIMIT)?.code(), Some(2));
    assert!(program.stderr().contains("--count"), "{}", program.stderr());
    Ok(())
}

#[test]
fn nothing_outlives_the_root_whichever_way_it_is_killed() -> io::Result<()> {
    // A child with a child in a session of its own, which has left its parent, and one below that.
    let script = "(setsid sh -c 'sleep 1000001 & exec sleep 1000001' &); setsid sleep 1000001 & exec sleep 1000001";
    for victim in ["the process that was started", "the root"] {
        let dir = Dir::new()?;
        let mut program = dir.example("commands")?.args(["--count", "2", "--", "sh", "-c", script]).start()?;
        running(&mut program, "1000001", 8)?;
        let everybody = program.descendants()?;
        let root = everybody.iter().find(|process| process.parent == program.pid()).expect("the root");
        if victim == "the root" {
            root.signal(Signal::KILL)?;
        } else {
            program.signal(Signal::KILL)?;
        }
        let status = program.wait(LIMIT)?;
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(9), "{victim}");
        async_container_supervisor_tests::wait_for(
            &format!("the end of all after {victim} was killed"),
            LIMIT,
            || {
                let left =
                    proc::processes()?.into_iter().filter(|process| process.is_alive() && process.works_in(dir.path()));
                Ok((left.count() == 0).then_some(()))
            },
        )?;
    }
    Ok(())
}

#[test]
fn a_stop_reaches_what_the_children_started() -> io::Result<()> {
    let dir = Dir::new()?;
    let script = "setsid sleep 1000002 & sleep 1000002 & exec sleep 1000002";
    let mut program = dir.example("commands")?.args(["--count", "2", "--", "sh", "-c", script]).start()?;
    running(&mut program, "1000002", 6)?;
    program.signal(Signal::INT)?;
    assert!(program.wait(LIMIT)?.success());
    let left =
        proc::processes()?.into_iter().filter(|process| process.is_alive() && process.works_in(dir.path())).count();
    assert_eq!(left, 0);
    Ok(())
}

#[test]
fn what_a_child_started_goes_with_it() -> io::Result<()> {
    let dir = Dir::new()?;
    // One in the group, one in a session of its own, and two that have left their parents as well.
    let script = "sleep 1000007 & setsid sleep 1000007 & (setsid sh -c 'sleep 1000007 & exec sleep 1000007' &); exec sleep 1000008";
    let mut program = dir.example("commands")?.args(["--count", "2", "--", "sh", "-c", script]).start()?;
    let before = running(&mut program, "1000007", 8)?;
    let children = running(&mut program, "1000008", 2)?;
    children[0].signal(Signal::KILL)?;
    let root = program.pid();
    program.wait_for("four of them to be gone, and four new ones", LIMIT, || {
        let mut now = proc::descendants(root)?;
        now.retain(|process| process.arguments().get(1).is_some_and(|first| first == "1000007"));
        Ok((now.len() == 8 && pids(&now).intersection(&pids(&before)).count() == 4).then_some(()))
    })?;
    Ok(())
}

#[test]
fn only_what_was_given_is_inherited() -> io::Result<()> {
    let dir = Dir::new()?;
    // Descriptor 7 was open in the shell that starts the root.
    let commands = async_container_supervisor_tests::example("commands")?;
    let script = format!("exec 7</dev/null; exec {} --count 1 -- sleep 1000003", commands.display());
    let mut program = dir.command("sh").args(["-c", &script]).start()?;
    let child = running(&mut program, "1000003", 1)?.remove(0);
    // Until it has loaded its libraries it has some more of its own.
    program.wait_for("the three standard descriptors alone", LIMIT, || {
        let mut descriptors: Vec<String> = std::fs::read_dir(format!("/proc/{}/fd", child.pid))?
            .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
            .collect::<io::Result<_>>()?;
        descriptors.sort();
        Ok((descriptors == ["0", "1", "2"]).then_some(()))
    })?;
    Ok(())
}

#[test]
fn too_few_descriptors_delay_a_child_and_stop_nothing_else() -> io::Result<()> {
    let dir = Dir::new()?;
    // Each child costs the root a descriptor: for all of them there are not enough.
    let commands = async_container_supervisor_tests::example("commands")?;
    let script = format!("ulimit -Sn 24; exec {} --count 40 -- sleep 1000004", commands.display());
    let mut program = dir.command("sh").args(["-c", &script]).start()?;
    let line = program.wait_for_stderr("cannot start child", LIMIT)?;
    assert!(line.contains("Too many open files") && line.contains("next_try=in "), "{line}");
    let some = program
        .descendants()?
        .into_iter()
        .filter(|process| process.arguments().get(1).is_some_and(|it| it == "1000004"));
    let some: Vec<_> = some.collect();
    assert!(!some.is_empty());

    // Those that run are still looked after.
    some[0].signal(Signal::KILL)?;
    program.wait_for_stderr("killed by SIGKILL", LIMIT)?;

    // And once there are enough, all run.
    let root = program.descendants()?.into_iter().find(|process| process.parent == program.pid()).expect("the root");
    let pid = rustix::process::Pid::from_raw(root.pid.cast_signed());
    let maximum = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
    let limit = rustix::process::Rlimit { current: Some(1024), maximum };
    rustix::process::prlimit(pid, rustix::process::Resource::Nofile, limit)?;
    running(&mut program, "1000004", 40)?;
    program.signal(Signal::TERM)?;
    assert!(program.wait(LIMIT)?.success());
    Ok(())
}

#[test]
fn a_limit_on_processes_delays_a_child_and_stops_nothing_else() -> io::Result<()> {
    // The limit counts all processes of a user and does not bind root, so a user of its own is needed.
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: another user's limit can only be set as root");
        return Ok(());
    }
    let dir = Dir::new()?;
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755))?;
    let commands = dir.file("commands");
    std::fs::copy(async_container_supervisor_tests::example("commands")?, &commands)?;
    let user = 100_000 + std::process::id() % 100_000;
    // Seven sleepers are as many as the user may have beside the shell that waits for them.
    let as_user = [format!("--reuid={user}"), format!("--regid={user}"), "--clear-groups".to_owned(), "--".to_owned()];
    let hog = "for i in 1 2 3 4 5 6 7; do sleep 1000006 & done; wait";
    let mut other = dir.command("setpriv").args(&as_user).args(["sh", "-c", hog]).start()?;
    running(&mut other, "1000006", 7)?;
    let mut program = dir
        .command("setpriv")
        .args(&as_user)
        .args(["prlimit", "--nproc=15", "--"])
        .arg(&commands)
        .args(["--count", "8", "--", "sleep", "1000005"])
        .start()?;
    let line = program.wait_for_stderr("cannot start child", LIMIT)?;
    assert!(line.contains("Resource temporarily unavailable") && line.contains("next_try=in "), "{line}");

    // Those that run are still looked after, and once there is room, all run.
    running(&mut program, "1000005", 4)?[0].signal(Signal::KILL)?;
    program.wait_for_stderr("killed by SIGKILL", LIMIT)?;
    drop(other);
    running(&mut program, "1000005", 8)?;
    Ok(())
}
