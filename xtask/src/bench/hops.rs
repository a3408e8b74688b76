//! Calls that are alone on their way: to a server, and by way of something between.
//!
//! A call has two switches between processes, and one by way of another process has four, so nothing between can be had for
//! less than twice the time. How much more it is depends on the kernel: by default, whom somebody wakes may take the processor
//! from it at once, which in a chain of three adds switches that lead nowhere. So the same is measured for relays that only
//! copy bytes, and once more with processes that each run until they wait.

use std::{
    io::{Read as _, Write as _},
    os::unix::net::{UnixListener as StdListener, UnixStream as StdStream},
    path::PathBuf,
    process,
    time::{Duration, Instant},
};

use async_container_protocol::Client;
use async_container_supervisor_tests::Dir;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::{
    io::AsyncWriteExt as _,
    net::{UnixListener, UnixStream},
};

use super::{
    echo,
    flight::{Echo, MESSAGE},
    own,
    report::{Report, Row, Target, Unit, microseconds, percentile},
    wait_for_listener,
};
use crate::Result;

/// The calls of each kind in one round, and how many rounds there are, in turn.
const CALLS: usize = 4_000;
const ROUNDS: usize = 5;

const FORWARD: &str = "a forward, in place of a direct call, p50";

const CALL_RATIO: f64 = 1.2;
const FORWARD_RATIO: f64 = 2.2;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The path to listen on
    #[arg(long)]
    socket: PathBuf,
    /// The path of the echo
    #[arg(long)]
    to: PathBuf,
    /// Wait in read(2), for one peer at a time, instead of in a runtime
    #[arg(long)]
    blocking: bool,
}

/// Passes on what comes, both ways, until standard input ends.
pub(crate) fn run(arguments: &Arguments) -> Result {
    super::end_with_input();
    if arguments.blocking {
        let listener = StdListener::bind(&arguments.socket)?;
        loop {
            // Whoever only looks whether somebody listens has left before it says anything.
            let _ = relay_blocking(listener.accept()?.0, StdStream::connect(&arguments.to)?);
        }
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(async {
        let listener = UnixListener::bind(&arguments.socket)?;
        loop {
            let (stream, _) = listener.accept().await?;
            let echo = UnixStream::connect(&arguments.to).await?;
            tokio::spawn(relay(stream, echo));
        }
    })
}

/// In a task of its own, so that nothing is woken but by its sockets.
async fn relay(mut stream: UnixStream, mut echo: UnixStream) {
    let mut room = echo::room(MESSAGE);
    while echo::receive(&mut stream, &mut room, MESSAGE).await.is_ok()
        && echo.write_all(&room[..MESSAGE]).await.is_ok()
        && echo::receive(&mut echo, &mut room, MESSAGE).await.is_ok()
        && stream.write_all(&room[..MESSAGE]).await.is_ok()
    {}
}

fn relay_blocking(mut stream: StdStream, mut echo: StdStream) -> std::io::Result<()> {
    let mut message = [0; MESSAGE];
    loop {
        stream.read_exact(&mut message)?;
        echo.write_all(&message)?;
        echo.read_exact(&mut message)?;
        stream.write_all(&message)?;
    }
}

/// Whom to call: a server of calls, an echo of bytes, and a worker by way of its supervisor.
#[derive(Clone)]
pub(super) struct Places {
    pub(super) calls: PathBuf,
    pub(super) raw: PathBuf,
    pub(super) supervisor: PathBuf,
    pub(super) worker: String,
}

/// Adds what is measured here to the report.
pub(super) fn measure(report: &mut Report, dir: &Dir, places: &Places) -> Result<()> {
    let relays = [dir.file("relay"), dir.file("relay-that-blocks")];
    let _programs = relays
        .iter()
        .zip([None, Some("--blocking")])
        .map(|(socket, blocking)| {
            let launch = own(dir, "relay")?.arg("--socket").arg(socket).arg("--to").arg(&places.raw).args(blocking);
            let mut program = launch.start()?;
            wait_for_listener(&mut program, socket)?;
            Ok(program)
        })
        .collect::<Result<Vec<_>>>()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // In a task, as the calls of `rpc.rs`.
    let run = |places: Places, relays: [PathBuf; 2]| {
        runtime.block_on(async { tokio::spawn(async move { Times::take(&places, &relays).await }).await? })
    };

    let times = run(places.clone(), relays.clone())?;
    let mut row = |what: &str, (floor, ours): (&Vec<Duration>, &Vec<Duration>), target| {
        let [floor, ours] = [floor, ours].map(|times| microseconds(percentile(times, 0.5)));
        report.row(Row { what: what.to_owned(), unit: Unit::Microseconds, floor: Some(floor), ours, target });
    };
    row("one call of 60 bytes at a time, p50", (&times.echo, &times.call), Some(Target::Ratio(CALL_RATIO)));
    row(FORWARD, (&times.ping, &times.forward), Some(Target::Ratio(FORWARD_RATIO)));
    row("- a relay on tokio, in place of its echo", (&times.echo, &times.relay), None);
    row("- a relay that blocks, in place of its echo", (&times.blocking_echo, &times.blocking_relay), None);

    let processes = [process::id(), times.supervisor, times.worker];
    if schedule("--batch", &processes) {
        let times = run(places.clone(), relays);
        schedule("--other", &processes);
        let times = times?;
        row("- a forward, where nobody is pre-empted", (&times.ping, &times.forward), None);
    }
    Ok(())
}

/// Has processes run until they wait, whomever they wake, or no longer. Returns whether the program for that is there.
fn schedule(policy: &str, processes: &[u32]) -> bool {
    processes.iter().all(|pid| {
        let mut chrt = process::Command::new("chrt");
        chrt.args([policy, "--all-tasks", "--pid", "0", &pid.to_string()]);
        chrt.stdout(process::Stdio::null()).stderr(process::Stdio::null()).status().is_ok_and(|status| status.success())
    })
}

/// How long each call took, sorted.
#[derive(Default)]
struct Times {
    echo: Vec<Duration>,
    relay: Vec<Duration>,
    blocking_echo: Vec<Duration>,
    blocking_relay: Vec<Duration>,
    call: Vec<Duration>,
    ping: Vec<Duration>,
    forward: Vec<Duration>,
    supervisor: u32,
    worker: u32,
}

#[derive(Deserialize)]
struct Pong {
    process_id: u32,
}

impl Times {
    async fn take(places: &Places, [relay, blocking_relay]: &[PathBuf; 2]) -> Result<Self> {
        let mut echo = UnixStream::connect(&places.raw).await?;
        let mut relay = UnixStream::connect(relay).await?;
        let mut blocking_echo = StdStream::connect(&places.raw)?;
        let mut blocking_relay = StdStream::connect(blocking_relay)?;
        let server = Client::connect(&places.calls).await?;
        let supervisor = Client::connect(&places.supervisor).await?;
        let forward = json!({"connection_id": places.worker, "operation": {"do": "ping"}});
        let text = Echo::new();

        let mut times = Self {
            supervisor: supervisor.call("ping", &()).finish().await?.deserialize::<Pong>()?.process_id,
            worker: supervisor.call("forward", &forward).finish().await?.deserialize::<Pong>()?.process_id,
            ..Self::default()
        };
        for _ in 0..ROUNDS {
            for (stream, times) in [(&mut echo, &mut times.echo), (&mut relay, &mut times.relay)] {
                let mut room = echo::room(MESSAGE);
                for _ in 0..CALLS {
                    let begin = Instant::now();
                    stream.write_all(&[0; MESSAGE]).await?;
                    echo::receive(stream, &mut room, MESSAGE).await?;
                    times.push(begin.elapsed());
                }
            }
            for (stream, times) in
                [(&mut blocking_echo, &mut times.blocking_echo), (&mut blocking_relay, &mut times.blocking_relay)]
            {
                for _ in 0..CALLS {
                    let begin = Instant::now();
                    stream.write_all(&[0; MESSAGE])?;
                    stream.read_exact(&mut [0; MESSAGE])?;
                    times.push(begin.elapsed());
                }
            }
            calls(&server, "echo", &text, &mut times.call).await?;
            calls(&supervisor, "ping", &(), &mut times.ping).await?;
            calls(&supervisor, "forward", &forward, &mut times.forward).await?;
        }
        for times in [
            &mut times.echo,
            &mut times.relay,
            &mut times.blocking_echo,
            &mut times.blocking_relay,
            &mut times.call,
            &mut times.ping,
            &mut times.forward,
        ] {
            times.sort();
        }
        Ok(times)
    }
}

async fn calls(client: &Client, operation: &str, parameters: &impl Serialize, times: &mut Vec<Duration>) -> Result<()> {
    for _ in 0..CALLS {
        let begin = Instant::now();
        client.call(operation, parameters).finish().await?;
        times.push(begin.elapsed());
    }
    Ok(())
}
