//! Workers in which something is wrong, for the tests of diagnostics: `acs-wrong SCENARIO`

#![forbid(unsafe_code)]

use std::{
    hint::black_box,
    process::ExitCode,
    sync::{Arc, Barrier, Mutex},
    thread,
    time::Duration,
};

use async_container_supervisor::{Application, BoxError, Instance, Service, diagnostics::tasks};

fn main() -> ExitCode {
    let scenario = std::env::args().nth(1).unwrap_or_default();
    let work = move |instance: Instance| {
        let scenario = scenario.clone();
        async move {
            instance.ready()?;
            // What goes wrong, goes wrong when it has been registered: the tests wait for that.
            tokio::time::sleep(Duration::from_millis(300)).await;
            match scenario.as_str() {
                "deadlock" => deadlock(),
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
    let service = Service::new("worker", work).count(1).supervised();
    Application::new("wrong").service(service).supervisor(|it| it).run()
}

/// Two threads that wait for each other, for ever.
fn deadlock() {
    let (accounts, ledger) = (Arc::new(Mutex::new(1)), Arc::new(Mutex::new(2)));
    let both = Arc::new(Barrier::new(2));
    let (its_accounts, its_ledger, its_both) = (accounts.clone(), ledger.clone(), both.clone());
    thread::spawn(move || transfer_to_ledger(&its_accounts, &its_ledger, &its_both));
    thread::spawn(move || transfer_to_accounts(&accounts, &ledger, &both));
}

#[inline(never)]
fn transfer_to_ledger(accounts: &Mutex<u64>, ledger: &Mutex<u64>, both: &Barrier) {
    let from = accounts.lock();
    both.wait();
    let to = ledger.lock();
    black_box((from, to)).0.ok();
}

#[inline(never)]
fn transfer_to_accounts(accounts: &Mutex<u64>, ledger: &Mutex<u64>, both: &Barrier) {
    let from = ledger.lock();
    both.wait();
    let to = accounts.lock();
    black_box((from, to)).0.ok();
}

#[inline(never)]
fn spin_without_end() {
    loop {
        std::hint::spin_loop();
    }
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

/// Keeps the only thread of the runtime, as a call does that was not meant for it.
#[inline(never)]
fn block_the_executor() {
    loop {
        thread::sleep(Duration::from_secs(1000));
    }
}
