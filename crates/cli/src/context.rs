//! What every command works with: the connection to a supervisor, and the questions that several commands ask.

use std::{cell::RefCell, path::PathBuf, time::Duration};

use async_container_protocol::{
    Client, Driver, Fields, NoOperations, Settings, Side, class,
    endpoint::{self, Credentials},
};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    arguments::Arguments,
    error::{Error, Result},
    output::Output,
};

/// How long to wait before looking again for a supervisor that is not there: nothing tells when it comes.
const RETRY: Duration = Duration::from_millis(50);

pub(crate) struct Context {
    pub(crate) output: Output,
    pub(crate) timeout: Option<Duration>,
    socket: PathBuf,
    clients: RefCell<Vec<Client>>,
    progress: RefCell<Option<String>>,
}

impl Context {
    pub(crate) fn new(arguments: &Arguments) -> Self {
        Self {
            output: Output::new(arguments.format, arguments.color),
            timeout: arguments.timeout(),
            socket: arguments.socket(),
            clients: RefCell::default(),
            progress: RefCell::default(),
        }
    }

    /// Connects to the supervisor. While it is being replaced, this waits.
    pub(crate) async fn connect(&self) -> Result<Supervisor> {
        let stream = endpoint::connect(&self.socket).await?;
        // For a socket that was accepted, the kernel names the process that began to listen: the root.
        let listener = Credentials::of(&stream).ok().and_then(|credentials| credentials.process_id);
        let (client, driver) = Driver::new(stream, Side::Connected, NoOperations, Settings::default());
        driver.spawn();

        let mut clients = self.clients.borrow_mut();
        // A command that connects again is done with the connection before. Nobody else would close it, for this keeps
        // a handle to it.
        clients.iter().for_each(Client::close);
        clients.retain(|client| !client.is_closed());
        clients.push(client.clone());
        Ok(Supervisor { client, listener })
    }

    /// As [`connect`](Self::connect), but waits for a supervisor to come.
    pub(crate) async fn connect_again(&self) -> Result<Supervisor> {
        loop {
            match self.connect().await {
                Err(error) if error.is_no_supervisor() => tokio::time::sleep(RETRY).await,
                result => return result,
            }
        }
    }

    /// Waits a little before something is tried again.
    pub(crate) async fn pause(&self) {
        tokio::time::sleep(RETRY).await;
    }

    /// Says how far the command is, in case that it takes too long.
    pub(crate) fn progress(&self, text: impl Into<String>) {
        self.progress.replace(Some(text.into()));
    }

    /// How far it is.
    pub(crate) fn take_progress(&self) -> Option<String> {
        self.progress.take()
    }

    /// Closes all connections once what there is to be written is written, but waits no longer than this for each.
    pub(crate) async fn close(&self, limit: Duration) {
        let clients = self.clients.take();

        for client in clients {
            client.close();
            // One that does not go in time goes with the process.
            let _ = tokio::time::timeout(limit, client.closed()).await;
        }
    }
}

/// A connection to the supervisor.
pub(crate) struct Supervisor {
    pub(crate) client: Client,
    /// The process that listens at the socket, in the pid namespace of this one.
    pub(crate) listener: Option<u32>,
}

/// What the supervisor says of the root and its children, as far as commands need to understand it.
#[derive(Debug, Deserialize)]
pub(crate) struct Root {
    pub(crate) process_id: u32,
}

/// Whether the application is ready.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Readiness {
    pub(crate) ready: bool,
    /// The generation of children that is active.
    pub(crate) generation: u64,
    /// How many attempts to start a new generation have ended.
    pub(crate) reloads: u64,
    /// Why the last one failed, if it did.
    pub(crate) reload_error: Option<String>,
    /// Who is not ready.
    pub(crate) waiting: Vec<String>,
    /// All of it, as it came.
    #[serde(skip)]
    pub(crate) document: Value,
}

impl Supervisor {
    /// Makes a call and takes its final answer.
    pub(crate) async fn ask(&self, operation: &str, parameters: &Value) -> Result<Fields> {
        Ok(self.client.call(operation, parameters).await?)
    }

    /// As [`ask`](Self::ask); `None` if the supervisor cannot do that.
    pub(crate) async fn ask_optional(&self, operation: &str) -> Result<Option<Value>> {
        match self.ask(operation, &json!({})).await {
            Ok(fields) => Ok(Some(fields.to_json())),
            Err(error) if error.is_not_supported() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The process of the root controller; `None` while the supervisor, which has just started, has not heard from it.
    pub(crate) async fn root_process_id(&self) -> Result<Option<u32>> {
        let root: Root = self.ask("children", &json!({})).await?.deserialize()?;
        Ok(Some(root.process_id).filter(|process_id| *process_id != 0))
    }

    /// How far the application is, now.
    pub(crate) async fn readiness(&self) -> Result<Readiness> {
        self.ask_readiness(&json!({})).await
    }

    /// How far it is once everything is ready and, if that was asked for, more reloads than these have ended.
    pub(crate) async fn wait_until_ready(&self, reloads: Option<u64>) -> Result<Readiness> {
        self.ask_readiness(&match reloads {
            Some(reloads) => json!({"wait": true, "reloads": reloads}),
            None => json!({"wait": true}),
        })
        .await
    }

    async fn ask_readiness(&self, parameters: &Value) -> Result<Readiness> {
        let fields = self.ask("ready", parameters).await?;
        let readiness: Readiness = fields.deserialize()?;
        Ok(Readiness { document: fields.to_json(), ..readiness })
    }

    /// Has the root controller signalled.
    pub(crate) async fn signal_root(&self, signal: &str) -> Result {
        match self.ask("restart", &json!({"signal": signal})).await {
            Ok(_) => Ok(()),
            // The answer leaves before the signal, but the one who sends it may be faster in ending than its kernel in
            // delivering. That it ended is what was asked for.
            Err(error) if error.is_connection_closed() => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// Turns an error that means "the supervisor is being replaced" into nothing, so that the caller tries again.
pub(crate) fn unless_replaced<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.is_connection_closed() => Ok(None),
        Err(error) => Err(error),
    }
}

impl Readiness {
    /// Who is being waited for, for people; `None` if nobody is named.
    pub(crate) fn waiting_for(&self) -> Option<String> {
        (!self.waiting.is_empty()).then(|| format!("waiting for {}", self.waiting.join(", ")))
    }
}

/// An error for what a supervisor says that it cannot do, and what follows from that.
pub(crate) fn explain_not_supported(error: Error, consequence: &str) -> Error {
    if let Error::Failed(failure) = &error
        && error.is_not_supported()
    {
        return Error::failed(class::NOT_SUPPORTED, format!("{}; {consequence}", failure.message()));
    }

    error
}
