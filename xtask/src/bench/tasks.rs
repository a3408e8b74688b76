//! What it costs to register tasks, and to dump ten thousand of them.

use async_container_supervisor_tests::Dir;
use serde_json::Value;

use super::{
    START_LIMIT,
    report::{Report, Row, Target, Unit},
};
use crate::Result;

/// The program that measures, in its own process.
pub(super) const PROGRAM: &str = "acs-tasks";

/// What a poll of a registered task may cost more than another one, in nanoseconds.
const POLL_LIMIT: f64 = 100.0;

/// Adds the rows of tasks to those of diagnostics.
pub(super) fn rows(report: &mut Report) -> Result<()> {
    let dir = Dir::new()?;
    let mut program = dir.example(PROGRAM)?.start()?;
    if !program.wait(START_LIMIT)?.success() {
        return Err(format!("{PROGRAM} failed: {}", program.stderr()).into());
    }
    let measured: Value = serde_json::from_str(&program.stdout())?;
    let number = |value: &Value, name: &str| value.as_f64().ok_or_else(|| format!("{PROGRAM} did not measure {name}"));
    let pair = |name: &str| -> Result<(f64, f64)> {
        Ok((number(&measured[name][0], name)?, number(&measured[name][1], name)?))
    };

    // Nanoseconds for one are microseconds for a thousand.
    for (name, what) in [
        ("poll", "1,000 polls of a registered future, beside a bare one"),
        ("yield", "1,000 times that a registered task wakes itself and is polled, beside tokio::spawn"),
        ("life", "1,000 registered tasks come and go on two threads, beside tokio::spawn"),
    ] {
        let (floor, ours) = pair(name)?;
        report.row(Row { what: what.to_owned(), unit: Unit::Microseconds, floor: Some(floor), ours, target: None });
    }
    let (bare, registered) = pair("poll")?;
    report.row(Row {
        what: "what registration adds to 1,000 polls".to_owned(),
        unit: Unit::Microseconds,
        floor: None,
        ours: registered - bare,
        target: Some(Target::AtMost(POLL_LIMIT)),
    });

    for (name, what, target) in [
        ("read", "a dump of 10,000 tasks", Some(Target::Below(20.0))),
        ("text", "the same, written as text", Some(Target::Below(20.0))),
        ("json", "the same, written as JSON", Some(Target::Below(20.0))),
        ("stacks", "the same, as text, with where the 256 that waited for longest do", None),
    ] {
        report.row(Row {
            what: what.to_owned(),
            unit: Unit::Milliseconds,
            floor: None,
            ours: number(&measured[name], name)? / 1e6,
            target,
        });
    }
    Ok(())
}
