//! Who had what done, for the log.

use async_container_protocol::{Outcome, Request, Responder, endpoint::Credentials};
use tracing::Level;

use crate::access::Role;

/// The target of these events, by which they can be kept apart from all others, or turned off.
const TARGET: &str = "async_container_supervisor_server::audit";

/// Has it told what came of a call that was permitted, if it is one that is told of.
pub(crate) fn attend(request: &Request, responder: &mut Responder, peer: Credentials, required: Option<Role>) {
    let role = match required {
        Some(role @ (Role::Operate | Role::Diagnose)) => role,
        _ => return,
    };

    // What an application does in its daily work may be done thousands of times a second.
    if role == Role::Diagnose || ["restart", "replace"].contains(&request.operation()) {
        if tracing::enabled!(target: TARGET, Level::INFO) {
            let called = Called::new(request, peer, role);
            responder.when_over(move |outcome| {
                let Called { process_id, user_id, operation, worker, role } = called;
                let result = result(outcome);
                tracing::info!(target: TARGET, process_id, user_id, operation, worker, %role, result, "called");
            });
        }
    } else if tracing::enabled!(target: TARGET, Level::DEBUG) {
        let called = Called::new(request, peer, role);
        responder.when_over(move |outcome| {
            let Called { process_id, user_id, operation, worker, role } = called;
            let result = result(outcome);
            tracing::debug!(target: TARGET, process_id, user_id, operation, worker, %role, result, "called");
        });
    }
}

/// Tells of a call that was not permitted.
pub(crate) fn refused(request: &Request, peer: Credentials, required: Role) {
    let Called { process_id, user_id, operation, worker, role } = Called::new(request, peer, required);
    tracing::warn!(target: TARGET, process_id, user_id, operation, worker, %role, "refused");
}

struct Called {
    process_id: Option<u32>,
    user_id: u32,
    operation: String,
    /// Whose operation it is, if not the supervisor's own.
    worker: Option<String>,
    role: Role,
}

impl Called {
    fn new(request: &Request, peer: Credentials, role: Role) -> Self {
        let forwarded = (request.operation() == "forward").then(|| request.fields().nested("operation").ok().flatten());
        let operation = forwarded.flatten().and_then(|operation| operation.operation().map(str::to_owned));

        Self {
            process_id: peer.process_id,
            user_id: peer.user_id,
            operation: operation.unwrap_or_else(|| request.operation().to_owned()),
            worker: request.fields().get("connection_id").ok().flatten(),
            role,
        }
    }
}

fn result(outcome: Outcome<'_>) -> String {
    match outcome {
        Outcome::Finished => "finished".to_owned(),
        Outcome::Failed(failure) => failure.class().to_owned(),
        _ => "cancelled".to_owned(),
    }
}
