//! A supervisor and its workers over real sockets, through whatever may happen to either.

use std::{
    os::unix::net::UnixListener as BlockingListener,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_container_protocol::{Call, CallError, Client, Failure, Operations, Request, class};
use async_container_supervisor_server::{ServeError, Server};
use async_container_supervisor_worker::{Registration, Worker};
use serde_json::{Value, json};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::{mpsc, oneshot, watch},
    task::JoinHandle,
};

/// The root's part: a directory, and a socket that outlives supervisors.
struct Root {
    path: PathBuf,
    listener: BlockingListener,
    _directory: tempfile::TempDir,
}

struct Supervisor {
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<(), ServeError>>,
}

impl Root {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("supervisor.ipc");
        let listener = BlockingListener::bind(&path).unwrap();
        listener.set_nonblocking(true).unwrap();
        Self { path, listener, _directory: directory }
    }

    fn start(&self) -> Supervisor {
        let listener = UnixListener::from_std(self.listener.try_clone().unwrap()).unwrap();
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(Server::new().serve(listener, stopped));
        Supervisor { stop, task }
    }

    async fn client(&self) -> Client {
        Client::connect(&self.path).await.unwrap()
    }

    async fn status(&self) -> Value {
        self.client().await.call("status", &()).await.unwrap().to_json()["connections"].take()
    }
}

impl Supervisor {
    async fn stop(self) {
        self.stop.send(()).unwrap();
        self.task.await.unwrap().unwrap();
    }
}

/// A worker at work, and what it is known by.
struct Running {
    registration: watch::Receiver<Option<Registration>>,
    instance_id: String,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Running {
    fn start(worker: Worker) -> Self {
        let (stop, stopped) = oneshot::channel();
        let (registration, instance_id) = (worker.registration(), worker.instance_id().to_owned());
        let task = tokio::spawn(worker.run(stopped));
        Self { registration, instance_id, stop, task }
    }

    async fn registered(&mut self) -> Registration {
        self.registration.wait_for(Option::is_some).await.unwrap().clone().unwrap()
    }

    async fn lost(&mut self) {
        self.registration.wait_for(Option::is_none).await.unwrap();
    }
}

fn forward(client: &Client, registration: &Registration, operation: Value) -> Call {
    let connection_id = &registration.connection_id;
    client.call("forward", &json!({"connection_id": connection_id, "operation": operation}))
}

fn failure(result: Result<async_container_protocol::Fields, CallError>) -> Failure {
    match result {
        Err(CallError::Failed(failure)) => failure,
        other => panic!("expected a failure, got {other:?}"),
    }
}

#[tokio::test]
async fn worker_says_who_it_is_and_serves() {
    let root = Root::new();
    let _supervisor = root.start();
    let worker = Worker::new(&root.path)
        .name("web")
        .state(&json!({"port": 80}))
        .unwrap()
        .operation(
            "double",
            |request: Request| async move { Ok(json!({"result": request.require::<i64>("number")? * 2})) },
        )
        .operations(Operations::new().streaming("count", |_, responder| async move {
            for number in 0..100 {
                responder.send(&json!({"number": number})).await.unwrap();
            }
            responder.finish(&json!({"number": 100}));
        }));
    let mut worker = Running::start(worker);
    let registration = worker.registered().await;
    let process_id = std::process::id();
    let state = json!({"name": "web", "port": 80, "process_id": process_id, "instance_id": worker.instance_id});
    assert_eq!(
        root.status().await,
        json!([{"connection_id": registration.connection_id, "process_id": process_id, "state": state}])
    );

    let client = root.client().await;
    let pong = forward(&client, &registration, json!({"do": "ping"})).await.unwrap();
    assert_eq!(pong.get("process_id").unwrap(), Some(process_id));
    let double = forward(&client, &registration, json!({"do": "double", "number": 21})).await.unwrap();
    assert_eq!(double.get("result").unwrap(), Some(42));
    let missing = failure(forward(&client, &registration, json!({"do": "double"})).await);
    assert_eq!((missing.class(), missing.message()), (class::INVALID_PARAMETERS, "the parameter 'number' is missing"));
    assert_eq!(failure(forward(&client, &registration, json!({"do": "x"})).await).class(), class::UNKNOWN_OPERATION);

    let mut count = forward(&client, &registration, json!({"do": "count"}));
    for number in 0..100 {
        assert_eq!(count.next().await.unwrap().unwrap().get("number").unwrap(), Some(number));
    }
    assert_eq!(count.finish().await.unwrap().get("number").unwrap(), Some(100));

    // The other direction: a worker may ask its supervisor.
    assert!(registration.supervisor.call("ping", &()).await.unwrap().contains("version"));
}

#[tokio::test]
async fn supervisor_gone_and_back_has_all_its_workers() {
    let root = Root::new();
    let mut workers: Vec<_> = (0..20).map(|n| Running::start(Worker::new(&root.path).name(&format!("w{n}")))).collect();

    for round in 0..3 {
        // The first time, they are there before the supervisor is, and wait in the backlog.
        let supervisor = root.start();
        let mut ids = Vec::new();

        for worker in &mut workers {
            ids.push(worker.registered().await.connection_id);
        }

        let status = root.status().await;
        let connections = status.as_array().unwrap();
        assert_eq!(connections.len(), 20, "round {round}: all of them, and no phantoms");

        for (worker, id) in workers.iter().zip(&ids) {
            let mine = connections.iter().find(|one| one["connection_id"] == json!(id)).unwrap();
            assert_eq!(mine["state"]["instance_id"], json!(worker.instance_id), "the same for ever");
        }

        supervisor.stop().await;

        for worker in &mut workers {
            worker.lost().await;
        }
    }
}

#[tokio::test]
async fn worker_starts_before_there_is_a_socket() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("supervisor.ipc");
    let mut worker = Running::start(Worker::new(&path));
    // Long enough for it to have failed at least once: another task's attempt comes after its own.
    assert!(Client::connect(&path).await.is_err());
    let listener = UnixListener::bind(&path).unwrap();
    tokio::spawn(Server::new().serve(listener, std::future::pending::<()>()));
    worker.registered().await;
}

#[tokio::test]
async fn worker_leaves_when_told_and_not_before() {
    let root = Root::new();
    let _supervisor = root.start();
    let mut worker = Running::start(Worker::new(&root.path));
    let registration = worker.registered().await;
    let client = root.client().await;
    forward(&client, &registration, json!({"do": "ping"})).await.unwrap();
    worker.stop.send(()).unwrap();
    worker.task.await.unwrap();
    assert!(worker.registration.borrow().is_none());

    while root.status().await != json!([]) {}
}

#[tokio::test]
async fn operations_of_a_lost_connection_are_dropped() {
    struct Report(mpsc::UnboundedSender<&'static str>);

    impl Drop for Report {
        fn drop(&mut self) {
            let _ = self.0.send("dropped");
        }
    }

    let root = Root::new();
    let supervisor = root.start();
    let (reports, mut reported) = mpsc::unbounded_channel();
    let worker = Worker::new(&root.path).operation("hang", move |_| {
        let report = Report(reports.clone());
        async move {
            report.0.send("started").unwrap();
            std::future::pending::<Result<(), Failure>>().await
        }
    });
    let mut worker = Running::start(worker);
    let registration = worker.registered().await;
    let client = root.client().await;
    let call = forward(&client, &registration, json!({"do": "hang"}));
    assert_eq!(reported.recv().await, Some("started"));
    drop(call);
    assert_eq!(reported.recv().await, Some("dropped"), "cancelled all the way through");

    let call = forward(&client, &registration, json!({"do": "hang"}));
    assert_eq!(reported.recv().await, Some("started"));
    supervisor.stop().await;
    assert_eq!(reported.recv().await, Some("dropped"));
    assert!(matches!(call.await, Err(CallError::ConnectionClosed)));
}

#[tokio::test]
async fn worker_gone_in_the_middle_of_a_forward() {
    let root = Root::new();
    let _supervisor = root.start();
    let (started, mut has_started) = mpsc::unbounded_channel();
    let worker = Worker::new(&root.path).operations(Operations::new().streaming("hang", move |_, responder| {
        let started = started.clone();
        async move {
            responder.send(&json!({"part": 1})).await.unwrap();
            started.send(()).unwrap();
            responder.cancelled().await;
        }
    }));
    let mut worker = Running::start(worker);
    let registration = worker.registered().await;
    let client = root.client().await;
    let mut call = forward(&client, &registration, json!({"do": "hang"}));
    assert!(call.next().await.unwrap().is_some());
    has_started.recv().await.unwrap();
    worker.task.abort();
    let error = call.next().await.unwrap_err();
    assert!(matches!(error, CallError::Failed(failure) if failure.class() == class::CONNECTION_CLOSED));
}

#[tokio::test]
async fn time_out_of_a_forward_reaches_the_worker_and_a_stale_answer_nobody() {
    let root = Root::new();
    let _supervisor = root.start();
    let (cancelled, mut was_cancelled) = mpsc::unbounded_channel();
    let worker = Worker::new(&root.path).operations(Operations::new().streaming("slow", move |_, responder| {
        let cancelled = cancelled.clone();
        async move {
            // In a task that goes on, and answers too late.
            tokio::spawn(async move {
                responder.cancelled().await;
                responder.finish(&json!({"late": true}));
                cancelled.send(()).unwrap();
            });
            std::future::pending().await
        }
    }));
    let mut worker = Running::start(worker);
    let registration = worker.registered().await;
    let client = root.client().await;
    let call = forward(&client, &registration, json!({"do": "slow"})).timeout(Duration::from_millis(20));
    assert!(matches!(call.await, Err(CallError::TimedOut)));
    was_cancelled.recv().await.unwrap();
    assert!(forward(&client, &registration, json!({"do": "ping"})).await.is_ok());
    assert!(worker.registration.borrow_and_update().is_some(), "the connection lives on");
}

#[tokio::test]
async fn many_forwards_leave_nothing_behind() {
    let root = Root::new();
    let _supervisor = root.start();
    let mut worker = Running::start(Worker::new(&root.path));
    let registration = worker.registered().await;
    let client = root.client().await;
    let mut resident = Vec::new();

    for round in 0..4 {
        for _ in 0..50 {
            let calls: Vec<_> = (0..100).map(|_| forward(&client, &registration, json!({"do": "ping"}))).collect();
            for (number, call) in calls.into_iter().enumerate() {
                // Some callers leave before their answer comes.
                if number % 3 == 0 {
                    drop(call);
                } else {
                    call.await.unwrap();
                }
            }
        }

        if round > 0 {
            resident.push(resident_size());
        }
    }

    let growth = resident.last().unwrap() - resident[0];
    assert!(growth < 2 << 20, "10,000 forwards more took {growth} bytes: {resident:?}");
    assert_eq!(root.status().await.as_array().unwrap().len(), 1);
}

fn resident_size() -> i64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split_whitespace().nth(1).unwrap().parse::<i64>().unwrap() * 4096
}

/// What is logged, line by line.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

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
    fn start() -> (Self, tracing::subscriber::DefaultGuard) {
        let log = Self::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::INFO)
            .with_ansi(false)
            .without_time()
            .with_writer(move || writer.clone())
            .finish();
        (log, tracing::subscriber::set_default(subscriber))
    }

    fn lines(&self, part: &str) -> usize {
        let log = self.0.lock().unwrap();
        String::from_utf8_lossy(&log).lines().filter(|line| line.contains(part)).count()
    }
}

#[tokio::test(start_paused = true)]
async fn loss_is_logged_once_however_long_it_lasts() {
    let (log, _guard) = Log::start();
    let root = Root::new();
    let supervisor = root.start();
    let mut worker = Running::start(Worker::new(&root.path));
    worker.registered().await;
    supervisor.stop().await;
    let path = root.path.clone();
    let directory = root._directory;
    drop(root.listener);
    worker.lost().await;
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(log.lines("the supervisor closed the connection"), 1);
    assert_eq!(log.lines("could not connect to the supervisor"), 1);
    assert_eq!(log.lines("WARN"), 1);

    std::fs::remove_file(&path).unwrap();
    let listener = UnixListener::bind(&path).unwrap();
    tokio::spawn(Server::new().serve(listener, std::future::pending::<()>()));
    worker.registered().await;
    assert_eq!(log.lines("registered with the supervisor again"), 1);
    drop(directory);
}

#[tokio::test(start_paused = true)]
async fn path_that_is_too_long_is_one_clear_error() {
    let (log, _guard) = Log::start();
    let worker = Running::start(Worker::new(format!("/tmp/{}", "x".repeat(200))));
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(log.lines("ERROR"), 1);
    assert_eq!(log.lines("more than the 107 that this platform allows"), 1);
    assert!(!worker.task.is_finished());
}

#[tokio::test(start_paused = true)]
async fn supervisor_that_is_replaced_is_no_reason_to_warn() {
    let (log, _guard) = Log::start();
    let root = Root::new();
    let mut supervisor = root.start();
    let mut worker = Running::start(Worker::new(&root.path));
    for replaced in 1..=2 {
        worker.registered().await;
        supervisor.stop().await;
        worker.lost().await;
        supervisor = root.start();
        worker.registered().await;
        assert_eq!(log.lines("the supervisor closed the connection"), replaced);
        assert_eq!(log.lines("registered with the supervisor again"), replaced);
    }
    assert_eq!(log.lines("WARN"), 0);
}

#[tokio::test(start_paused = true)]
async fn supervisor_that_always_hangs_up_is_not_stormed() {
    let (log, _guard) = Log::start();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("supervisor.ipc");
    let listener = UnixListener::bind(&path).unwrap();
    let _worker = Running::start(Worker::new(&path));
    let mut accepted = 0;
    let _ = tokio::time::timeout(Duration::from_secs(60), async {
        loop {
            let (stream, _): (UnixStream, _) = listener.accept().await.unwrap();
            drop(stream);
            accepted += 1;
        }
    })
    .await;
    assert!((30..400).contains(&accepted), "{accepted} connections in a minute");
    assert_eq!(log.lines("the supervisor closes every connection"), 1);
    assert_eq!(log.lines("WARN"), 1);
}
