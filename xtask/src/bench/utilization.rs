//! What it costs to count in shared memory, and to read what a thousand workers have counted.

use async_container_supervisor_tests::Dir;
use serde_json::Value;

use super::{
    START_LIMIT,
    report::{Report, Row, Target, Unit},
};
use crate::Result;

/// The program that measures, in its own process.
pub(super) const PROGRAM: &str = "acs-utilization";

/// Adds the rows of utilization to those of the monitors.
pub(super) fn rows(report: &mut Report) -> Result<()> {
    let dir = Dir::new()?;
    let mut program = dir.example(PROGRAM)?.start()?;
    if !program.wait(START_LIMIT)?.success() {
        return Err(format!("{PROGRAM} failed: {}", program.stderr()).into());
    }
    let measured: Value = serde_json::from_str(&program.stdout())?;
    let nanoseconds = |name: &str| measured[name].as_f64().ok_or_else(|| format!("{PROGRAM} did not measure {name}"));

    let bare = nanoseconds("fetch_add")?;
    for kind in ["u32", "u64", "i32", "i64"] {
        report.row(Row {
            what: format!("1,000 increments of a metric of type {kind}, beside as many fetch_add"),
            unit: Unit::Microseconds,
            floor: Some(bare),
            ours: nanoseconds(&format!("increment_{kind}"))?,
            target: Some(Target::Ratio(1.5)),
        });
    }
    for kind in ["f32", "f64"] {
        let ours = nanoseconds(&format!("increment_{kind}"))?;
        report.row(Row {
            what: format!("... of type {kind}, beside as many load, add and compare_exchange_weak: no processor has a fetch_add of it"),
            unit: Unit::Microseconds,
            floor: Some(nanoseconds(&format!("fetch_add_{kind}"))?),
            ours,
            target: Some(Target::Ratio(1.5)),
        });
        report.row(Row {
            what: format!("... of type {kind}, beside as many fetch_add of an integer, for which there is no target"),
            unit: Unit::Microseconds,
            floor: Some(bare),
            ours,
            target: None,
        });
    }
    report.row(Row {
        what: "a check of UtilizationMonitor over 1,000 segments".to_owned(),
        unit: Unit::Milliseconds,
        floor: None,
        ours: nanoseconds("check")? / 1e6,
        target: Some(Target::Below(1.0)),
    });
    Ok(())
}
