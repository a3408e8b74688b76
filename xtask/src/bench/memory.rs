//! What fifty workers cost, and how long they take to start.

use std::time::Duration;

use async_container_supervisor_tests::{Dir, Program, Supervisor, binary, proc};

use super::{
    START_LIMIT, own,
    report::{Report, Row, Target, Unit, megabytes, milliseconds},
    settle,
    stamps::{Moment, Stamps},
};
use crate::Result;

const WORKERS: usize = 50;

/// The memory of all processes, in megabytes.
const MEMORY: f64 = 30.0;

/// How long the workers run before their memory is looked at.
const SETTLED: Duration = Duration::from_secs(2);

pub(super) fn measure() -> Result<Report> {
    let (floor_time, floor_memory) = floor()?;
    let (time, memory) = ours()?;

    let mut report = Report::new(
        "memory",
        format!("{WORKERS} workers; the floor is as many programs that do nothing, under a bare loop"),
    );
    let total: u64 = memory.iter().sum();
    report.row(Row {
        what: format!("proportional memory of all {} processes", memory.len()),
        unit: Unit::Megabytes,
        floor: Some(megabytes(floor_memory.iter().sum())),
        ours: megabytes(total),
        target: Some(Target::Below(MEMORY)),
    });
    for (name, index) in [("median", memory.len() / 2), ("largest", memory.len() - 1)] {
        report.row(Row {
            what: format!("  of which the {name} process"),
            unit: Unit::Megabytes,
            floor: Some(megabytes(floor_memory[index.min(floor_memory.len() - 1)])),
            ours: megabytes(memory[index]),
            target: None,
        });
    }
    report.row(Row {
        what: "from the start until all are registered".to_owned(),
        unit: Unit::Milliseconds,
        floor: Some(milliseconds(floor_time)),
        ours: milliseconds(time),
        target: None,
    });
    Ok(report)
}

fn floor() -> Result<(Duration, Vec<u64>)> {
    let dir = Dir::new()?;
    let stamps = Stamps::bind(dir.file("floor"))?;
    let launch = own(&dir, "bare-loop")?.args(["--count", &WORKERS.to_string(), "--"]);
    let launch = launch.arg(binary("xtask-stamp")?).arg(stamps.path());
    let begin = Moment::now();
    let program = launch.start()?;
    let mut last = begin;
    for _ in 0..WORKERS {
        last = last.max(stamps.next()?.at);
    }
    settle(SETTLED);
    Ok((last.since(begin), memory(&program)?))
}

fn ours() -> Result<(Duration, Vec<u64>)> {
    let dir = Dir::new()?;
    let launch = dir.example("simple")?.args(["--workers", &WORKERS.to_string()]);
    let begin = Moment::now();
    let mut program = launch.start()?;
    let mut supervisor = Supervisor::of(&mut program, &dir.socket(), START_LIMIT)?;
    supervisor.wait_for_workers(&format!("{WORKERS} workers"), START_LIMIT, |workers| workers.len() >= WORKERS)?;
    let time = Moment::now().since(begin);
    settle(SETTLED);
    Ok((time, memory(&program)?))
}

/// The sorted sizes of a program and all that it has started.
fn memory(program: &Program) -> Result<Vec<u64>> {
    let mut sizes = vec![proc::proportional_set_size(program.pid())?];
    for process in program.descendants()? {
        sizes.push(proc::proportional_set_size(process.pid)?);
    }
    sizes.sort_unstable();
    Ok(sizes)
}
