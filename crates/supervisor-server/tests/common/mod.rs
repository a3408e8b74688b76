//! A supervisor in a directory of its own, and clients that speak to it in lines.

#![allow(dead_code, reason = "each test file uses a part")]

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use async_container_protocol::Client;
use async_container_supervisor_server::{Replacement, Root, RootError, RootState, ServeError, Server, Signal};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream},
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
};

pub struct TestServer {
    pub path: PathBuf,
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<(), ServeError>>,
    _directory: tempfile::TempDir,
}

impl TestServer {
    pub fn start(server: Server) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("supervisor.ipc");
        let listener = UnixListener::bind(&path).unwrap();
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(server.serve(listener, stopped));
        Self { path, stop, task, _directory: directory }
    }

    pub async fn client(&self) -> Client {
        Client::connect(&self.path).await.unwrap()
    }

    pub async fn lines(&self) -> Lines {
        Lines::connect(&self.path).await
    }

    pub async fn stop(self) -> Result<(), ServeError> {
        self.stop.send(()).unwrap();
        self.task.await.unwrap()
    }
}

/// A peer that types JSON.
pub struct Lines(BufReader<UnixStream>);

impl Lines {
    pub async fn connect(path: &Path) -> Self {
        Self(BufReader::new(UnixStream::connect(path).await.unwrap()))
    }

    pub async fn say(&mut self, message: Value) {
        self.0.write_all(format!("{message}\n").as_bytes()).await.unwrap();
    }

    pub async fn say_raw(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).await.unwrap();
    }

    /// The next message; null at the end.
    pub async fn hear(&mut self) -> Value {
        let mut line = String::new();
        self.0.read_line(&mut line).await.unwrap_or_default();
        serde_json::from_str(&line).unwrap_or_default()
    }

    pub async fn ask(&mut self, message: Value) -> Value {
        self.say(message).await;
        self.hear().await
    }

    /// Registers as a worker and gives the connection id.
    pub async fn register(&mut self, name: &str) -> String {
        let state = serde_json::json!({"process_id": std::process::id(), "name": name});
        let answer = self.ask(serde_json::json!({"id": 2, "do": "register", "state": state})).await;
        answer["connection_id"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
    }
}

/// What is logged on the thread of the test.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Log {
    pub fn start(level: tracing::Level) -> (Self, tracing::subscriber::DefaultGuard) {
        let log = Self::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(level)
            .with_ansi(false)
            .without_time()
            .with_writer(move || writer.clone())
            .finish();
        (log, tracing::subscriber::set_default(subscriber))
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }
}

/// A root that writes down what it is asked.
#[derive(Clone)]
pub struct TestRoot {
    requests: mpsc::UnboundedSender<RootRequest>,
    state: Option<Arc<Mutex<watch::Sender<RootState>>>>,
    can_replace: bool,
}

#[derive(Debug, PartialEq)]
pub enum RootRequest {
    Signal(Signal),
    Replace(u32, String),
}

impl TestRoot {
    pub fn new(can_replace: bool) -> (Self, mpsc::UnboundedReceiver<RootRequest>) {
        let (requests, receiver) = mpsc::unbounded_channel();
        (Self { requests, state: None, can_replace }, receiver)
    }

    pub fn with_state(mut self, state: RootState) -> Self {
        self.state = Some(Arc::new(Mutex::new(watch::Sender::new(state))));
        self
    }

    pub fn set_state(&self, change: impl FnOnce(&mut RootState)) {
        self.state.as_ref().unwrap().lock().unwrap().send_modify(change);
    }
}

impl Root for TestRoot {
    fn signal(&self, signal: Signal) -> Result<(), RootError> {
        self.requests.send(RootRequest::Signal(signal)).unwrap();
        Ok(())
    }

    fn replace(&self, replacement: &Replacement) -> Result<(), RootError> {
        if !self.can_replace {
            return Err(RootError::Unsupported);
        }

        self.requests.send(RootRequest::Replace(replacement.process_id, replacement.reason.clone())).unwrap();
        Ok(())
    }

    fn state(&self) -> Option<watch::Receiver<RootState>> {
        self.state.as_ref().map(|state| state.lock().unwrap().subscribe())
    }
}
