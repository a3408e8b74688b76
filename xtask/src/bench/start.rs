//! How long it takes to start and to stop many children.

use std::time::Duration;

use super::{
    fleet::{Fleet, in_turn},
    report::{Report, Row, Target, Unit, milliseconds, percentile},
};
use crate::Result;

const FEW: usize = 100;
const MANY: usize = 1000;

const ROUNDS: usize = 20;

/// What a start may take in terms of the bare loop,
const START_RATIO: f64 = 1.3;

/// and a stop, in which ours looks for what each child has left behind.
const STOP_RATIO: f64 = 2.0;

pub(super) fn measure() -> Result<Report> {
    let mut report = Report::new(
        "start",
        format!(
            "from the start of the program to the first instruction of its last child, {ROUNDS} rounds; the floor is a bare loop"
        ),
    );
    for count in [FEW, MANY] {
        let times = in_turn(ROUNDS, |keeper| Ok(Fleet::start(keeper, count)?.1))?;
        rows(&mut report, &format!("{count} children"), &times, START_RATIO);
    }
    Ok(report)
}

pub(super) fn measure_stop() -> Result<Report> {
    let mut report = Report::new(
        "stop",
        format!(
            "{MANY} children that end when they are asked to, from the wish to the end of the program, {ROUNDS} rounds; the floor is a bare loop"
        ),
    );
    let times = in_turn(ROUNDS, |keeper| Fleet::start(keeper, MANY)?.0.stop())?;
    rows(&mut report, &format!("{MANY} children"), &times, STOP_RATIO);
    Ok(report)
}

fn rows(report: &mut Report, what: &str, (floor, ours): &(Vec<Duration>, Vec<Duration>), ratio: f64) {
    for (name, part, target) in [("median", 0.5, Some(Target::Ratio(ratio))), ("p90", 0.9, None)] {
        report.row(Row {
            what: format!("{what}, {name}"),
            unit: Unit::Milliseconds,
            floor: Some(milliseconds(percentile(floor, part))),
            ours: milliseconds(percentile(ours, part)),
            target,
        });
    }
}
