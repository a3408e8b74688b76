//! What the root costs while nothing happens.

use std::{ffi::OsStr, path::Path, thread, time::Duration};

use async_container_supervisor_tests::{Dir, Program, proc};

use super::{
    START_LIMIT,
    fleet::Keeper,
    peers::Peer,
    report::{Report, Row, Target, Unit, megabytes},
    settle,
};
use crate::Result;

const CHILDREN: usize = 100;

/// A command that never wakes up.
const COMMAND: [&str; 2] = ["sleep", "1000000"];

/// When nothing happens any more: children count as healthy after 10 s, which may be a reason to wake up.
const SETTLED: Duration = Duration::from_secs(12);

const WATCHED: Duration = Duration::from_secs(10);

/// The memory of the root, and of the process that outlives it, in megabytes: 3, and 2 KB a child.
const MEMORY: f64 = 3.2;

pub(super) fn measure(peers: &[&'static Peer]) -> Result<Report> {
    let mut floor = start(Keeper::Floor)?;
    let mut ours = start(Keeper::Ours)?;
    let floor = Parents::find(&mut floor)?;
    let ours = Parents::find(&mut ours)?;
    let mut others = Vec::new();
    for &peer in peers {
        let mut program = start(Keeper::Peer(peer))?;
        let parents = Parents::all(&mut program)?;
        others.push((peer.name, parents, program));
    }
    settle(SETTLED);

    let switches = || -> Result<Vec<u64>> {
        [&floor, &ours].into_iter().chain(others.iter().map(|(_, parents, _)| parents)).map(Parents::switches).collect()
    };
    let before = switches()?;
    thread::sleep(WATCHED);
    let after = switches()?;
    let switches: Vec<f64> =
        after.iter().zip(&before).map(|(after, before)| after.saturating_sub(*before) as f64).collect();

    let mut report = Report::new(
        "idle",
        format!(
            "{CHILDREN} children that sleep, over {} s; the floor is a bare loop; {}",
            WATCHED.as_secs(),
            if ours.guardians.is_empty() { "the root has no guardian" } else { "the root has a guardian" }
        ),
    );
    report.row(Row {
        what: "context switches of root and guardian".to_owned(),
        unit: Unit::Times,
        floor: Some(switches[0]),
        ours: switches[1],
        target: Some(Target::AtMost(0.0)),
    });
    for ((name, ..), switches) in others.iter().zip(&switches[2..]) {
        report.beside(name, *switches);
    }
    let (root, guardians) = (ours.root_memory()?, ours.guardian_memory()?);
    report.row(Row {
        what: "proportional memory of root and guardian".to_owned(),
        unit: Unit::Megabytes,
        floor: Some(megabytes(floor.root_memory()?)),
        ours: megabytes(root + guardians),
        target: Some(Target::Below(MEMORY)),
    });
    for (name, parents, _) in &others {
        report.beside(name, megabytes(parents.root_memory()? + parents.guardian_memory()?));
    }
    report.row(Row::plain("  of which the root", Unit::Megabytes, megabytes(root)));
    report.row(Row::plain("  of which the guardian", Unit::Megabytes, megabytes(guardians)));
    Ok(report)
}

fn start(keeper: Keeper) -> Result<Program> {
    let dir = Dir::new()?;
    Ok(keeper.launch(&dir, CHILDREN, &COMMAND.map(OsStr::new))?.start()?)
}

/// The processes above the children of a program, from the one that was started.
struct Parents {
    root: u32,
    /// Those between the program's beginning and the root; none if the process that was started is the root.
    guardians: Vec<u32>,
}

impl Parents {
    /// Waits until all children run, and finds who looks after them.
    fn find(program: &mut Program) -> Result<Parents> {
        let started = program.pid();
        let children = children(program)?;
        let root = proc::common_ancestor(&children).ok_or("the children have no parent in common")?;
        if root == started {
            return Ok(Parents { root, guardians: Vec::new() });
        }
        let above = proc::ancestors(root);
        let last =
            above.iter().position(|process| process.pid == started).ok_or("the root is not below the program")?;
        Ok(Parents { root, guardians: above[..=last].iter().map(|process| process.pid).collect() })
    }

    /// Waits until all children run, and takes everything else below the program for one that looks after them: some
    /// have a process of their own for each child.
    fn all(program: &mut Program) -> Result<Parents> {
        let children = children(program)?;
        let mut others: Vec<u32> = program.descendants()?.iter().map(|process| process.pid).collect();
        others.retain(|pid| !children.contains(pid));
        Ok(Parents { root: program.pid(), guardians: others })
    }

    fn switches(&self) -> Result<u64> {
        let mut sum = proc::context_switches(self.root)?;
        for &guardian in &self.guardians {
            sum += proc::context_switches(guardian)?;
        }
        Ok(sum)
    }

    fn root_memory(&self) -> Result<u64> {
        Ok(proc::proportional_set_size(self.root)?)
    }

    fn guardian_memory(&self) -> Result<u64> {
        let mut sum = 0;
        for &guardian in &self.guardians {
            sum += proc::proportional_set_size(guardian)?;
        }
        Ok(sum)
    }
}

/// Waits until all children of the program run.
fn children(program: &mut Program) -> Result<Vec<u32>> {
    let started = program.pid();
    Ok(program.wait_for("all children to run", START_LIMIT, || {
        let mut below = proc::descendants(started)?;
        below.retain(|process| {
            let arguments = process.arguments();
            let name = arguments.first().and_then(|path| Path::new(path).file_name());
            name.is_some_and(|name| name == COMMAND[0]) && arguments[1..] == COMMAND[1..]
        });
        let pids: Vec<u32> = below.iter().map(|process| process.pid).collect();
        Ok((pids.len() == CHILDREN).then_some(pids))
    })?)
}
