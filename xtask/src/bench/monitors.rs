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

/// How long after somebody asked for the status nobody is taken to be asking any more. Until then monitors have an answer ready after
/// each check, and workers are asked a few at a time, so that nobody waits for them.
const KEEPS_ASKING: Duration = Duration::from_secs(10);

/// How long the supervisor is watched just after that, and while nobody asks. What it takes is decided by how long the memory takes to
/// answer, and on a host that is shared with others that changes by a third within seconds.
const WATCHED_BEFORE: Duration = Duration::from_secs(8);
const WATCHED: Duration = Duration::from_secs(30);

/// How long it is left alone before that.
const SETTLES: Duration = Duration::from_secs(2);

/// How long the status is asked for, and how often there is a sweep meanwhile, so that the slowest hundredth of the calls that meet one
/// is more than a few: of a thousand calls, it is decided by ten, and differs by a fifth from one time to the next.
const ASKED: Duration = Duration::from_secs(150);
const SWEEPS_EVERY: Duration = Duration::from_millis(200);

/// More memory than is kept close to a processor, in bytes, and so many reads of it, each of which says where the next is.
const FAR: usize = 8 << 20;
const READS: usize = 1_000_000;

/// A sweep takes less than this.
const SWEEP: Duration = Duration::from_millis(30);

/// At each tenth of a second a tenth of the workers is asked for a `ping`, in a sweep or not. So what meets a sweep, at every other tenth,
/// is laid beside what comes as soon after those between them: both have as much of that, and of what else the machine does.
const TENTH: Duration = Duration::from_millis(100);

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
    status(&mut report)?;
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
    let (floor, far) = (bare_loop()?, read_far());
    let dir = Dir::new()?;
    let mut program = dir.example(PROGRAM)?.args(["serve", &WORKERS.to_string()]).start()?;
    let mut supervisor = Supervisor::of(&mut program, &dir.socket(), START_LIMIT)?;
    supervisor.wait_for_workers("all workers", READY_LIMIT, |workers| workers.len() == WORKERS)?;
    let process_id = supervisor.ask("ping", json!({}))?["process_id"].as_u64().ok_or("no process id")?;
    drop(supervisor);
    let takes = |time: Duration| -> Result<f64> {
        thread::sleep(SETTLES);
        let before = ticks(process_id)?;
        thread::sleep(time);
        let used = (ticks(process_id)? - before) as f64 / rustix::param::clock_ticks_per_second() as f64;
        Ok(1e3 * used / time.as_secs_f64())
    };
    let ours_before = takes(WATCHED_BEFORE)?;
    thread::sleep(KEEPS_ASKING.saturating_sub(SETTLES + WATCHED_BEFORE));
    let ours = takes(WATCHED)?;
    drop(program);
    // Before and after, so that both have much the same of what the machine was like meanwhile.
    let (floor, far) = ((floor + bare_loop()?) / 2.0, (far + read_far()) / 2.0);
    report.row(Row::plain(
        format!(
            "1,000 reads of {} MiB in no order, each of which waits for the one before: how fast memory is decides what follows",
            FAR >> 20
        ),
        Unit::Microseconds,
        far,
    ));
    let what = |when: &str| format!("processor time a second of a supervisor with four monitors at 1 s, {when}");
    report.row(Row::plain(what("just after somebody asked for the status"), Unit::Milliseconds, ours_before));
    report.row(Row {
        what: what("while nobody asks, beside a bare loop that asks and reads"),
        unit: Unit::Milliseconds,
        floor: Some(floor),
        ours,
        target: Some(Target::Below(SHARE)),
    });
    Ok(())
}

/// How long who asks for the status waits for a sweep.
fn status(report: &mut Report) -> Result<()> {
    let dir = Dir::new()?;
    let interval = SWEEPS_EVERY.as_millis().to_string();
    let mut program = dir.example(PROGRAM)?.args(["serve", &WORKERS.to_string(), &interval]).start()?;
    let mut supervisor = Supervisor::of(&mut program, &dir.socket(), START_LIMIT)?;
    supervisor.wait_for_workers("all workers", READY_LIMIT, |workers| workers.len() == WORKERS)?;
    drop(supervisor);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut outside, mut during) = runtime.block_on(ask(&dir))?;
    for times in [&mut outside, &mut during] {
        times.sort();
    }
    let worst = |times: &[Duration]| times[(times.len() - 1) * 99 / 100].as_secs_f64() * 1e3;
    report.row(Row {
        what: format!(
            "p99 of status during a sweep ({} calls), beside that at tenths of a second between sweeps ({})",
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

/// What a thousand reads take that wait for each other, in microseconds.
fn read_far() -> f64 {
    const LINE: usize = 64 / size_of::<u32>();
    let lines = FAR / 64;
    let mut memory = vec![0u32; FAR / size_of::<u32>()];
    // Goes through all of them in an order that nothing fetches ahead, as a generator of random numbers does.
    for line in 0..lines {
        let next = (line * 1_664_525 + 1_013_904_223) % lines;
        memory[line * LINE] = u32::try_from(next * LINE).unwrap_or_default();
    }
    let begin = Instant::now();
    let mut at = 0;
    for _ in 0..READS {
        at = memory[at] as usize;
    }
    std::hint::black_box(at);
    begin.elapsed().as_secs_f64() * 1e6 / (READS / 1000) as f64
}

/// Asks for the status, again and again. Gives the times of calls that met a tenth of a second between sweeps, and of those that met a
/// sweep.
async fn ask(dir: &Dir) -> Result<(Vec<Duration>, Vec<Duration>)> {
    let client = Client::connect(dir.socket()).await?;
    let (mut outside, mut during) = (Vec::new(), Vec::new());
    let start = Instant::now();
    while start.elapsed() < ASKED {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let (phase, begin) = (Duration::from_nanos(wall.subsec_nanos().into()), Instant::now());
        client.call("status", &()).await?;
        let time = begin.elapsed();
        if meets(phase, time, SWEEPS_EVERY) {
            during.push(time);
        } else if meets(phase, time, TENTH) {
            outside.push(time);
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Ok((outside, during))
}

/// Whether what began at this phase, and took so long, fell into what would be the sweep if one began in each period.
fn meets(phase: Duration, time: Duration, period: Duration) -> bool {
    let phase = phase.as_nanos() % period.as_nanos();
    phase < SWEEP.as_nanos() || phase + time.as_nanos() > period.as_nanos()
}

/// The processor time of a process so far, in clock ticks. The kernel divides what it has measured to the nanosecond between the
/// program and itself by its ticks; both together are that time, however a check lies to the ticks.
fn ticks(process_id: u64) -> Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{process_id}/stat"))?;
    let fields: Vec<&str> = stat[stat.rfind(')').ok_or("no name")?..].split_ascii_whitespace().collect();
    Ok(fields[12].parse::<u64>()? + fields[13].parse::<u64>()?)
}
