//! The workers of a supervisor, for the application that it runs in.

use std::sync::Arc;

use async_container_protocol::{Client, Fields};
use tokio::sync::watch;

use crate::registry::{Connected, Registry};

/// The workers that are connected to a supervisor.
///
/// It is what an operation of the application has to reach them. It is given by
/// [`Server::workers`](crate::Server::workers).
#[derive(Clone)]
pub struct Workers(pub(crate) Arc<Registry>);

impl Workers {
    /// All of them, in the order in which they registered.
    pub fn all(&self) -> Vec<Worker> {
        self.0.all().into_iter().map(Worker).collect()
    }

    /// The one with this connection id.
    pub fn get(&self, connection_id: &str) -> Option<Worker> {
        self.0.get(connection_id).map(Worker)
    }

    /// How many there are, and a way to wait for a change of that.
    pub fn count(&self) -> watch::Receiver<usize> {
        self.0.count()
    }
}

impl std::fmt::Debug for Workers {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_list().entries(self.all()).finish()
    }
}

/// A worker that is connected.
#[derive(Clone, Debug)]
pub struct Worker(Connected);

impl Worker {
    /// The id of its connection.
    pub fn connection_id(&self) -> &str {
        &self.0.id
    }

    /// Its process, as this process sees it. `None` if it cannot.
    pub fn process_id(&self) -> Option<u32> {
        self.0.process.process_id
    }

    /// What it said of itself.
    pub fn state(&self) -> &Fields {
        &self.0.state
    }

    /// A handle to call its operations.
    pub fn client(&self) -> &Client {
        &self.0.client
    }
}
