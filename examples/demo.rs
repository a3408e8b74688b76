//! The application of `cargo xtask demo`: `cargo run --example demo -- --workers 4 --listen 127.0.0.1:8080`
//!
//! Its workers echo what they receive on a socket that the root has bound. Each can be asked to hang or to leak:
//!
//! ```text
//! cargo run --bin acs -- call worker#1 hang
//! cargo run --bin acs -- call worker#2 leak
//! ```

use std::convert::Infallible;
use std::process::ExitCode;
use std::time::Duration;

use async_container_supervisor::diagnostics::memory::{Allocator, Mode};
use async_container_supervisor::monitors::{MemoryMonitor, ProcessMonitor};
use async_container_supervisor::protocol::{Failure, Operations};
use async_container_supervisor::{Application, BoxError, Instance, Service};
use clap::Parser;
use serde::Serialize;
use tokio::net::TcpStream;

const HEALTH_CHECK_TIMEOUT: Duration = Duration::from_secs(1);
// A report names functions, for which a worker reads what the compiler wrote down about all of them: 100 MB here, unless it was
// built with --release.
const MEMORY_LIMIT: u64 = 250 << 20;
const LEAK: usize = 1 << 20;

// So that `acs memory-sample` and `acs memory-dump` can tell where it leaks.
#[global_allocator]
static ALLOCATOR: Allocator = Allocator::system().record_from_start(Mode::SAMPLED);

#[derive(Parser)]
struct Arguments {
    /// How many workers to run.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..))]
    workers: u32,

    /// Where to listen.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: String,
}

#[derive(Serialize)]
struct Accepted {
    accepted: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let worker = Service::new("worker", work)
        .count(arguments.workers)
        .health_check_timeout(HEALTH_CHECK_TIMEOUT)
        .startup_timeout(Duration::from_secs(10))
        .listen("echo", arguments.listen)
        .supervised();
    Application::new("demo")
        .service(worker)
        .worker(|_, worker| worker.operations(operations()))
        .supervisor(|supervisor| {
            supervisor
                .monitor(MemoryMonitor::new().interval(Duration::from_secs(1)).maximum_size_limit(MEMORY_LIMIT))
                .monitor(ProcessMonitor::new().interval(Duration::from_secs(5)))
        })
        .run()
}

/// What a worker can be asked to do wrong. Each is answered before it begins.
fn operations() -> Operations {
    Operations::new()
        .operation("hang", |_| async {
            tokio::spawn(async {
                tokio::time::sleep(Duration::from_millis(1)).await;
                std::thread::sleep(Duration::MAX);
            });
            Ok::<_, Failure>(Accepted { accepted: true })
        })
        .operation("leak", |_| async {
            tokio::spawn(leak());
            Ok::<_, Failure>(Accepted { accepted: true })
        })
}

async fn leak() -> Infallible {
    let mut leaked: Vec<Vec<u8>> = Vec::new();
    loop {
        leaked.push(vec![1; LEAK]);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

async fn work(instance: Instance) -> Result<(), BoxError> {
    let listener = instance.listener("echo")?;
    instance.ready()?;
    let shutdown = instance.shutdown();
    tokio::pin!(shutdown);
    let mut connections = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            connection = listener.accept() => {
                connections.spawn(echo(connection?.0));
            }
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            () = &mut shutdown => break,
        }
    }
    // Those that were accepted are served to their end; the others wait for the next generation.
    drop(listener);
    while connections.join_next().await.is_some() {}
    Ok(())
}

async fn echo(mut stream: TcpStream) -> std::io::Result<u64> {
    let (mut read, mut write) = stream.split();
    tokio::io::copy(&mut read, &mut write).await
}
