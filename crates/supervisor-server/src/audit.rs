//! Who had what done, for the log.

use std::sync::Arc;

use async_container_protocol::{Outcome, Request, Responder, endpoint::Credentials};
use tracing::Level;

use crate::{access::Role, complaints::Told, forward::Forward, registry::Registry};

/// The target of these events, by which they can be kept apart from all others, or turned off.
const TARGET: &str = "async_container_supervisor_server::audit";

/// The operation that names a worker by its process as well.
const REPLACE: &str = "replace";

/// A call, and who makes it.
pub(crate) struct Called<'a> {
    pub(crate) request: &'a Request,
    pub(crate) forward: Option<&'a Forward>,
    pub(crate) peer: &'a Credentials,
}

impl Called<'_> {
    /// Has it told what came of a call that was permitted, if it is one that is told of.
    pub(crate) fn attend(&self, responder: &mut Responder, required: Option<Role>, registry: &Arc<Registry>) {
        let role = match required {
            Some(role @ (Role::Operate | Role::Diagnose)) if tracing::enabled!(target: TARGET, Level::INFO) => role,
            _ => return,
        };

        // As it is when the call is made: afterwards, the worker may be gone.
        let Event { process_id, user_id, group_id, operation, worker } = self.event(registry);

        responder.when_over(move |outcome| {
            tracing::info!(
                target: TARGET,
                process_id,
                user_id,
                group_id,
                operation,
                worker.id = worker.id,
                worker.process_id = worker.process_id,
                worker.name = worker.name,
                %role,
                result = result(outcome),
                "called"
            );
        });
    }

    /// Tells of a call that was not permitted.
    pub(crate) fn refused(&self, role: Role, told: Told, registry: &Registry) {
        let Event { process_id, user_id, group_id, operation, worker } = self.event(registry);
        tracing::warn!(
            target: TARGET,
            process_id,
            user_id,
            group_id,
            operation,
            worker.id = worker.id,
            worker.process_id = worker.process_id,
            worker.name = worker.name,
            %role,
            suppressed = told.suppressed,
            "refused"
        );
    }

    fn event(&self, registry: &Registry) -> Event {
        let operation = self.forward.and_then(Forward::operation);

        Event {
            process_id: self.peer.process_id,
            user_id: self.peer.user_id,
            group_id: self.peer.group_id,
            operation: operation.unwrap_or_else(|| self.request.operation()).to_owned(),
            worker: self.worker(registry),
        }
    }

    /// Whose operation it is, or with whom something is to be done.
    fn worker(&self, registry: &Registry) -> Worker {
        let id: Option<String> = match self.forward {
            Some(forward) => forward.worker().map(str::to_owned),
            None => self.request.get("connection_id").ok().flatten(),
        };

        if let Some(id) = id {
            let worker = registry.get(&id);
            let process_id = worker.as_ref().and_then(|worker| worker.process.process_id);
            return Worker { id: Some(id), process_id, name: worker.map(|worker| worker.name()) };
        }

        let process_id: Option<u32> = match self.request.operation() {
            REPLACE => self.request.get("process_id").ok().flatten(),
            _ => None,
        };
        let worker = process_id.and_then(|process_id| registry.by_process(process_id));
        Worker {
            id: worker.as_ref().map(|worker| worker.id.to_string()),
            process_id,
            name: worker.map(|worker| worker.name()),
        }
    }
}

struct Event {
    process_id: Option<u32>,
    user_id: u32,
    group_id: u32,
    operation: String,
    worker: Worker,
}

/// What is known of a worker.
struct Worker {
    id: Option<String>,
    process_id: Option<u32>,
    name: Option<String>,
}

fn result(outcome: Outcome<'_>) -> &str {
    match outcome {
        Outcome::Finished => "finished",
        Outcome::Failed(failure) => failure.class(),
        _ => "cancelled",
    }
}
