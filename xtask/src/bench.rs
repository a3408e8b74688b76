//! `cargo xtask bench`: what the architecture promises, measured.
//!
//! Each figure stands beside a floor: what the cheapest program that could do the same takes on this machine, at
//! the same time. `bench` builds everything as a release and has the release of this program `measure`.

mod allocator;
pub(crate) mod bare_loop;
pub(crate) mod crowd;
mod diagnostics;
pub(crate) mod echo;
mod failing;
mod fleet;
pub(crate) mod flight;
pub(crate) mod hops;
mod idle;
mod memory;
mod monitors;
mod peers;
mod report;
mod restart;
mod rpc;
mod soak;
mod stamps;
mod start;
mod storm;
mod tasks;
mod threads;
mod utilization;
mod ways;

use std::{
    io::{self, Read as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{self, ExitCode},
    thread,
    time::Duration,
};

use async_container_supervisor_tests::{Dir, Launch, Program};
use clap::ValueEnum as _;

use self::report::Report;
use crate::{Result, workspace};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// What to measure
    what: Subject,
    /// Print one JSON document instead of a table
    #[arg(long)]
    json: bool,
    /// Exit with status 1 if a target is missed
    #[arg(long)]
    check: bool,
    /// Do the same with what others have written as well: restart, start, stop, storm, idle and failing with those of
    /// supervisord, circus, runit and s6 that are installed; rpc with tarpc, which is built for it
    #[arg(long)]
    peers: bool,
}

/// With what a measurement can be compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Comparison {
    /// With other supervisors, if they are installed.
    Supervisors,
    /// With another library for calls, which is built.
    Calls,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Subject {
    /// From the end of a child to the first instruction of the next one, and to its registration
    Restart,
    /// From the start of the root to the first instruction of its hundredth, and thousandth, child
    Start,
    /// From the wish to stop a thousand children to their end
    Stop,
    /// From the end of a hundred children at once to the first instruction of the last new one
    Storm,
    /// What a hundred children cost that fail at once
    Failing,
    /// From a call to its answer
    Rpc,
    /// Five thousand workers that lose their supervisor
    Crowd,
    /// A million calls, and a million workers that come and go
    Soak,
    /// What the root costs while nothing happens
    Idle,
    /// What fifty workers cost, and how long they take to start
    Memory,
    /// What monitors cost, and what it costs to be watched
    Monitors,
    /// What diagnostics cost, and what it costs to be able to make them
    Diagnostics,
}

impl Subject {
    fn name(self) -> &'static str {
        match self {
            Subject::Restart => "restart",
            Subject::Start => "start",
            Subject::Stop => "stop",
            Subject::Storm => "storm",
            Subject::Failing => "failing",
            Subject::Rpc => "rpc",
            Subject::Crowd => "crowd",
            Subject::Soak => "soak",
            Subject::Idle => "idle",
            Subject::Memory => "memory",
            Subject::Monitors => "monitors",
            Subject::Diagnostics => "diagnostics",
        }
    }

    fn comparison(self) -> Option<Comparison> {
        match self {
            Subject::Restart | Subject::Start | Subject::Stop | Subject::Storm | Subject::Failing | Subject::Idle => {
                Some(Comparison::Supervisors)
            }
            Subject::Rpc => Some(Comparison::Calls),
            Subject::Crowd | Subject::Soak | Subject::Memory | Subject::Monitors | Subject::Diagnostics => None,
        }
    }
}

/// How long programs may take to be where the measuring begins.
const START_LIMIT: Duration = Duration::from_secs(30);

/// Builds the release and runs the measurement in it.
pub(crate) fn run(arguments: &Arguments) -> Result {
    if arguments.peers && arguments.what.comparison().is_none() {
        return Err(nothing_to_compare_with(arguments.what).into());
    }
    let built = workspace::succeeds(workspace::cargo().args(["build", "--release", "--package", "xtask", "--bins"]))?
        && workspace::succeeds(workspace::cargo().args([
            "build",
            "--release",
            "--package",
            "async-container-supervisor-examples",
            "--example",
            "commands",
            "--example",
            "simple",
        ]))?
        && workspace::succeeds(workspace::cargo().args([
            "build",
            "--release",
            "--package",
            "async-container-supervisor-tests",
            "--example",
            utilization::PROGRAM,
            "--example",
            tasks::PROGRAM,
            "--example",
            allocator::BARE,
            "--example",
            allocator::WRAPPED,
            "--example",
            threads::PROGRAM,
            "--example",
            monitors::PROGRAM,
        ]))?;
    if !built {
        return Err("nothing was measured, because the release did not build".into());
    }
    let target_directory = workspace::metadata()?.target_directory;
    let builds_peers = arguments.peers && arguments.what.comparison() == Some(Comparison::Calls);
    if builds_peers && !build_peers(&target_directory)? {
        return Err("nothing was measured, because what to compare with did not build".into());
    }
    let program = target_directory.join("release").join("xtask");
    let mut measure = std::process::Command::new(&program);
    measure.args(["measure", arguments.what.name()]);
    if arguments.json {
        measure.arg("--json");
    }
    if arguments.check {
        measure.arg("--check");
    }
    if arguments.peers {
        measure.arg("--peers");
    }
    Ok(if workspace::succeeds(&mut measure)? { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn nothing_to_compare_with(what: Subject) -> String {
    let others: Vec<&str> = Subject::value_variants()
        .iter()
        .filter(|subject| subject.comparison().is_some())
        .map(|subject| subject.name())
        .collect();
    format!("there are no peers to compare `{}` with: leave out --peers, which {} have", what.name(), others.join(", "))
}

/// Where the programs of others are, below the folder of everything that is built.
const PEERS: &str = "peers";

fn build_peers(target_directory: &Path) -> Result<bool> {
    let mut build = workspace::cargo();
    build.args(["build", "--release", "--locked", "--manifest-path", "xtask/peers/Cargo.toml", "--target-dir"]);
    workspace::succeeds(build.arg(target_directory.join(PEERS)))
}

fn peers_directory() -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let target_directory = own.ancestors().nth(2).ok_or("this program lies in no folder")?;
    Ok(target_directory.join(PEERS))
}

/// The program of another library for calls.
fn peers_of_calls() -> Result<PathBuf> {
    Ok(peers_directory()?.join("release").join("peers"))
}

/// Measures, beside the programs that `run` has built.
pub(crate) fn measure(arguments: &Arguments) -> Result {
    if cfg!(debug_assertions) {
        return Err("this is not a release build: run `cargo xtask bench`".into());
    }
    let peers = match arguments.what.comparison() {
        None if arguments.peers => return Err(nothing_to_compare_with(arguments.what).into()),
        Some(Comparison::Supervisors) if arguments.peers => peers::installed()?,
        _ => Vec::new(),
    };
    let report = match arguments.what {
        Subject::Restart => restart::measure(&peers)?,
        Subject::Start => start::measure(&peers)?,
        Subject::Stop => start::measure_stop(&peers)?,
        Subject::Storm => storm::measure(&peers)?,
        Subject::Failing => failing::measure(&peers)?,
        Subject::Rpc => rpc::measure(arguments.peers)?,
        Subject::Crowd => crowd::measure()?,
        Subject::Soak => soak::measure()?,
        Subject::Idle => idle::measure(&peers)?,
        Subject::Memory => memory::measure()?,
        Subject::Monitors => monitors::measure()?,
        Subject::Diagnostics => diagnostics::measure()?,
    };
    print(&report, arguments.json)?;
    Ok(if arguments.check && !report.is_met() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn print(report: &Report, json: bool) -> Result<()> {
    if json {
        println!("{}", serde_json::to_string_pretty(&report.to_json())?);
    } else {
        print!("{report}");
    }
    Ok(())
}

/// A subcommand of this program, to be started in `dir`. It ends with its standard input, so that nothing is left
/// when the measuring is interrupted.
fn own(dir: &Dir, subcommand: &str) -> Result<Launch> {
    Ok(dir.command(std::env::current_exe()?).arg(subcommand).with_input())
}

/// Has a program that [`own`] started end with its standard input.
fn end_with_input() {
    thread::spawn(|| {
        // What arrives is of no interest, and an error is an end as well.
        let _ = io::stdin().read_to_end(&mut Vec::new());
        process::exit(0);
    });
}

/// Connects to a program as soon as it listens.
fn wait_for_listener(program: &mut Program, socket: &Path) -> Result<UnixStream> {
    Ok(program.wait_for("the socket to be served", START_LIMIT, || Ok(UnixStream::connect(socket).ok()))?)
}

/// Gives what was just started or ended the time to finish its own work.
fn settle(time: Duration) {
    thread::sleep(time);
}
