//! What `status` and `forward` cost, beside a bare echo.
//!
//! `cargo bench -p async-container-supervisor-server`. Supervisor, workers and client have a thread each, in place of
//! the processes that they are.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use async_container_monitors::{Action, Monitor, Status, Worker};
use async_container_protocol::{Client, Fields, Operations, Settings};
use async_container_supervisor_server::Server;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
};

const CALLS: usize = 20_000;
const ROUNDS: usize = 3;
const WORKERS: usize = 50;

#[derive(serde::Serialize)]
struct Forward<'call> {
    connection_id: &'call str,
    operation: BTreeMap<&'call str, &'call str>,
}

struct Names {
    name: &'static str,
    names: BTreeMap<String, String>,
}

impl Monitor for Names {
    fn name(&self) -> &str {
        self.name
    }

    fn interval(&self) -> Duration {
        Duration::from_secs(1)
    }

    fn register(&mut self, worker: &Worker) {
        self.names.insert(worker.id.clone(), worker.name.clone());
    }

    fn check(&mut self, _: Instant) -> Vec<Action> {
        Vec::new()
    }

    fn status(&self) -> Status {
        Box::new(self.names.clone())
    }
}

fn monitor(name: &'static str) -> Names {
    Names { name, names: BTreeMap::new() }
}

fn main() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = |name: &str| directory.path().join(name);
    let (echo, bare, full) = (path("echo"), path("bare"), path("full"));
    serve(&echo, |listener| async move {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        let (mut request, answer) = (vec![0; 19], vec![0; 35]);
        while stream.read_exact(&mut request).await.is_ok() {
            stream.write_all(&answer).await.expect("the bench reads");
        }
    });
    serve(&bare, |listener| async move {
        Server::new().serve(listener, std::future::pending::<()>()).await.expect("it serves");
    });
    serve(&full, |listener| async move {
        let server = Server::new().monitor(monitor("memory")).monitor(monitor("process"));
        server.serve(listener, std::future::pending::<()>()).await.expect("it serves");
    });
    let socket = full.clone();
    std::thread::spawn(move || current_thread(work(socket)));
    current_thread(measure(echo, bare, full));
}

async fn measure(echo: PathBuf, bare: PathBuf, full: PathBuf) {
    let mut stream = UnixStream::connect(&echo).await.expect("it listens");
    let bare = Client::connect(&bare).await.expect("it listens");
    let full = Client::connect(&full).await.expect("it listens");
    let connections = loop {
        let status = full.call("status", &()).await.expect("it answers").to_json();
        match status["connections"].as_array() {
            Some(workers) if workers.len() == WORKERS => break workers.clone(),
            _ => tokio::task::yield_now().await,
        }
    };
    let connection_id = connections[0]["connection_id"].as_str().expect("it is registered");
    let ping = Forward { connection_id, operation: BTreeMap::from([("do", "ping")]) };
    let ping = Fields::new(&ping).expect("it is a map");

    for _ in 0..ROUNDS {
        let (request, mut answer) = ([0; 19], [0; 35]);
        let raw = median(async || {
            stream.write_all(&request).await.expect("it echoes");
            stream.read_exact(&mut answer).await.expect("it echoes");
        })
        .await;
        let empty = median(async || drop(bare.call("status", &()).finish().await.expect("it answers"))).await;
        let status = median(async || drop(full.call("status", &()).finish().await.expect("it answers"))).await;
        let forward =
            median(async || drop(full.call_fields("forward", &ping).finish().await.expect("it answers"))).await;
        let at_once = rate(&full, &ping).await;
        println!(
            "raw echo {raw:.1?}  status {empty:.1?} ({:.2}x)  status of {WORKERS} workers, 2 monitors {status:.1?}  \
             forward {forward:.1?}  forward@64 {:.0}k/s",
            empty.as_secs_f64() / raw.as_secs_f64(),
            at_once / 1e3,
        );
    }

    let before = resident();
    for _ in 0..1_000_000 / (CALLS * 10) {
        rate(&full, &ping).await;
    }
    println!("1,000,000 forwards took {} KiB more", (resident() - before) / 1024);
}

async fn median(mut once: impl AsyncFnMut()) -> Duration {
    let mut times = Vec::with_capacity(CALLS);

    for _ in 0..CALLS {
        let start = Instant::now();
        once().await;
        times.push(start.elapsed());
    }

    times.sort_unstable();
    times[CALLS / 2]
}

async fn rate(client: &Client, ping: &Fields) -> f64 {
    let each = CALLS * 10 / 64;
    let start = Instant::now();
    let tasks: Vec<_> = (0..64)
        .map(|_| {
            let (client, ping) = (client.clone(), ping.clone());
            tokio::spawn(async move {
                for _ in 0..each {
                    client.call_fields("forward", &ping).finish().await.expect("it answers");
                }
            })
        })
        .collect();

    for task in tasks {
        task.await.expect("it ends");
    }

    (each * 64) as f64 / start.elapsed().as_secs_f64()
}

fn resident() -> i64 {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    statm.split_whitespace().nth(1).and_then(|pages| pages.parse::<i64>().ok()).expect("a number") * 4096
}

async fn work(path: PathBuf) {
    let mut workers = Vec::new();

    for number in 0..WORKERS {
        let operations =
            Operations::new().immediate("ping", |_| Ok([("version", "1")].into_iter().collect::<BTreeMap<_, _>>()));
        let client = Client::connect_with(&path, operations, Settings::default()).await.expect("it listens");
        let state =
            serde_json::json!({"state": {"name": format!("worker-{number}"), "process_id": std::process::id()}});
        client.call("register", &state).await.expect("it answers");
        workers.push(client);
    }

    std::future::pending().await
}

fn serve<F: Future<Output = ()> + 'static>(path: &Path, server: impl FnOnce(UnixListener) -> F + Send + 'static) {
    let listener = std::os::unix::net::UnixListener::bind(path).expect("a socket");
    listener.set_nonblocking(true).expect("a socket");
    std::thread::spawn(move || {
        current_thread(async move { server(UnixListener::from_std(listener).expect("a runtime")).await })
    });
}

fn current_thread(future: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(future);
}
