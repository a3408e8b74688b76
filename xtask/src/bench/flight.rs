//! Many calls at once: on one connection, and on a thousand.

use std::{
    io,
    path::{Path, PathBuf},
    process,
    time::{Duration, Instant},
};

use async_container_protocol::{Client, Driver, Operations, Request, Settings, Side, Socket};
use async_container_supervisor_tests::{Dir, Program};
use serde::Serialize;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{UnixListener, UnixStream},
};

use super::{
    hops::{self, Places},
    own,
    report::{Report, Row, Target, Unit, percentile},
    wait_for_listener, ways,
};
use crate::Result;

/// The length of a call, and of its answer. What the raw echo sends is as long.
pub(super) const MESSAGE: usize = 60;

/// What is left of it for the one parameter, when the rest is written.
const TEXT: usize = 34;

pub(super) const IN_FLIGHT: usize = 64;
const CONNECTIONS: usize = 1000;

/// The calls of one round, and how many rounds there are of each kind, in turn.
const CALLS: usize = 100_000;
const ROUNDS: usize = 5;

const FLIGHT_RATIO: f64 = 0.35;
const CONNECTIONS_RATIO: f64 = 0.6;
const TARPC_RATIO: f64 = 5.0;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The path to listen on for calls
    #[arg(long)]
    socket: PathBuf,
    /// The path to listen on for bytes
    #[arg(long)]
    raw: PathBuf,
}

/// Serves both until standard input ends.
pub(crate) fn run(arguments: &Arguments) -> Result {
    super::end_with_input();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let raw = UnixListener::bind(&arguments.raw)?;
        let calls = UnixListener::bind(&arguments.socket)?;
        let operations = Operations::new()
            .immediate("echo", |request: &Request| Ok(request.fields().clone()))
            .streaming("part", |request, responder| async move {
                if responder.send_fields(request.fields()).await.is_ok() {
                    responder.finish(&());
                }
            });
        let operations = std::sync::Arc::new(operations);
        loop {
            tokio::select! {
                stream = calls.accept() => {
                    let (_, driver) = Driver::new(Socket::from(stream?.0), Side::Accepted, operations.clone(), Settings::default());
                    driver.spawn();
                }
                stream = raw.accept() => drop(tokio::spawn(echo(stream?.0))),
            }
        }
    })
}

/// Writes whatever it reads.
async fn echo(mut stream: UnixStream) {
    let mut room = vec![0; 64 << 10];
    while let Ok(length @ 1..) = stream.read(&mut room).await {
        if stream.write_all(&room[..length]).await.is_err() {
            return;
        }
    }
}

#[derive(Serialize)]
pub(super) struct Echo {
    text: String,
}

impl Echo {
    pub(super) fn new() -> Self {
        Self { text: "x".repeat(TEXT) }
    }
}

/// Adds what is measured here to the report.
pub(super) fn measure(report: &mut Report, dir: &Dir, supervisor: &Path, worker: &str, with_peers: bool) -> Result<()> {
    let (socket, raw) = (dir.file("calls"), dir.file("raw"));
    let mut server = own(dir, "calls")?.arg("--socket").arg(&socket).arg("--raw").arg(&raw).start()?;
    wait_for_listener(&mut server, &socket)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;

    let mut times: [Vec<Duration>; 4] = Default::default();
    let mut tarpc = if with_peers { Some(Tarpc::start(dir)?) } else { None };
    for _ in 0..ROUNDS {
        if let Some(tarpc) = &mut tarpc {
            tarpc.round()?;
        }
        let [flight_raw, flight, many_raw, many] = &mut times;
        flight_raw.push(runtime.block_on(windowed(&raw))?);
        flight.push(runtime.block_on(calls(&socket, 1, IN_FLIGHT))?);
        many_raw.push(runtime.block_on(raw_connections(&raw))?);
        many.push(runtime.block_on(calls(&socket, CONNECTIONS, CONNECTIONS))?);
    }
    let [flight_raw, flight, many_raw, many] = times.map(|mut times| {
        times.sort();
        CALLS as f64 / percentile(&times, 0.5).as_secs_f64()
    });
    for (what, floor, ours, ratio) in [
        (format!("calls a second, {IN_FLIGHT} in flight"), flight_raw, flight, FLIGHT_RATIO),
        (format!("calls a second, {CONNECTIONS} connections"), many_raw, many, CONNECTIONS_RATIO),
    ] {
        let target = Some(Target::AtLeastRatio(ratio));
        report.row(Row { what, unit: Unit::Thousands, floor: Some(floor / 1e3), ours: ours / 1e3, target });
    }

    if let Some(mut tarpc) = tarpc {
        report.row(Row {
            what: format!("calls a second, {IN_FLIGHT} in flight, tarpc"),
            unit: Unit::Thousands,
            floor: Some(tarpc.calls_a_second() / 1e3),
            ours: flight / 1e3,
            target: Some(Target::AtLeastRatio(TARPC_RATIO)),
        });
    }

    ways::measure(report, &runtime, &socket)?;
    let places = Places { calls: socket, raw, supervisor: supervisor.to_owned(), worker: worker.to_owned() };
    hops::measure(report, dir, &places)
}

/// The same calls, in the same encoding and over a Unix socket, by tarpc: `xtask/peers`.
struct Tarpc {
    program: PathBuf,
    socket: PathBuf,
    times: Vec<Duration>,
    _server: Program,
}

impl Tarpc {
    fn start(dir: &Dir) -> Result<Self> {
        let (program, socket) = (super::peers_of_calls()?, dir.file("tarpc"));
        let mut server = dir.command(&program).arg("server").arg(&socket).with_input().start()?;
        wait_for_listener(&mut server, &socket)?;
        Ok(Self { program, socket, times: Vec::new(), _server: server })
    }

    fn round(&mut self) -> Result<()> {
        let mut client = process::Command::new(&self.program);
        client.arg("client").arg(&self.socket).args([CALLS.to_string(), IN_FLIGHT.to_string()]);
        let output = client.stderr(process::Stdio::inherit()).output()?;
        if !output.status.success() {
            return Err(format!("the client of tarpc ended with {}", output.status).into());
        }
        let seconds: f64 = String::from_utf8(output.stdout)?.trim().parse()?;
        self.times.push(Duration::from_secs_f64(seconds));
        Ok(())
    }

    fn calls_a_second(&mut self) -> f64 {
        self.times.sort();
        CALLS as f64 / percentile(&self.times, 0.5).as_secs_f64()
    }
}

/// So many messages are on their way at any time; as many go out as come in.
async fn windowed(socket: &Path) -> Result<Duration> {
    let mut stream = UnixStream::connect(socket).await?;
    let window = vec![0; IN_FLIGHT * MESSAGE];
    let mut room = vec![0; 64 << 10];
    let begin = Instant::now();
    stream.write_all(&window).await?;
    let (mut received, mut sent) = (0, window.len());
    while received < CALLS * MESSAGE {
        let length = stream.read(&mut room).await?;
        if length == 0 {
            return Err("the echo closed the connection".into());
        }
        let before = received / MESSAGE;
        received += length;
        let more = ((received / MESSAGE - before) * MESSAGE).min(CALLS * MESSAGE - sent);
        stream.write_all(&window[..more.min(window.len())]).await?;
        sent += more;
    }
    Ok(begin.elapsed())
}

async fn raw_connections(socket: &Path) -> Result<Duration> {
    let mut streams = Vec::new();
    for _ in 0..CONNECTIONS {
        streams.push(UnixStream::connect(socket).await?);
    }
    let begin = Instant::now();
    let tasks: Vec<_> = streams
        .into_iter()
        .map(|mut stream| {
            tokio::spawn(async move {
                let request = [0; MESSAGE];
                let mut room = super::echo::room(MESSAGE);
                for _ in 0..CALLS / CONNECTIONS {
                    stream.write_all(&request).await?;
                    super::echo::receive(&mut stream, &mut room, MESSAGE).await?;
                }
                Ok::<_, io::Error>(())
            })
        })
        .collect();
    for task in tasks {
        task.await??;
    }
    Ok(begin.elapsed())
}

/// All calls, by so many tasks on so many connections.
async fn calls(socket: &Path, connections: usize, tasks: usize) -> Result<Duration> {
    let mut clients = Vec::new();
    for _ in 0..connections {
        let client = Client::connect(socket).await?;
        client.call("echo", &Echo::new()).await?;
        clients.push(client);
    }
    let begin = Instant::now();
    let tasks: Vec<_> = (0..tasks)
        .map(|task| {
            let client = clients[task % connections].clone();
            tokio::spawn(async move {
                let parameters = Echo::new();
                for _ in 0..CALLS / tasks {
                    client.call("echo", &parameters).finish().await?;
                }
                Ok::<_, async_container_protocol::CallError>(())
            })
        })
        .collect();
    for task in tasks {
        task.await??;
    }
    Ok(begin.elapsed())
}
