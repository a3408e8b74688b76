//! What a dump of two hundred threads takes, and for how long it holds them up.

use async_container_supervisor_tests::Dir;
use serde_json::Value;

use super::{
    START_LIMIT,
    report::{Report, Row, Target, Unit},
};
use crate::Result;

/// The program that measures, in its own process.
pub(super) const PROGRAM: &str = "acs-threads";

/// What a dump of 200 threads may take, in milliseconds.
const DUMP_LIMIT: f64 = 25.0;

/// How much processor time the handler of one of them may take, in microseconds.
const STOP_LIMIT: f64 = 5.0;

/// Adds the rows of threads to those of diagnostics.
pub(super) fn rows(report: &mut Report) -> Result<()> {
    let dir = Dir::new()?;
    let mut program = dir.example(PROGRAM)?.start()?;
    if !program.wait(START_LIMIT)?.success() {
        return Err(format!("{PROGRAM} failed: {}", program.stderr()).into());
    }
    let measured: Value = serde_json::from_str(&program.stdout())?;

    let time = |value: &Value, name: &str| -> Result<f64> {
        Ok(value.as_f64().ok_or_else(|| format!("{PROGRAM} did not measure {name}"))?)
    };
    for (name, what, floor, target) in [
        // The floor is a handler that does nothing.
        ("cpu", "processor time in the handler of a thread that waits", Some("floor"), Some(STOP_LIMIT)),
        ("running", "the same of one that runs, and copies a deep stack itself", Some("floor"), None),
        ("wall", "from entering that handler until leaving it, whoever else ran meanwhile", None, None),
        (
            "all",
            "processor time that it costs a thread, with delivery of the signal and going back to wait",
            None,
            None,
        ),
    ] {
        for (place, which, target) in [(0, "median", None), (1, "99th percentile", target), (2, "most", None)] {
            report.row(Row {
                what: format!("{what}: {which}"),
                unit: Unit::Microseconds,
                floor: match floor {
                    Some(floor) => Some(time(&measured[floor][place], floor)? / 1e3),
                    None => None,
                },
                ours: time(&measured[name][place], name)? / 1e3,
                target: target.map(Target::Below),
            });
        }
    }
    for (name, what, unit, target) in [
        ("whole", "a dump of 200 threads, with all functions named", Unit::Milliseconds, Some(DUMP_LIMIT)),
        ("copying", "of that, until all stacks were copied and walked", Unit::Milliseconds, None),
        ("first", "the first dump of a process, of one thread, which reads the symbols", Unit::Milliseconds, None),
        ("outside", "a dump of 200 threads of another process, with all functions named", Unit::Milliseconds, None),
        ("stopped", "of that, for how long the process is stopped", Unit::Milliseconds, None),
    ] {
        let nanoseconds = time(&measured[name], name)?;
        let per_unit = if unit == Unit::Milliseconds { 1e6 } else { 1e3 };
        report.row(Row {
            what: what.to_owned(),
            unit,
            floor: None,
            ours: nanoseconds / per_unit,
            target: target.map(Target::Below),
        });
    }
    Ok(())
}
