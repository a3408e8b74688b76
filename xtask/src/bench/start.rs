//! How long it takes to start and to stop many children.

use super::{
    fleet::{Fleet, Times},
    peers::Peer,
    report::{MILLISECONDS, Report},
};
use crate::Result;

const FEW: usize = 100;
const MANY: usize = 1000;

const ROUNDS: usize = 20;

/// Some take a quarter of a minute for one.
const PEER_ROUNDS: usize = 5;

/// What a start may take in terms of the bare loop,
const START_RATIO: f64 = 1.3;

/// and a stop, in which ours looks for what each child has left behind.
const STOP_RATIO: f64 = 2.0;

pub(super) fn measure(peers: &[&'static Peer]) -> Result<Report> {
    let mut report = Report::new(
        "start",
        format!(
            "from the start of the program to the first instruction of its last child, {}; the floor is a bare loop",
            rounds(peers)
        ),
    );
    for count in [FEW, MANY] {
        let times = Times::take(peers, ROUNDS, PEER_ROUNDS, |keeper| Ok(Fleet::start(keeper, count)?.1))?;
        times.report(&mut report, &format!("{count} children"), START_RATIO, MILLISECONDS);
    }
    Ok(report)
}

pub(super) fn measure_stop(peers: &[&'static Peer]) -> Result<Report> {
    let mut report = Report::new(
        "stop",
        format!(
            "{MANY} children that end when they are asked to, from the wish to the end of all, {}; the floor is a bare loop",
            rounds(peers)
        ),
    );
    let times = Times::take(peers, ROUNDS, PEER_ROUNDS, |keeper| Fleet::start(keeper, MANY)?.0.stop())?;
    times.report(&mut report, &format!("{MANY} children"), STOP_RATIO, MILLISECONDS);
    Ok(report)
}

fn rounds(peers: &[&'static Peer]) -> String {
    if peers.is_empty() { format!("{ROUNDS} rounds") } else { format!("{ROUNDS} rounds, of peers {PEER_ROUNDS}") }
}
