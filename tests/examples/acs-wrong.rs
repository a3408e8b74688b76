//! Workers in which something is wrong, for the tests of diagnostics: `acs-wrong SCENARIO`

#![forbid(unsafe_code)]

use std::{
    hint::black_box,
    process::ExitCode,
    sync::{Arc, Barrier, Mutex},
    thread,
    time::Duration,
};

use async_container_supervisor::{Application, BoxError, Instance, Service};

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
                _ => {}
            }
            instance.shutdown().await;
            Ok::<(), BoxError>(())
        }
    };
    Application::new("wrong").service(Service::new("worker", work).count(1).supervised()).supervisor(|it| it).run()
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

/// Keeps the only thread of the runtime, as a call does that was not meant for it.
#[inline(never)]
fn block_the_executor() {
    loop {
        thread::sleep(Duration::from_secs(1000));
    }
}
