//! How long it takes until all children are there again that were killed at once.

use std::time::Duration;

use super::{
    fleet::{Fleet, Keeper, in_turn},
    report::{Report, Row, Target, Unit, milliseconds, percentile},
    settle,
};
use crate::Result;

const CHILDREN: usize = 100;

const ROUNDS: usize = 20;

/// What it may take in terms of the bare loop.
const RATIO: f64 = 1.3;

/// How long the children run before they are killed: one that ends within a second of its start is restarted later.
const SETTLED: Duration = Duration::from_millis(1500);

pub(super) fn measure() -> Result<Report> {
    let mut report = Report::new(
        "storm",
        format!("{CHILDREN} of {CHILDREN} children are killed at once, {ROUNDS} rounds; the floor is a bare loop"),
    );
    let (mut floor, _) = Fleet::start(Keeper::Floor, CHILDREN)?;
    let (mut ours, _) = Fleet::start(Keeper::Ours, CHILDREN)?;
    let (floor, ours) = in_turn(ROUNDS, |keeper| match keeper {
        Keeper::Floor => {
            // Enough for both, since ours ran all the while.
            settle(SETTLED);
            floor.kill_all()
        }
        Keeper::Ours => ours.kill_all(),
    })?;
    for (name, part, target) in [("median", 0.5, Some(Target::Ratio(RATIO))), ("p90", 0.9, None)] {
        report.row(Row {
            what: format!("to the first instruction of the last new child, {name}"),
            unit: Unit::Milliseconds,
            floor: Some(milliseconds(percentile(&floor, part))),
            ours: milliseconds(percentile(&ours, part)),
            target,
        });
    }
    Ok(report)
}
