//! Asks a supervisor for its workers, one JSON object a line, over one connection.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

use async_container_supervisor_tests::Program;
use serde::Deserialize;

use super::START_LIMIT;
use crate::Result;

/// How long the supervisor may take to answer.
const LIMIT: Duration = Duration::from_secs(10);

/// A worker that is registered.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Worker {
    pub(super) pid: u32,
    pub(super) name: String,
}

pub(super) struct Supervisor {
    stream: BufReader<UnixStream>,
    line: String,
}

#[derive(Debug, Deserialize)]
struct Response {
    #[serde(default)]
    finished: bool,
    error: Option<Failure>,
    #[serde(default)]
    connections: Vec<Connection>,
}

#[derive(Debug, Deserialize)]
struct Failure {
    class: String,
    message: String,
}

#[derive(Debug, Deserialize)]
struct Connection {
    process_id: Option<u32>,
    #[serde(default)]
    state: State,
}

#[derive(Debug, Default, Deserialize)]
struct State {
    name: Option<String>,
}

impl Supervisor {
    /// Connects to the supervisor of a program that was just started, once it listens.
    pub(super) fn connect(program: &mut Program, socket: &Path) -> Result<Supervisor> {
        let stream =
            program.wait_for("a connection to the supervisor", START_LIMIT, || Ok(UnixStream::connect(socket).ok()))?;
        stream.set_read_timeout(Some(LIMIT))?;
        Ok(Supervisor { stream: BufReader::new(stream), line: String::new() })
    }

    /// The workers that are registered now.
    pub(super) fn workers(&mut self) -> Result<Vec<Worker>> {
        self.stream.get_mut().write_all(b"{\"id\":2,\"do\":\"status\"}\n")?;
        loop {
            self.line.clear();
            if self.stream.read_line(&mut self.line)? == 0 {
                return Err("the supervisor closed the connection".into());
            }
            let response: Response = serde_json::from_str(&self.line)?;
            if let Some(Failure { class, message }) = response.error {
                return Err(format!("the supervisor answered {class}: {message}").into());
            }
            if response.finished {
                return Ok(workers(response.connections));
            }
        }
    }

    /// Waits until `count` workers are registered.
    pub(super) fn wait_for(&mut self, count: usize, program: &mut Program) -> Result<Vec<Worker>> {
        let mut failure = None;
        let workers = program.wait_for(&format!("{count} workers to register"), START_LIMIT, || match self.workers() {
            Ok(workers) => Ok((workers.len() >= count).then_some(workers)),
            Err(error) => {
                failure = Some(error);
                Err(std::io::ErrorKind::Other.into())
            }
        });
        match failure {
            Some(error) => Err(error),
            None => Ok(workers?),
        }
    }
}

fn workers(connections: Vec<Connection>) -> Vec<Worker> {
    connections
        .into_iter()
        .filter_map(|connection| Some(Worker { pid: connection.process_id?, name: connection.state.name? }))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workers_are_connections_with_a_name_and_a_process() {
        let line = r#"{"id":2,"finished":true,"connections":[
            {"connection_id":"a","process_id":7,"state":{"name":"worker","more":[]}},
            {"connection_id":"b","state":{}}]}"#;
        let response: Response = serde_json::from_str(line).unwrap();
        assert!(response.finished);
        assert_eq!(workers(response.connections), [Worker { pid: 7, name: "worker".to_owned() }]);
    }
}
