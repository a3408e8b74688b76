//! What children cost that cannot run, once they are tried as seldom as they will be.

use std::{ffi::OsStr, fs, time::Duration};

use async_container_supervisor_tests::{Dir, Program};

use super::{
    START_LIMIT,
    fleet::Keeper,
    peers::Peer,
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

pub(super) fn measure(peers: &[&'static Peer]) -> Result<Report> {
    let mut programs = Vec::new();
    for keeper in Keeper::all(peers).into_iter().skip(1) {
        let dir = Dir::new()?;
        programs.push((keeper, keeper.launch(&dir, CHILDREN, &[OsStr::new("false")])?.start()?));
    }
    let (_, ours) = programs.first_mut().ok_or("nothing was started")?;
    ours.wait_for_stderr("child failed", START_LIMIT)?;
    settle(SETTLED);
    let ticks = |(keeper, program): &mut (Keeper, Program)| -> Result<f64> {
        match program.try_wait()? {
            None => ticks(program),
            Some(status) => Err(format!("{} ended ({status}), and wrote:\n{}", keeper.name(), program.stderr()).into()),
        }
    };
    let before = programs.iter_mut().map(ticks).collect::<Result<Vec<f64>>>()?;
    let starts_before = starts(&programs[0].1);
    settle(WATCHED);
    let after = programs.iter_mut().map(ticks).collect::<Result<Vec<f64>>>()?;
    let starts_after = starts(&programs[0].1);
    let seconds = WATCHED.as_secs_f64();

    let mut report = Report::new(
        "failing",
        format!(
            "{CHILDREN} children that fail at once, over {} s when the pauses between tries have grown",
            WATCHED.as_secs()
        ),
    );
    for ((keeper, _), (before, after)) in programs.iter().zip(before.iter().zip(&after)) {
        let time = (after - before) / TICKS * 1000.0 / seconds;
        match keeper {
            Keeper::Peer(peer) => report.beside(peer.name, time),
            _ => report.row(Row {
                what: "processor time a second, of root, guardian and children".to_owned(),
                unit: Unit::Milliseconds,
                floor: None,
                ours: time,
                target: Some(Target::Below(PROCESSOR)),
            }),
        }
    }
    let tries = (starts_after - starts_before) as f64 / seconds;
    report.row(Row::plain("tries a second, of all children", Unit::Times, tries));
    Ok(report)
}

fn starts(program: &Program) -> usize {
    program.stderr().matches("child started").count()
}

/// The processor time of the program and of all below it, and of the children that these have collected.
fn ticks(program: &Program) -> Result<f64> {
    let mut sum = 0.0;
    let below = program.descendants()?;
    for pid in std::iter::once(program.pid()).chain(below.iter().map(|process| process.pid)) {
        // One that has ended meanwhile is in the sum of its parent, now or when it is looked at next.
        let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        // Fields 14 to 17 of proc(5): its own time in user and kernel mode, and that of its children. The first one here is
        // the third.
        let own_and_children = fields.split_ascii_whitespace().skip(11).take(4);
        sum += own_and_children.filter_map(|field| field.parse::<f64>().ok()).sum::<f64>();
    }
    Ok(sum)
}
