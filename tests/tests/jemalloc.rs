//! jemalloc's own profile of the heap, through the supervisor.

use std::{
    io,
    os::unix::fs::MetadataExt as _,
    path::Path,
    process::{Command, Output},
    time::Duration,
};

use async_container_supervisor_tests::{Dir, Program, Supervisor, binary};

const LIMIT: Duration = Duration::from_secs(30);

/// Starts the worker, with what jemalloc is told.
fn started(dir: &Dir, options: &str) -> io::Result<Program> {
    let mut program = dir.example("acs-jemalloc")?.env("_RJEM_MALLOC_CONF", options).start()?;
    let mut supervisor = Supervisor::of(&mut program, &dir.socket(), LIMIT)?;
    supervisor.wait_for_workers("the worker", LIMIT, |workers| workers.len() == 1)?;
    Ok(program)
}

fn dump(dir: &Dir, file: &Path) -> io::Result<Output> {
    let mut acs = Command::new(binary("acs")?);
    acs.arg("--socket").arg(dir.socket()).args(["memory-dump", "worker", "--output"]).arg(file).output()
}

#[test]
fn it_is_dumped_with_names_or_in_its_own_form() -> io::Result<()> {
    let dir = Dir::new()?;
    let _program = started(&dir, "prof:true,lg_prof_sample:14")?;

    let folded = dir.file("heap.folded");
    let output = dump(&dir, &folded)?;
    assert!(output.status.success(), "{output:?}");
    let text = std::fs::read_to_string(&folded)?;
    let of_it = text.lines().filter(|line| line.contains("acs_jemalloc::keep_twenty_megabytes"));
    let bytes: u64 = of_it.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum();
    assert!((18 << 20..22 << 20).contains(&bytes), "{text}");

    let own = dir.file("worker.heap");
    let output = dump(&dir, &own)?;
    assert!(output.status.success(), "{output:?}");
    let text = std::fs::read_to_string(&own)?;
    assert!(text.starts_with("heap_v2/16384\n") && text.contains("MAPPED_LIBRARIES:"), "{text}");
    assert_eq!(own.metadata()?.mode() & 0o777, 0o600);
    Ok(())
}

#[test]
fn without_its_profiler_the_answer_is_what_to_set() -> io::Result<()> {
    let dir = Dir::new()?;
    let _program = started(&dir, "prof:false")?;
    let file = dir.file("worker.heap");
    let output = dump(&dir, &file)?;
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("NotSupported") && text.contains("_RJEM_MALLOC_CONF=prof:true"), "{text}");
    assert!(!file.exists());
    Ok(())
}
