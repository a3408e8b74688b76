//! The application, left running to play with.

use std::{collections::BTreeSet, process::ExitCode};

use async_container_supervisor_tests::{Signal, binary};

use super::scene::{LIMIT, Scene};
use crate::Result;

pub(super) fn run() -> Result {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut scene = Scene::start()?;
    scene.workers_without(&BTreeSet::new())?;
    let acs = format!("{} --socket {}", binary("acs")?.display(), scene.dir.socket().display());
    println!("The application runs, as process {}, in {}.", scene.program.pid(), scene.dir.path().display());
    println!("Its workers echo what they receive at {}.\n", scene.address);
    println!("Try:");
    for (command, effect) in [
        ("status", "everything at a glance"),
        ("workers", "the workers alone"),
        ("call worker#1 hang", "is killed by its health check within a second or so"),
        ("call worker#2 leak", "is replaced by the memory monitor"),
        ("reload --wait", "new workers beside the old ones, then the old ones go"),
    ] {
        println!("  {acs} {command:<20} # {effect}");
    }
    println!("\nIts log is {}.", scene.dir.file("demo-1.stderr").display());
    println!("Interrupt this with Ctrl-C to stop it.");
    runtime.block_on(interrupted())?;
    println!("\nstopping");
    scene.program.signal(Signal::INT)?;
    let status = scene.program.wait(LIMIT)?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn interrupted() -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(())
}
