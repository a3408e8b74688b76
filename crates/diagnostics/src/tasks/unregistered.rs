//! Tasks that nobody registered, by tokio's own dump.

#[cfg(all(
    tokio_unstable,
    target_os = "linux",
    any(target_arch = "aarch64", target_arch = "x86", target_arch = "x86_64", target_arch = "s390x")
))]
mod asked;

#[cfg(not(all(
    tokio_unstable,
    target_os = "linux",
    any(target_arch = "aarch64", target_arch = "x86", target_arch = "x86_64", target_arch = "s390x")
)))]
mod asked {
    use std::time::Duration;

    use tokio::{runtime::Handle, task::Id};

    use super::Found;

    pub(super) fn unregistered(_handle: &Handle, _is_registered: impl Fn(&Id) -> bool, _deadline: Duration) -> Found {
        Err("tokio shows them only in a program for Linux that was built with RUSTFLAGS=\"--cfg tokio_unstable\", \
             which this one was not"
            .to_owned())
    }
}

use std::time::Duration;

use serde::Serialize;

use super::dump::{Runtime, Runtimes, State, Task};
use crate::symbols::Frame;

/// Of a runtime with more tasks than that, they are not asked for: it does nothing else for as long as it takes to poll all of
/// them.
const TASK_LIMIT: usize = 10_000;

/// A task that nobody registered.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Unregistered {
    /// Which of the [runtimes](super::TaskDump::runtimes) polls it, counted from 0.
    pub runtime: usize,
    /// Tokio's number of it.
    pub task_id: String,
    /// Where it waits: for each thing of tokio's that it waits for, the functions, the innermost first. Empty if it waits for
    /// something else.
    pub waits_at: Vec<Vec<Frame>>,
}

/// The numbers and the places of tasks, or why they cannot be told.
type Found = Result<Vec<(tokio::task::Id, Vec<Vec<Frame>>)>, String>;

/// All of them, and for each runtime of which they cannot be shown, the reason.
pub(super) fn find(
    runtimes: &Runtimes,
    read: &[Runtime],
    tasks: &[Task],
    deadline: Duration,
    notes: &mut Vec<String>,
) -> Vec<Unregistered> {
    let mut all = Vec::new();

    for (number, ((handle, registered), read)) in runtimes.found.iter().zip(read).enumerate() {
        let blocking =
            tasks.iter().find(|task| task.runtime == Some(number) && task.is_late && task.state == State::Running);
        let found = match (read, blocking) {
            (Runtime { unregistered: 0, .. }, _) => continue,
            (Runtime { alive_tasks: TASK_LIMIT.., .. }, _) => {
                Err(format!("all of its {} tasks would be polled, which takes too long", read.alive_tasks))
            }
            (_, Some(task)) => Err(format!("task {} blocks it", task.id)),
            _ => asked::unregistered(handle, |id| registered.contains(id), deadline),
        };

        match found {
            Ok(found) => all.extend(found.into_iter().map(|(id, waits_at)| Unregistered {
                runtime: number,
                task_id: id.to_string(),
                waits_at,
            })),
            Err(reason) => notes.push(format!("unregistered tasks of runtime {number} are not shown: {reason}")),
        }
    }

    all
}
