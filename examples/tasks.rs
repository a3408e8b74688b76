//! Tasks that are stuck, and one that blocks its executor, to be looked at: `cargo run --example tasks`
//!
//! Then, in another terminal and the same directory:
//!
//!     acs scheduler-dump kitchen
//!
//! Tasks are spawned by `tasks::spawn`, which gives them names. The dump shows them as a tree; for each that waits, it names
//! the `await` at which it does: the waiter for a lock that the cook keeps, the cook for a delivery that nobody sends. The
//! baker is named as blocking its executor, with the thread that it keeps and the function in which it does.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use async_container_supervisor::diagnostics::tasks;
use async_container_supervisor::{Application, BoxError, Instance, Service};
use tokio::sync::{Mutex, mpsc};

fn main() -> ExitCode {
    let kitchen = Service::new("kitchen", work).count(1).supervised();
    Application::new("tasks").service(kitchen).supervisor(|supervisor| supervisor).run()
}

async fn work(instance: Instance) -> Result<(), BoxError> {
    let stove = Arc::new(Mutex::new(Stove { dishes: 0 }));
    // The sender is kept, so the receiver waits for ever.
    let (_supplier, deliveries) = mpsc::channel(1);

    let guarded = Arc::clone(&stove);
    let cook = tasks::spawn("cook", async move {
        let mut stove = guarded.lock().await;
        cook(&mut stove, deliveries).await;
    });

    for number in 1..=3 {
        let stove = Arc::clone(&stove);
        tasks::spawn(format!("waiter {number}"), async move { serve(&stove).await });
    }

    // On an executor of its own, so that this one can answer.
    let oven = tokio::runtime::Builder::new_current_thread().build()?;
    std::thread::spawn(move || oven.block_on(tasks::instrument("baker", bake())));
    instance.ready()?;

    tokio::select! {
        // In place: the work itself waits here, and the dump says so.
        _ = tasks::instrument("until the cook is done", cook) => Ok(()),
        () = instance.shutdown() => Ok(()),
    }
}

struct Stove {
    dishes: u64,
}

/// Waits for the next delivery, and keeps the stove meanwhile: that is the mistake.
async fn cook(stove: &mut Stove, mut deliveries: mpsc::Receiver<u64>) {
    while let Some(ingredients) = deliveries.recv().await {
        stove.dishes += ingredients;
    }
}

/// Waits for the stove, and so for the cook.
async fn serve(stove: &Mutex<Stove>) {
    while stove.lock().await.dishes == 0 {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Waits in a way that keeps the thread from everybody else: that is another mistake. It is `tokio::time::sleep` that
/// would let others work.
async fn bake() {
    loop {
        std::thread::sleep(Duration::from_secs(20));
        tokio::task::yield_now().await;
    }
}
