//! Echo servers that count what they do: `cargo run --example utilization -- --listen 127.0.0.1:8080`
//!
//! Talk to one of them from another terminal, and look at what they have counted, together and each:
//!
//! ```text
//! nc 127.0.0.1 8080
//! cargo run --bin acs -- status --json
//! ```
//!
//! With `--metrics 127.0.0.1:9464`, Prometheus can read them, and all else that the supervisor knows:
//! `curl http://127.0.0.1:9464/metrics`. With `--otlp http://127.0.0.1:4318`, they are pushed to OpenTelemetry.
//!
//! The numbers live in shared memory: to count costs a few nanoseconds, and the supervisor reads without asking.

use std::process::ExitCode;
use std::sync::LazyLock;
use std::time::Duration;

use async_container_supervisor::metrics::Otlp;
use async_container_supervisor::monitors::{HealthMonitor, MemoryMonitor, ProcessMonitor, UtilizationMonitor};
use async_container_supervisor::utilization::{self, Metric};
use async_container_supervisor::{Address, Application, BoxError, Instance, Service};
use clap::Parser;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

static CONNECTIONS_ACTIVE: LazyLock<Metric> = LazyLock::new(|| utilization::metric("connections_active"));
static CONNECTIONS_TOTAL: LazyLock<Metric> = LazyLock::new(|| utilization::metric("connections_total"));
static REQUESTS_TOTAL: LazyLock<Metric> = LazyLock::new(|| utilization::metric("requests_total"));

#[derive(Parser)]
struct Arguments {
    /// Where to listen.
    #[arg(long, default_value = "127.0.0.1:8080")]
    listen: String,
    /// How many servers to run.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..))]
    workers: u32,
    /// Where Prometheus may ask: `HOST:PORT`, or `unix:PATH`.
    #[arg(long)]
    metrics: Option<String>,
    /// Where numbers are pushed to by OTLP: `http://HOST:PORT`.
    #[arg(long)]
    otlp: Option<String>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let mut application = Application::new("utilization")
        .service(
            Service::new("echo", serve)
                .count(arguments.workers)
                .listen("echo", Address::from(arguments.listen.as_str()))
                .supervised(),
        )
        .supervisor(|supervisor| {
            supervisor
                .monitor(UtilizationMonitor::new().interval(Duration::from_secs(1)))
                .monitor(ProcessMonitor::new().interval(Duration::from_secs(5)))
                .monitor(HealthMonitor::new().interval(Duration::from_secs(1)))
                .monitor(MemoryMonitor::new().maximum_size_limit(500 << 20))
        });
    if let Some(address) = arguments.metrics {
        application = application.metrics(address);
    }
    if let Some(endpoint) = arguments.otlp {
        application = application.otlp(Otlp::new(endpoint));
    }
    application.run()
}

async fn serve(instance: Instance) -> Result<(), BoxError> {
    let listener = instance.listener("echo")?;
    instance.ready()?;
    loop {
        tokio::select! {
            connection = listener.accept() => {
                let (stream, _) = connection?;
                tokio::spawn(echo(stream));
            }
            () = instance.shutdown() => return Ok(()),
        }
    }
}

/// Gives every line back. However this ends, there is one connection less then.
async fn echo(stream: TcpStream) -> Result<(), BoxError> {
    CONNECTIONS_TOTAL.increment();
    let _active = CONNECTIONS_ACTIVE.track();
    let mut stream = BufReader::new(stream);
    let mut line = Vec::new();
    while stream.read_until(b'\n', &mut line).await? > 0 {
        stream.write_all(&line).await?;
        REQUESTS_TOTAL.increment();
        line.clear();
    }
    Ok(())
}
