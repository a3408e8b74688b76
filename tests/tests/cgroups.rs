//! Children in cgroups of their own.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use async_container_supervisor_tests::{Dir, Program, Signal, Supervisor, proc, wait_for};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(60);

/// A cgroup of version 2 for one test, removed with all that is in it.
struct Group(PathBuf);

impl Group {
    /// Says so where this user may not make one.
    fn make() -> Option<Group> {
        static NUMBER: AtomicU32 = AtomicU32::new(1);
        let made = mount().and_then(|mount| {
            let number = NUMBER.fetch_add(1, Ordering::Relaxed);
            let path = mount.join(format!("acs-test-{}-{number}", std::process::id()));
            fs::create_dir(&path).ok().map(|()| Group(path))
        });
        if made.is_none() {
            eprintln!("skipped: this user may not make a cgroup of version 2");
        }
        made
    }

    /// Says so where there are no limits of memory, processor time and processes.
    fn has_controllers(&self) -> io::Result<bool> {
        let controllers = fs::read_to_string(self.0.join("cgroup.controllers"))?;
        // They have to be handed down to it.
        let has_them = ["memory", "cpu", "pids"].iter().all(|name| {
            controllers.split_whitespace().any(|controller| controller == *name)
                || self.0.parent().is_some_and(|above| hand_down(above, name))
        });
        if !has_them {
            eprintln!("skipped: version 2 does not have the controllers memory, cpu and pids here");
        }
        Ok(has_them)
    }

    /// The names of the cgroups in the directory.
    fn names(path: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                names.push(entry.file_name().to_string_lossy().into_owned());
            }
        }
        names.sort();
        Ok(names)
    }

    /// The cgroup of the only application in this one.
    fn application(&self) -> io::Result<PathBuf> {
        let names = Self::names(&self.0)?;
        let name = names.iter().find(|name| !name.ends_with("-root"));
        Ok(self.0.join(name.ok_or_else(|| io::Error::other(format!("no cgroup of an application: {names:?}")))?))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::write(self.0.join("cgroup.kill"), "1");
        let removed = wait_for("the end of a cgroup", LIMIT, || Ok(remove(&self.0).is_ok().then_some(())));
        if let Err(error) = removed {
            eprintln!("{} stays: {error}", self.0.display());
        }
    }
}

fn remove(path: &Path) -> io::Result<()> {
    for name in Group::names(path)? {
        remove(&path.join(name))?;
    }
    fs::remove_dir(path)
}

fn mount() -> Option<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").ok()?;
    mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let point = fields.next()?;
        (fields.next() == Some("cgroup2")).then(|| point.into())
    })
}

fn start(group: &Group, dir: &Dir, scenario: &[&str]) -> io::Result<Program> {
    dir.example("acs-fixture")?.args(scenario).env("ASYNC_CONTAINER_CGROUP", &group.0).start()
}

/// Starts a scenario in the cgroup itself, as a service of systemd is, so that it has to make room before it hands controllers down.
fn start_inside(group: &Group, dir: &Dir, scenario: &str) -> io::Result<Program> {
    start_example_inside(group, dir, "acs-fixture", scenario)
}

fn start_example_inside(group: &Group, dir: &Dir, example: &str, scenario: &str) -> io::Result<Program> {
    let fixture = async_container_supervisor_tests::example(example)?;
    let script = format!(r#"echo $$ >"$1/cgroup.procs" && ASYNC_CONTAINER_CGROUP=$1 exec "$2" {scenario}"#);
    let mut program = dir.command("sh").args(["-c", &script, "sh"]).arg(&group.0).arg(fixture).start()?;
    program.wait_for_stderr("all children are ready", LIMIT)?;
    Ok(program)
}

/// True if the cgroup gives those in it the controller.
fn hand_down(group: &Path, controller: &str) -> bool {
    fs::write(group.join("cgroup.subtree_control"), format!("+{controller}")).is_ok()
}

/// The living descendants of the program that sleep for so long.
fn sleepers(program: u32, time: &str) -> io::Result<Vec<proc::Process>> {
    let mut below = proc::descendants(program)?;
    below.retain(|process| process.is_alive() && process.arguments().get(1).is_some_and(|it| it == time));
    Ok(below)
}

fn cgroup_of(process: &proc::Process) -> io::Result<String> {
    let text = fs::read_to_string(format!("/proc/{}/cgroup", process.pid))?;
    let line = text.lines().find_map(|line| line.strip_prefix("0::"));
    line.map(str::to_owned).ok_or_else(|| io::Error::other(format!("process {} has no cgroup", process.pid)))
}

#[test]
fn all_that_a_child_has_started_ends_with_it_and_nothing_is_left() -> io::Result<()> {
    let Some(group) = Group::make() else { return Ok(()) };
    for end in ["stopped", "root killed", "guardian killed"] {
        let dir = Dir::new()?;
        let mut program = start(&group, &dir, &["cgroups"])?;
        program.wait_for_stderr("all children are ready", LIMIT)?;
        let pid = program.pid();
        let application = group.application()?;
        assert_eq!(Group::names(&application)?, ["grouped#1@1", "grouped#2@1"]);
        let both = |time| Ok(Some(sleepers(pid, time)?).filter(|sleepers| sleepers.len() == 2));
        let strays = program.wait_for("both stray processes", LIMIT, || both("1000040"))?;

        // Without a mark in its environment, in a session of its own: its cgroup alone tells whose it is.
        let children = program.wait_for("both children", LIMIT, || both("1000041"))?;
        let child = children.first().ok_or_else(|| io::Error::other("there is no child"))?;
        let cgroup = cgroup_of(child)?;
        let mut own = strays.iter().filter(|stray| cgroup_of(stray).is_ok_and(|its| its == cgroup));
        let own = own.next().ok_or_else(|| io::Error::other("the child has no stray in its cgroup"))?;
        child.signal(Signal::KILL)?;
        program.wait_for("the end of the stray process", LIMIT, || {
            let now = proc::process(own.pid).filter(|process| process.started == own.started);
            Ok(now.is_none_or(|process| !process.is_alive()).then_some(()))
        })?;
        program.wait_for("the next child", LIMIT, || both("1000041"))?;

        match end {
            "stopped" => {
                program.signal(Signal::TERM)?;
                assert!(program.wait(LIMIT)?.success(), "{}", program.stderr());
            }
            "root killed" => {
                let root = program.descendants()?.into_iter().find(|process| process.parent == program.pid());
                root.ok_or_else(|| io::Error::other("there is no root"))?.signal(Signal::KILL)?;
                program.wait(LIMIT)?;
            }
            _ => {
                program.signal(Signal::KILL)?;
                program.wait(LIMIT)?;
            }
        }
        wait_for("the end of all cgroups", LIMIT, || Ok(Group::names(&group.0)?.is_empty().then_some(())))?;
    }
    Ok(())
}

/// What an application says of itself that is started in a namespace, or a cgroup, of its own.
fn own_words(group: &Group, dir: &Dir, script: &str) -> io::Result<String> {
    let fixture = async_container_supervisor_tests::example("acs-fixture")?;
    let mut program = dir.command("sh").args(["-c", script, "sh"]).arg(&group.0).arg(fixture).start()?;
    let line = program.wait_for_stderr("cgroups of their own", LIMIT)?;
    program.wait_for_stderr("all children are ready", LIMIT)?;
    program.signal(Signal::TERM)?;
    assert!(program.wait(LIMIT)?.success(), "{}", program.stderr());
    Ok(line)
}

#[test]
fn what_somebody_else_manages_is_left_alone() -> io::Result<()> {
    let Some(group) = Group::make() else { return Ok(()) };
    let script = r#"echo $$ >"$1/cgroup.procs" && exec "$2" essential"#;
    let line = own_words(&group, &Dir::new()?, script)?;
    assert!(line.contains("children have no cgroups of their own"), "{line}");
    assert!(line.contains("Delegate=yes"), "{line}");
    // Which is what makes it theirs.
    let marked = rustix::fs::setxattr(&group.0, "user.delegate", b"1", rustix::fs::XattrFlags::empty());
    if let Err(error) = marked {
        eprintln!("skipped: cgroups cannot be marked here: {error}");
        return Ok(());
    }
    let line = own_words(&group, &Dir::new()?, script)?;
    assert!(line.contains("children have cgroups of their own"), "{line}");
    assert_eq!(Group::names(&group.0)?, [""; 0]);
    Ok(())
}

#[test]
fn the_first_cgroup_of_a_container_is_its_own() -> io::Result<()> {
    let Some(group) = Group::make() else { return Ok(()) };
    let unshared = Command::new("unshare").args(["--cgroup", "--mount", "true"]).stderr(Stdio::null()).status();
    if !unshared.is_ok_and(|status| status.success()) {
        eprintln!("skipped: unshare, of util-linux, is missing or may not make a cgroup namespace");
        return Ok(());
    }
    let script = r#"echo $$ >"$1/cgroup.procs" && exec unshare --cgroup --mount sh -c '
        umount "$1" && mount -t cgroup2 none "$1" && exec "$2" essential' sh "$(dirname "$1")" "$2""#;
    let line = own_words(&group, &Dir::new()?, script)?;
    assert!(line.contains("children have cgroups of their own"), "{line}");
    assert_eq!(Group::names(&group.0)?, [""; 0]);
    Ok(())
}

#[test]
fn a_limit_that_cannot_be_had_is_an_error_unless_it_need_not_be() -> io::Result<()> {
    let dir = Dir::new()?;
    let limited = |best_effort: &str| {
        dir.example("acs-fixture")?.args(["limited", best_effort]).env("ASYNC_CONTAINER_CGROUP", "none").start()
    };
    let mut program = limited("")?;
    assert_eq!(program.wait(LIMIT)?.code(), Some(71));
    let text = program.stderr();
    assert!(text.contains("cannot limit service \"limited\": cgroups are switched off"), "{text}");
    assert!(text.contains("Limits::best_effort"), "{text}");
    assert_eq!(text.matches("cgroups are switched off").count(), 1, "{text}");

    let mut program = limited("best-effort")?;
    program.wait_for_stderr("limits of the service are not in force", LIMIT)?;
    program.wait_for_stderr("all children are ready", LIMIT)?;
    program.signal(Signal::TERM)?;
    assert!(program.wait(LIMIT)?.success());

    for (value, message) in [
        ("/proc", "/proc is no directory of a cgroup2 file system"),
        ("relative", "it must be the directory of a cgroup, or none"),
    ] {
        let mut program = dir.example("acs-fixture")?.arg("essential").env("ASYNC_CONTAINER_CGROUP", value).start()?;
        assert!(program.wait(LIMIT)?.code().is_some_and(|code| code == 71 || code == 78));
        assert!(program.stderr().contains(message), "{}", program.stderr());
    }
    Ok(())
}

#[test]
fn limits_hold_and_want_of_memory_is_named() -> io::Result<()> {
    let Some(group) = Group::make() else { return Ok(()) };
    if !group.has_controllers()? {
        return Ok(());
    }
    let dir = Dir::new()?;
    let mut program = start_inside(&group, &dir, "limited")?;
    let child = group.application()?.join("limited#1@1");
    let read = |file: &str| fs::read_to_string(child.join(file)).map(|text| text.trim().to_owned());
    assert_eq!(read("memory.max")?, (48 << 20).to_string());
    assert_eq!(read("cpu.max")?, "50000 100000");
    assert_eq!(read("pids.max")?, "20");
    fs::write(dir.file("go"), "")?;
    let line = program.wait_for_stderr("child failed", LIMIT)?;
    assert!(line.contains("out of memory, its limit is 48.0 MiB, killed by SIGKILL"), "{line}");
    let pid = program.pid();
    program.wait_for("the next one", LIMIT, || Ok((sleepers(pid, "1000042")?.len() == 1).then_some(())))?;
    program.signal(Signal::TERM)?;
    assert!(program.wait(LIMIT)?.success(), "{}", program.stderr());
    assert_eq!(Group::names(&group.0)?, [""; 0]);
    Ok(())
}

#[test]
fn want_of_processes_is_named() -> io::Result<()> {
    let Some(group) = Group::make() else { return Ok(()) };
    if !group.has_controllers()? {
        return Ok(());
    }
    let dir = Dir::new()?;
    let mut program = start_inside(&group, &dir, "limited forks")?;
    if !group.application()?.join("limited#1@1/pids.peak").exists() {
        eprintln!("skipped: this kernel does not tell how many processes there were");
        return Ok(());
    }
    fs::write(dir.file("go"), "")?;
    let line = program.wait_for_stderr("child failed", LIMIT)?;
    assert!(line.contains("reason=\"limit of 20 processes reached, exited with status 2\""), "{line}");
    let pid = program.pid();
    program.wait_for("the next one", LIMIT, || Ok((sleepers(pid, "1000042")?.len() == 1).then_some(())))?;
    program.signal(Signal::TERM)?;
    assert!(program.wait(LIMIT)?.success(), "{}", program.stderr());
    Ok(())
}

#[test]
fn want_of_memory_is_named_where_it_is_not_the_child_s_limit() -> io::Result<()> {
    for (scenario, reason) in [
        ("limited", "out of memory, though below its limit of 48.0 MiB, killed by SIGKILL"),
        // Without the controller, children share the memory of the cgroup that their root has left.
        ("limited pids", "probably out of memory, killed by SIGKILL"),
    ] {
        let Some(group) = Group::make() else { return Ok(()) };
        if !group.has_controllers()? {
            return Ok(());
        }
        let dir = Dir::new()?;
        let mut program = start_inside(&group, &dir, scenario)?;
        // Of all of them together, and so much that it is the child that has most.
        fs::write(group.0.join("memory.max"), (40 << 20).to_string())?;
        fs::write(dir.file("go"), "")?;
        let line = program.wait_for_stderr("child failed", LIMIT)?;
        assert!(line.contains(&format!("reason=\"{reason}\"")), "{line}");
        program.signal(Signal::TERM)?;
        assert!(program.wait(LIMIT)?.success(), "{}", program.stderr());
    }
    Ok(())
}

#[test]
fn nobody_else_goes_for_the_pressure_of_a_worker_that_has_gone() -> io::Result<()> {
    const HIGH: u64 = 150 << 20;
    let Some(group) = Group::make() else { return Ok(()) };
    if !group.has_controllers()? {
        return Ok(());
    }
    if !group.0.join("memory.pressure").exists() {
        eprintln!("skipped: this kernel does not tell the pressure of a cgroup");
        return Ok(());
    }
    let dir = Dir::new()?;
    let mut program = start_example_inside(&group, &dir, "acs-leaks", "pressed")?;
    let mut supervisor = Supervisor::of(&mut program, &dir.socket(), LIMIT)?;
    let _ = fs::write(group.0.join("memory.swap.max"), "0");
    fs::write(group.0.join("memory.high"), HIGH.to_string())?;
    // Whoever comes after one that went for it can do the same.
    for round in 1..=2 {
        let workers = supervisor.wait_for_workers("the workers", LIMIT, |workers| workers.len() == 2)?;
        supervisor.forward(&workers[0], json!({"do": "leak", "rate": 50 << 20}))?;
        program.wait_for("the restart of the large worker", LIMIT, || {
            Ok((restarts(&mut supervisor)? == [round, 0]).then_some(()))
        })?;
        // The kernel's average takes many seconds to come down, and the other one has to live through all the checks of these.
        program.wait_for("the end of the pressure", LIMIT, || {
            assert_eq!(restarts(&mut supervisor)?, [round, 0]);
            Ok((average(&mut supervisor)? < 0.1).then_some(()))
        })?;
    }
    assert_eq!(program.stderr().matches("asking for a restart: memory pressure ").count(), 2, "{}", program.stderr());
    program.signal(Signal::TERM)?;
    assert!(program.wait(LIMIT)?.success(), "{}", program.stderr());
    Ok(())
}

/// How often each of the two workers was restarted.
fn restarts(supervisor: &mut Supervisor) -> io::Result<[u64; 2]> {
    let answer = supervisor.ask("children", json!({}))?;
    let of = |name: &str| {
        let children = answer["children"].as_array().into_iter().flatten();
        children.filter(|child| child["name"] == name).filter_map(|child| child["restarts"].as_u64()).max()
    };
    let both = of("worker#1").zip(of("worker#2"));
    both.map(|(first, second)| [first, second])
        .ok_or_else(|| io::Error::other(format!("a worker is missing: {answer}")))
}

/// What the kernel says that has been the part of the time with nothing done.
fn average(supervisor: &mut Supervisor) -> io::Result<f64> {
    let responses = supervisor.call("status", json!({}))?;
    let memory = responses.iter().find_map(|response| response.get("memory")).unwrap_or(&Value::Null);
    memory["pressure"]["full"].as_f64().ok_or_else(|| io::Error::other(format!("no pressure: {memory}")))
}

/// A cgroup with a quota of one processor, of whichever version has the controller here.
struct Quota(PathBuf);

impl Quota {
    /// Says so where there can be none.
    fn make() -> Option<Quota> {
        let name = format!("acs-quota-{}", std::process::id());
        let second = mount().filter(|point| hand_down(point, "cpu")).map(|point| (point, "cpu.max", "100000 100000"));
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let first = mounts.lines().find_map(|line| {
            let fields: Vec<&str> = line.split(' ').collect();
            let is_cpu = fields[2] == "cgroup" && fields[3].split(',').any(|option| option == "cpu");
            is_cpu.then(|| (PathBuf::from(fields[1]), "cpu.cfs_quota_us", "100000"))
        });
        let made = second.or(first).and_then(|(point, file, quota)| {
            let group = Quota(point.join(name));
            fs::create_dir(&group.0).ok()?;
            fs::write(group.0.join(file), quota).ok().map(|()| group)
        });
        if made.is_none() {
            eprintln!("skipped: this user may not make a cgroup with a quota of processor time");
        }
        made
    }
}

impl Drop for Quota {
    fn drop(&mut self) {
        let removed = wait_for("the end of a cgroup", LIMIT, || Ok(fs::remove_dir(&self.0).is_ok().then_some(())));
        if let Err(error) = removed {
            eprintln!("{} stays: {error}", self.0.display());
        }
    }
}

#[test]
fn as_many_instances_run_as_the_quota_has_processors() -> io::Result<()> {
    if std::thread::available_parallelism()?.get() == 1 {
        eprintln!("skipped: a quota of one processor makes no difference where there is only one");
        return Ok(());
    }
    let Some(quota) = Quota::make() else { return Ok(()) };
    let dir = Dir::new()?;
    let commands = async_container_supervisor_tests::example("commands")?;
    let script = "echo $$ >\"$1/cgroup.procs\" && shift && exec \"$@\"";
    let mut program = dir
        .command("sh")
        .args(["-c", script, "sh"])
        .arg(&quota.0)
        .arg(commands)
        .args(["--", "sleep", "1000000"])
        .start()?;
    program.wait_for_stderr("all children are ready", LIMIT)?;
    assert_eq!(program.stderr().matches("child started").count(), 1, "{}", program.stderr());
    Ok(())
}
