//! How long it takes until a killed child is there again.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use async_container_supervisor_tests::{
    Dir, Program, Signal, Supervisor, Worker, binary,
    proc::{Process, process},
};
use rustix::process::pidfd_send_signal;

use super::{
    START_LIMIT, own,
    report::{Report, Row, Target, Unit, microseconds, milliseconds, percentile},
    settle,
    stamps::{Moment, Stamps},
};
use crate::Result;

/// How many children run. More than are killed, so that each is killed once: from the second failure on, a
/// supervisor waits before it restarts.
const CHILDREN: usize = 32;

/// How many of them are killed, one after the other.
const KILLS: usize = 30;

/// What a restart may take in terms of the bare loop. A bare loop on tokio takes 1.2.
const RATIO: f64 = 1.5;

/// What may pass in milliseconds until a killed worker is registered again.
const REGISTERED: f64 = 10.0;

/// How long the children run before the first is killed: one that ends right after its start is restarted later.
const SETTLED: Duration = Duration::from_secs(2);

/// The pause between two kills, in which the one before is dealt with altogether.
const PAUSE: Duration = Duration::from_millis(20);

/// How long a worker may take to register again before the measuring gives up.
const REGISTER_LIMIT: Duration = Duration::from_secs(10);

pub(super) fn measure() -> Result<Report> {
    let mut report = Report::new(
        "restart",
        format!("{KILLS} of {CHILDREN} children are killed, one after the other; the floor is a bare loop"),
    );
    let (floor, ours) = commands()?;
    for (name, part, target) in [("median", 0.5, Some(Target::Ratio(RATIO))), ("p90", 0.9, None)] {
        report.row(Row {
            what: format!("a command, to its first instruction, {name}"),
            unit: Unit::Microseconds,
            floor: Some(microseconds(percentile(&floor, part))),
            ours: microseconds(percentile(&ours, part)),
            target,
        });
    }
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

/// The sorted times of the bare loop and ours from the kill to the first instruction of the next process.
fn commands() -> Result<(Vec<Duration>, Vec<Duration>)> {
    let dir = Dir::new()?;
    let stamp = binary("xtask-stamp")?;
    let count = CHILDREN.to_string();

    let stamps = Stamps::bind(dir.file("floor"))?;
    let launch = own(&dir, "bare-loop")?.args(["--count", &count, "--"]).arg(&stamp).arg(stamps.path());
    let mut floor = Contender::new(launch.start()?, stamps, &stamp)?;

    let stamps = Stamps::bind(dir.file("ours"))?;
    let launch = dir.example("commands")?.args(["--count", &count, "--"]).arg(&stamp).arg(stamps.path());
    let mut ours = Contender::new(launch.start()?, stamps, &stamp)?;

    settle(SETTLED);
    // In turn, so that whatever else the machine does meets both.
    for _ in 0..KILLS {
        floor.kill()?;
        ours.kill()?;
    }
    Ok((floor.sorted(), ours.sorted()))
}

/// A program that restarts its children.
struct Contender {
    /// Runs as long as this value lives.
    _program: Program,
    stamps: Stamps,
    victims: Vec<Process>,
    times: Vec<Duration>,
}

impl Contender {
    /// Waits until all children of the program run.
    fn new(mut program: Program, stamps: Stamps, stamp: &Path) -> Result<Contender> {
        let mut started = Vec::new();
        while started.len() < CHILDREN {
            match stamps.next() {
                Ok(stamp) => started.push(stamp.pid),
                Err(error) => {
                    let state = match program.try_wait()? {
                        Some(status) => format!("ended ({status})"),
                        None => format!("started {} of {CHILDREN} children", started.len()),
                    };
                    return Err(format!("{error}; the program {state}, and wrote:\n{}", program.stderr()).into());
                }
            }
        }
        let mut victims = program.descendants_running(stamp)?;
        victims.retain(|process| started.contains(&process.pid));
        if victims.len() != CHILDREN {
            return Err(format!("{} of {CHILDREN} children run before one was killed", victims.len()).into());
        }
        Ok(Contender { _program: program, stamps, victims, times: Vec::new() })
    }

    /// Kills a child that was not killed before, and takes the time until there is another one.
    fn kill(&mut self) -> Result<()> {
        let victim = self.victims.pop().ok_or("there is no child left to kill")?;
        let pidfd = victim.pidfd()?.ok_or_else(|| format!("process {} ended before it was killed", victim.pid))?;
        let begin = Moment::now();
        pidfd_send_signal(&pidfd, Signal::KILL)?;
        let stamp = self.stamps.next()?;
        if stamp.pid == victim.pid || stamp.at < begin {
            return Err(format!("process {} began to run before one was killed", stamp.pid).into());
        }
        self.times.push(stamp.at.since(begin));
        settle(PAUSE);
        Ok(())
    }

    fn sorted(mut self) -> Vec<Duration> {
        self.times.sort();
        self.times
    }
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
