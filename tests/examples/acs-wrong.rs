//! Workers in which something is wrong, for the tests of diagnostics: `acs-wrong SCENARIO`

#![forbid(unsafe_code)]

mod wrongs;

use std::{process::ExitCode, sync::Arc, thread, time::Duration};

use async_container_supervisor::{Application, BoxError, Instance, Service, diagnostics::tasks};

use wrongs::{block_the_executor, deadlock, spin_without_end};

fn main() -> ExitCode {
    let scenario = std::env::args().nth(1).unwrap_or_default();
    let work = move |instance: Instance| {
        let scenario = scenario.clone();
        async move {
            instance.ready()?;
            // What goes wrong, goes wrong when it has been registered: the tests wait for that.
            tokio::time::sleep(Duration::from_millis(300)).await;
            match scenario.as_str() {
                "deadlock" => {
                    let (one, other) = deadlock();
                    thread::spawn(one);
                    thread::spawn(other);
                }
                "spin" => drop(thread::Builder::new().name("spinner".to_owned()).spawn(spin_without_end)?),
                "blocked" => block_the_executor(),
                "another blocked" => block_another_executor()?,
                "stuck" => stuck().await,
                _ => {}
            }
            instance.shutdown().await;
            Ok::<(), BoxError>(())
        }
    };
    // Nothing is done about what goes wrong while it is looked at.
    let service = Service::new("worker", work).count(1).health_check_timeout(Duration::from_secs(600)).supervised();
    Application::new("wrong").service(service).supervisor(|it| it).run()
}

/// A task that waits for a lock that another one keeps.
async fn stuck() {
    let ledger = Arc::new(tokio::sync::Mutex::new(0));
    let its_ledger = ledger.clone();
    let guard = ledger.lock_owned().await;
    tasks::spawn("bookkeeper", async move { write_to_the_ledger(&its_ledger).await });
    tasks::spawn("auditor", async move {
        let _guard = guard;
        std::future::pending::<()>().await;
    });
}

async fn write_to_the_ledger(ledger: &tokio::sync::Mutex<u64>) {
    *ledger.lock().await += 1;
}

/// Blocks an executor of its own, so that the worker still answers. Of two threads of one runtime, the one that is left may be
/// asleep, with nobody to wake it.
fn block_another_executor() -> Result<(), BoxError> {
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    thread::spawn(move || runtime.block_on(tasks::instrument("blocker", async { block_the_executor() })));
    Ok(())
}
