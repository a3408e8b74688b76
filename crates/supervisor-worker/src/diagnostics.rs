//! The operations that look into the process.

mod allocator;
mod cpu;
mod delivery;
mod memory;
mod tasks;
mod threads;

use std::time::Duration;

use async_container_diagnostics::symbols::Symbols;
use async_container_protocol::{Failure, Operations, class};
use tokio::sync::oneshot;

use crate::Worker;

impl Worker {
    /// Adds the operations that look into the process: `thread_dump`, `scheduler_dump`, `cpu_profile` and their like. Those
    /// that the process cannot do answer with class `NotSupported`, and say what it takes.
    ///
    /// They show names of functions and files, and what system calls were given: who may call them is for the supervisor to
    /// say, by the role `diagnose`.
    pub fn diagnostics(self) -> Self {
        if let Some(warning) = async_container_diagnostics::memory::warning() {
            tracing::warn!("{warning}");
        }

        self.operations(operations().operation("cpu_profile", cpu::profile))
    }
}

/// All of them.
fn operations() -> Operations {
    let profile = allocator::Profile::default();
    let (start, stop) = (profile.clone(), profile);
    let mut operations = Operations::new()
        .operation("thread_dump", threads::dump)
        .operation("scheduler_dump", tasks::dump)
        .operation("memory_sample", memory::sample)
        .streaming("memory_dump", memory::dump);

    // The second names are those of the original, for which it is garbage that is profiled.
    for (start_name, stop_name) in
        [("allocator_profile_start", "allocator_profile_stop"), ("garbage_profile_start", "garbage_profile_stop")]
    {
        let (start, stop) = (start.clone(), stop.clone());
        operations = operations
            .operation(start_name, move |request| start.clone().start(request))
            .operation(stop_name, move |request| stop.clone().stop(request));
    }

    operations
}

/// Runs what blocks on a thread of its own: neither the runtime, nor its pool of threads, which may all be taken by what is
/// to be found out, is needed for it.
async fn apart<T: Send + 'static>(work: impl FnOnce() -> Result<T, Failure> + Send + 'static) -> Result<T, Failure> {
    let (sender, result) = oneshot::channel();
    let thread = std::thread::Builder::new().name("diagnostics".to_owned()).spawn(move || {
        let result = work();
        // What was read of the program takes more memory than many a worker does, and may be what a limit of it does not allow.
        // What was found by it stays.
        Symbols::shared().release(Duration::ZERO);
        // Nobody waits any more if the call was cancelled.
        let _ = sender.send(result);
    });
    // Where a worker has as many threads and processes as it may have, it is looked at for that reason.
    drop(thread.map_err(|error| {
        let message =
            "there can be no thread to look with, as if a limit of threads were reached (`pids.max`, `ulimit -u`)";
        Failure::new(class::INTERNAL, format!("{message}: {error}"))
    })?);
    let result = result.await;
    result.unwrap_or_else(|_| Err(Failure::new(class::INTERNAL, "the diagnostic panicked")))
}
