//! `cargo xtask pictures`: the pictures of the guides, made from the running program.

use std::{fs, process::ExitCode, time::Duration};

use async_container_supervisor_tests::{Dir, svg};

use crate::{
    Result,
    workspace::{self, succeeds},
};

const LIMIT: Duration = Duration::from_secs(60);

const ATTEMPTS: usize = 20;

pub(crate) fn run() -> Result {
    let mut build = workspace::cargo();
    build.args(["build", "--quiet", "--package", "async-container-supervisor-examples", "--examples"]);
    build.args(["--package", "async-container-supervisor-cli", "--bin", "acs"]);
    if !succeeds(&mut build)? {
        return Ok(ExitCode::FAILURE);
    }
    let pictures = workspace::root().join("docs/pictures");
    fs::create_dir_all(&pictures)?;
    let dir = Dir::new()?;
    let mut program = dir.example("memory_leak")?.start()?;
    program.wait_for_stderr("all children are ready", LIMIT)?;

    // Long enough for a worker to be replaced, so that there is something to see.
    let mut terminal = dir.binary("acs")?.arg("top").start_in_terminal(20, 100)?;
    terminal.wait_for_screen("a worker that was replaced", LIMIT, |text| {
        let was_replaced = |line: &str| line.starts_with("worker#1 ") && line.split_whitespace().nth(3) == Some("1");
        text.contains(" restart ") && text.lines().any(|line| was_replaced(line) && line.contains(" ready "))
    })?;
    terminal.type_keys("j")?;
    terminal.wait_for_screen("a worker that is selected", LIMIT, |text| text.contains("worker#1: "))?;
    fs::write(pictures.join("top.svg"), svg(&terminal.screen()))?;

    let report = pictures.join("leak.svg");
    let path = report.to_str().ok_or("the path of the workspace is not text")?;
    // A worker may be replaced in the middle of it; the next one is asked then.
    for attempt in 1.. {
        let mut acs = dir.binary("acs")?.args(["memory-dump", "worker#1", "--output", path]).start()?;
        if acs.wait(LIMIT)?.success() {
            break;
        }
        if attempt == ATTEMPTS {
            return Err(format!("acs memory-dump: {}", acs.stderr()).into());
        }
    }
    // Where the workspace lies is nobody's business.
    let root = format!("{}/", workspace::root().display());
    fs::write(&report, fs::read_to_string(&report)?.replace(&root, ""))?;
    println!("docs/pictures has top.svg and leak.svg");
    Ok(ExitCode::SUCCESS)
}
