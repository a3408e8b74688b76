//! How long it takes until all children are there again that were killed at once.

use std::{collections::HashMap, time::Duration};

use super::{
    fleet::{Fleet, Keeper, Times},
    peers::Peer,
    report::{MILLISECONDS, Report},
    settle,
};
use crate::Result;

const CHILDREN: usize = 100;

const ROUNDS: usize = 20;

/// What it may take in terms of the bare loop.
const RATIO: f64 = 1.3;

/// How long the children run before they are killed: one that ends within a second of its start is restarted later.
const SETTLED: Duration = Duration::from_millis(1500);

pub(super) fn measure(peers: &[&'static Peer]) -> Result<Report> {
    let mut report = Report::new(
        "storm",
        format!("{CHILDREN} of {CHILDREN} children are killed at once, {ROUNDS} rounds; the floor is a bare loop"),
    );
    let mut fleets = HashMap::new();
    for keeper in Keeper::all(peers) {
        fleets.insert(keeper.name(), Fleet::start(keeper, CHILDREN)?.0);
    }
    let times = Times::take(peers, ROUNDS, ROUNDS, |keeper| {
        if matches!(keeper, Keeper::Floor) {
            // Enough for all of them, since the others run all the while.
            settle(SETTLED);
        }
        fleets.get_mut(keeper.name()).ok_or("it was not started")?.kill_all()
    })?;
    times.report(&mut report, "to the first instruction of the last new child", RATIO, MILLISECONDS);
    Ok(report)
}
