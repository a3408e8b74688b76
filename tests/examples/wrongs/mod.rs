//! What can go wrong in a worker, in functions of which dumps have to give the names.

use std::{
    hint::black_box,
    sync::{Arc, Barrier, Mutex},
    thread,
    time::Duration,
};

/// What two threads are to do that wait for each other then, for ever.
pub fn deadlock() -> (impl FnOnce() + Send, impl FnOnce() + Send) {
    let (accounts, ledger) = (Arc::new(Mutex::new(1)), Arc::new(Mutex::new(2)));
    let both = Arc::new(Barrier::new(2));
    let (its_accounts, its_ledger, its_both) = (accounts.clone(), ledger.clone(), both.clone());
    (
        move || transfer_to_ledger(&its_accounts, &its_ledger, &its_both),
        move || transfer_to_accounts(&accounts, &ledger, &both),
    )
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
pub fn spin_without_end() {
    loop {
        std::hint::spin_loop();
    }
}

/// Keeps the only thread of a runtime, as a call does that was not meant for it.
#[inline(never)]
pub fn block_the_executor() {
    loop {
        thread::sleep(Duration::from_secs(1000));
    }
}
