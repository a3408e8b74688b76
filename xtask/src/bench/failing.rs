//! What children cost that cannot run, once they are tried as seldom as they will be.

use std::{fs, time::Duration};

use async_container_supervisor_tests::{Dir, Program};

use super::{
    START_LIMIT,
    report::{Report, Row, Target, Unit},
    settle,
};
use crate::Result;

const CHILDREN: usize = 100;

/// When the pauses between two tries have grown to their largest, of 30 s.
const SETTLED: Duration = Duration::from_secs(75);

/// Two of the largest pauses.
const WATCHED: Duration = Duration::from_secs(60);

/// A hundredth of a processor, in milliseconds a second.
const PROCESSOR: f64 = 10.0;

/// Clock ticks a second in `/proc`, which is the same on all platforms of Linux that matter.
const TICKS: f64 = 100.0;

pub(super) fn measure() -> Result<Report> {
    let dir = Dir::new()?;
    let mut program = dir.example("commands")?.args(["--count", &CHILDREN.to_string(), "--", "false"]).start()?;
    program.wait_for_stderr("child failed", START_LIMIT)?;
    settle(SETTLED);
    let before = (ticks(&program)?, starts(&program));
    settle(WATCHED);
    let after = (ticks(&program)?, starts(&program));
    let seconds = WATCHED.as_secs_f64();

    let mut report = Report::new(
        "failing",
        format!(
            "{CHILDREN} children that fail at once, over {} s when the pauses between tries have grown",
            WATCHED.as_secs()
        ),
    );
    report.row(Row {
        what: "processor time a second, of root, guardian and children".to_owned(),
        unit: Unit::Milliseconds,
        floor: None,
        ours: (after.0 - before.0) / TICKS * 1000.0 / seconds,
        target: Some(Target::Below(PROCESSOR)),
    });
    report.row(Row::plain("tries a second, of all children", Unit::Times, (after.1 - before.1) as f64 / seconds));
    Ok(report)
}

fn starts(program: &Program) -> usize {
    program.stderr().matches("child started").count()
}

/// The processor time of the program and its root, and of the children that the root has collected.
fn ticks(program: &Program) -> Result<f64> {
    let mut sum = 0.0;
    let root = program.descendants()?.into_iter().find(|process| process.parent == program.pid());
    for pid in [Some(program.pid()), root.map(|root| root.pid)].into_iter().flatten() {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        // Fields 14 to 17 of proc(5): its own time in user and kernel mode, and that of its children. The first one here is
        // the third.
        let own_and_children = fields.split_ascii_whitespace().skip(11).take(4);
        sum += own_and_children.filter_map(|field| field.parse::<f64>().ok()).sum::<f64>();
    }
    Ok(sum)
}
