//! What it costs that the allocator can be asked.

use std::process::Command;

use async_container_supervisor_tests::Dir;

use super::{
    START_LIMIT,
    report::{Report, Row, Target, Unit},
};
use crate::Result;

/// The loop with the allocator of the system alone.
pub(super) const BARE: &str = "acs-parse-bare";

/// The same with ours around it.
pub(super) const WRAPPED: &str = "acs-parse";

/// How much longer the loop may take while nothing is recorded, and while one in 512 KiB is.
const OFF_LIMIT: f64 = 1.02;
const SAMPLED_LIMIT: f64 = 1.08;

/// By turns, so that whatever else the machine does meets all.
const ROUNDS: usize = 7;
const PARSES: &str = "300";

/// For counting instructions, of which there are as many each time: the difference is without the start of the program.
const FEW: u64 = 20;
const MANY: u64 = 120;

const KINDS: [(&str, &str, Option<&str>); 3] =
    [("bare", BARE, None), ("off", WRAPPED, None), ("sampled", WRAPPED, Some("boot"))];

/// Adds the rows of the allocator to those of diagnostics.
pub(super) fn rows(report: &mut Report) -> Result<()> {
    let mut best = [f64::MAX; 3];
    for _ in 0..ROUNDS {
        for (best, (_, program, sampling)) in best.iter_mut().zip(KINDS) {
            *best = best.min(time(program, sampling)?);
        }
    }
    for (index, name, limit) in [(1, "nothing recorded", OFF_LIMIT), (2, "one in 512 KiB recorded", SAMPLED_LIMIT)] {
        report.row(Row {
            what: format!("parsing 70 KB of JSON, {name}, beside the allocator alone"),
            unit: Unit::Microseconds,
            floor: Some(best[0] / 1e3),
            ours: best[index] / 1e3,
            target: Some(Target::Ratio(limit)),
        });
    }

    let has_valgrind = Command::new("valgrind").arg("--version").output().is_ok_and(|output| output.status.success());
    if !has_valgrind {
        return Ok(());
    }
    let mut counts = [0.0; 3];
    for (count, (_, program, sampling)) in counts.iter_mut().zip(KINDS) {
        let many = instructions(program, sampling, MANY)?;
        let few = instructions(program, sampling, FEW)?;
        *count = many.saturating_sub(few) as f64 / (MANY - FEW) as f64;
    }
    for (index, name, limit) in [(1, "nothing recorded", OFF_LIMIT), (2, "one in 512 KiB recorded", SAMPLED_LIMIT)] {
        report.row(Row {
            what: format!("the same, {name}, in instructions"),
            unit: Unit::Thousands,
            floor: Some(counts[0] / 1e3),
            ours: counts[index] / 1e3,
            target: Some(Target::Ratio(limit)),
        });
    }
    Ok(())
}

fn time(program: &str, sampling: Option<&str>) -> Result<f64> {
    let dir = Dir::new()?;
    let launch = dir.example(program)?.arg(PARSES).env("ACS_MEMORY_SAMPLING", sampling.unwrap_or("off"));
    let mut running = launch.start()?;
    if !running.wait(START_LIMIT)?.success() {
        return Err(format!("{program} failed: {}", running.stderr()).into());
    }
    Ok(running.stdout().trim().parse()?)
}

fn instructions(program: &str, sampling: Option<&str>, parses: u64) -> Result<u64> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(async_container_supervisor_tests::example(program)?)
        .arg(parses.to_string())
        .env("ACS_MEMORY_SAMPLING", sampling.unwrap_or("off"))
        .output()?;
    let text = String::from_utf8_lossy(&output.stderr);
    let count = text
        .lines()
        .filter(|_| output.status.success())
        .find_map(|line| line.split_once("Collected :")?.1.trim().parse().ok());
    count.ok_or_else(|| format!("callgrind did not count the instructions of {program}: {text}").into())
}
