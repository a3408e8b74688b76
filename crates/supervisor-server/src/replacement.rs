//! Having one process replaced because somebody asks for it.

use async_container_monitors::Restart;
use async_container_protocol::{BoxFuture, Failure, Request, Responder, class};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use crate::{
    monitor::{Asker, Wish},
    operation::Supervisor,
    restart::Told,
    root::is_child,
};

/// What the root is told if nobody says why.
const DEFAULT_REASON: &str = "asked for";

/// What that counts as.
pub(crate) const CAUSE: &str = "request";

#[derive(Deserialize)]
struct Parameters {
    #[serde(default)]
    connection_id: Option<String>,
    #[serde(default)]
    process_id: Option<u32>,
    #[serde(default)]
    reason: Option<String>,
}

#[derive(Serialize)]
struct Replaced {
    process_id: u32,
}

/// Nobody knows whether what was asked for will be done.
fn stops() -> Failure {
    Failure::new(class::CONNECTION_CLOSED, "the supervisor stops: ask its successor")
}

impl Supervisor {
    /// Asks for the process of a worker, or of a child that is none, to be replaced. It goes the way of what monitors want:
    /// asked for twice, a process is replaced once. Answers once the root knows.
    pub(crate) fn replace(&self, request: &Request, responder: Responder) -> Option<BoxFuture> {
        let (process_id, asked) = match self.begin_replacement(request) {
            Ok(begun) => begun,
            Err(failure) => {
                responder.fail(failure);
                return None;
            }
        };

        Some(Box::pin(async move {
            let answer = match asked.await {
                Ok(Ok(())) => Ok(Replaced { process_id }),
                Ok(Err(reason)) => Err(Failure::new(class::INTERNAL, reason)),
                Err(_) => Err(stops()),
            };
            responder.answer(answer);
        }))
    }

    fn begin_replacement(&self, request: &Request) -> Result<(u32, oneshot::Receiver<Told>), Failure> {
        let Parameters { connection_id, process_id, reason } = request.deserialize()?;
        let process_id = match (connection_id, process_id) {
            (Some(id), None) => self.process_of(&id)?,
            (None, Some(process_id)) => process_id,
            _ => return Err(Failure::invalid_parameters("say either 'connection_id' or 'process_id'")),
        };

        match is_child(&*self.root, process_id) {
            Some(true) => {}
            Some(false) => {
                let message = format!("process {process_id} is no child of the root, which can replace no other");
                return Err(Failure::not_supported(message));
            }
            // A root that does not tell may know it; and if it replaces nothing, a worker can be stopped by signals.
            None if self.registry.by_process(process_id).is_some() => {}
            None => {
                let message = format!("process {process_id} is no worker that is connected");
                return Err(Failure::new(class::CONNECTION_NOT_FOUND, message));
            }
        }

        let reason = reason.filter(|reason| !reason.is_empty()).unwrap_or_else(|| DEFAULT_REASON.to_owned());
        // A person does not wait until monitors have got what they want.
        let restart = Restart::new(process_id, reason).urgent();
        let (waiting, asked) = oneshot::channel();
        self.actions
            .send(Wish::Restart { restart, diagnosis: None, cause: CAUSE.to_owned(), asker: Asker::Person(waiting) })
            .map_err(|_| stops())?;
        Ok((process_id, asked))
    }

    fn process_of(&self, connection_id: &str) -> Result<u32, Failure> {
        let worker = self.registry.get(connection_id).ok_or_else(|| {
            Failure::new(class::CONNECTION_NOT_FOUND, format!("no worker has the connection id '{connection_id}'"))
        })?;
        worker.process.process_id.ok_or_else(|| {
            Failure::not_supported(
                "the worker's process is not visible to the supervisor: it is in another pid namespace",
            )
        })
    }
}
