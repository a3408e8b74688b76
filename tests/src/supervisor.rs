//! A client of a supervisor that shares no code with the project: one JSON object a line.

use std::{
    io::{self, BufRead as _, BufReader, Write as _},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

use serde_json::{Map, Value, json};

use crate::{Program, wait_for};

/// How long the supervisor may take to answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(20);

/// A connection to a supervisor.
#[derive(Debug)]
pub struct Supervisor {
    stream: BufReader<UnixStream>,
    next_id: u64,
}

/// A worker that is registered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Worker {
    /// The id of its connection.
    pub connection: String,
    /// Its process.
    pub pid: u32,
    /// The name of its service.
    pub name: String,
    /// Which of the service's instances it is, if it says so.
    pub instance: Option<u64>,
}

impl Supervisor {
    /// Connects to the supervisor that listens at the path.
    pub fn connect(path: &Path) -> io::Result<Supervisor> {
        let stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(ANSWER_LIMIT))?;
        Ok(Supervisor { stream: BufReader::new(stream), next_id: 2 })
    }

    /// Connects to the supervisor of a program that was just started, once it listens.
    pub fn of(program: &mut Program, path: &Path, limit: Duration) -> io::Result<Supervisor> {
        program.wait_for("a connection to the supervisor", limit, || Ok(Supervisor::connect(path).ok()))
    }

    /// Calls an operation, and gives all responses, the final one last. A failure is an error that names its class.
    pub fn call(&mut self, operation: &str, parameters: Value) -> io::Result<Vec<Value>> {
        let id = self.next_id;
        self.next_id += 2;
        let mut message = Map::from_iter([("id".to_owned(), json!(id)), ("do".to_owned(), json!(operation))]);
        if let Value::Object(parameters) = parameters {
            message.extend(parameters);
        }
        writeln!(self.stream.get_mut(), "{}", Value::Object(message))?;
        let mut responses = Vec::new();
        let mut line = String::new();
        loop {
            line.clear();
            if self.stream.read_line(&mut line)? == 0 {
                return Err(io::Error::new(io::ErrorKind::ConnectionReset, "the supervisor closed the connection"));
            }
            let response: Value = serde_json::from_str(&line)?;
            if response["id"] != json!(id) {
                continue;
            }
            if response["failed"] == json!(true) {
                let (class, message) = (&response["error"]["class"], &response["error"]["message"]);
                return Err(io::Error::other(format!("{operation} failed: {class}: {message}")));
            }
            let finished = response["finished"] == json!(true);
            responses.push(response);
            if finished {
                return Ok(responses);
            }
        }
    }

    /// Calls an operation, and gives the final response.
    pub fn ask(&mut self, operation: &str, parameters: Value) -> io::Result<Value> {
        Ok(self.call(operation, parameters)?.pop().unwrap_or_default())
    }

    /// Calls an operation of a worker, and gives the final response.
    pub fn forward(&mut self, worker: &Worker, operation: Value) -> io::Result<Value> {
        self.ask("forward", json!({"connection_id": worker.connection, "operation": operation}))
    }

    /// The workers that are registered now, in the order of their service and instance.
    pub fn workers(&mut self) -> io::Result<Vec<Worker>> {
        let status = self.ask("status", json!({}))?;
        let mut workers: Vec<Worker> =
            status["connections"].as_array().into_iter().flatten().filter_map(worker).collect();
        workers.sort_by(|a, b| (&a.name, a.instance).cmp(&(&b.name, b.instance)));
        Ok(workers)
    }

    /// Waits until `enough` is satisfied with the registered workers.
    pub fn wait_for_workers(
        &mut self,
        what: &str,
        limit: Duration,
        enough: impl Fn(&[Worker]) -> bool,
    ) -> io::Result<Vec<Worker>> {
        wait_for(what, limit, || self.workers().map(|workers| enough(&workers).then_some(workers)))
    }
}

/// A connection is a worker if it has registered with a name and a process.
fn worker(connection: &Value) -> Option<Worker> {
    Some(Worker {
        connection: connection["connection_id"].as_str()?.to_owned(),
        pid: connection["process_id"].as_u64()?.try_into().ok()?,
        name: connection["state"]["name"].as_str()?.to_owned(),
        instance: connection["state"]["instance"].as_u64(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_are_connections_with_a_name_and_a_process() {
        let connection = json!({"connection_id": "a", "process_id": 7, "state": {"name": "worker", "instance": 2}});
        let expected = Worker { connection: "a".to_owned(), pid: 7, name: "worker".to_owned(), instance: Some(2) };
        assert_eq!(worker(&connection), Some(expected));
        assert_eq!(worker(&json!({"connection_id": "b", "state": {}})), None);
    }
}
