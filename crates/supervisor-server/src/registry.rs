//! The workers that are connected.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

use async_container_monitors::Worker;
use async_container_protocol::{Client, EncodeError, Fields};
use serde::Serialize;
use tokio::sync::watch;

use crate::{
    asking::Askers,
    events::{Events, REGISTER, REMOVE},
    monitor::{MonitorHandle, Monitors},
    process::Process,
};

/// A worker that is connected and has registered.
#[derive(Clone, Debug)]
pub(crate) struct Connected {
    pub(crate) id: Arc<str>,
    pub(crate) process: Process,
    pub(crate) state: Fields,
    pub(crate) client: Client,
    /// When it registered first, as a number, so that it keeps its place.
    order: u64,
}

impl Connected {
    pub(crate) fn name(&self) -> String {
        self.state.get("name").ok().flatten().unwrap_or_default()
    }

    /// What monitors are told. They look at processes of this pid namespace, so one that cannot be seen is none of theirs.
    fn for_monitors(&self) -> Option<Worker> {
        let process_id = self.process.process_id?;
        Some(Worker { id: self.id.to_string(), process_id, name: self.name() })
    }
}

/// The table is made smaller when so many times as many workers would fit into it.
const SPARSE: usize = 8;

/// The workers that are connected, by the id of their connection.
pub(crate) struct Registry {
    table: Mutex<Table>,
    /// Set when the server starts to serve, which is before anybody registers.
    monitors: OnceLock<Monitors>,
    count: watch::Sender<usize>,
    events: Arc<Events>,
    /// Those that ask for the status.
    askers: Askers,
}

#[derive(Default)]
struct Table {
    workers: HashMap<Arc<str>, Connected>,
    next: u64,
    /// The end of every `status`, encoded, until something changes.
    status: Option<Fields>,
}

#[derive(Serialize)]
struct Status<'a> {
    connections: Vec<Connection<'a>>,
}

#[derive(Serialize)]
struct Connection<'a> {
    connection_id: &'a str,
    process_id: Option<u32>,
    state: &'a Fields,
}

/// What is told of a worker that came or went.
#[derive(Serialize)]
struct WorkerEvent<'a> {
    connection_id: &'a str,
    process_id: Option<u32>,
    name: &'a str,
}

impl Registry {
    pub(crate) fn new(events: Arc<Events>) -> Self {
        let (table, count, askers) = (Mutex::default(), watch::Sender::new(0), Askers::new());
        Self { table, monitors: OnceLock::new(), count, events, askers }
    }

    fn publish(&self, event: &str, connection_id: &str, process: &Process, name: &str) {
        let fields = WorkerEvent { connection_id, process_id: process.process_id, name };

        if let Err(error) = self.events.publish(event, &fields) {
            tracing::error!(%error, event, "an event could not be encoded");
        }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set_monitors(&self, monitors: Monitors) {
        // Only one server serves with this registry, and only once.
        let _ = self.monitors.set(monitors);
    }

    /// Ends the monitors, whoever still has a handle to the workers.
    pub(crate) fn stop_monitors(&self) {
        self.monitors().for_each(MonitorHandle::stop);
    }

    pub(crate) fn monitors(&self) -> impl Iterator<Item = &MonitorHandle> {
        self.monitors.get().into_iter().flat_map(Monitors::iter)
    }

    /// Adds a worker, or updates the state of one that is there.
    pub(crate) fn register(&self, id: Arc<str>, process: &Process, state: Fields, client: Client) {
        let mut table = self.lock();
        let order = table.workers.get(&id).map_or(table.next, |worker| worker.order);
        let worker = Connected { id: id.clone(), process: process.clone(), state, client, order };
        let (name, for_monitors) = (worker.name(), worker.for_monitors());
        let is_new = table.workers.insert(id.clone(), worker).is_none();
        table.next += is_new as u64;
        table.status = None;
        let workers = table.workers.len();

        // Under the lock, so that what they hear comes in the order in which it happened. They only take note of it.
        if let Some(worker) = for_monitors {
            self.monitors().for_each(|monitor| monitor.register(worker.clone()));
        }

        self.publish(REGISTER, &id, process, &name);

        drop(table);
        self.count.send_replace(workers);
        let process_id = process.process_id;
        tracing::info!(worker.id = %id, worker.process_id = process_id, worker.name = name, workers, "worker registered");
    }

    /// Forgets a worker whose connection ended.
    pub(crate) fn remove(&self, id: &str) {
        let mut table = self.lock();
        let Some(worker) = table.workers.remove(id) else { return };
        table.status = None;
        let workers = table.workers.len();

        if workers < table.workers.capacity() / SPARSE {
            table.workers.shrink_to(workers * 2);
        }

        if let Some(worker) = worker.for_monitors() {
            self.monitors().for_each(|monitor| monitor.remove(worker.clone()));
        }

        let (process_id, name) = (worker.process.process_id, worker.name());
        self.publish(REMOVE, id, &worker.process, &name);
        drop(table);
        self.count.send_replace(workers);
        tracing::info!(worker.id = id, worker.process_id = process_id, worker.name = name, workers, "worker removed");
    }

    pub(crate) fn get(&self, id: &str) -> Option<Connected> {
        self.lock().workers.get(id).cloned()
    }

    pub(crate) fn contains(&self, id: &str) -> bool {
        self.lock().workers.contains_key(id)
    }

    /// Waits until no worker has that connection any more.
    pub(crate) async fn removed(&self, id: &str) {
        let mut count = self.count();

        while self.contains(id) {
            // It is told of each that comes or goes, and never closed: it is here.
            let _ = count.changed().await;
        }
    }

    /// A handle to call a worker by.
    pub(crate) fn client(&self, id: &str) -> Option<Client> {
        self.lock().workers.get(id).map(|worker| worker.client.clone())
    }

    /// Handles to call many workers by, each with what belongs to it. To look for all of them at once takes less than one by one: the
    /// processor waits for what it reads of one while it looks for the next.
    pub(crate) fn clients<T>(&self, calls: Vec<T>, id: impl Fn(&T) -> &str) -> Vec<(T, Option<Client>)> {
        let table = self.lock();
        let with_client = |call: T| {
            let worker = table.workers.get(id(&call));
            let client = worker.map(|worker| worker.client.clone());
            (call, client)
        };
        calls.into_iter().map(with_client).collect()
    }

    /// The state of a worker, if it has registered.
    pub(crate) fn state(&self, id: &str) -> Option<Fields> {
        self.lock().workers.get(id).map(|worker| worker.state.clone())
    }

    /// A worker by its process.
    pub(crate) fn by_process(&self, process_id: u32) -> Option<Connected> {
        let table = self.lock();
        let mut workers = table.workers.values();
        workers.find(|worker| worker.process.process_id == Some(process_id)).cloned()
    }

    pub(crate) fn all(&self) -> Vec<Connected> {
        let mut workers: Vec<_> = self.lock().workers.values().cloned().collect();
        workers.sort_by_key(|worker| worker.order);
        workers
    }

    pub(crate) fn askers(&self) -> &Askers {
        &self.askers
    }

    pub(crate) fn count(&self) -> watch::Receiver<usize> {
        self.count.subscribe()
    }

    /// The final response of `status`.
    pub(crate) fn status(&self) -> Result<Fields, EncodeError> {
        let mut table = self.lock();

        if let Some(status) = &table.status {
            return Ok(status.clone());
        }

        let mut workers: Vec<&Connected> = table.workers.values().collect();
        workers.sort_by_key(|worker| worker.order);
        let connections = workers
            .into_iter()
            .map(|worker| Connection {
                connection_id: &worker.id,
                process_id: worker.process.process_id,
                state: &worker.state,
            })
            .collect();
        let status = Fields::new(&Status { connections })?;
        table.status = Some(status.clone());
        Ok(status)
    }
}
