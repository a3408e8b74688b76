//! A supervisor without anything below it, and `acs` to ask it.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use async_container_protocol::{Driver, Failure, Fields, Operations, Settings, Side, class};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    net::UnixListener,
    sync::{oneshot, watch},
};

use crate::diagnosed;

/// What the application is like, as its root would say.
#[derive(Clone, Debug)]
pub struct State {
    pub root: u32,
    pub generation: u64,
    pub reloads: u64,
    pub reload_error: Option<String>,
    pub ready: bool,
    pub waiting: Vec<String>,
    pub children: Value,
    pub monitors: Vec<Value>,
    pub connections: Value,
    /// What has happened.
    pub events: Vec<Value>,
    /// Whether there is a root that can be asked.
    pub supported: bool,
    /// Connections are closed whenever this changes, as if the supervisor had been replaced.
    pub supervisor: u64,
}

impl Default for State {
    fn default() -> Self {
        Self {
            root: std::process::id(),
            generation: 1,
            reloads: 0,
            reload_error: None,
            ready: true,
            waiting: Vec::new(),
            children: json!([]),
            monitors: Vec::new(),
            connections: json!([
                {"connection_id": "aaaa0000-1", "process_id": std::process::id(), "state": {"name": "web", "instance": 1}},
                {"connection_id": "bbbb0000-2", "process_id": 999_999_999, "state": {"name": "web", "instance": 2}},
                {"connection_id": "bbcc0000-3", "process_id": 999_999_998, "state": {"name": "job"}},
            ]),
            events: Vec::new(),
            supported: true,
            supervisor: 0,
        }
    }
}

type Reaction = Box<dyn Fn(&str, &watch::Sender<State>) + Send + Sync>;

struct Shared {
    state: watch::Sender<State>,
    reaction: Reaction,
    signals: Mutex<Vec<String>>,
    /// The operations of workers that were called.
    forwarded: Mutex<Vec<Value>>,
    /// How many calls that never end are under way, and how many were cancelled.
    hanging: AtomicUsize,
    cancelled: AtomicUsize,
}

pub struct Application {
    directory: TempDir,
    shared: Arc<Shared>,
    server: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
}

impl Application {
    /// An application with a supervisor.
    pub fn start(state: State) -> Self {
        Self::start_with(state, |_, _| {})
    }

    /// As [`start`](Self::start), with what happens when its root is signalled.
    pub fn start_with(state: State, reaction: impl Fn(&str, &watch::Sender<State>) + Send + Sync + 'static) -> Self {
        let mut application = Self::absent_with(state, reaction);
        application.listen();
        application
    }

    /// An application that was not started yet.
    pub fn absent() -> Self {
        Self::absent_with(State::default(), |_, _| {})
    }

    fn absent_with(state: State, reaction: impl Fn(&str, &watch::Sender<State>) + Send + Sync + 'static) -> Self {
        let shared = Shared {
            state: watch::Sender::new(state),
            reaction: Box::new(reaction),
            signals: Mutex::default(),
            forwarded: Mutex::default(),
            hanging: AtomicUsize::new(0),
            cancelled: AtomicUsize::new(0),
        };
        Self { directory: tempfile::tempdir().unwrap(), shared: Arc::new(shared), server: None }
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    pub fn socket(&self) -> PathBuf {
        self.path().join("supervisor.ipc")
    }

    /// Begins to listen and to answer.
    pub fn listen(&mut self) {
        let listener = std::os::unix::net::UnixListener::bind(self.socket()).unwrap();
        listener.set_nonblocking(true).unwrap();
        let (stop, stopped) = oneshot::channel();
        let shared = self.shared.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                tokio::select! {
                    () = serve(UnixListener::from_std(listener).unwrap(), shared) => {}
                    _ = stopped => {}
                }
            });
        });
        self.server = Some((stop, thread));
    }

    /// Ends. The socket stays behind, as after a crash.
    pub fn stop(&mut self) {
        if let Some((stop, thread)) = self.server.take() {
            let _ = stop.send(());
            thread.join().unwrap();
        }
    }

    pub fn change(&self, change: impl FnOnce(&mut State)) {
        self.shared.state.send_modify(change);
    }

    pub fn signals(&self) -> Vec<String> {
        self.shared.signals.lock().unwrap().clone()
    }

    /// The operations of workers that were called, without those that only look.
    pub fn forwarded(&self) -> Vec<Value> {
        self.shared.forwarded.lock().unwrap().clone()
    }

    pub fn hanging(&self) -> usize {
        self.shared.hanging.load(SeqCst)
    }

    pub fn cancelled(&self) -> usize {
        self.shared.cancelled.load(SeqCst)
    }

    /// How many clients follow the state: calls of `ready` that wait, and connections.
    pub fn followers(&self) -> usize {
        self.shared.state.receiver_count()
    }

    /// `acs` in the application's directory, with nothing of the test's environment that matters to it.
    pub fn command<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_acs"));
        command
            .current_dir(self.path())
            .args(arguments)
            .env_remove("ACS_SOCKET")
            .env_remove("NO_COLOR")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Runs `acs` to its end.
    pub fn acs<const N: usize>(&self, arguments: [&str; N]) -> Ended {
        Ended::new(self.command(arguments).output().unwrap())
    }

    /// Runs `acs` with success, and returns its standard output as JSON.
    pub fn json<const N: usize>(&self, arguments: [&str; N]) -> Value {
        let ended = Ended::new(self.command(arguments).args(["--format", "json"]).output().unwrap());
        assert_eq!((ended.status, ended.stderr.as_str()), (0, ""));
        assert_eq!(ended.stdout.lines().count(), 1, "{}", ended.stdout);
        serde_json::from_str(&ended.stdout).unwrap()
    }
}

impl Drop for Application {
    fn drop(&mut self) {
        self.stop();
    }
}

/// What came of a run of `acs`.
#[derive(Debug)]
pub struct Ended {
    pub status: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Ended {
    pub fn new(output: Output) -> Self {
        Self {
            status: output.status.code().unwrap(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Its standard output, if it succeeded and complained about nothing.
    pub fn text(&self) -> &str {
        assert_eq!((self.status, self.stderr.as_str()), (0, ""));
        &self.stdout
    }

    /// Its standard error, if it failed with this status and printed nothing.
    pub fn error(&self, status: i32) -> &str {
        assert_eq!((self.status, self.stdout.as_str()), (status, ""), "{}", self.stderr);
        &self.stderr
    }
}

/// Waits for what must happen, for longer than the slowest machine takes.
pub fn eventually(mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(60), "it did not happen");
        std::thread::sleep(Duration::from_millis(2));
    }
}

async fn serve(listener: UnixListener, shared: Arc<Shared>) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let (_, driver) = Driver::new(stream, Side::Accepted, operations(&shared), Settings::default());
        let mut state = shared.state.subscribe();
        let supervisor = state.borrow_and_update().supervisor;
        tokio::spawn(async move {
            tokio::select! {
                _ = driver => {}
                _ = state.wait_for(|state| state.supervisor != supervisor) => {}
            }
        });
    }
}

/// Counts a call that hangs, from its beginning to its cancellation.
struct Hanging(Arc<Shared>);

impl Hanging {
    async fn forever(shared: Arc<Shared>) {
        shared.hanging.fetch_add(1, SeqCst);
        let _hanging = Self(shared);
        std::future::pending().await
    }
}

impl Drop for Hanging {
    fn drop(&mut self) {
        self.0.cancelled.fetch_add(1, SeqCst);
    }
}

fn operations(shared: &Arc<Shared>) -> Operations {
    let with = |shared: &Arc<Shared>| shared.clone();
    let (children, ready, status) = (with(shared), with(shared), with(shared));
    let (restart, forward, hang) = (with(shared), with(shared), with(shared));
    let subscribe = with(shared);

    Operations::new()
        .immediate("ping", |_| Ok(json!({"version": "9.9.9", "process_id": std::process::id(), "uptime": 192.5})))
        .immediate("children", move |_| {
            let state = children.state.borrow();
            supported(&state)?;
            Ok(json!({
                "process_id": state.root,
                "generation": state.generation,
                "reloads": state.reloads,
                "reloading": false,
                "reload_error": state.reload_error,
                "ready": state.ready,
                "children": state.children,
            }))
        })
        .operation("ready", move |request| {
            let mut state = ready.state.subscribe();
            async move {
                supported(&state.borrow())?;
                let reloads: Option<u64> = request.get("reloads")?;
                if request.get("wait")? == Some(true) {
                    let settled = |state: &State| state.ready && reloads.is_none_or(|reloads| state.reloads > reloads);
                    state.wait_for(settled).await.map_err(Failure::from)?;
                }
                let state = state.borrow();
                Ok(json!({
                    "ready": state.ready,
                    "generation": state.generation,
                    "reloads": state.reloads,
                    "reload_error": state.reload_error,
                    "waiting": state.waiting,
                }))
            }
        })
        .streaming("status", move |_, responder| {
            let state = status.state.borrow().clone();
            async move {
                for monitor in &state.monitors {
                    responder.send(monitor).await.unwrap();
                }
                responder.finish(&json!({"connections": state.connections}));
            }
        })
        .streaming("restart", move |request, responder| {
            let shared = restart.clone();
            async move {
                let signal: String = request.require("signal").unwrap();
                responder.finish(&());
                shared.signals.lock().unwrap().push(signal.clone());
                (shared.reaction)(&signal, &shared.state);
            }
        })
        .streaming("forward", move |request, responder| {
            let shared = forward.clone();
            async move {
                let operation = request.fields().nested("operation").unwrap().unwrap();
                let connection_id: String = request.require("connection_id").unwrap();
                let mut noted = operation.to_json();
                noted["do"] = operation.operation().into();
                shared.forwarded.lock().unwrap().push(noted);
                match operation.operation() {
                    Some("echo") => {
                        let mut answer = operation.without(&["do"]).to_json();
                        answer["connection_id"] = connection_id.into();
                        responder.finish(&answer);
                    }
                    Some("count") => {
                        for number in 1..=operation.get("to").unwrap().unwrap_or(3u64) {
                            if responder.send(&json!({"number": number})).await.is_err() {
                                return;
                            }
                        }
                        responder.finish(&());
                    }
                    Some("report") => {
                        responder.finish(&json!({"data": "first\n\tsecond \x1b[31m\n"}));
                    }
                    Some("hang") => Hanging::forever(shared).await,
                    // The first worker takes diagnostics, the second never answers, the others cannot.
                    _ if connection_id.starts_with("aaaa") => diagnosed::answer(&operation, responder).await,
                    _ if connection_id.starts_with("bbbb") => Hanging::forever(shared).await,
                    Some("thread_dump") => {
                        responder.fail(Failure::not_supported("threads are not readable here: build for Linux"));
                    }
                    _ => {
                        responder.fail(Failure::new(class::UNKNOWN_OPERATION, "the worker does not know that"));
                    }
                }
            }
        })
        .operation("hang", move |_| {
            let shared = hang.clone();
            async move {
                Hanging::forever(shared).await;
                Ok(Fields::empty())
            }
        })
        .streaming("subscribe", move |request, responder| {
            let shared = subscribe.clone();
            async move {
                let wanted: Vec<String> = request.get("events").unwrap().unwrap_or_default();
                if let Some(name) = wanted.iter().find(|name| *name == "nonsense") {
                    responder.fail(Failure::invalid_parameters(format!("there is no event '{name}'")));
                    return;
                }
                let mut state = shared.state.subscribe();
                let mut sent = 0;
                loop {
                    let events = state.borrow_and_update().events.clone();
                    for event in &events[sent..] {
                        if wanted.is_empty() || wanted.iter().any(|name| event["event"] == **name) {
                            responder.send(event).await.unwrap();
                        }
                    }
                    sent = events.len();
                    state.changed().await.unwrap();
                }
            }
        })
        .immediate("nothing", |_| Ok(()))
}

fn supported(state: &State) -> Result<(), Failure> {
    if state.supported { Ok(()) } else { Err(Failure::not_supported("the supervisor has no link to a root")) }
}
