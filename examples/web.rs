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

use std::process::ExitCode;
use std::time::Duration;

use async_container_supervisor::monitors::MemoryMonitor;
use async_container_supervisor::{Application, BoxError, Instance, Service};
use axum::{Router, extract::State, routing::get};
use clap::Parser;

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
    // It stops accepting, finishes what is under way, and returns.
    axum::serve(listener, router).with_graceful_shutdown(instance.shutdown()).await?;
    Ok(())
}

async fn hello(State(instance): State<Instance>) -> String {
    format!("hello from {}, process {}\n", instance.name(), std::process::id())
}

async fn slow(State(instance): State<Instance>) -> String {
    tokio::time::sleep(Duration::from_secs(2)).await;
    hello(State(instance)).await
}
