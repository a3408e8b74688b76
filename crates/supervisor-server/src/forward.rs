//! What a call of `forward` is about: read once, for who decides whether it may be made, who tells of it, and who makes it.

use async_container_protocol::{Failure, Fields, Request};

/// The name of the operation that passes a call on.
pub(crate) const FORWARD: &str = "forward";

/// The parameters of `forward`, as far as they are there.
pub(crate) struct Forward {
    worker: Result<String, Failure>,
    operation: Result<Fields, Failure>,
}

impl Forward {
    /// Reads them, if this is such a call.
    pub(crate) fn of(request: &Request) -> Option<Self> {
        (request.operation() == FORWARD)
            .then(|| Self { worker: request.require("connection_id"), operation: nested(request, "operation") })
    }

    /// Whose operation it is: a connection id, whether there is such a connection or not.
    pub(crate) fn worker(&self) -> Option<&str> {
        self.worker.as_deref().ok()
    }

    /// The name of the operation.
    pub(crate) fn operation(&self) -> Option<&str> {
        self.operation.as_ref().ok()?.operation()
    }

    /// All that it takes: the connection id, the name of the operation, and what else is to be said.
    pub(crate) fn parts(&self) -> Result<(&str, &str, &Fields), Failure> {
        let worker = self.worker.as_ref().map_err(Clone::clone)?;
        let operation = self.operation.as_ref().map_err(Clone::clone)?;
        let name = operation.operation().ok_or_else(|| {
            Failure::invalid_parameters("the parameter 'operation' has no 'do' that names an operation of the worker")
        })?;

        Ok((worker, name, operation))
    }
}

/// A parameter that is a map and has to be there.
pub(crate) fn nested(request: &Request, key: &str) -> Result<Fields, Failure> {
    request
        .fields()
        .nested(key)
        .map_err(|error| Failure::invalid_parameters(error.to_string()))?
        .ok_or_else(|| Failure::invalid_parameters(format!("the parameter '{key}' is missing")))
}
