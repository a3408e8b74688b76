//! What monitors cost.

use std::{
    fs, thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use async_container_protocol::Client;
use async_container_supervisor_tests::{Dir, Supervisor};
use serde_json::{Value, json};

use super::{
    START_LIMIT,
    report::{Report, Row, Target, Unit},
    utilization,
};
use crate::Result;

/// The program that is measured.
pub(super) const PROGRAM: &str = "acs-watched";

const WORKERS: usize = 1000;

/// How long everything may take to be there: each worker is a process.
const READY_LIMIT: Duration = Duration::from_secs(90);

/// How long the supervisor is watched.
const WATCHED: Duration = Duration::from_secs(10);

/// Checks begin at each full second. What is asked for from then on for so long meets them.
const SWEEP: Duration = Duration::from_millis(60);

/// In milliseconds.
const SWEEP_TIME: f64 = 5.0;

/// Of each second, in milliseconds: 3 % of a core.
const SHARE: f64 = 30.0;

pub(super) fn measure() -> Result<Report> {
    let mut report = Report::new(
        "monitors",
        format!("what monitors cost, and what it costs to be watched; with {WORKERS} idle processes"),
    );
    sweep(&mut report)?;
    supervisor(&mut report)?;
    utilization::rows(&mut report)?;
    Ok(report)
}

/// A check of each monitor by itself.
fn sweep(report: &mut Report) -> Result<()> {
    let dir = Dir::new()?;
    let mut program = dir.example(PROGRAM)?.args(["sweep", &WORKERS.to_string()]).start()?;
    if !program.wait(READY_LIMIT)?.success() {
        return Err(format!("{PROGRAM} failed: {}", program.stderr()).into());
    }
    let measured: Value = serde_json::from_str(&program.stdout())?;
    let mut row = |what: &str, name: &str, target| -> Result<()> {
        let nanoseconds = measured[name].as_f64().ok_or_else(|| format!("{PROGRAM} did not measure {name}"))?;
        let what = format!("processor time of {what}");
        report.row(Row { what, unit: Unit::Milliseconds, floor: None, ours: nanoseconds / 1e6, target });
        Ok(())
    };
    row("a check of MemoryMonitor, default rules", "memory_default", Some(Target::Below(SWEEP_TIME)))?;
    row("a check of MemoryMonitor, all rules", "memory_all_rules", Some(Target::Below(SWEEP_TIME)))?;
    row("a check of ProcessMonitor", "process", None)
}

/// A supervisor with all of them.
fn supervisor(report: &mut Report) -> Result<()> {
    let floor = bare_loop()?;
    let dir = Dir::new()?;
    let mut program = dir.example(PROGRAM)?.args(["serve", &WORKERS.to_string()]).start()?;
    let mut supervisor = Supervisor::of(&mut program, &dir.socket(), START_LIMIT)?;
    supervisor.wait_for_workers("all workers", READY_LIMIT, |workers| workers.len() == WORKERS)?;
    let process_id = supervisor.ask("ping", json!({}))?["process_id"].as_u64().ok_or("no process id")?;
    drop(supervisor);
    thread::sleep(Duration::from_secs(3));

    let before = ticks(process_id)?;
    thread::sleep(WATCHED);
    let used = (ticks(process_id)? - before) as f64 / rustix::param::clock_ticks_per_second() as f64;
    report.row(Row {
        what:
            "processor time a second of a supervisor with four monitors at 1 s, beside a bare loop that asks and reads"
                .to_owned(),
        unit: Unit::Milliseconds,
        floor: Some(floor),
        ours: 1e3 * used / WATCHED.as_secs_f64(),
        target: Some(Target::Below(SHARE)),
    });

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut outside, mut during) = runtime.block_on(ask(&dir))?;
    for times in [&mut outside, &mut during] {
        times.sort();
    }
    let worst = |times: &[Duration]| times[(times.len() - 1) * 99 / 100].as_secs_f64() * 1e3;
    report.row(Row {
        what: format!(
            "p99 of status during a sweep ({} calls), beside that of others ({})",
            during.len(),
            outside.len()
        ),
        unit: Unit::Milliseconds,
        floor: Some(worst(&outside)),
        ours: worst(&during),
        target: Some(Target::Ratio(1.2)),
    });
    Ok(())
}

/// What the kernel takes for that much, in milliseconds a second: to have each process answer twenty bytes, and to read two files of it,
/// once a second.
fn bare_loop() -> Result<f64> {
    let dir = Dir::new()?;
    let mut program = dir.example(PROGRAM)?.args(["floor", &WORKERS.to_string()]).start()?;
    if !program.wait(READY_LIMIT)?.success() {
        return Err(format!("{PROGRAM} failed: {}", program.stderr()).into());
    }
    let measured: Value = serde_json::from_str(&program.stdout())?;
    let nanoseconds = |name: &str| measured[name].as_f64().ok_or_else(|| format!("{PROGRAM} did not measure {name}"));
    Ok((nanoseconds("asking")? + nanoseconds("reading")?) / 1e6)
}

/// Asks for the status, again and again. Gives the times of calls outside of sweeps, and of those that met one.
async fn ask(dir: &Dir) -> Result<(Vec<Duration>, Vec<Duration>)> {
    let client = Client::connect(dir.socket()).await?;
    let (mut outside, mut during) = (Vec::new(), Vec::new());
    let start = Instant::now();
    while start.elapsed() < 2 * WATCHED {
        let phase = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().subsec_nanos();
        let (phase_before, begin) = (phase(), Instant::now());
        client.call("status", &()).await?;
        let time = begin.elapsed();
        let phase_after = phase();
        let meets = Duration::from_nanos(phase_before.into()) < SWEEP || phase_after < phase_before;
        if meets { &mut during } else { &mut outside }.push(time);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Ok((outside, during))
}

/// The processor time of a process so far, in clock ticks.
fn ticks(process_id: u64) -> Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{process_id}/stat"))?;
    let fields: Vec<&str> = stat[stat.rfind(')').ok_or("no name")?..].split_ascii_whitespace().collect();
    Ok(fields[12].parse::<u64>()? + fields[13].parse::<u64>()?)
}
