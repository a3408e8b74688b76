//! How long it takes until a killed child is there again.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use async_container_supervisor_tests::{Dir, Signal, Supervisor, Worker, proc::process};
use rustix::process::pidfd_send_signal;

use super::{
    START_LIMIT,
    fleet::{Fleet, Keeper, Times},
    peers::Peer,
    report::{MICROSECONDS, Report, Row, Target, Unit, milliseconds, percentile},
    settle,
};
use crate::Result;

/// How many children run. More than are killed, so that each is killed once: from the second failure on, a
/// supervisor waits before it restarts.
const CHILDREN: usize = 32;

/// How many of them are killed, one after the other.
const KILLS: usize = 30;

/// How many of them of peers, some of which take a second or more for each.
const PEER_KILLS: usize = 20;

/// What a restart may take in terms of the bare loop. A bare loop on tokio takes 1.2.
const RATIO: f64 = 1.3;

/// What may pass in milliseconds until a killed worker is registered again.
const REGISTERED: f64 = 10.0;

/// How long the children run before the first is killed: one that ends right after its start is restarted later.
const SETTLED: Duration = Duration::from_secs(2);

/// The pause between two kills, in which the one before is dealt with altogether.
const PAUSE: Duration = Duration::from_millis(20);

/// How long a worker may take to register again before the measuring gives up.
const REGISTER_LIMIT: Duration = Duration::from_secs(10);

pub(super) fn measure(peers: &[&'static Peer]) -> Result<Report> {
    let mut report = Report::new(
        "restart",
        match peers {
            [] => format!("{KILLS} of {CHILDREN} children are killed, one after the other; the floor is a bare loop"),
            _ => format!(
                "{KILLS} of {CHILDREN} children are killed, one after the other, of peers {PEER_KILLS}; the floor is a bare loop"
            ),
        },
    );
    commands(peers)?.report(&mut report, "a command, to its first instruction", RATIO, MICROSECONDS);
    let registered = workers()?;
    for (name, part) in [("median", 0.5), ("p90", 0.9)] {
        report.row(Row {
            what: format!("a worker, to its registration, {name}"),
            unit: Unit::Milliseconds,
            floor: None,
            ours: milliseconds(percentile(&registered, part)),
            target: Some(Target::Below(REGISTERED)),
        });
    }
    Ok(report)
}

/// The times from the kill to the first instruction of the next process.
fn commands(peers: &[&'static Peer]) -> Result<Times> {
    let mut fleets = HashMap::new();
    for keeper in Keeper::all(peers) {
        fleets.insert(keeper.name(), Fleet::start(keeper, CHILDREN)?.0);
    }
    settle(SETTLED);
    Times::take(peers, KILLS, PEER_KILLS, |keeper| {
        let time = fleets.get_mut(keeper.name()).ok_or("it was not started")?.kill_one()?;
        settle(PAUSE);
        Ok(time)
    })
}

/// The sorted times from the kill of a worker until the supervisor has another one of its name.
fn workers() -> Result<Vec<Duration>> {
    let dir = Dir::new()?;
    let mut program = dir.example("simple")?.args(["--workers", &KILLS.to_string()]).start()?;
    let mut supervisor = Supervisor::of(&mut program, &dir.socket(), START_LIMIT)?;
    let victims =
        supervisor.wait_for_workers(&format!("{KILLS} workers"), START_LIMIT, |workers| workers.len() >= KILLS)?;
    settle(SETTLED);

    let mut times = Vec::with_capacity(KILLS);
    let mut known = victims.clone();
    for victim in &victims {
        let pidfd = process(victim.pid)
            .map_or(Ok(None), |process| process.pidfd())?
            .ok_or_else(|| format!("worker {} ended before it was killed", victim.pid))?;
        let begin = Instant::now();
        pidfd_send_signal(&pidfd, Signal::KILL)?;
        let new = loop {
            let found = supervisor.workers()?.into_iter().find(|worker| is_new(worker, victim, &known));
            let time = begin.elapsed();
            if let Some(worker) = found {
                times.push(time);
                break worker;
            }
            if time > REGISTER_LIMIT {
                return Err(format!(
                    "no worker registered within {} s in the place of {}; the program wrote:\n{}",
                    REGISTER_LIMIT.as_secs(),
                    victim.pid,
                    program.stderr()
                )
                .into());
            }
        };
        known.push(new);
        settle(PAUSE);
    }
    times.sort();
    Ok(times)
}

fn is_new(worker: &Worker, victim: &Worker, known: &[Worker]) -> bool {
    worker.name == victim.name && known.iter().all(|known| known.pid != worker.pid)
}
