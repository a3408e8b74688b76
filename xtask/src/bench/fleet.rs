//! Many children at once, of a bare loop and of ours, and how long it takes to start, replace and stop them all.

use std::{os::fd::OwnedFd, time::Duration};

use async_container_supervisor_tests::{Dir, Program, Signal, binary, proc};
use rustix::process::pidfd_send_signal;

use super::{
    own,
    stamps::{Moment, Stamp, Stamps},
};
use crate::Result;

/// How long all may take to end before the measuring gives up.
const STOP_LIMIT: Duration = Duration::from_secs(60);

/// Who looks after the children.
#[derive(Debug, Clone, Copy)]
pub(super) enum Keeper {
    /// The bare loop, which is the floor.
    Floor,
    Ours,
}

/// Children that tell when they begin, and whoever keeps them running.
pub(super) struct Fleet {
    keeper: Keeper,
    program: Program,
    stamps: Stamps,
    children: Vec<u32>,
}

impl Fleet {
    /// Starts so many children. Gives the time from the start of the program to the first instruction of the last child.
    pub(super) fn start(keeper: Keeper, count: usize) -> Result<(Fleet, Duration)> {
        let dir = Dir::new()?;
        let stamps = Stamps::bind(dir.file("stamps"))?;
        let launch = match keeper {
            Keeper::Floor => own(&dir, "bare-loop")?,
            Keeper::Ours => dir.example("commands")?,
        };
        let launch = launch.args(["--count", &count.to_string(), "--"]).arg(binary("xtask-stamp")?).arg(stamps.path());
        let begin = Moment::now();
        let mut fleet = Fleet { keeper, program: launch.start()?, stamps, children: Vec::new() };
        let last = fleet.gather(count)?;
        Ok((fleet, last.since(begin)))
    }

    /// Takes note of so many new children. Gives the moment at which the last one began.
    fn gather(&mut self, count: usize) -> Result<Moment> {
        let mut last = None;
        for number in 0..count {
            let Stamp { pid, at } = self.stamps.next().map_err(|error| {
                format!("{error}, after {number} of {count}; the program wrote:\n{}", self.program.stderr())
            })?;
            self.children.push(pid);
            last = last.max(Some(at));
        }
        last.ok_or_else(|| "there are no children".into())
    }

    /// Kills all children. Gives the time from the first kill to the first instruction of the last new child.
    pub(super) fn kill_all(&mut self) -> Result<Duration> {
        let victims = std::mem::take(&mut self.children);
        let open = |pid: &u32| -> Result<OwnedFd> {
            let pidfd = proc::process(*pid).map_or(Ok(None), |process| process.pidfd())?;
            pidfd.ok_or_else(|| format!("process {pid} ended before it was killed").into())
        };
        let victims = victims.iter().map(open).collect::<Result<Vec<OwnedFd>>>()?;
        let begin = Moment::now();
        for victim in &victims {
            pidfd_send_signal(victim, Signal::KILL)?;
        }
        Ok(self.gather(victims.len())?.since(begin))
    }

    /// Asks for the end of everything. Gives the time until the program has ended, after all children.
    pub(super) fn stop(mut self) -> Result<Duration> {
        let begin = Moment::now();
        match self.keeper {
            Keeper::Floor => *self.program.input() = None,
            Keeper::Ours => self.program.signal(Signal::TERM)?,
        }
        let status = self.program.wait(STOP_LIMIT)?;
        let time = Moment::now().since(begin);
        if !status.success() {
            return Err(format!("the program ended with {status}, and wrote:\n{}", self.program.stderr()).into());
        }
        Ok(time)
    }
}

/// Measures the floor and ours in turn, so that whatever else the machine does meets both. Gives the sorted times.
pub(super) fn in_turn(
    rounds: usize,
    mut measure: impl FnMut(Keeper) -> Result<Duration>,
) -> Result<(Vec<Duration>, Vec<Duration>)> {
    let (mut floor, mut ours) = (Vec::with_capacity(rounds), Vec::with_capacity(rounds));
    for _ in 0..rounds {
        floor.push(measure(Keeper::Floor)?);
        ours.push(measure(Keeper::Ours)?);
    }
    floor.sort();
    ours.sort();
    Ok((floor, ours))
}
