//! The operations of a supervisor.

use std::{sync::Arc, time::Instant};

use async_container_protocol::{
    BoxFuture, Failure, Fields, Handler, Operations, Request, Responder, SendError, class, describe,
    endpoint::Credentials,
};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::{
    access::Access,
    complaints::{Complaint, Complaints, Told},
    events::{Events, RESTART, Subscription},
    forward::{Forward, nested},
    monitor::{MonitorHandle, Wish},
    process::{PeerError, is_in_other_namespace},
    registry::Registry,
    root::{Root, RootState, Signal},
    session::Session,
    statistics::Statistics,
};

/// How large the state of a worker may be. All of them go into every `status`, which would otherwise be at the mercy of
/// the largest.
const STATE_LIMIT: usize = 64 << 10;

/// What all sessions share.
pub(crate) struct Supervisor {
    pub(crate) registry: Arc<Registry>,
    /// What is to be done to processes.
    pub(crate) actions: mpsc::UnboundedSender<Wish>,
    pub(crate) root: Arc<dyn Root>,
    pub(crate) custom: Operations,
    pub(crate) access: Access,
    pub(crate) events: Arc<Events>,
    pub(crate) statistics: Statistics,
    pub(crate) complaints: Complaints,
    pub(crate) started: Instant,
}

impl Supervisor {
    /// Has something told of a peer, unless there was too much of that already.
    pub(crate) fn complain(&self, complaint: Complaint, peer: &Credentials, tell: impl FnOnce(Told)) {
        if let Some(told) = self.complaints.admit(complaint, peer.user_id, Instant::now()) {
            tell(told);
        }
    }

    /// Answers a call of a session that is not to be forwarded.
    pub(crate) fn call(&self, session: &Session, request: Request, responder: Responder) -> Option<BoxFuture> {
        match request.operation() {
            "register" => {
                let client = responder.peer();
                responder.answer(self.register(session, &request, client));
                None
            }
            "status" => Some(Box::pin(status(self.registry.clone(), responder))),
            "restart" => self.restart(&request, responder),
            "replace" => self.replace(&request, responder),
            "ping" => {
                responder.finish(&self.ping());
                None
            }
            "children" => {
                responder.answer(self.children());
                None
            }
            "subscribe" => self.subscribe(&request, responder),
            "ready" => self.ready(&request, responder),
            _ => self.custom.call(request, responder),
        }
    }

    fn register(
        &self,
        session: &Session,
        request: &Request,
        client: async_container_protocol::Client,
    ) -> Result<Registered, Failure> {
        let state = nested(request, "state")?;
        let kernel = session.peer.process_id;
        let claimed: Option<u32> = state.get("process_id").map_err(|error| invalid(&error))?;

        if let (Some(claimed), Some(kernel)) = (claimed, kernel)
            && claimed != kernel
            && !is_in_other_namespace(kernel)
        {
            // Monitors signal that process.
            let message = format!("'state.process_id' is {claimed}, but the process that connected is {kernel}");
            return Err(Failure::new(class::PERMISSION_DENIED, message));
        }

        // What it said before and does not say now still holds.
        let mut state = self.registry.state(&session.id).unwrap_or_default().merge(&state);

        if let (None, Some(kernel)) = (state.get::<u32>("process_id").ok().flatten(), kernel) {
            state = state.with("process_id", &kernel)?;
        }

        if state.size() > STATE_LIMIT {
            let message = format!("'state' takes {} bytes, the limit is {STATE_LIMIT}", state.size());
            return Err(Failure::invalid_parameters(message));
        }

        let process = session.peer.process().map_err(|error| {
            let class = match error {
                PeerError::Ended => class::PERMISSION_DENIED,
                PeerError::Files(_) => class::INTERNAL,
            };
            Failure::new(class, describe(&error))
        })?;

        self.registry.register(session.id.clone(), process, state, client);
        Ok(Registered { connection_id: session.id.to_string() })
    }

    /// Has a worker called, and passes on what it answers.
    pub(crate) fn forward(&self, forward: &Forward, responder: Responder) {
        let call = forward.parts().and_then(|(id, name, operation)| {
            let worker = self.registry.client(id).ok_or_else(|| {
                Failure::new(class::CONNECTION_NOT_FOUND, format!("no worker has the connection id '{id}'"))
            })?;

            Ok(worker.call_fields(name, operation))
        });

        match call {
            Ok(call) => responder.relay(call),
            Err(failure) => drop(responder.fail(failure)),
        }
    }

    fn restart(&self, request: &Request, responder: Responder) -> Option<BoxFuture> {
        let signal = request.get::<String>("signal").and_then(|name| {
            let signal: Signal = name
                .as_deref()
                .unwrap_or("INT")
                .parse()
                .map_err(|error| Failure::invalid_parameters(format!("{error}")))?;
            self.root.check().map_err(|error| Failure::new(class::NOT_SUPPORTED, describe(&error)))?;
            Ok(signal)
        });

        let signal = match signal {
            Ok(signal) => signal,
            Err(failure) => {
                responder.fail(failure);
                return None;
            }
        };

        let (root, events) = (self.root.clone(), self.events.clone());

        Some(Box::pin(async move {
            // The signal may be the end of this process, so the answer has to be out before.
            responder.finish(&()).flushed().await;
            tracing::info!(%signal, "signalling the root controller");
            // A string can always be encoded.
            let _ = events.publish(RESTART, &RootRestart { signal: signal.name() });

            if let Err(error) = root.signal(signal) {
                tracing::error!(error = describe(&error), %signal, "could not signal the root controller");
            }
        }))
    }

    /// The subscription begins here and now, so that the answers to the calls that follow are not older than it.
    fn subscribe(&self, request: &Request, responder: Responder) -> Option<BoxFuture> {
        let names = request.get::<Vec<String>>("events").map(Option::unwrap_or_default);

        match names.and_then(|names| self.events.subscribe(&names)) {
            Ok(subscription) => Some(Box::pin(tell(subscription, responder))),
            Err(failure) => {
                responder.fail(failure);
                None
            }
        }
    }

    fn ping(&self) -> Pong {
        Pong {
            version: env!("CARGO_PKG_VERSION"),
            process_id: std::process::id(),
            uptime: self.started.elapsed().as_secs_f64(),
        }
    }

    fn children(&self) -> Result<RootState, Failure> {
        let state = self.root.state().ok_or_else(no_state)?;
        let state = state.borrow().clone();
        Ok(state)
    }

    fn ready(&self, request: &Request, responder: Responder) -> Option<BoxFuture> {
        let parameters = match request.deserialize::<ReadyParameters>() {
            Ok(parameters) => parameters,
            Err(failure) => {
                responder.fail(failure);
                return None;
            }
        };

        let Some(mut state) = self.root.state() else {
            responder.fail(no_state());
            return None;
        };

        Some(Box::pin(async move {
            let answer = match parameters.wait {
                false => Ok(Ready::of(&state.borrow())),
                true => match state.wait_for(|state| parameters.is_met(state)).await {
                    Ok(state) => Ok(Ready::of(&state)),
                    Err(_) => Err(Failure::new(class::CONNECTION_CLOSED, "the root controller is gone")),
                },
            };
            responder.answer(answer);
        }))
    }
}

/// What is told of a signal to the root controller.
#[derive(Serialize)]
struct RootRestart {
    signal: &'static str,
}

#[derive(Serialize)]
struct Registered {
    connection_id: String,
}

#[derive(Serialize)]
struct Pong {
    version: &'static str,
    process_id: u32,
    uptime: f64,
}

#[derive(Deserialize)]
struct ReadyParameters {
    #[serde(default)]
    wait: bool,
    #[serde(default)]
    reloads: Option<u64>,
}

impl ReadyParameters {
    fn is_met(&self, state: &RootState) -> bool {
        state.ready && !state.reloading && self.reloads.is_none_or(|reloads| state.reloads > reloads)
    }
}

#[derive(Serialize)]
struct Ready {
    ready: bool,
    generation: u64,
    reloads: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    reload_error: Option<String>,
    waiting: Vec<String>,
}

impl Ready {
    fn of(state: &RootState) -> Self {
        let waiting = state.children.iter().filter(|child| !child.is_ready());

        Self {
            ready: state.ready,
            generation: state.generation,
            reloads: state.reloads,
            reload_error: state.reload_error.clone(),
            waiting: waiting.map(|child| child.name.clone()).collect(),
        }
    }
}

/// One response a monitor, then the workers. All monitors have the same second, so that the slow ones do not add up.
async fn status(registry: Arc<Registry>, responder: Responder) {
    let begin = tokio::time::Instant::now();
    let _asker = registry.askers().begin();

    let answers: Vec<_> = registry
        .monitors()
        .map(|monitor| match monitor.recent_status() {
            Some(fields) => (monitor, Ok(fields)),
            None => (monitor, Err(monitor.ask_status())),
        })
        .collect();

    for (monitor, answer) in answers {
        let fields = match answer {
            Ok(fields) => fields,
            Err(request) => request.answer(begin).await,
        };

        if send_status(&responder, monitor, &fields).await.is_err() {
            return;
        }
    }

    match registry.status() {
        Ok(status) => responder.finish_fields(&status),
        Err(error) => responder.fail(error),
    };
}

/// Passes on what a subscriber is to hear. The subscription is kept until the last of it is written, which is what a
/// supervisor that stops waits for.
async fn tell(subscription: Subscription, responder: Responder) {
    while let Some(event) = subscription.next().await {
        if responder.send_fields(&event).await.is_err() {
            return;
        }
    }

    responder.finish(&()).flushed().await;
}

async fn send_status(responder: &Responder, monitor: &MonitorHandle, fields: &Fields) -> Result<(), SendError> {
    match responder.send_fields(fields).await {
        Err(SendError::Encode(error)) => {
            let failure = Failure::new(class::INTERNAL, error.to_string());
            responder.send_fields(&monitor.failed_status(&failure)).await
        }
        result => result,
    }
}

fn invalid(error: &dyn std::error::Error) -> Failure {
    Failure::invalid_parameters(error.to_string())
}

fn no_state() -> Failure {
    Failure::not_supported("the root controller of this supervisor tells nothing of its children")
}
