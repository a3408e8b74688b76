//! What runs in the supervisor's process and beside the work of supervised instances.

use std::future::Future;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use async_container::{BoxError, ChildStatus, ConfigurationError, Instance, Link, Status};
use async_container_supervisor_server::{
    ChildState, ParentProcess, Replacement, Root, RootError, RootState, Server, Signal,
};
use async_container_supervisor_worker::Worker;
use serde::Serialize;
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::tasks;

/// What a worker says about itself beyond its name and process.
#[derive(Debug, Serialize)]
pub(crate) struct WorkerState {
    /// Which of the service's instances it is, from 1.
    pub instance: u32,
    /// Which of the instance's threads it is, from 1, if it has several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub thread: Option<u32>,
}

/// Which ways numbers take out of the supervisor.
#[derive(Clone, Default)]
pub(crate) struct Numbers {
    /// Whether there is a socket where they are told.
    #[cfg(feature = "metrics")]
    pub has_listener: bool,
    /// Where they are pushed to, and the name of the application.
    #[cfg(feature = "otlp")]
    pub otlp: Option<(async_container_metrics::Otlp, String)>,
}

/// The supervisor's work.
pub(crate) async fn serve(
    instance: Instance,
    listener: &str,
    numbers: Numbers,
    configure: impl FnOnce(Server) -> Server,
) -> Result<(), BoxError> {
    let listener = instance.unix_listener(listener)?;
    let mut server = Server::new();
    let link = instance.link().cloned();
    if let Some(link) = &link {
        server = server.root(LinkedRoot::new(link.clone()));
    }
    let server = configure(server);
    if server.allows_others() {
        warn_of_closed_file(&listener);
    }
    // Before it is ready, so that a new generation in which something is wrong does not take over.
    server.validate().map_err(ConfigurationError::new)?;
    instance.ready()?;
    #[cfg(feature = "diagnostics")]
    let end = crate::black_box::End::of(&instance);
    let shutdown = instance.shutdown();
    tokio::pin!(shutdown);
    if let Some(link) = link {
        tokio::select! {
            () = active(link.status()) => {}
            () = &mut shutdown => return Ok(()),
        }
    }
    #[cfg(feature = "metrics")]
    let _metrics =
        if numbers.has_listener { crate::exposition::begin(&instance, server.metrics())? } else { Default::default() };
    #[cfg(feature = "otlp")]
    let mut pushing = match numbers.otlp {
        Some((otlp, name)) => crate::pushing::Pushing::new(otlp, &name, server.metrics())?,
        None => None,
    };
    #[cfg(not(feature = "metrics"))]
    let Numbers {} = numbers;
    tasks::spawn("title", show_count(instance, server.workers().count()));
    #[cfg(feature = "otlp")]
    let shutdown = async {
        match &mut pushing {
            Some(pushing) => pushing.until(shutdown).await,
            None => shutdown.await,
        }
    };
    let served = server.serve(listener, shutdown).await;
    #[cfg(feature = "otlp")]
    if let Some(pushing) = pushing {
        pushing.end().await;
    }
    #[cfg(feature = "diagnostics")]
    end.written().await;
    Ok(served?)
}

/// Warns if the socket's file is for its own user alone, so that the others who are let in will never get so far.
fn warn_of_closed_file(listener: &UnixListener) {
    // Who may write to it may connect, see unix(7).
    const OTHERS: u32 = 0o022;
    let Ok(address) = listener.local_addr() else { return };
    let Some(path) = address.as_pathname() else { return };
    let Ok(metadata) = std::fs::metadata(path) else { return };
    let mode = metadata.permissions().mode() & 0o777;
    if mode & OTHERS == 0 {
        tracing::warn!(
            path = %path.display(),
            mode = format_args!("{mode:04o}"),
            "other users are allowed, but the file of the socket keeps them out: see Application::socket_mode"
        );
    }
}

/// How often the title changes at most: a thousand workers that come at once need not be counted one by one.
const TITLE_PAUSE: Duration = Duration::from_millis(100);

/// Has the title of this process tell how many workers there are.
async fn show_count(instance: Instance, mut workers: watch::Receiver<usize>) {
    loop {
        let count = *workers.borrow_and_update();
        let workers_of = if count == 1 { "worker" } else { "workers" };
        instance.set_title(format!("{} ({count} {workers_of})", instance.title()));
        if workers.changed().await.is_err() {
            return;
        }
        tokio::time::sleep(TITLE_PAUSE).await;
    }
}

/// How long a new supervisor waits for the old one to be gone before it serves beside it.
const HANDOVER_LIMIT: Duration = Duration::from_secs(1);

/// Completes when it is for this process to serve. While a new generation is being started, it is the old supervisor that
/// answers: it knows all workers, and the new generation may still fail. And both accept from the same socket, so a
/// connection made after the change could still meet the old one, and be closed with it, unless that is gone.
async fn active(mut status: watch::Receiver<Status>) {
    // Waiting fails when the root is gone, and then this process is about to go as well.
    let _ = status.wait_for(|status| own(status).is_some_and(|own| own.generation <= status.root.generation)).await;
    let alone = |status: &Status| {
        own(status).is_some_and(|own| {
            let others = status.children.values().filter(|child| child.service == own.service);
            others.into_iter().all(|child| child.generation >= own.generation || child.process_id.is_none())
        })
    };
    if !matches!(timeout(HANDOVER_LIMIT, status.wait_for(alone)).await, Ok(Ok(_))) {
        tracing::warn!("the old supervisor takes long to end: serving beside it");
    }
}

/// What the root says of this process.
fn own(status: &Status) -> Option<&ChildStatus> {
    let process_id = Some(std::process::id());
    status.children.values().find(|child| child.process_id == process_id)
}

/// The work of a supervised instance, with its connection to the supervisor beside it.
pub(crate) async fn work(worker: Worker, work: impl Future<Output = Result<(), BoxError>>) -> Result<(), BoxError> {
    // The connection lasts as long as the work: also while the work is being brought to an end, the
    // supervisor may want to know how it is going.
    let connection = tasks::spawn("connection to the supervisor", worker.run(std::future::pending::<()>()));
    let result = work.await;
    connection.abort();
    result
}

/// The root at the other end of the supervisor's link.
struct LinkedRoot {
    link: Link,
    parent: ParentProcess,
    state: watch::Receiver<RootState>,
}

impl LinkedRoot {
    fn new(link: Link) -> Self {
        let mut status = link.status();
        let (sender, state) = watch::channel(RootState::default());
        tokio::spawn(async move {
            while status.changed().await.is_ok() {
                let status = status.borrow_and_update();
                // Whoever waits for the new generation is to hear of it from the new supervisor, which stays.
                if own(&status).is_none_or(|own| own.generation >= status.root.generation) {
                    sender.send_replace(root_state(&status));
                }
            }
        });
        LinkedRoot { link, parent: ParentProcess::new(), state }
    }
}

impl Root for LinkedRoot {
    fn signal(&self, signal: Signal) -> Result<(), RootError> {
        self.parent.signal(signal)
    }

    fn replace(&self, replacement: &Replacement) -> Result<(), RootError> {
        let mut wish =
            async_container::Replacement::new(replacement.process_id, &replacement.reason).cause(&replacement.cause);
        if let Some(incident) = &replacement.incident {
            wish = wish.incident(incident);
        }
        if let Some(limit) = replacement.start_first {
            wish = wish.start_first(limit);
        }
        self.link.replace(&wish).map_err(RootError::from)
    }

    fn examined(&self, process_id: u32, incident: Option<&Path>) -> Result<(), RootError> {
        let incident = incident.map(|path| path.display().to_string());
        self.link.examined(process_id, incident.as_deref()).map_err(RootError::from)
    }

    fn state(&self) -> Option<watch::Receiver<RootState>> {
        Some(self.state.clone())
    }

    fn check(&self) -> Result<(), RootError> {
        self.parent.check()
    }
}

fn root_state(status: &Status) -> RootState {
    let children = status.children.values().map(|child| ChildState {
        name: child.name.clone(),
        service: child.service.clone(),
        instance: child.instance,
        generation: child.generation,
        process_id: child.process_id,
        state: child.state.clone(),
        restarts: child.restarts,
        last_exit: child.last_exit.clone(),
        last_exit_at: child.last_exit_at,
        last_exit_cause: child.last_exit_cause.clone(),
        last_incident: child.last_incident.clone(),
        condemned: child.condemned.clone(),
        kill_at: child.kill_at,
        exits: child.exits.clone(),
        time_to_ready: child.time_to_ready,
        failures: child.failures,
        next_start: child.next_start,
    });
    RootState {
        process_id: status.root.process_id,
        generation: status.root.generation,
        reloads: status.root.reloads,
        reloading: status.root.reloading,
        reload_error: status.root.reload_error.clone(),
        ready: status.root.ready,
        children: children.collect(),
        spared: status.root.spared.iter().copied().collect(),
    }
}
