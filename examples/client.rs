//! The client alone: what `acs` does, from code: `cargo run --example client`, beside one of the other examples
//!
//! It prints what the root says of its children, and where the threads of the first worker are. In the facade it is `client`,
//! by itself the crate `async-container-supervisor-client`.

use async_container_supervisor::BoxError;
use async_container_supervisor::client::{Diagnostic, Supervisor};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), BoxError> {
    let supervisor = Supervisor::connect("supervisor.ipc").await?;
    let root = supervisor.root().await?;
    println!("root {} is {}", root.process_id, if root.ready { "ready" } else { "not ready" });

    for child in &root.children {
        let exit = child.last_exit.as_deref().unwrap_or("it has not ended yet");
        println!("{} is {}, started again {} times: {exit}", child.name, child.state, child.restarts);
    }

    let workers = supervisor.workers().await?;
    let Some(worker) = workers.first() else {
        println!("no workers are connected");
        return Ok(());
    };
    let mut report = supervisor.diagnose(worker, &Diagnostic::thread_dump());

    while let Some(piece) = report.next().await? {
        print!("{}", String::from_utf8_lossy(&piece));
    }

    Ok(())
}
