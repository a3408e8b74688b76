//! Many children at once, of a bare loop, of ours and of peers, and how long it takes to start, replace and stop them.

use std::{
    ffi::OsStr,
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use async_container_supervisor_tests::{Dir, Launch, Program, Signal, binary, proc};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    process::pidfd_send_signal,
};

use super::{
    own,
    peers::Peer,
    report::{Report, Row, Scale, Target, percentile},
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
    Peer(&'static Peer),
}

impl Keeper {
    /// The floor, ours, and these peers.
    pub(super) fn all(peers: &[&'static Peer]) -> Vec<Keeper> {
        [Keeper::Floor, Keeper::Ours].into_iter().chain(peers.iter().map(|peer| Keeper::Peer(peer))).collect()
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Keeper::Floor => "the floor",
            Keeper::Ours => "ours",
            Keeper::Peer(peer) => peer.name,
        }
    }

    /// The program that keeps so many children running, in a directory where no other peer is.
    pub(super) fn launch(self, dir: &Dir, count: usize, command: &[&OsStr]) -> Result<Launch> {
        let launch = match self {
            Keeper::Floor => own(dir, "bare-loop")?,
            Keeper::Ours => dir.example("commands")?,
            Keeper::Peer(peer) => return peer.launch(dir, count, command),
        };
        Ok(launch.args(["--count", &count.to_string(), "--"]).args(command))
    }
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
        let stamp = binary("xtask-stamp")?;
        let launch = keeper.launch(&dir, count, &[stamp.as_os_str(), stamps.path().as_os_str()])?;
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
                let name = self.keeper.name();
                let state = match self.program.try_wait() {
                    Ok(Some(status)) => format!(" and ended ({status})"),
                    _ => String::new(),
                };
                let said = self.program.stderr() + &self.program.stdout();
                format!("{error}, after {number} of {count} of {name}; the program wrote{state}:\n{said}")
            })?;
            self.children.push(pid);
            last = last.max(Some(at));
        }
        last.ok_or_else(|| "there are no children".into())
    }

    /// Kills a child that was not killed before. Gives the time to the first instruction of the one in its place.
    pub(super) fn kill_one(&mut self) -> Result<Duration> {
        // New ones are added at the end.
        if self.children.is_empty() {
            return Err("there is no child left to kill".into());
        }
        let victim = self.children.remove(0);
        let pidfd = open(victim)?;
        let begin = Moment::now();
        pidfd_send_signal(&pidfd, Signal::KILL)?;
        let last = self.gather(1)?;
        if last < begin {
            return Err(format!("a child of {} began to run before one was killed", self.keeper.name()).into());
        }
        Ok(last.since(begin))
    }

    /// Kills all children. Gives the time from the first kill to the first instruction of the last new child.
    pub(super) fn kill_all(&mut self) -> Result<Duration> {
        let victims = std::mem::take(&mut self.children);
        let victims = victims.into_iter().map(open).collect::<Result<Vec<OwnedFd>>>()?;
        let begin = Moment::now();
        for victim in &victims {
            pidfd_send_signal(victim, Signal::KILL)?;
        }
        Ok(self.gather(victims.len())?.since(begin))
    }

    /// Asks for the end of everything. Gives the time until the program and all children have ended.
    pub(super) fn stop(mut self) -> Result<Duration> {
        let children = self.children.iter().map(|&child| open(child)).collect::<Result<Vec<OwnedFd>>>()?;
        let begin = Moment::now();
        match self.keeper {
            Keeper::Floor => *self.program.input() = None,
            Keeper::Ours => self.program.signal(Signal::TERM)?,
            Keeper::Peer(peer) => self.program.signal(peer.stop)?,
        }
        let status = self.program.wait(STOP_LIMIT)?;
        wait_for_end(&children)?;
        let time = Moment::now().since(begin);
        // Peers have codes of their own: runsvdir ends with 111.
        if !status.success() && !matches!(self.keeper, Keeper::Peer(_)) {
            return Err(format!("the program ended with {status}, and wrote:\n{}", self.program.stderr()).into());
        }
        Ok(time)
    }
}

fn open(pid: u32) -> Result<OwnedFd> {
    let pidfd = proc::process(pid).map_or(Ok(None), |process| process.pidfd())?;
    pidfd.ok_or_else(|| format!("process {pid} ended before it was to").into())
}

fn wait_for_end(processes: &[OwnedFd]) -> Result<()> {
    let deadline = Instant::now() + STOP_LIMIT;
    for process in processes {
        loop {
            let left = Timespec::try_from(deadline.saturating_duration_since(Instant::now()))?;
            match poll(&mut [PollFd::new(process, PollFlags::IN)], Some(&left)) {
                Ok(0) => return Err(format!("children still ran after {} s", STOP_LIMIT.as_secs()).into()),
                Ok(_) => break,
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(())
}

/// The times that the floor, ours and peers took, sorted.
pub(super) struct Times(Vec<(Keeper, Vec<Duration>)>);

impl Times {
    /// Measures all of them in turn, so that whatever else the machine does meets all: so many rounds, and peers, which
    /// may take a thousand times as long, only in the first `of_peers` of them.
    pub(super) fn take(
        peers: &[&'static Peer],
        rounds: usize,
        of_peers: usize,
        mut measure: impl FnMut(Keeper) -> Result<Duration>,
    ) -> Result<Times> {
        let mut times: Vec<_> = Keeper::all(peers).into_iter().map(|keeper| (keeper, Vec::new())).collect();
        for round in 0..rounds {
            for (keeper, times) in &mut times {
                if round < of_peers || !matches!(keeper, Keeper::Peer(_)) {
                    times.push(measure(*keeper)?);
                }
            }
        }
        for (_, times) in &mut times {
            times.sort();
        }
        Ok(Times(times))
    }

    /// Adds the median, which has a target, and the ninth of ten to a report. The times are given in the unit of `amount`.
    pub(super) fn report(&self, report: &mut Report, what: &str, ratio: f64, (unit, amount): Scale) {
        for (name, part, target) in [("median", 0.5, Some(Target::Ratio(ratio))), ("p90", 0.9, None)] {
            let figure = |times: &[Duration]| amount(percentile(times, part));
            let [(_, floor), (_, ours), peers @ ..] = &self.0[..] else { continue };
            let (floor, ours) = (Some(figure(floor)), figure(ours));
            report.row(Row { what: format!("{what}, {name}"), unit, floor, ours, target });
            for (keeper, times) in peers {
                report.beside(keeper.name(), figure(times));
            }
        }
    }
}
