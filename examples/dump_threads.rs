//! Diagnostics alone, of this very process: `cargo run --example dump_threads`
//!
//! Says what each of its threads is doing, one of which waits for a lock that is never let go. In the facade it is
//! `diagnostics`, by itself the crate `async-container-diagnostics`. Through a supervisor, `acs thread-dump` shows the same of
//! any worker.

use std::sync::{Arc, Barrier, Mutex};
use std::time::Duration;

use async_container_supervisor::BoxError;
use async_container_supervisor::diagnostics::threads::ThreadDump;

fn main() -> Result<(), BoxError> {
    let lock = Arc::new(Mutex::new(()));
    let held = lock.lock().map_err(|_| "the lock is poisoned")?;
    let started = Arc::new(Barrier::new(2));
    let (theirs, there) = (lock.clone(), started.clone());
    std::thread::Builder::new().name("stuck".to_owned()).spawn(move || {
        there.wait();
        wait_for_ever(&theirs);
    })?;
    started.wait();
    // It is on its way to the lock. Nothing tells when it waits there.
    std::thread::sleep(Duration::from_millis(100));
    println!("{}", ThreadDump::take()?);
    drop(held);
    Ok(())
}

#[inline(never)]
fn wait_for_ever(lock: &Mutex<()>) {
    drop(lock.lock());
}
