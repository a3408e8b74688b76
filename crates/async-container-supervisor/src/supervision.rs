//! What runs in the supervisor's process and beside the work of supervised instances.

use std::future::Future;

use async_container::{BoxError, Instance, Link, Status};
use async_container_supervisor_server::{ChildState, ParentProcess, Root, RootError, RootState, Server, Signal};
use async_container_supervisor_worker::Worker;
use serde::Serialize;
use tokio::sync::watch;

/// What a worker says about itself beyond its name and process.
#[derive(Debug, Serialize)]
pub(crate) struct WorkerState {
    /// Which of the service's instances it is, from 1.
    pub instance: u32,
}

/// The supervisor's work.
pub(crate) async fn serve(
    instance: Instance,
    listener: &str,
    configure: impl FnOnce(Server) -> Server,
) -> Result<(), BoxError> {
    let listener = instance.unix_listener(listener)?;
    let mut server = Server::new();
    let link = instance.link().cloned();
    if let Some(link) = &link {
        server = server.root(LinkedRoot::new(link.clone()));
    }
    let server = configure(server);
    instance.ready()?;
    let shutdown = instance.shutdown();
    tokio::pin!(shutdown);
    if let Some(link) = link {
        tokio::select! {
            () = active(link.status()) => {}
            () = &mut shutdown => return Ok(()),
        }
    }
    Ok(server.serve(listener, shutdown).await?)
}

/// Completes when the generation that this process belongs to is the active one. While a new generation is being
/// started, it is the old supervisor that answers: it knows all workers, and the new generation may still fail.
async fn active(mut status: watch::Receiver<Status>) {
    let process_id = std::process::id();
    let is_active = |status: &Status| {
        let own = status.children.values().find(|child| child.process_id == Some(process_id));
        own.is_some_and(|child| child.generation <= status.root.generation)
    };
    // It fails when the root is gone, and then this process is about to go as well.
    let _ = status.wait_for(is_active).await;
}

/// The work of a supervised instance, with its connection to the supervisor beside it.
pub(crate) async fn work(worker: Worker, work: impl Future<Output = Result<(), BoxError>>) -> Result<(), BoxError> {
    // The connection lasts as long as the work: also while the work is being brought to an end, the
    // supervisor may want to know how it is going.
    let connection = tokio::spawn(worker.run(std::future::pending::<()>()));
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
                let state = root_state(&status.borrow_and_update());
                sender.send_replace(state);
            }
        });
        LinkedRoot { link, parent: ParentProcess::new(), state }
    }
}

impl Root for LinkedRoot {
    fn signal(&self, signal: Signal) -> Result<(), RootError> {
        self.parent.signal(signal)
    }

    fn replace(&self, process_id: u32, reason: &str) -> Result<(), RootError> {
        self.link.replace(process_id, reason).map_err(RootError::from)
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
    }
}
