//! What workers say of their memory, through the supervisor.

use std::{io, os::unix::fs::MetadataExt as _, time::Duration};

use async_container_supervisor_tests::{Dir, Launch, Program, Supervisor, Worker, example, wait_for};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(30);

fn started(dir: &Dir, launch: Launch) -> io::Result<(Program, Supervisor, Worker)> {
    let mut program = launch.start()?;
    let mut supervisor = Supervisor::of(&mut program, &dir.socket(), LIMIT)?;
    let workers = supervisor.wait_for_workers("the worker", LIMIT, |workers| workers.len() == 1)?;
    Ok((program, supervisor, workers[0].clone()))
}

fn refused(supervisor: &mut Supervisor, worker: &Worker, operation: Value) -> String {
    supervisor.forward(worker, operation).expect_err("it must be refused").to_string()
}

#[test]
fn a_leak_is_named_by_crate_and_line() -> io::Result<()> {
    let dir = Dir::new()?;
    let (_program, mut supervisor, worker) = started(&dir, dir.example("acs-memory")?.arg("leak"))?;

    for mode in ["full", "sampled"] {
        let answer = supervisor.forward(&worker, json!({"do": "memory_sample", "duration": 0.3, "mode": mode}))?;
        let sample = &answer["data"];
        assert_eq!(sample["mode"], mode);
        assert_eq!(sample["by_crate"][0]["name"], "acs_memory", "{sample:#}");
        let location = sample["by_location"][0]["name"].as_str().unwrap_or_default();
        assert!(location.contains("acs-memory.rs:"), "{sample:#}");
        assert!(sample["total_retained"]["bytes"].as_u64() > Some(64 << 10), "{sample:#}");
        assert_eq!(sample["total_retained"]["error"].is_null(), mode == "full", "{sample:#}");
    }

    let path = dir.file("sample.txt");
    let to_file = json!({"do": "memory_sample", "duration": 0.2, "format": "text", "path": path});
    let answer = supervisor.forward(&worker, to_file)?;
    assert_eq!((&answer["path"], answer["data"].is_null()), (&json!(path), true));
    assert!(std::fs::read_to_string(&path)?.contains("by location"));

    for duration in [json!(0), json!(-1), json!("x"), Value::Null] {
        let text = refused(&mut supervisor, &worker, json!({"do": "memory_sample", "duration": duration}));
        assert!(text.contains("InvalidParameters"), "{text}");
    }
    Ok(())
}

#[test]
fn dumps_are_streamed_or_written_to_a_file() -> io::Result<()> {
    let dir = Dir::new()?;
    let launch = dir.example("acs-memory")?.arg("leak").env("ACS_MEMORY_SAMPLING", "boot:64k");
    let (_program, mut supervisor, worker) = started(&dir, launch)?;
    let dump = |format: &str| json!({"connection_id": worker.connection, "operation": {"do": "memory_dump", "format": format}});

    let text = wait_for("a dump that shows what is kept", LIMIT, || {
        let pieces = supervisor.call("forward", dump("json"))?;
        let chunks: Vec<&str> = pieces.iter().filter_map(|piece| piece["chunk"].as_str()).collect();
        assert!(chunks.iter().all(|chunk| chunk.len() <= 64 << 10));
        let text = chunks.concat();
        Ok(text.contains("keep_more").then_some(text))
    })?;
    let document: Value = serde_json::from_str(&text)?;
    assert!(document["totals"]["resident"].as_u64() > Some(1_000_000));

    let path = dir.file("heap.pb.gz");
    let answer = supervisor.forward(&worker, json!({"do": "memory_dump", "path": path}))?;
    assert_eq!(answer["path"], json!(path));
    assert_eq!(path.metadata()?.mode() & 0o777, 0o600);
    assert_eq!(std::fs::read(&path)?[..2], [0x1f, 0x8b], "it is compressed");
    let again = refused(&mut supervisor, &worker, json!({"do": "memory_dump", "path": path}));
    assert!(again.contains("is there already"), "{again}");
    Ok(())
}

#[test]
fn what_cannot_be_told_says_what_it_takes() -> io::Result<()> {
    let dir = Dir::new()?;
    let (_program, mut supervisor, worker) = started(&dir, dir.example("acs-memory")?)?;
    let nothing = refused(&mut supervisor, &worker, json!({"do": "memory_dump"}));
    assert!(nothing.contains("NotSupported") && nothing.contains("ACS_MEMORY_SAMPLING=boot"), "{nothing}");
    for (name, value, remedy) in [
        ("rate", json!("much"), "expected u64"),
        ("rate", json!(0), "from 1 to"),
        ("rate", json!(-1), "expected u64"),
        ("mode", json!("most"), "'sampled' or 'full'"),
        ("mode", json!(7), "expected a string"),
        ("format", json!("xml"), "json, text, pprof, folded, svg"),
        ("duration", json!(0), "more than 0"),
        ("duration", json!("1s"), "expected f64"),
    ] {
        let mut call = json!({"do": "memory_sample", "duration": 1});
        call[name] = value;
        let error = refused(&mut supervisor, &worker, call);
        assert!(error.contains("InvalidParameters") && error.contains(&format!("'{name}'")), "{error}");
        assert!(error.contains(remedy), "{error}");
    }

    let dir = Dir::new()?;
    let launch = dir.example("acs-memory")?.env("ACS_MEMORY_SAMPLING", "boot:0");
    let (mut program, mut supervisor, worker) = started(&dir, launch)?;
    program.wait_for_stderr("ACS_MEMORY_SAMPLING was not understood", LIMIT)?;
    let nonsense = refused(&mut supervisor, &worker, json!({"do": "memory_dump"}));
    assert!(nonsense.contains("NotSupported") && nonsense.contains("boot:RATE"), "{nonsense}");

    let dir = Dir::new()?;
    let (_program, mut supervisor, worker) = started(&dir, dir.example("acs-wrong")?)?;
    for operation in [json!({"do": "memory_sample", "duration": 1}), json!({"do": "memory_dump"})] {
        let other = refused(&mut supervisor, &worker, operation);
        assert!(other.contains("NotSupported") && other.contains("#[global_allocator]"), "{other}");
    }
    Ok(())
}

#[test]
fn a_caller_who_goes_away_leaves_nothing_running() -> io::Result<()> {
    let dir = Dir::new()?;
    let (_program, mut supervisor, worker) = started(&dir, dir.example("acs-memory")?)?;
    let socket = dir.socket();
    let is_recorded = |supervisor: &mut Supervisor| -> io::Result<bool> {
        Ok(supervisor.forward(&worker, json!({"do": "recorded"}))?["recorded"] == true)
    };
    assert!(!is_recorded(&mut supervisor)?);

    let leaving = std::os::unix::net::UnixStream::connect(&socket)?;
    let call = json!({"id": 2, "do": "forward", "connection_id": worker.connection,
        "operation": {"do": "memory_sample", "duration": 600}});
    io::Write::write_all(&mut &leaving, format!("{call}\n").as_bytes())?;
    wait_for("the sample to begin", LIMIT, || Ok(is_recorded(&mut supervisor)?.then_some(())))?;
    drop(leaving);
    wait_for("the sample to end", LIMIT, || Ok((!is_recorded(&mut supervisor)?).then_some(())))?;
    Ok(())
}

#[test]
fn a_caller_who_leaves_in_the_middle_of_a_dump_ends_it() -> io::Result<()> {
    let dir = Dir::new()?;
    // Its dump is several times as large as all that a caller who does not read may have waiting for it.
    let launch = dir.example("acs-memory")?.arg("branches").env("ACS_MEMORY_SAMPLING", "boot:full");
    let (_program, mut supervisor, worker) = started(&dir, launch)?;
    let is_dumping = || -> io::Result<bool> {
        let threads = std::fs::read_dir(format!("/proc/{}/task", worker.pid))?;
        let mut names = threads.filter_map(|thread| std::fs::read_to_string(thread.ok()?.path().join("comm")).ok());
        Ok(names.any(|name| name.trim() == "diagnostics"))
    };
    assert!(!is_dumping()?);

    let leaving = std::os::unix::net::UnixStream::connect(dir.socket())?;
    let call = json!({"id": 2, "do": "forward", "connection_id": worker.connection,
        "operation": {"do": "memory_dump", "format": "json"}});
    io::Write::write_all(&mut &leaving, format!("{call}\n").as_bytes())?;
    let mut first = String::new();
    let mut reader = io::BufReader::new(&leaving);
    io::BufRead::read_line(&mut reader, &mut first)?;
    assert!(first.contains("\"chunk\""), "{first}");
    // Others are served while it waits.
    supervisor.forward(&worker, json!({"do": "recorded"}))?;
    assert!(is_dumping()?, "it was over before anybody could leave");
    drop(leaving);
    wait_for("the end of the dump", LIMIT, || Ok((!is_dumping()?).then_some(())))?;
    let whole = supervisor.call(
        "forward",
        json!({"connection_id": worker.connection,
        "operation": {"do": "memory_dump", "format": "folded"}}),
    )?;
    assert!(whole.iter().any(|piece| piece["chunk"].as_str().is_some_and(|chunk| chunk.contains("acs_memory::odd"))));
    Ok(())
}

#[test]
fn profiles_of_the_allocator_are_started_and_stopped() -> io::Result<()> {
    let dir = Dir::new()?;
    let (_program, mut supervisor, worker) = started(&dir, dir.example("acs-memory")?.arg("leak"))?;

    for name in ["allocator", "garbage"] {
        let (start, stop) = (format!("{name}_profile_start"), format!("{name}_profile_stop"));
        let early = refused(&mut supervisor, &worker, json!({"do": stop}));
        assert!(early.contains("no profile of the allocator was started"), "{early}");
        assert_eq!(supervisor.forward(&worker, json!({"do": start}))?["started"], true);
        let twice = refused(&mut supervisor, &worker, json!({"do": start}));
        assert!(twice.contains("stop it first"), "{twice}");
        let report = supervisor.forward(&worker, json!({"do": stop}))?;
        assert!(report["data"]["counts"]["allocations"].as_u64() > Some(0), "{report:#}");
        assert!(report["data"]["after"]["process"]["resident"].as_u64() > Some(1_000_000), "{report:#}");
    }

    // Whoever starts one may be gone before it ends.
    assert_eq!(supervisor.forward(&worker, json!({"do": "allocator_profile_start", "limit": 0.2}))?["started"], true);
    wait_for("the profile to be given up", LIMIT, || {
        Ok(supervisor.forward(&worker, json!({"do": "allocator_profile_start", "limit": 60})).is_ok().then_some(()))
    })?;
    let long = refused(&mut supervisor, &worker, json!({"do": "allocator_profile_start", "limit": 3601}));
    assert!(long.contains("InvalidParameters"), "{long}");
    Ok(())
}

#[test]
fn a_dump_that_does_not_fit_leaves_no_file() -> io::Result<()> {
    let dir = Dir::new()?;
    let program = example("acs-memory")?;
    // In blocks of 512 bytes or, with some shells, twice that.
    let launch = dir.command("sh").args(["-c", "ulimit -f 64; exec \"$0\""]).arg(program);
    let (_program, mut supervisor, worker) = started(&dir, launch.env("ACS_MEMORY_SAMPLING", "boot:full"))?;
    let path = dir.file("heap.json");
    let error = refused(&mut supervisor, &worker, json!({"do": "memory_dump", "format": "json", "path": path}));
    assert!(error.contains("heap.json, and removed it") && error.contains("too large"), "{error}");
    // It is not the caller's to change.
    assert!(error.contains("Internal"), "{error}");
    assert!(!path.exists());
    Ok(())
}
