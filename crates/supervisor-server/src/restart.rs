//! Carrying out what monitors want done.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_container_monitors::{Action, Call};
use async_container_protocol::{Failure, Fields, class};
use rustix::process::Signal;
use serde::Serialize;
use tokio::{sync::mpsc, task::JoinSet, time::timeout};

use crate::{
    events::{Events, RESTART},
    monitor::Wish,
    process::Process,
    registry::Registry,
    root::{Replacement, Root, RootError},
};

/// How long a process has between the polite signal and the one that it cannot ignore.
const GRACE: Duration = Duration::from_secs(10);

/// How long the root has for a replacement, before it may be asked again: it starts a new process first, and the old one
/// then has its own grace.
const REPLACEMENT: Duration = Duration::from_secs(60);

/// Carries actions out until nobody can want any more.
pub(crate) async fn carry_out(
    mut actions: mpsc::UnboundedReceiver<Wish>,
    registry: Arc<Registry>,
    root: Arc<dyn Root>,
    events: Arc<Events>,
) {
    let under_way = UnderWay::default();
    let mut tasks = JoinSet::new();

    loop {
        let action = tokio::select! {
            action = actions.recv() => action,
            Some(_) = tasks.join_next() => continue,
        };

        match action {
            Some(Wish::Action(Action::Restart { process_id, reason })) => {
                if let Some(mark) = under_way.begin(process_id) {
                    let (registry, root, events) = (registry.clone(), root.clone(), events.clone());
                    tasks.spawn(async move {
                        restart(process_id, &reason, &registry, &*root, &events).await;
                        drop(mark);
                    });
                }
            }
            Some(Wish::Call(call, parameters, reply)) => {
                let registry = registry.clone();
                tasks.spawn(async move {
                    let answer = ask(&call, &parameters, &registry).await;
                    reply.send(call, answer);
                });
            }
            Some(Wish::Action(action)) => {
                tracing::warn!(?action, "a monitor wants something that this supervisor does not know")
            }
            None => return,
        }
    }
}

/// Calls an operation of a worker.
async fn ask(call: &Call, parameters: &Fields, registry: &Registry) -> Result<Fields, Failure> {
    let worker = registry.get(call.worker_id()).ok_or_else(|| {
        Failure::new(class::CONNECTION_NOT_FOUND, format!("no worker has the connection id '{}'", call.worker_id()))
    })?;
    let answer = worker.client.call_fields(call.operation(), parameters).timeout(call.get_timeout());
    Ok(answer.finish().await.map_err(|error| error.into_failure())?.compact())
}

/// Restarts a process, and returns when that came to an end, whichever.
async fn restart(process_id: u32, reason: &str, registry: &Registry, root: &dyn Root, events: &Events) {
    // By the handle that was taken when it connected: what has the number now may be another process.
    let worker = registry.by_process(process_id);
    let name = worker.as_ref().map(|worker| worker.name());
    let process = worker.map(|worker| worker.process);
    let event = RestartEvent { process_id, name: name.as_deref(), reason };

    let replacement =
        Replacement { process_id, reason: reason.to_owned(), cause: "monitor".to_owned(), start_first: None };

    match root.replace(&replacement) {
        Ok(()) => {
            tracing::warn!(process_id, reason, "asked the root controller to replace a worker");
            event.publish(events);

            match process {
                Some(process) => drop(timeout(REPLACEMENT, process.exited()).await),
                None => tokio::time::sleep(REPLACEMENT).await,
            }
        }
        Err(RootError::Unsupported) => match process.filter(Process::has_handle) {
            Some(process) => stop(&event, &process, events).await,
            None => {
                tracing::warn!(process_id, reason, "a worker should be restarted, but is not connected: left alone");
            }
        },
        Err(error) => tracing::error!(process_id, reason, %error, "could not have a worker replaced"),
    }
}

/// What is told of a restart that was begun.
#[derive(Serialize)]
struct RestartEvent<'a> {
    process_id: u32,
    name: Option<&'a str>,
    reason: &'a str,
}

impl RestartEvent<'_> {
    fn publish(&self, events: &Events) {
        if let Err(error) = events.publish(RESTART, self) {
            tracing::error!(%error, "an event could not be encoded");
        }
    }
}

/// Ends a process, so that the root starts a fresh one.
async fn stop(event: &RestartEvent<'_>, process: &Process, events: &Events) {
    let RestartEvent { process_id, reason, .. } = *event;

    if let Err(error) = process.signal(Signal::INT) {
        if error.raw_os_error() != Some(rustix::io::Errno::SRCH.raw_os_error()) {
            tracing::error!(process_id, reason, %error, "could not signal a worker");
        }

        return;
    }

    tracing::warn!(process_id, reason, "signalled a worker to restart it");
    event.publish(events);

    if timeout(GRACE, process.exited()).await.is_ok() {
        return;
    }

    match process.signal(Signal::KILL) {
        Ok(()) => tracing::warn!(process_id, "killed a worker that did not stop within {} s", GRACE.as_secs()),
        Err(error) => tracing::debug!(process_id, %error, "could not kill a worker"),
    }

    let _ = timeout(GRACE, process.exited()).await;
}

/// Processes that are being restarted.
#[derive(Clone, Default)]
struct UnderWay(Arc<Mutex<HashSet<u32>>>);

impl UnderWay {
    /// Notes that a restart begins. `None` if one is under way already.
    fn begin(&self, process_id: u32) -> Option<Mark> {
        let mut processes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        processes.insert(process_id).then(|| Mark { processes: self.clone(), process_id })
    }
}

/// A restart that is under way, until it is dropped.
struct Mark {
    processes: UnderWay,
    process_id: u32,
}

impl Drop for Mark {
    fn drop(&mut self) {
        self.processes.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.process_id);
    }
}
