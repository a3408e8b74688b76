//! `acs` against a real application.

use std::{io, time::Duration};

use async_container_supervisor_tests::{Dir, Program, Signal, proc};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(30);

fn acs(dir: &Dir, arguments: &[&str]) -> io::Result<(Option<i32>, String, String)> {
    dir.acs(arguments, LIMIT)
}

fn acs_json(dir: &Dir, arguments: &[&str]) -> io::Result<Value> {
    let (code, stdout, stderr) = acs(dir, &[&["--format", "json"], arguments].concat())?;
    assert_eq!(code, Some(0), "{arguments:?}: {stderr}");
    assert_eq!(stdout.lines().count(), 1, "one document: {stdout}");
    Ok(serde_json::from_str(&stdout)?)
}

/// `simple` with two workers, which are ready.
fn simple(dir: &Dir) -> io::Result<Program> {
    let mut program = dir.example("simple")?.args(["--workers", "2"]).start()?;
    program.wait_for_stderr("all children are ready", LIMIT)?;
    let socket = dir.socket();
    let mut supervisor = async_container_supervisor_tests::Supervisor::of(&mut program, &socket, LIMIT)?;
    supervisor.wait_for_workers("both workers", LIMIT, |workers| workers.len() == 2)?;
    Ok(program)
}

#[test]
fn status_shows_everything() -> io::Result<()> {
    let dir = Dir::new()?;
    let program = simple(&dir)?;
    let (code, text, _) = acs(&dir, &["status"])?;
    assert_eq!(code, Some(0));
    for part in
        ["supervisor 0.1.0, pid ", "generation 1, ready", "supervisor#1", "worker#1", "worker#2", "Monitor memory"]
    {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(!text.contains('\u{1b}'), "no colours where there is no terminal");
    let document = acs_json(&dir, &["status"])?;
    assert_eq!(document["root"]["children"].as_array().map(Vec::len), Some(3));
    assert_eq!(document["monitors"]["memory"]["maximum_size_limit"], json!(400 << 20));
    let workers = acs_json(&dir, &["workers"])?;
    let names: Vec<&Value> = workers.as_array().into_iter().flatten().map(|worker| &worker["child"]).collect();
    assert_eq!(names, [&json!("worker#1"), &json!("worker#2")]);
    let ping = acs_json(&dir, &["ping"])?;
    assert_eq!(ping["process_id"], document["supervisor"]["process_id"]);
    drop(program);
    Ok(())
}

#[test]
fn operations_are_called_by_the_name_of_a_worker() -> io::Result<()> {
    let dir = Dir::new()?;
    let _program = simple(&dir)?;
    assert_eq!(
        acs_json(&dir, &["call", "worker#2", "greet", "name=you"])?,
        json!({"greeting": "hello you, this is worker#2"})
    );
    let (code, _, complaint) = acs(&dir, &["call", "worker", "greet", "name=you"])?;
    assert_eq!(code, Some(1));
    assert!(complaint.contains("worker#1") && complaint.contains("worker#2"), "{complaint}");
    let (code, _, complaint) = acs(&dir, &["call", "worker#2", "greet"])?;
    assert_eq!(code, Some(1));
    assert!(complaint.starts_with("InvalidParameters: "), "{complaint}");
    let (code, _, complaint) = acs(&dir, &["call", "supervisor", "unheard-of"])?;
    assert_eq!(code, Some(1));
    assert!(complaint.starts_with("UnknownOperation: "), "{complaint}");
    Ok(())
}

#[test]
fn a_reload_is_seen_through() -> io::Result<()> {
    let dir = Dir::new()?;
    let _program = simple(&dir)?;
    let before = acs_json(&dir, &["status"])?;
    let (code, text, complaint) = acs(&dir, &["reload", "--wait"])?;
    assert_eq!((code, text.as_str()), (Some(0), "reloaded: generation 2 is ready\n"), "{complaint}");
    let after = acs_json(&dir, &["status"])?;
    assert_eq!(before["root"]["process_id"], after["root"]["process_id"]);
    assert_ne!(before["supervisor"]["process_id"], after["supervisor"]["process_id"]);
    assert_eq!(after["root"]["generation"], json!(2));
    Ok(())
}

#[test]
fn a_reload_that_fails_says_why() -> io::Result<()> {
    let dir = Dir::new()?;
    let mut program = dir.example("acs-fixture")?.arg("breakable").start()?;
    program.wait_for_stderr("all children are ready", LIMIT)?;
    std::fs::write(dir.file("broken"), "")?;
    let (code, _, complaint) = acs(&dir, &["reload", "--wait"])?;
    assert_eq!(code, Some(1), "{complaint}");
    assert!(
        complaint.starts_with("ReloadFailed: worker#") && complaint.contains("exited with status 1"),
        "{complaint}"
    );
    Ok(())
}

#[test]
fn readiness_is_a_matter_of_the_exit_status() -> io::Result<()> {
    let dir = Dir::new()?;
    let (code, _, complaint) = acs(&dir, &["ready", "--timeout", "0"])?;
    assert_eq!(code, Some(3), "{complaint}");
    assert!(complaint.contains("no supervisor listens at ./supervisor.ipc"), "{complaint}");
    let mut program = simple(&dir)?;
    assert_eq!(acs(&dir, &["ready"])?.0, Some(0));
    program.signal(Signal::TERM)?;
    assert!(program.wait(LIMIT)?.success());

    let mut program = dir.example("acs-fixture")?.arg("supervised-never-ready").start()?;
    program.wait_for_stderr("child started child=\"slow#1\"", LIMIT)?;
    let (code, _, complaint) = acs(&dir, &["ready", "--timeout", "200ms"])?;
    assert_eq!(code, Some(124), "{complaint}");
    assert!(complaint.contains("slow#1"), "{complaint}");
    Ok(())
}

#[test]
fn a_restart_stops_the_application_for_whoever_started_it() -> io::Result<()> {
    let dir = Dir::new()?;
    let mut program = simple(&dir)?;
    assert_eq!(acs(&dir, &["restart"])?.0, Some(0));
    assert!(program.wait(LIMIT)?.success());
    let (code, _, complaint) = acs(&dir, &["status"])?;
    assert_eq!(code, Some(3), "{complaint}");

    // A service manager in one line.
    let simple = async_container_supervisor_tests::example("simple")?;
    let script = format!("while :; do {} --workers 1; done", simple.display());
    let mut manager = dir.command("sh").args(["-c", &script]).start()?;
    manager.wait_for_stderr("all children are ready", LIMIT)?;
    let before = acs_json(&dir, &["status"])?["root"]["process_id"].clone();
    let restarted = acs_json(&dir, &["restart", "--wait"])?;
    assert_eq!(restarted["previous_process_id"], before);
    assert_eq!(acs_json(&dir, &["status"])?["root"]["process_id"], restarted["process_id"]);
    manager.signal(Signal::KILL)?;
    Ok(())
}

#[test]
fn what_a_supervisor_that_hangs_was_asked_is_not_done_once_it_goes_on() -> io::Result<()> {
    let dir = Dir::new()?;
    let mut program = simple(&dir)?;
    let id = acs_json(&dir, &["ping"])?["process_id"].clone();
    let supervisor = id.as_u64().and_then(|id| proc::process(u32::try_from(id).ok()?));
    let supervisor = supervisor.ok_or_else(|| io::Error::other("there is no supervisor"))?;
    supervisor.signal(Signal::STOP)?;
    for command in [&["restart"][..], &["replace", "worker#1"], &["call", "supervisor", "restart"]] {
        let (code, _, complaint) = acs(&dir, &[&["--timeout", "200ms"], command].concat())?;
        assert_eq!(code, Some(124), "{complaint}");
        assert!(complaint.contains("has not answered"), "{complaint}");
    }
    supervisor.signal(Signal::CONT)?;
    // Connections are answered in their order, and the root does what it is told in its order.
    assert_eq!(acs_json(&dir, &["ping"])?["process_id"], id);
    let (code, _, complaint) = acs(&dir, &["reload", "--wait"])?;
    assert_eq!(code, Some(0), "{complaint}");
    let log = program.stderr();
    assert!(!log.contains("signal=INT") && !log.contains("replacing child"), "{log}");
    program.signal(Signal::TERM)?;
    assert!(program.wait(LIMIT)?.success());
    Ok(())
}

#[test]
fn one_worker_is_replaced_and_the_others_go_on() -> io::Result<()> {
    let dir = Dir::new()?;
    let mut program = simple(&dir)?;
    let before = acs_json(&dir, &["workers"])?;
    let replaced = acs_json(&dir, &["replace", "worker#2", "--reason", "it is old", "--wait"])?;
    assert_eq!(replaced["previous_process_id"], before[1]["process_id"]);
    assert_ne!(replaced["process_id"], before[1]["process_id"]);
    let line = program.wait_for_stderr("it is old", LIMIT)?;
    // What somebody asked for is told once, and is nothing to be warned of.
    assert!(line.contains(" INFO ") && line.contains("replacing child child=\"worker#2\""), "{line}");
    let log = program.stderr();
    assert!(log.matches("replacing child").count() == 1 && !log.contains(" WARN "), "{log}");
    let root = acs_json(&dir, &["status"])?["root"].clone();
    let process_of = |name: &str| {
        let children = root["children"].as_array().into_iter().flatten();
        children.filter(|child| child["name"] == name).map(|child| child["process_id"].clone()).next()
    };
    assert_eq!(process_of("worker#1").as_ref(), Some(&before[0]["process_id"]));
    assert_eq!(process_of("worker#2").as_ref(), Some(&replaced["process_id"]));

    // The supervisor is a child like others, and no worker.
    let supervisor = process_of("supervisor#1");
    let replaced = acs_json(&dir, &["replace", "supervisor#1", "--wait"])?;
    assert_eq!(Some(&replaced["previous_process_id"]), supervisor.as_ref());
    let (code, _, complaint) = acs(&dir, &["replace", "nobody"])?;
    assert_eq!(code, Some(1));
    assert!(complaint.starts_with("ConnectionNotFound: no worker or child 'nobody'"), "{complaint}");
    Ok(())
}

#[test]
fn threads_are_dumped_from_within_and_from_outside() -> io::Result<()> {
    let dir = Dir::new()?;
    let _program = simple(&dir)?;
    let (code, text, complaint) = acs(&dir, &["thread-dump", "worker#2"])?;
    assert_eq!(code, Some(0), "{complaint}");
    assert!(text.starts_with("Thread dump of process ") && text.contains("\nThread "), "{text}");
    let (code, text, complaint) = acs(&dir, &["thread-dump", "worker#2", "--output", "threads.json"])?;
    assert_eq!(code, Some(0), "{complaint}");
    assert!(text.starts_with("wrote threads.json: "), "{text}");
    let document: Value = serde_json::from_slice(&std::fs::read(dir.file("threads.json"))?)?;
    assert!(document["threads"].as_array().is_some_and(|threads| !threads.is_empty()), "{document}");
    let (code, text, complaint) = acs(&dir, &["thread-dump", "worker#1", "--remote", "there.txt"])?;
    assert_eq!(code, Some(0), "{complaint}");
    assert!(text.starts_with("worker#1 wrote /") && dir.file("there.txt").exists(), "{text}");
    let (code, _, complaint) = acs(&dir, &["thread-dump", "worker#1", "--remote", "there.txt"])?;
    assert!(code == Some(1) && complaint.contains("there.txt"), "{complaint}");

    // An idle one has no stacks to tell, which is no failure.
    let (code, text, complaint) =
        acs(&dir, &["cpu-profile", "worker#1", "--duration", "50ms", "--output", "cpu.folded"])?;
    assert_eq!(code, Some(0), "{complaint}");
    let is_empty = std::fs::read(dir.file("cpu.folded"))?.is_empty();
    assert_eq!(
        is_empty,
        complaint == "worker#1 has used no processor in that time; cpu.folded is empty\n",
        "{complaint}"
    );
    assert_eq!(is_empty, text.is_empty(), "{text}");
    // A picture is never empty.
    let (code, text, complaint) = acs(&dir, &["cpu-profile", "worker#1", "--duration", "50ms", "--output", "cpu.svg"])?;
    assert!(code == Some(0) && text.starts_with("wrote cpu.svg: "), "{text}{complaint}");
    let is_said = complaint == "worker#1 has used no processor in that time\n";
    let picture = std::fs::read_to_string(dir.file("cpu.svg"))?;
    assert_eq!(is_said, !picture.contains("thread "), "{complaint}{picture}");
    let (code, _, complaint) = acs(&dir, &["thread-dump", "worker#1", "--output", "nowhere/dump.txt"])?;
    assert_eq!(code, Some(1));
    assert_eq!(complaint, "cannot write to nowhere/dump.txt: No such file or directory (os error 2)\n");

    // What is no worker cannot be asked, but looked into.
    for (target, name) in
        [("supervisor#1", "supervisor#1 (pid "), ("supervisor", "supervisor#1 (pid "), ("root", "root (pid ")]
    {
        let (code, _, complaint) = acs(&dir, &["thread-dump", target])?;
        let hint = format!("use acs thread-dump --external {target}\n");
        assert_eq!(code, Some(1));
        let start = format!("ConnectionNotFound: {name}");
        assert!(complaint.starts_with(&start) && complaint.ends_with(&hint), "{complaint}");
    }

    // The supervisor cannot stop itself, and looks at itself from inside.
    let (code, text, complaint) = acs(&dir, &["thread-dump", "--external", "supervisor"])?;
    assert_eq!(code, Some(0), "{complaint}");
    assert!(text.contains(": supervisor#1 ") || text.contains("\nThread "), "{text}");
    let (code, _, complaint) = acs(&dir, &["thread-dump", "--external", "nobody"])?;
    assert_eq!(code, Some(1));
    for name in
        ["no worker or child 'nobody'; there are:\n  root  pid ", "\n  worker#1  pid ", "\n  supervisor#1  pid "]
    {
        assert!(complaint.contains(name), "{complaint}");
    }

    for target in ["worker#1", "root"] {
        let (code, text, complaint) = acs(&dir, &["thread-dump", "--external", target])?;
        // Where the kernel does not let processes look into each other, it says what to change.
        if code == Some(1) && complaint.starts_with("NotSupported: ") {
            eprintln!("skipped: {complaint}");
            return Ok(());
        }
        assert_eq!(code, Some(0), "{target}: {complaint}");
        assert!(text.starts_with("Thread dump of process "), "{target}: {text}");
    }
    Ok(())
}

#[test]
fn a_profile_is_a_table_for_whoever_looks_at_a_terminal() -> io::Result<()> {
    let dir = Dir::new()?;
    let _program = simple(&dir)?;
    let profile = ["cpu-profile", "worker#1", "--duration", "50ms"];
    // So large that nothing of the table has scrolled away.
    let mut terminal = dir.binary("acs")?.args(profile).start_in_terminal(1000, 200)?;
    assert!(terminal.program().wait(LIMIT)?.success(), "{}", terminal.text());
    terminal.wait_for_end(LIMIT)?;
    let shown = terminal.text();
    assert!(shown.contains("Processor time\nsamples "), "{shown}");
    // A program that reads them gets the stacks.
    let (code, text, complaint) = acs(&dir, &profile)?;
    assert!(code == Some(0) && !text.contains("Processor time"), "{text}{complaint}");
    Ok(())
}

/// What cannot be written has no file, and the error names the file that was asked for, and no other.
#[test]
fn a_report_that_does_not_fit_here_is_told_and_gone() -> io::Result<()> {
    let dir = Dir::new()?;
    let _program = simple(&dir)?;
    let acs = async_container_supervisor_tests::binary("acs")?;
    let script = "trap '' XFSZ; ulimit -f 1; exec \"$0\" thread-dump worker#1 --output threads.txt";
    let mut program = dir.command("sh").args(["-c", script]).arg(acs).start()?;
    assert_eq!(program.wait(LIMIT)?.code(), Some(1), "{}", program.stderr());
    let complaint = program.stderr();
    assert!(complaint.contains("threads.txt") && complaint.contains("too large"), "{complaint}");
    assert!(!complaint.contains(".acs-"), "{complaint}");
    let names = std::fs::read_dir(dir.path())?.collect::<io::Result<Vec<_>>>()?;
    let left = names.iter().find(|entry| {
        let name = entry.file_name();
        name.to_string_lossy().starts_with(".acs-") || name == "threads.txt"
    });
    assert!(left.is_none(), "{left:?}");
    Ok(())
}
