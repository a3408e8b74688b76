//! The steps of the demo.

use std::{collections::BTreeSet, process::ExitCode};

use async_container_supervisor_tests::{Signal, Worker, proc};
use serde_json::json;

use super::{
    client::Client,
    scene::{LIMIT, Scene, WORKERS, is_alive, process_id},
    timeline::Timeline,
};
use crate::Result;

pub(super) fn run(json: bool) -> Result {
    let mut timeline = Timeline::new(json);
    let mut scene = None;
    let passed = timeline.step("start: 4 workers ready", || start(scene.insert(Scene::start()?)))
        && scene.as_mut().is_some_and(|scene| play(&mut timeline, scene))
        && timeline.step("second run, stopped gracefully", second_run);
    drop(scene);
    let ok = timeline.finish()?;
    Ok(if passed && ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn play(timeline: &mut Timeline, scene: &mut Scene) -> bool {
    timeline.step("worker killed with SIGKILL: replaced", || killed(scene))
        && timeline.step("worker hangs: caught by its health check", || hanging(scene))
        && timeline.step("worker leaks: caught by the memory monitor", || leaking(scene))
        && timeline.step("supervisor killed: back, with all workers", || supervisor_killed(scene))
        && timeline.step("SIGHUP: new generation, no connection refused", || blue_green(scene))
        && timeline.step("root killed with SIGKILL: nothing is left", || root_killed(scene))
}

fn start(scene: &mut Scene) -> Result<String> {
    let workers = scene.workers_without(&BTreeSet::new())?;
    let ready = scene.supervisor()?.ask("ready", json!({"wait": true}))?;
    if ready["ready"] != json!(true) {
        return Err(format!("registered, but not ready: {ready}").into());
    }
    Ok(format!("workers {}, root {}", pids(&workers), root(scene)?.pid))
}

fn killed(scene: &mut Scene) -> Result<String> {
    let victim = pick(scene, 0)?;
    signal(victim.pid, Signal::KILL)?;
    let (successor, reason) = scene.replaced(&victim)?;
    expect(&reason, "killed by SIGKILL")?;
    Ok(format!("{} -> {}: {reason}", victim.pid, successor.pid))
}

fn hanging(scene: &mut Scene) -> Result<String> {
    let victim = pick(scene, 1)?;
    scene.supervisor()?.forward(&victim, json!({"do": "hang"}))?;
    let (successor, reason) = scene.replaced(&victim)?;
    expect(&reason, "health check")?;
    Ok(format!("{} -> {}: {reason}", victim.pid, successor.pid))
}

fn leaking(scene: &mut Scene) -> Result<String> {
    let victim = pick(scene, 2)?;
    scene.supervisor()?.forward(&victim, json!({"do": "leak"}))?;
    let (successor, reason) = scene.replaced(&victim)?;
    expect(&reason, "memory limit")?;
    Ok(format!("{} -> {}: {reason}", victim.pid, successor.pid))
}

fn supervisor_killed(scene: &mut Scene) -> Result<String> {
    let before = pids_of(&scene.workers_without(&BTreeSet::new())?);
    let victim = process_id(&scene.supervisor()?.ask("ping", json!({}))?)?;
    signal(victim, Signal::KILL)?;
    let after = pids_of(&scene.workers_without(&BTreeSet::new())?);
    let successor = process_id(&scene.supervisor()?.ask("ping", json!({}))?)?;
    if successor == victim || is_alive(victim) {
        return Err("the supervisor that was killed still answers".into());
    }
    if before != after {
        return Err(format!("the workers are others than before: {before:?}, {after:?}").into());
    }
    Ok(format!("{victim} -> {successor}, the same {WORKERS} workers"))
}

fn blue_green(scene: &mut Scene) -> Result<String> {
    let before = pids_of(&scene.workers_without(&BTreeSet::new())?);
    let root_before = root(scene)?.pid;
    let client = Client::start(&scene.address);
    scene.supervisor()?.ask("restart", json!({"signal": "HUP"}))?;
    let after = scene.workers_without(&before);
    let gone = after.and_then(|after| {
        scene.program.wait_for("the old workers to end", LIMIT, || {
            Ok((!before.iter().any(|pid| is_alive(*pid))).then_some(()))
        })?;
        Ok(after)
    });
    let tally = client.stop();
    let after = gone?;
    if tally.refused > 0 || !tally.broken.is_empty() {
        let broken = tally.broken.first().map_or("", String::as_str);
        return Err(format!("{} refused, {} broken ({broken})", tally.refused, tally.broken.len()).into());
    }
    if root(scene)?.pid != root_before {
        return Err("the root is another one".into());
    }
    Ok(format!("workers {}, {} connections answered, 0 refused", pids(&after), tally.answered))
}

fn root_killed(scene: &mut Scene) -> Result<String> {
    let processes = scene.processes()?;
    root(scene)?.signal(Signal::KILL)?;
    let status = scene.program.wait(LIMIT)?;
    scene.nothing_left()?;
    Ok(format!("{processes} processes gone, {status}"))
}

fn second_run() -> Result<String> {
    let mut scene = Scene::start()?;
    scene.workers_without(&BTreeSet::new())?;
    scene.program.signal(Signal::INT)?;
    let status = scene.program.wait(LIMIT)?;
    if !status.success() {
        return Err(format!("it ended with {status}").into());
    }
    scene.nothing_left()?;
    Ok(format!("{status}, nothing left"))
}

fn pick(scene: &mut Scene, index: usize) -> Result<Worker> {
    let workers = scene.workers_without(&BTreeSet::new())?;
    workers.into_iter().nth(index).ok_or_else(|| "there are too few workers".into())
}

/// The root is what all workers and the supervisor are children of.
fn root(scene: &Scene) -> Result<proc::Process> {
    let everybody = scene.program.descendants()?;
    let parent = everybody.iter().find(|process| process.parent == scene.program.pid());
    parent.cloned().ok_or_else(|| "there is no root".into())
}

fn signal(pid: u32, signal: Signal) -> Result<()> {
    let process = proc::process(pid).ok_or_else(|| format!("process {pid} is gone already"))?;
    process.signal(signal)?;
    Ok(())
}

fn expect(reason: &str, part: &str) -> Result<()> {
    if reason.contains(part) { Ok(()) } else { Err(format!("replaced, but for {reason:?}").into()) }
}

fn pids_of(workers: &[Worker]) -> BTreeSet<u32> {
    workers.iter().map(|worker| worker.pid).collect()
}

fn pids(workers: &[Worker]) -> String {
    workers.iter().map(|worker| worker.pid.to_string()).collect::<Vec<_>>().join(" ")
}
