//! Five thousand workers lose their supervisor, and are back.
//!
//! They are real connections of a few processes, that register, and come back, as the crate for workers does it.

use std::{
    path::PathBuf,
    process,
    time::{Duration, Instant},
};

use async_container_protocol::Client;
use async_container_supervisor_tests::{Dir, Program, Signal, Supervisor, proc};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{
    START_LIMIT, own,
    report::{Report, Row, Target, Unit, megabytes, milliseconds, percentile},
    settle,
};
use crate::Result;

const PROCESSES: usize = 5;
const CONNECTIONS: usize = 1000;
const ALL: usize = PROCESSES * CONNECTIONS;

/// How often the supervisor is killed.
const ROUNDS: usize = 5;

/// In milliseconds.
const BACK: f64 = 1000.0;
const STATUS: f64 = 50.0;

/// What an idle connection of a worker may cost the supervisor, in megabytes.
const CONNECTION_MEMORY: f64 = 8192.0 / 1e6;

/// How long all of this may take before the measuring gives up.
const LIMIT: Duration = Duration::from_secs(60);

/// The pauses between attempts to connect, as the crate for workers has them: none at first, then a random part of a span
/// that doubles.
const SPAN: Duration = Duration::from_millis(50);
const SPAN_LIMIT: Duration = Duration::from_secs(1);

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The socket of the supervisor
    #[arg(long)]
    socket: PathBuf,
    /// How many workers to be
    #[arg(long)]
    count: usize,
}

#[derive(Serialize)]
struct Register {
    state: State,
}

#[derive(Clone, Serialize)]
struct State {
    process_id: u32,
    name: &'static str,
    instance: usize,
    instance_id: String,
}

/// Is so many workers until standard input ends.
pub(crate) fn run(arguments: &Arguments) -> Result {
    super::end_with_input();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let workers: Vec<_> =
            (1..=arguments.count).map(|instance| tokio::spawn(worker(arguments.socket.clone(), instance))).collect();
        for worker in workers {
            worker.await?;
        }
        Ok(process::ExitCode::SUCCESS)
    })
}

async fn worker(socket: PathBuf, instance: usize) {
    let instance_id = format!("00000000-0000-4000-8000-{instance:012}");
    let state = State { process_id: process::id(), name: "worker", instance, instance_id };
    let mut random = (instance as u64 * 0x9e37_79b9_7f4a_7c15) ^ u64::from(process::id());
    let mut attempts = 0;
    loop {
        if let Ok(client) = Client::connect(&socket).await
            && client.call("register", &Register { state: state.clone() }).await.is_ok()
        {
            attempts = 0;
            client.closed().await;
        }
        if attempts > 0 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let span = (SPAN * (1 << (attempts - 1).min(8))).min(SPAN_LIMIT);
            tokio::time::sleep(span.mul_f64((random >> 11) as f64 / (1u64 << 53) as f64)).await;
        }
        attempts += 1;
    }
}

pub(super) fn measure() -> Result<Report> {
    let dir = Dir::new()?;
    let mut program = dir.example("simple")?.args(["--workers", "1"]).start()?;
    let socket = dir.socket();
    let mut supervisor = Supervisor::of(&mut program, &socket, START_LIMIT)?;
    supervisor.wait_for_workers("the worker", START_LIMIT, |workers| workers.len() == 1)?;
    settle(Duration::from_millis(500));
    let pid = supervisor_pid(&mut supervisor)?;
    let before = proc::proportional_set_size(pid)?;

    let crowd: Vec<Program> = (0..PROCESSES)
        .map(|_| {
            let launch = own(&dir, "crowd")?.arg("--socket").arg(&socket);
            Ok(launch.args(["--count", &CONNECTIONS.to_string()]).start()?)
        })
        .collect::<Result<_>>()?;
    supervisor.wait_for_workers("all workers", LIMIT, |workers| workers.len() > ALL)?;
    drop(supervisor);
    // What `status` took is given back, and its answer is not kept for whom nobody counts.
    settle(Duration::from_secs(1));
    let memory = proc::proportional_set_size(pid)?.saturating_sub(before);

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut back = Vec::new();
    let mut answers = Vec::new();
    let mut old = pid;
    for _ in 0..ROUNDS {
        let killed = proc::process(old).ok_or("the supervisor is gone")?.signal(Signal::KILL)?;
        if !killed {
            return Err("the supervisor was gone already".into());
        }
        let round = runtime.block_on(async { tokio::time::timeout(LIMIT, round(&socket, old)).await })??;
        old = round.pid;
        back.push(round.back);
        answers.extend(round.answers);
        settle(Duration::from_secs(2));
    }
    drop(crowd);
    back.sort();
    answers.sort();

    let mut report = Report::new(
        "crowd",
        format!(
            "{ALL} workers in {PROCESSES} processes, whose supervisor is killed {ROUNDS} times; time counts from when \
             the next one serves the socket, and is that until a `status` has been answered that has them all; \
             {} calls of `status` meanwhile, one after the other",
            answers.len()
        ),
    );
    let median = percentile(&back, 0.5);
    for (what, time, target) in [
        ("all are back, median", median, Some(BACK)),
        ("all are back, slowest round", percentile(&back, 1.0), None),
        ("status meanwhile, p50", percentile(&answers, 0.5), None),
        ("status meanwhile, p99", percentile(&answers, 0.99), Some(STATUS)),
    ] {
        report.row(Row {
            what: what.to_owned(),
            unit: Unit::Milliseconds,
            floor: None,
            ours: milliseconds(time),
            target: target.map(Target::AtMost),
        });
    }
    report.row(Row {
        what: format!("memory of the supervisor for {ALL} idle workers"),
        unit: Unit::Megabytes,
        floor: None,
        ours: megabytes(memory),
        target: Some(Target::AtMost(CONNECTION_MEMORY * ALL as f64)),
    });
    Ok(report)
}

fn supervisor_pid(supervisor: &mut Supervisor) -> Result<u32> {
    let answer: Pong = serde_json::from_value(supervisor.ask("ping", json!({}))?)?;
    Ok(answer.process_id)
}

#[derive(Deserialize)]
struct Pong {
    process_id: u32,
    uptime: f64,
}

/// What came of one time that the supervisor was killed.
struct Round {
    pid: u32,
    back: Duration,
    answers: Vec<Duration>,
}

async fn round(socket: &std::path::Path, old: u32) -> Result<Round> {
    // The one that was killed may still be there for a moment, and takes the connection with it.
    let (client, pong) = loop {
        let client = Client::connect(socket).await?;
        match client.call("ping", &()).await {
            Ok(answer) => {
                let pong: Pong = answer.deserialize()?;
                if pong.process_id != old {
                    break (client, pong);
                }
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(1)).await,
        }
    };
    let served = Instant::now() - Duration::from_secs_f64(pong.uptime);
    let mut answers = Vec::new();
    loop {
        let begin = Instant::now();
        let answer = client.call("status", &()).await?;
        let end = Instant::now();
        answers.push(end - begin);
        let connections = answer.deserialize::<Connections>()?.connections;
        if connections.len() > ALL {
            return Ok(Round { pid: pong.process_id, back: end - served, answers });
        }
        // A tool that asks in a loop leaves the supervisor some time as well.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[derive(Deserialize)]
struct Connections {
    connections: Vec<Value>,
}
