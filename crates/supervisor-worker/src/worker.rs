//! Connecting a process to its supervisor, again and again.

use std::{path::PathBuf, time::Instant};

use async_container_protocol::{
    CallError, Client, ConnectError, ConnectionError, Driver, EncodeError, Failure, Fields, Operations, Request,
    Settings, Side, Socket, endpoint,
};
use serde::Serialize;
use std::{sync::Arc, time::Duration};
use tokio::sync::watch;

use crate::reconnect::Backoff;

/// A connection that lived for less is no sign that the next one will do better.
const STABLE: Duration = Duration::from_secs(1);

/// A worker, as its supervisor sees it: what it says of itself, and what can be asked of it.
pub struct Worker {
    path: PathBuf,
    state: Fields,
    operations: Operations,
    settings: Settings,
    #[cfg(feature = "utilization")]
    utilization: Option<async_container_utilization::Registry>,
    instance_id: String,
    registration: watch::Sender<Option<Registration>>,
    started: Instant,
}

/// A worker's place in its supervisor, for as long as the connection holds.
#[derive(Clone, Debug)]
pub struct Registration {
    /// The id that the supervisor gave to the connection. It is another one after each reconnect.
    pub connection_id: String,
    /// A handle to call the supervisor.
    pub supervisor: Client,
}

impl Worker {
    /// A worker of the supervisor that listens at this path.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            state: Fields::empty(),
            operations: Operations::new(),
            settings: Settings::default(),
            #[cfg(feature = "utilization")]
            utilization: Some(async_container_utilization::registry().clone()),
            instance_id: random_uuid(),
            registration: watch::Sender::new(None),
            started: Instant::now(),
        }
    }

    /// Adds to what the worker says of itself: the fields of a struct, or the entries of a map. They can be seen in `status`,
    /// and used by monitors.
    pub fn state<T: Serialize + ?Sized>(mut self, state: &T) -> Result<Self, EncodeError> {
        self.state = self.state.merge(&Fields::new(state)?);
        Ok(self)
    }

    /// Sets the name by which people call this worker. It needs not be unique.
    pub fn name(mut self, name: &str) -> Self {
        // A string can always be encoded.
        self.state = self.state.with("name", name).unwrap_or_default();
        self
    }

    /// Adds an operation that the supervisor, and whoever may talk to it, can call.
    pub fn operation<F, R, T>(mut self, name: impl Into<String>, operation: F) -> Self
    where
        F: Fn(Request) -> R + Send + Sync + 'static,
        R: Future<Output = Result<T, Failure>> + Send + 'static,
        T: Serialize + 'static,
    {
        self.operations = self.operations.operation(name, operation);
        self
    }

    /// Adds a table of operations, for those that stream, or whose parameters are a struct.
    pub fn operations(mut self, operations: Operations) -> Self {
        self.operations = operations.or(self.operations);
        self
    }

    /// Sets the bounds of the connection. Default is [`Settings::default`].
    pub fn settings(mut self, settings: Settings) -> Self {
        self.settings = settings;
        self
    }

    /// Sets the metrics that a supervisor may read; `None` lets it read none. Default is the registry of the process.
    #[cfg(feature = "utilization")]
    pub fn utilization(mut self, registry: Option<async_container_utilization::Registry>) -> Self {
        self.utilization = registry;
        self
    }

    /// The id that stays the same across reconnects, unlike the one of the connection. It is in the state as `instance_id`.
    pub fn instance_id(&self) -> &str {
        &self.instance_id
    }

    /// The worker's place in its supervisor, as it comes and goes.
    pub fn registration(&self) -> watch::Receiver<Option<Registration>> {
        self.registration.subscribe()
    }

    /// Stays connected to the supervisor until `shutdown`, or until the future is dropped.
    ///
    /// Nothing that happens to the supervisor ends it, and it never keeps the process from ending: it is one task among those
    /// of the worker. When the work is being finished, after a signal say, the worker should still be seen, so `shutdown`
    /// should be the end of the work rather than the signal.
    pub async fn run(self, shutdown: impl Future) {
        tokio::select! {
            biased;
            _ = shutdown => {}
            () = self.stay_connected() => {}
        }
    }

    async fn stay_connected(mut self) {
        let pong = Pong { process_id: std::process::id(), started: self.started };
        let operations = Operations::new().immediate("ping", move |_| Ok(pong.answer()));
        #[cfg(feature = "utilization")]
        let operations = match self.utilization.take() {
            Some(registry) => operations.or(crate::utilization::operations(registry)),
            None => operations,
        };
        let operations = Arc::new(std::mem::take(&mut self.operations).or(operations));
        let state = self.whole_state();
        let mut backoff = Backoff::default();
        let mut log = OutageLog::default();

        loop {
            let mut registered = None;
            let end = self.connect(&operations, &state, &mut registered, &mut log).await;

            if registered.is_some_and(|since: Instant| since.elapsed() >= STABLE) {
                backoff.reset();
            }

            log.lost(&end);
            tokio::time::sleep(backoff.next()).await;
        }
    }

    fn whole_state(&self) -> Register {
        let own = Own { process_id: std::process::id(), instance_id: &self.instance_id };
        // Numbers and strings can always be encoded.
        let own = Fields::new(&own).unwrap_or_default();
        Register { state: self.state.merge(&own) }
    }

    /// Connects, registers and serves, until that ends.
    async fn connect(
        &self,
        operations: &Arc<Operations>,
        state: &Register,
        registered: &mut Option<Instant>,
        log: &mut OutageLog,
    ) -> End {
        let stream = match endpoint::connect(&self.path).await {
            Ok(stream) => stream,
            Err(error) => return End::NotConnected(error),
        };

        let (client, driver) =
            Driver::new(Socket::from(stream), Side::Connected, operations.clone(), self.settings.clone());
        let mut driver = std::pin::pin!(driver);

        // No time-out: while the supervisor is being restarted, this waits in the backlog of its socket, and the answer
        // comes when the supervisor does.
        let register = client.call("register", state);
        let answer = tokio::select! {
            biased;
            answer = register.finish() => answer,
            end = &mut driver => return End::Closed(end.err()),
        };

        let connection_id = match answer.map(|answer| answer.get::<String>("connection_id").ok().flatten()) {
            Ok(id) => id.unwrap_or_default(),
            // The connection ended with the call, and the driver knows why.
            Err(CallError::ConnectionClosed) => return End::Closed(driver.await.err()),
            Err(error) => return End::Refused(error),
        };

        *registered = Some(Instant::now());
        log.found(&connection_id);
        let _registered = Registered::set(&self.registration, Registration { connection_id, supervisor: client });
        End::Closed(driver.await.err())
    }
}

impl std::fmt::Debug for Worker {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Worker")
            .field("path", &self.path)
            .field("instance_id", &self.instance_id)
            .field("state", &self.state)
            .field("operations", &self.operations)
            .finish_non_exhaustive()
    }
}

/// Publishes a registration for as long as it holds.
struct Registered<'a>(&'a watch::Sender<Option<Registration>>);

impl<'a> Registered<'a> {
    fn set(sender: &'a watch::Sender<Option<Registration>>, registration: Registration) -> Self {
        sender.send_replace(Some(registration));
        Self(sender)
    }
}

impl Drop for Registered<'_> {
    fn drop(&mut self) {
        self.0.send_replace(None);
    }
}

/// How an attempt, or a connection, came to its end.
enum End {
    NotConnected(ConnectError),
    Refused(CallError),
    Closed(Option<ConnectionError>),
}

/// Says once that the supervisor is gone, and once that it is back: a supervisor that stays away must not fill the logs of
/// all workers, and one that was replaced as it should be is no reason to warn.
#[derive(Default)]
struct OutageLog {
    was_connected: bool,
    told: Told,
}

/// What was said of the outage that is under way.
#[derive(Clone, Copy, Default, PartialEq)]
enum Told {
    #[default]
    Nothing,
    /// That it began, as it does at each reload.
    Hangup,
    /// That it is one.
    Outage,
}

impl OutageLog {
    fn found(&mut self, connection_id: &str) {
        let process_id = std::process::id();

        match self.told != Told::Nothing && self.was_connected {
            true => tracing::info!(process_id, connection_id, "registered with the supervisor again"),
            false => tracing::debug!(process_id, connection_id, "registered with the supervisor"),
        }

        *self = Self { was_connected: true, told: Told::Nothing };
    }

    fn lost(&mut self, end: &End) {
        let again = "trying again until it works";
        // All processes of an application write to one log.
        let process_id = std::process::id();

        match end {
            End::Closed(None) if self.told == Told::Nothing => {
                tracing::info!(process_id, "the supervisor closed the connection, {again}");
                self.told = Told::Hangup;
                return;
            }
            _ if self.told == Told::Outage => match end {
                End::NotConnected(error) => tracing::debug!(process_id, %error, "could not connect to the supervisor"),
                End::Refused(error) => tracing::debug!(process_id, %error, "could not register with the supervisor"),
                End::Closed(error) => tracing::debug!(process_id, ?error, "lost the connection to the supervisor"),
            },
            End::NotConnected(error @ ConnectError::PathTooLong(_)) => {
                tracing::error!(process_id, "no supervisor: {error}")
            }
            End::NotConnected(error) => {
                tracing::warn!(process_id, "could not connect to the supervisor, {again}: {error}")
            }
            End::Refused(error) => tracing::error!(process_id, "the supervisor refused this worker, {again}: {error}"),
            End::Closed(None) => tracing::warn!(process_id, "the supervisor closes every connection, {again}"),
            End::Closed(Some(error)) => {
                tracing::warn!(process_id, "lost the connection to the supervisor, {again}: {error}")
            }
        }

        self.told = Told::Outage;
    }
}

#[derive(Serialize)]
struct Register {
    state: Fields,
}

#[derive(Serialize)]
struct Own<'a> {
    process_id: u32,
    instance_id: &'a str,
}

#[derive(Clone, Copy)]
struct Pong {
    process_id: u32,
    started: Instant,
}

#[derive(Serialize)]
struct PongAnswer {
    version: &'static str,
    process_id: u32,
    uptime: f64,
}

impl Pong {
    fn answer(self) -> PongAnswer {
        PongAnswer {
            version: env!("CARGO_PKG_VERSION"),
            process_id: self.process_id,
            uptime: self.started.elapsed().as_secs_f64(),
        }
    }
}

/// A random UUID (version 4). Nothing secret hangs on it.
fn random_uuid() -> String {
    let mut bytes = fastrand::u128(..).to_be_bytes();
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let text = format!("{:032x}", u128::from_be_bytes(bytes));
    [&text[..8], &text[8..12], &text[12..16], &text[16..20], &text[20..]].join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instance_id_is_a_uuid_and_new_each_time() {
        let (one, other) = (random_uuid(), random_uuid());
        assert_ne!(one, other);
        let parts: Vec<usize> = one.split('-').map(str::len).collect();
        assert_eq!(parts, [8, 4, 4, 4, 12]);
        assert_eq!(one.as_bytes()[14], b'4');
    }
}
