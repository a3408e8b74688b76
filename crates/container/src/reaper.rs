//! Collecting processes that have ended, beside the loop that looks after all others.
//!
//! With the status of a process, the kernel takes back what it keeps of its directory in `/proc`. On a busy machine where
//! others look into `/proc` at that time, `waitid(2)` was seen to be busy with that for a minute; the loop must not be.

use std::collections::HashSet;
use std::os::fd::OwnedFd;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::process::Pid;
use tokio::sync::Notify;

use crate::sys::signal;

/// The thread that collects them, started for the first one. It ends when this is dropped and all are collected.
#[derive(Default)]
pub(crate) struct Reaper {
    /// Those that it was not told of yet.
    ended: Vec<(Pid, OwnedFd)>,
    queue: Option<Sender<(Pid, OwnedFd)>>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    collected: Notify,
}

#[derive(Default)]
struct State {
    /// Those that have ended and may not be collected yet.
    pending: HashSet<Pid>,
    /// True if somebody is to be told when one is.
    awaited: bool,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // Whoever panicked with it left it as valid as it was.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reaper {
    /// Has a process collected that has ended and whose status is known, at the next [`flush`](Self::flush). Its number
    /// stays taken until then.
    pub(crate) fn collect(&mut self, pid: Pid, pidfd: OwnedFd) {
        self.shared.state().pending.insert(pid);
        self.ended.push((pid, pidfd));
    }

    /// To be called when there is nothing more urgent to do, such as to start others in their place.
    pub(crate) fn flush(&mut self) {
        for (pid, pidfd) in std::mem::take(&mut self.ended) {
            let sent = match self.queue() {
                Some(queue) => queue.send((pid, pidfd)).map_err(|unsent| unsent.0),
                None => Err((pid, pidfd)),
            };
            // There is no thread: it takes as long as it takes.
            if let Err((pid, pidfd)) = sent {
                collect(pid, &pidfd, &self.shared);
            }
        }
    }

    fn queue(&mut self) -> Option<&Sender<(Pid, OwnedFd)>> {
        if self.queue.is_none() {
            let (queue, ended) = channel();
            let shared = Arc::clone(&self.shared);
            let thread = std::thread::Builder::new().name("reaper".to_owned()).spawn(move || run(&ended, &shared));
            self.queue = thread.is_ok().then_some(queue);
        }
        self.queue.as_ref()
    }

    /// True if the process has ended and is about to be collected.
    pub(crate) fn has(&self, pid: Pid) -> bool {
        self.shared.state().pending.contains(&pid)
    }

    /// If the process is about to be collected, has [`collected`](Self::collected) say so when it, or another one, was.
    pub(crate) fn awaits(&self, pid: Pid) -> bool {
        let mut state = self.shared.state();
        let is_pending = state.pending.contains(&pid);
        state.awaited |= is_pending;
        is_pending
    }

    /// Waits until one was collected that was waited for. May be dropped without loss.
    pub(crate) async fn collected(&self) {
        self.shared.collected.notified().await;
    }
}

fn run(ended: &Receiver<(Pid, OwnedFd)>, shared: &Shared) {
    for (pid, pidfd) in ended {
        collect(pid, &pidfd, shared);
    }
}

fn collect(pid: Pid, pidfd: &OwnedFd, shared: &Shared) {
    if let Err(error) = signal::reap(pidfd) {
        tracing::error!(pid = pid.as_raw_nonzero().get(), %error, "cannot collect a process that has ended");
    }
    let mut state = shared.state();
    state.pending.remove(&pid);
    if std::mem::take(&mut state.awaited) {
        shared.collected.notify_one();
    }
}
