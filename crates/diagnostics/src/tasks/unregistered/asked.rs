//! Asking tokio.

use std::{sync::mpsc, time::Duration};

use tokio::{
    runtime::{Handle, RuntimeFlavor, dump},
    task,
};

use super::{super::dump::of_the_task, Found};
use crate::{
    symbols::{Frame, Symbols},
    unwind::{Modules, Unwinder},
};

/// The tasks of a runtime that are not registered, if it answers by then.
pub(super) fn unregistered(handle: &Handle, is_registered: impl Fn(&task::Id) -> bool, deadline: Duration) -> Found {
    // Workers that wait for each other in order to be looked at wait for ever if one of them has once been late. Tokio has no
    // release yet in which that is mended (https://github.com/tokio-rs/tokio/pull/8370).
    if handle.runtime_flavor() != RuntimeFlavor::CurrentThread {
        return Err(
            "tokio's dump of a runtime of several workers can leave one of them hanging for ever, so it is taken \
                    only of runtimes of the current thread"
                .to_owned(),
        );
    }

    let (sender, answer) = mpsc::channel();
    // Such a runtime takes it from its own tasks only.
    let asking = handle.spawn(async move {
        // Nobody waits any more if it is late.
        let _ = sender.send((Handle::current().dump().await, task::try_id()));
    });

    match answer.recv_timeout(deadline) {
        Ok((dump, own)) => read(&dump, |id| Some(*id) == own || is_registered(id)),
        Err(mpsc::RecvTimeoutError::Disconnected) => Err("it has ended".to_owned()),
        Err(mpsc::RecvTimeoutError::Timeout) => {
            asking.abort();
            Err(format!(
                "its thread did not come to it within {:.0} ms, see what blocks it",
                deadline.as_secs_f64() * 1e3
            ))
        }
    }
}

/// Looks up where the tasks wait.
fn read(dump: &dump::Dump, is_left_out: impl Fn(&task::Id) -> bool) -> Found {
    let unwinder = Unwinder::of_this_process().map_err(|error| error.to_string())?;
    let tasks = dump.tasks().iter().filter(|task| !is_left_out(&task.id()));
    let read = || tasks.map(|task| (task.id(), stacks(task.trace()))).collect();
    // What is read for it is none of the program's own, and would be in the way in a report about memory.
    #[cfg(feature = "memory")]
    let stacks: Vec<_> = crate::memory::hook::unrecorded(read);
    #[cfg(not(feature = "memory"))]
    let stacks: Vec<_> = read();
    // Tokio gives addresses only with their names, of which the symbols of this crate know more, and keeps what it has read.
    backtrace::clear_symbol_cache();
    Ok(stacks.into_iter().map(|(id, stacks)| (id, places(unwinder.modules(), stacks))).collect())
}

/// The addresses of what is called at each place.
fn stacks(trace: &dump::Trace) -> Vec<Vec<u64>> {
    // They are where each call returns to, behind the call.
    let address = |frame: &dump::BacktraceFrame| (frame.ip() as u64).saturating_sub(1);
    trace.resolve_backtraces().iter().map(|backtrace| backtrace.frames().map(address).collect()).collect()
}

fn places(modules: &Modules, stacks: Vec<Vec<u64>>) -> Vec<Vec<Frame>> {
    let mut places = Vec::new();

    for stack in stacks {
        let found = Symbols::shared().resolve(modules, &stack);
        let frames = of_the_task(found.iter().flat_map(|place| &place.frames));

        if !frames.is_empty() && !places.contains(&frames) {
            places.push(frames);
        }
    }

    places
}
