//! Server and workers below a root of one's own: `cargo run --example own_root`
//!
//! Here the root is this very process, and the workers are tasks in it: any program can be asked by `acs` that serves, and
//! any can register that connects, whatever starts it. Look at it with `cargo run --bin acs -- status`; call
//! `cargo run --bin acs -- call job#2 add by=40`. Ctrl-C ends it. In the facade these are `server` and `worker`, by
//! themselves the crates `async-container-supervisor-server` and `-worker`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use async_container_supervisor::BoxError;
use async_container_supervisor::protocol::Failure;
use async_container_supervisor::server::Server;
use async_container_supervisor::worker::Worker;
use serde::Serialize;
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};

const SOCKET: &str = "supervisor.ipc";

#[derive(Serialize)]
struct State {
    instance: u32,
}

#[derive(Serialize)]
struct Total {
    total: u64,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), BoxError> {
    let _ = std::fs::remove_file(SOCKET);
    let listener = UnixListener::bind(SOCKET)?;
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let stop = async {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    };

    for instance in 1..=2 {
        let total = Arc::new(AtomicU64::new(2));
        let worker = Worker::new(SOCKET).name("job").state(&State { instance })?.operation("add", move |request| {
            let total = total.clone();
            async move {
                let by: u64 = request.require("by")?;
                Ok::<_, Failure>(Total { total: total.fetch_add(by, Ordering::Relaxed) + by })
            }
        });
        // It connects again whenever the supervisor is replaced, and keeps nothing from ending.
        tokio::spawn(worker.run(std::future::pending::<()>()));
    }

    println!("ask acs in this directory");
    Server::new().serve(listener, stop).await?;
    std::fs::remove_file(SOCKET)?;
    Ok(())
}
