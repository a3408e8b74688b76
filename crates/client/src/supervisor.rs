//! A connection to a supervisor.

use std::{path::Path, time::Duration};

use async_container_protocol::{
    Call, CallError, Client, ConnectError, Driver, Fields, NoOperations, Settings, Side, Socket, class,
    endpoint::{self, Credentials},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};

use crate::{
    diagnostic::{Diagnostic, Kind},
    error::Error,
    farewell::Farewells,
    form::Form,
    report::Report,
    status::{Pong, Readiness, Root, Status},
    worker::{self, Worker},
};

/// A connection to a supervisor. Clones are handles to the same one.
#[derive(Clone, Debug)]
pub struct Supervisor {
    client: Client,
    listener: Option<u32>,
    pub(crate) farewells: Farewells,
}

/// A signal for the root.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Signal {
    /// Stop, so that whoever started the application starts it again.
    Int,
    /// Replace all children by a new generation, side by side.
    Hup,
    /// Stop.
    Term,
    /// Logged and ignored by roots of this project.
    Usr1,
    /// Logged and ignored by roots of this project.
    Usr2,
}

impl Signal {
    /// Its name, without `SIG`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Int => "INT",
            Self::Hup => "HUP",
            Self::Term => "TERM",
            Self::Usr1 => "USR1",
            Self::Usr2 => "USR2",
        }
    }
}

impl Supervisor {
    /// Connects to the supervisor whose socket is at this path. While it is being replaced, this waits.
    ///
    /// It needs a tokio runtime with input, output and time, on which a task carries the connection.
    pub async fn connect(path: impl AsRef<Path>) -> Result<Self, ConnectError> {
        let stream = endpoint::connect(path.as_ref()).await?;
        // For a socket that was accepted, the kernel names the process that began to listen: the root.
        let listener = Credentials::of(&stream).ok().and_then(|credentials| credentials.process_id);
        let (client, driver) = Driver::new(Socket::from(stream), Side::Connected, NoOperations, Settings::default());
        driver.spawn();
        Ok(Self { client, listener, farewells: Farewells::default() })
    }

    /// The connection, for calls that are not among those here.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The process that listens at the socket, in the pid namespace of this one: the root.
    pub fn listener(&self) -> Option<u32> {
        self.listener
    }

    /// Makes a call of the supervisor.
    pub fn call<P: Serialize + ?Sized>(&self, operation: &str, parameters: &P) -> Call {
        self.client.call(operation, parameters)
    }

    async fn ask<T: DeserializeOwned>(&self, operation: &str, parameters: &Value) -> Result<T, Error> {
        let fields = self.call(operation, parameters).await?;
        Ok(fields.deserialize()?)
    }

    /// Makes a call of a worker.
    pub fn forward<P: Serialize + ?Sized>(&self, worker: &Worker, operation: &str, parameters: &P) -> Call {
        let parameters = Fields::new(parameters).and_then(|parameters| parameters.with("do", operation));

        match parameters {
            Ok(parameters) => self.forward_to(&worker.connection_id, &parameters),
            // Fails as well, and the call says why.
            Err(_) => self.client.call("forward", &json!({"connection_id": worker.connection_id})),
        }
    }

    pub(crate) fn forward_to<O: Serialize>(&self, connection_id: &str, operation: &O) -> Call {
        #[derive(Serialize)]
        struct Forward<'a, O> {
            connection_id: &'a str,
            operation: &'a O,
        }

        self.client.call("forward", &Forward { connection_id, operation })
    }

    /// Who it is, and how long it has been there.
    pub async fn ping(&self) -> Result<Pong, Error> {
        self.ask("ping", &json!({})).await
    }

    /// What the monitors say, and the workers.
    pub async fn status(&self) -> Result<Status, Error> {
        let mut call = self.client.call("status", &());
        let mut monitors = Map::new();

        while let Some(fields) = call.next().await? {
            if let Value::Object(monitor) = fields.to_json() {
                monitors.extend(monitor);
            }
        }

        Ok(Status { monitors, workers: workers_in(&call.finish().await?.to_json()) })
    }

    /// The workers that are connected, by name, instance and process.
    pub async fn workers(&self) -> Result<Vec<Worker>, Error> {
        Ok(workers_in(&self.client.call("status", &()).await?.to_json()))
    }

    /// The worker that is meant: by a connection id or the beginning of one, by `pid:1234`, by `name`, or by `name#2` for its
    /// second instance.
    pub async fn worker(&self, text: &str) -> Result<Worker, Error> {
        worker::resolve(&self.workers().await?, text).cloned()
    }

    /// What the root says of itself and its children. Fails with class `NotSupported` where it does not tell.
    pub async fn root(&self) -> Result<Root, Error> {
        self.ask("children", &json!({})).await
    }

    /// How far the application is, now.
    pub async fn readiness(&self) -> Result<Readiness, Error> {
        self.ask("ready", &json!({})).await
    }

    /// How far it is once everything is ready and, if that was asked for, more reloads than these have ended. That may never
    /// happen.
    pub async fn wait_until_ready(&self, reloads: Option<u64>) -> Result<Readiness, Error> {
        let parameters = match reloads {
            Some(reloads) => json!({"wait": true, "reloads": reloads}),
            None => json!({"wait": true}),
        };
        self.ask("ready", &parameters).await
    }

    /// Has the root signalled: [`Signal::Int`] stops the application for whoever started it to start it again,
    /// [`Signal::Hup`] replaces all children. What comes of it can be seen by [`readiness`](Self::readiness).
    pub async fn signal(&self, signal: Signal) -> Result<(), Error> {
        match self.client.call("restart", &json!({"signal": signal.name()})).await {
            Ok(_) => Ok(()),
            // The answer leaves before the signal, but the one who sends it may be faster in ending than its kernel in
            // delivering. That it ended is what was asked for.
            Err(CallError::ConnectionClosed) => Ok(()),
            Err(CallError::Failed(failure)) if failure.class() == class::CONNECTION_CLOSED => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Has one process of the application replaced by a fresh one: that of a worker, or of any other child of the root. The
    /// reason is logged; it may be empty. Returns once it was asked for: [`root`](Self::root) tells what comes of it.
    pub async fn replace(&self, process_id: u32, reason: &str) -> Result<(), Error> {
        self.client.call("replace", &json!({"process_id": process_id, "reason": reason})).await?;
        Ok(())
    }

    /// What happens from now on: events of these names, all of them if none is named.
    pub fn subscribe(&self, events: &[impl AsRef<str>]) -> Events {
        let events: Vec<&str> = events.iter().map(AsRef::as_ref).collect();
        Events { call: self.client.call("subscribe", &json!({"events": events})) }
    }

    /// Takes a diagnostic of a worker. Nothing is asked for before the report is.
    pub fn diagnose(&self, worker: &Worker, diagnostic: &Diagnostic) -> Report {
        Report::new(self, worker, diagnostic)
    }

    /// Whether a worker answers a call that takes no time, within `limit`. One whose executor is blocked does not.
    pub async fn is_answered(&self, worker: &Worker, limit: Duration) -> bool {
        // Whoever may diagnose may ask for that; one that does not know the operation answers as well.
        let call = self.forward(worker, Kind::SchedulerDump.operation(), &json!({"format": "json", "stacks": false}));
        tokio::time::timeout(limit, call).await.is_ok()
    }

    /// What the threads of a process do, as seen from outside by the supervisor: for one that does not answer any more. It may
    /// be a worker's, that of any other child, or the root. Fails with class `NotSupported` where the kernel does not allow
    /// it.
    pub fn thread_dump_from_outside(&self, process_id: u32, form: Form) -> Report {
        self.look_from_outside(process_id, Diagnostic::thread_dump().form(form))
    }

    /// What the tasks of a process do, as the supervisor reads it from its memory: for one whose executor is blocked. Fails
    /// with class `NotSupported` where the kernel does not allow it, or the process runs another program than the supervisor.
    pub fn scheduler_dump_from_outside(&self, process_id: u32, form: Form) -> Report {
        self.look_from_outside(process_id, Diagnostic::scheduler_dump().form(form))
    }

    fn look_from_outside(&self, process_id: u32, diagnostic: Diagnostic) -> Report {
        let parameters = json!({"process_id": process_id, "format": diagnostic.report_form().name()});
        let call = self.client.call(diagnostic.kind().operation(), &parameters);
        Report::under_way(self, diagnostic, call)
    }

    /// Closes the connection after what there is to be said has been: what was given up is undone, and cancellations are
    /// sent. Waits no longer than `limit` for that.
    pub async fn close(&self, limit: Duration) {
        let farewell = async {
            self.farewells.said().await;
            self.client.close();
            self.client.closed().await;
        };

        // One that does not go in time goes with the process.
        let _ = tokio::time::timeout(limit, farewell).await;
        self.client.close();
    }
}

/// Events, as they happen.
#[derive(Debug)]
#[must_use = "events that are dropped are not heard"]
pub struct Events {
    call: Call,
}

impl Events {
    /// The next one, with its name as `event`, and its time as `at`, in seconds since 1970. `None` once the supervisor stops.
    /// One that ends otherwise fails the call with class `ConnectionClosed`.
    pub async fn next(&mut self) -> Result<Option<Value>, Error> {
        Ok(self.call.next().await?.map(|fields| fields.to_json()))
    }
}

fn workers_in(answer: &Value) -> Vec<Worker> {
    let entries = answer.get("connections").and_then(Value::as_array).into_iter().flatten();
    let mut workers: Vec<Worker> = entries.filter_map(Worker::from_json).collect();
    worker::sort(&mut workers);
    workers
}
