//! A web service that is replaced without losing a request: `cargo run --example web -- --listen 127.0.0.1:8080`
//!
//! The root binds the address once, by the name `http`, and every worker of every generation accepts from it. Try it:
//!
//! ```text
//! curl http://127.0.0.1:8080/            # which worker answers, and of which process
//! curl http://127.0.0.1:8080/slow        # takes two seconds
//! cargo run --bin acs -- reload --wait   # new workers beside the old ones; no request is refused or cut off
//! cargo run --bin acs -- top
//! ```
//!
//! Ctrl-C, or SIGTERM as Kubernetes sends it, drains: requests that are under way are answered, new ones are not taken.
//!
//! `axum::serve` has a graceful shutdown too, but it closes connections that were accepted and on which nothing has come
//! yet, be it the moment before the request does: at each reload some client is cut off. So connections are accepted here.

use std::process::ExitCode;
use std::time::Duration;

use async_container_supervisor::monitors::MemoryMonitor;
use async_container_supervisor::{Application, BoxError, Instance, Service};
use axum::{Router, extract::State, routing::get};
use clap::Parser;
use hyper::server::conn::http1;
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// How long a client may take, once it is connected, until it asks for something.
const FIRST_REQUEST: Duration = Duration::from_secs(5);

#[derive(Parser)]
struct Arguments {
    /// Where to listen.
    #[arg(long, default_value = "127.0.0.1:8080")]
    listen: String,
    /// How many workers to run.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..))]
    workers: u32,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    Application::new("web")
        .service(
            Service::new("web", serve)
                .count(arguments.workers)
                .listen("http", arguments.listen.as_str())
                .health_check_timeout(Duration::from_secs(30))
                .graceful_stop(Duration::from_secs(20))
                .supervised(),
        )
        .supervisor(|supervisor| supervisor.monitor(MemoryMonitor::new().maximum_size_limit(500 << 20)))
        .run()
}

async fn serve(instance: Instance) -> Result<(), BoxError> {
    let listener = instance.listener("http")?;
    let router = Router::new().route("/", get(hello)).route("/slow", get(slow)).with_state(instance.clone());
    instance.ready()?;
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(answer(stream, router.clone(), instance.clone()));
                }
                // Such as too many open files, which passes when others are closed.
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
            Some(_) = connections.join_next() => {}
            () = instance.shutdown() => break,
        }
    }
    // What is under way is finished.
    while connections.join_next().await.is_some() {}
    Ok(())
}

/// Answers what is asked on a connection; once the worker is to end, what was asked before, and no more.
async fn answer(stream: TcpStream, router: Router, instance: Instance) {
    // A stream that was just accepted counts as readable, whether it is or not. What is looked at stays to be read.
    if !matches!(timeout(FIRST_REQUEST, stream.peek(&mut [0])).await, Ok(Ok(1))) {
        return;
    }
    let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut connection = std::pin::pin!(connection);
    let result = tokio::select! {
        // The request is read before it is said to be the last one.
        biased;
        result = connection.as_mut() => result,
        () = instance.shutdown() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "a connection was lost");
    }
}

async fn hello(State(instance): State<Instance>) -> String {
    format!("hello from {}, process {}\n", instance.name(), std::process::id())
}

async fn slow(State(instance): State<Instance>) -> String {
    tokio::time::sleep(Duration::from_secs(2)).await;
    hello(State(instance)).await
}
