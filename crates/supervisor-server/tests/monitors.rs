//! Monitors at work in a supervisor, among them ones that misbehave.

mod common;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc::{Receiver, Sender, channel},
    },
    time::{Duration, Instant},
};

use async_container_monitors::{Action, Monitor, Status, Worker};
use async_container_protocol::{Client, class};
use async_container_supervisor_server::{ChildState, RootState, ServeError, Server};
use common::{Lines, Log, RootRequest, TestRoot, TestServer};
use serde_json::{Value, json};
use tokio::{net::UnixListener, sync::mpsc};

const LIMIT: Duration = Duration::from_secs(60);

/// A monitor whose check is whatever a test wants.
struct TestMonitor<F> {
    name: &'static str,
    interval: Duration,
    workers: BTreeMap<String, Worker>,
    removed: Vec<String>,
    checks: usize,
    check: F,
}

impl<F: FnMut(usize) -> Vec<Action> + Send + 'static> TestMonitor<F> {
    fn new(name: &'static str, check: F) -> Self {
        let interval = Duration::from_millis(5);
        Self { name, interval, workers: BTreeMap::new(), removed: Vec::new(), checks: 0, check }
    }
}

impl<F: FnMut(usize) -> Vec<Action> + Send + 'static> Monitor for TestMonitor<F> {
    fn name(&self) -> &str {
        self.name
    }

    fn interval(&self) -> Duration {
        self.interval
    }

    fn register(&mut self, worker: &Worker) {
        assert_ne!(worker.name, "trap", "a worker that this monitor cannot stand");
        self.workers.insert(worker.id.clone(), worker.clone());
    }

    fn remove(&mut self, worker: &Worker) {
        self.removed.push(worker.name.clone());
        self.workers.remove(&worker.id);
    }

    fn check(&mut self, _: Instant) -> Vec<Action> {
        self.checks += 1;
        (self.check)(self.checks)
    }

    fn status(&self) -> Status {
        let workers: Vec<String> = self.workers.values().map(|worker| worker.name.clone()).collect();
        Box::new(json!({"workers": workers, "removed": self.removed, "checks": self.checks}))
    }
}

fn idle(name: &'static str) -> TestMonitor<impl FnMut(usize) -> Vec<Action> + Send + 'static> {
    TestMonitor { interval: Duration::from_secs(3600), ..TestMonitor::new(name, |_| Vec::new()) }
}

/// All responses of `status`, the monitors' in one.
async fn status(client: &Client) -> Value {
    let mut call = client.call("status", &());
    let mut all = serde_json::Map::new();

    while let Some(fields) = call.next().await.unwrap() {
        let Value::Object(monitor) = fields.to_json() else { panic!("{fields:?}") };
        assert_eq!(monitor.len(), 1, "one response a monitor");
        all.extend(monitor);
    }

    let Value::Object(last) = call.finish().await.unwrap().to_json() else { panic!() };
    all.extend(last);
    all.into()
}

async fn status_when(client: &Client, condition: impl Fn(&Value) -> bool) -> Value {
    let deadline = Instant::now() + LIMIT;

    loop {
        let status = status(client).await;

        if condition(&status) {
            return status;
        }

        assert!(Instant::now() < deadline, "it never became so: {status}");
    }
}

/// A monitor that tells of each of its checks, and of each time that it is asked for its status, which takes so long.
struct Shown {
    name: &'static str,
    takes: Duration,
    told: Sender<&'static str>,
}

impl Monitor for Shown {
    fn name(&self) -> &str {
        self.name
    }

    fn interval(&self) -> Duration {
        Duration::from_millis(20)
    }

    fn check(&mut self, _: Instant) -> Vec<Action> {
        // Nobody listens any more once the test has seen enough.
        let _ = self.told.send("check");
        Vec::new()
    }

    fn status(&self) -> Status {
        let _ = self.told.send("status");
        std::thread::sleep(self.takes);
        Box::new(json!({}))
    }
}

/// What such a monitor does while nobody asks for anything.
async fn unasked(takes: Duration, count: usize) -> Vec<&'static str> {
    let (told, done) = channel();
    let _server = TestServer::start(Server::new().monitor(Shown { name: "shown", takes, told }));
    let listen = move || (0..count).map(|_| done.recv_timeout(LIMIT).unwrap()).collect();
    tokio::task::spawn_blocking(listen).await.unwrap()
}

#[tokio::test]
async fn status_is_prepared_after_a_check_unless_that_takes_long() {
    assert_eq!(unasked(Duration::ZERO, 3).await, ["status", "check", "status"], "though nobody asked");
    let dear = unasked(Duration::from_millis(50), 8).await;
    assert_eq!(dear[..3], ["status", "check", "status"], "what it takes is not known before");
    assert!(dear[3..].iter().all(|what| *what == "check"), "{dear:?}");
}

#[tokio::test]
async fn monitors_hear_of_workers_and_show_what_they_know() {
    let server = TestServer::start(Server::new().monitor(idle("one")).monitor(idle("two")));
    let client = server.client().await;
    assert_eq!(status(&client).await["one"]["workers"], json!([]));

    let mut worker = server.lines().await;
    worker.register("web").await;
    let seen = status(&client).await;
    assert_eq!((&seen["one"]["workers"], &seen["two"]["workers"]), (&json!(["web"]), &json!(["web"])), "at once");
    worker.register("api").await;
    assert_eq!(status(&client).await["one"]["workers"], json!(["api"]));
    drop(worker);
    let seen = status_when(&client, |status| status["connections"] == json!([])).await;
    assert_eq!((&seen["one"]["workers"], &seen["one"]["removed"]), (&json!([]), &json!(["api"])));
}

/// Not one that only does not answer in time: to print where it panicked may take it longer than that.
fn has_panicked(status: &Value) -> bool {
    status["error"]["class"] == class::INTERNAL
}

#[tokio::test]
async fn a_monitor_that_panics_begins_anew_with_all_workers() {
    let panicking = TestMonitor::new("panicking", |check| match check {
        2..5 => panic!("check {check}"),
        _ => Vec::new(),
    });
    let server = TestServer::start(Server::new().monitor(panicking).monitor(idle("calm")));
    let client = server.client().await;
    let mut other = server.lines().await;
    other.register("web").await;
    let failed = status_when(&client, |status| has_panicked(&status["panicking"])).await;
    let message = failed["panicking"]["error"]["message"].as_str().unwrap();
    assert!(message.contains("panicked in 'check': check ") && message.contains("started again in"), "{message}");
    assert_eq!(failed["calm"]["workers"], json!(["web"]));

    let well = status_when(&client, |status| status["panicking"]["checks"].as_u64() > Some(5)).await;
    assert_eq!(well["panicking"]["workers"], json!(["web"]));
    assert!(
        well["panicking"]["removed"].as_array().unwrap().contains(&json!("web")),
        "it was told to forget it: {well}"
    );

    // A worker that it cannot stand keeps it from working, and from pretending to, until that is gone.
    let mut worker = server.lines().await;
    worker.register("trap").await;
    let failed = status_when(&client, |status| has_panicked(&status["panicking"])).await;
    let message = failed["panicking"]["error"]["message"].as_str().unwrap();
    assert!(message.contains("panicked in 'register': "), "{message}");
    assert_eq!(failed["connections"].as_array().unwrap().len(), 2);
    drop(worker);
    let well = status_when(&client, |status| status["panicking"]["workers"].is_array()).await;
    assert_eq!(well["panicking"]["workers"], json!(["web"]));
}

#[tokio::test]
async fn a_panic_stands_in_the_status_until_a_check_has_come_to_its_end() {
    let server = Server::new().monitor(TestMonitor { interval: Duration::MAX, ..idle("panicking") });
    let metrics = server.metrics();
    let server = TestServer::start(server);
    let client = server.client().await;
    let mut worker = server.lines().await;
    worker.register("trap").await;
    status_when(&client, |status| has_panicked(&status["panicking"])).await;
    drop(worker);
    let is_over = |status: &Value| {
        let message = status["panicking"]["error"]["message"].as_str().unwrap_or_default();
        !message.contains("started again in") && status["panicking"]["error"]["class"] != class::TIMED_OUT
    };
    let begun = status_when(&client, is_over).await;
    let message =
        begun["panicking"]["error"]["message"].as_str().unwrap_or_else(|| panic!("as if it were well: {begun}"));
    assert!(message.contains("panicked in 'register': ") && message.contains("was started again"), "{message}");
    let families = metrics.gather().await;
    let up = families.iter().find(|family| family.name() == "monitor_up").unwrap();
    assert_eq!(up.samples()[0].value, async_container_monitors::Value::Integer(0), "{up:?}");
}

#[tokio::test]
async fn a_monitor_that_panics_is_made_anew_if_it_is_known_how() {
    let count = || Arc::new(AtomicUsize::new(0));
    let (made, panics, was_seen) = (count(), count(), Arc::new(AtomicBool::new(false)));
    let make = {
        let (made, panics, was_seen) = (made.clone(), panics.clone(), was_seen.clone());
        move || {
            made.fetch_add(1, Ordering::Relaxed);
            let (panics, was_seen) = (panics.clone(), was_seen.clone());
            TestMonitor::new("made", move |check| match check {
                3 if !was_seen.load(Ordering::Relaxed) => {
                    panics.fetch_add(1, Ordering::Relaxed);
                    panic!("nobody has seen it yet")
                }
                _ => Vec::new(),
            })
        }
    };
    let server = TestServer::start(Server::new().monitor_with(make));
    let client = server.client().await;
    let mut worker = server.lines().await;
    worker.register("web").await;
    status_when(&client, |status| has_panicked(&status["made"])).await;
    was_seen.store(true, Ordering::Relaxed);
    let well = status_when(&client, |status| status["made"]["checks"].as_u64() > Some(3)).await;
    assert_eq!((&well["made"]["workers"], &well["made"]["removed"]), (&json!(["web"]), &json!([])));
    assert_eq!(made.load(Ordering::Relaxed), panics.load(Ordering::Relaxed) + 1);
}

#[tokio::test]
async fn a_worker_that_goes_while_its_monitor_is_not_called_is_forgotten() {
    // Most of the time it is left alone, so that is when the worker goes.
    let panicking = TestMonitor::new("panicking", |check| match check {
        2..6 => panic!("check {check}"),
        _ => Vec::new(),
    });
    let server = TestServer::start(Server::new().monitor(panicking));
    let client = server.client().await;
    let (mut stays, mut goes) = (server.lines().await, server.lines().await);
    stays.register("stays").await;
    goes.register("goes").await;
    status_when(&client, |status| has_panicked(&status["panicking"])).await;
    drop(goes);
    let well = status_when(&client, |status| status["panicking"]["checks"].as_u64() > Some(6)).await;
    assert_eq!(well["panicking"]["workers"], json!(["stays"]));
}

/// A monitor that cannot get rid of one worker, and panics once by itself.
struct Clinging {
    inner: TestMonitor<fn(usize) -> Vec<Action>>,
}

impl Monitor for Clinging {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn interval(&self) -> Duration {
        self.inner.interval()
    }

    fn register(&mut self, worker: &Worker) {
        self.inner.register(worker);
    }

    fn remove(&mut self, worker: &Worker) {
        assert_ne!(worker.name, "clung to", "a worker that this monitor cannot let go");
        self.inner.remove(worker);
    }

    fn check(&mut self, now: Instant) -> Vec<Action> {
        self.inner.check(now)
    }

    fn status(&self) -> Status {
        self.inner.status()
    }
}

#[tokio::test]
async fn a_monitor_that_panics_as_it_forgets_one_worker_forgets_the_others_and_goes_on() {
    fn panic_once(check: usize) -> Vec<Action> {
        assert_ne!(check, 2, "once");
        Vec::new()
    }
    let clinging = Clinging { inner: TestMonitor::new("clinging", panic_once) };
    let server = TestServer::start(Server::new().monitor(clinging));
    let client = server.client().await;
    let mut workers = Vec::new();
    for name in ["web", "clung to", "api"] {
        let mut worker = server.lines().await;
        worker.register(name).await;
        workers.push(worker);
    }
    let has_forgotten = |status: &Value| {
        let removed = status["clinging"]["removed"].as_array().cloned().unwrap_or_default();
        removed.contains(&json!("web")) && removed.contains(&json!("api"))
    };
    let well = status_when(&client, has_forgotten).await;
    assert_eq!(well["clinging"]["workers"].as_array().map(Vec::len), Some(3), "{well}");
}

#[tokio::test]
async fn a_monitor_may_wait_for_what_is_asynchronous() {
    let waiting = TestMonitor::new("waiting", |_| {
        let runtime = tokio::runtime::Handle::current();
        let begun = tokio::spawn(async { tokio::time::sleep(Duration::from_millis(1)).await });
        runtime.block_on(async { tokio::time::timeout(LIMIT, begun).await.unwrap().unwrap() });
        Vec::new()
    });
    let server = TestServer::start(Server::new().monitor(waiting));
    let client = server.client().await;
    status_when(&client, |status| status["waiting"]["checks"].as_u64() > Some(2)).await;
}

/// A monitor whose first check lasts until the test says so.
fn stuck() -> (impl Monitor, Receiver<()>, Sender<()>) {
    let (started, has_started) = channel();
    let (release, released) = channel();
    let monitor = TestMonitor::new("stuck", move |check| {
        if check == 1 {
            started.send(()).unwrap();
            let _ = released.recv();
        }
        Vec::new()
    });
    (monitor, has_started, release)
}

#[tokio::test]
async fn slow_monitor_holds_up_nothing() {
    let (monitor, started, release) = stuck();
    let server = TestServer::start(Server::new().monitor(monitor).monitor(idle("calm")));
    tokio::task::spawn_blocking(move || started.recv().unwrap()).await.unwrap();
    let mut worker = server.lines().await;
    worker.register("web").await;
    drop(worker);
    let mut worker = server.lines().await;
    worker.register("api").await;

    let client = server.client().await;
    let before = Instant::now();
    let seen = status(&client).await;
    assert!(before.elapsed() < Duration::from_secs(3), "{:?}", before.elapsed());
    assert_eq!(seen["stuck"]["error"]["class"], class::TIMED_OUT);
    let message = seen["stuck"]["error"]["message"].as_str().unwrap();
    assert!(message.starts_with("this monitor is busy: its 'check' has taken "), "{message}");
    assert!(seen["calm"]["workers"].as_array().unwrap().contains(&json!("api")), "{seen}");

    drop(release);
    let seen = status_when(&client, |status| status["stuck"]["workers"] == json!(["api"])).await;
    assert_eq!(seen["stuck"]["removed"], json!([]), "it never heard of the one that came and went");
}

#[tokio::test]
async fn others_check_on_while_one_is_stuck_and_one_panics() {
    let (monitor, started, _release) = stuck();
    let panicking = TestMonitor::new("panicking", |_| panic!("each time"));
    let server = Server::new().monitor(monitor).monitor(panicking).monitor(TestMonitor::new("well", |_| Vec::new()));
    let server = TestServer::start(server);
    tokio::task::spawn_blocking(move || started.recv().unwrap()).await.unwrap();
    let client = server.client().await;
    let checks = |status: &Value| status["well"]["checks"].as_u64();
    let are_bad =
        |status: &Value| has_panicked(&status["panicking"]) && status["stuck"]["error"]["class"] == class::TIMED_OUT;
    let before = checks(&status_when(&client, are_bad).await);
    status_when(&client, |status| checks(status) > before.map(|before| before + 20)).await;
}

#[tokio::test]
async fn while_a_crowd_comes_nobody_waits_for_a_monitor_that_has_told_of_others() {
    let (monitor, started, _release) = stuck();
    let begin = Instant::now();
    let server = TestServer::start(Server::new().monitor(monitor));
    tokio::task::spawn_blocking(move || started.recv().unwrap()).await.unwrap();
    let mut crowd = Vec::new();

    for _ in 0..20 {
        let mut worker = server.lines().await;
        worker.register("web").await;
        crowd.push(worker);
    }

    // For a second, what it said before the first of them came; then, as it is stuck, that it is.
    let client = server.client().await;
    let is_recent = begin.elapsed() < Duration::from_millis(500);
    let seen = status(&client).await;
    assert!(!is_recent || seen["stuck"]["workers"] == json!([]), "{seen}");
    assert_eq!(seen["connections"].as_array().unwrap().len(), crowd.len());
    status_when(&client, |status| status["stuck"]["error"]["class"] == json!(class::TIMED_OUT)).await;
}

#[tokio::test]
async fn of_a_monitor_that_is_stuck_is_told_while_it_is() {
    let (log, _guard) = Log::start(tracing::Level::WARN);
    let (monitor, started, _release) = stuck();
    let server = TestServer::start(Server::new().monitor(monitor).monitor(idle("calm")));
    tokio::task::spawn_blocking(move || started.recv().unwrap()).await.unwrap();
    let client = server.client().await;
    let begin = Instant::now();
    while !log.text().contains("a monitor is stuck") {
        status(&client).await;
        assert!(begin.elapsed() < LIMIT, "{}", log.text());
    }
    assert!(begin.elapsed() >= Duration::from_secs(9), "{:?}", begin.elapsed());
    let text = log.text();
    assert!(text.contains("monitor=\"stuck\" call=\"check\"") && !text.contains("calm"), "{text}");
}

#[tokio::test]
async fn server_stops_while_a_monitor_is_stuck() {
    let (monitor, started, _release) = stuck();
    let server = TestServer::start(Server::new().monitor(monitor));
    tokio::task::spawn_blocking(move || started.recv().unwrap()).await.unwrap();
    server.stop().await.unwrap();
}

#[tokio::test]
async fn names_that_cannot_be_told_apart_are_refused() {
    let serve = |server: Server| async move {
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join("socket")).unwrap();
        server.serve(listener, std::future::pending::<()>()).await.unwrap_err()
    };
    let twice = serve(Server::new().monitor(idle("one")).monitor(idle("one"))).await;
    assert!(matches!(twice, ServeError::DuplicateMonitor(name) if name == "one"));
    let reserved = serve(Server::new().monitor(idle("error"))).await;
    assert!(matches!(reserved, ServeError::MonitorName(name) if name == "error"));
    let at_once = TestMonitor { interval: Duration::ZERO, ..TestMonitor::new("at_once", |_| Vec::new()) };
    let at_once = serve(Server::new().monitor(idle("one")).monitor(at_once)).await;
    let expected = "the monitor 'at_once' cannot work so: its interval is zero, and has to be longer";
    assert!(at_once.to_string().starts_with(expected), "{at_once}");
}

#[tokio::test]
async fn a_monitor_that_never_checks_shows_what_it_knows() {
    let never = TestMonitor { interval: Duration::MAX, ..TestMonitor::new("never", |_| Vec::new()) };
    let server = TestServer::start(Server::new().monitor(never));
    let client = server.client().await;
    let mut worker = server.lines().await;
    worker.register("web").await;
    let seen = status_when(&client, |status| status["never"]["workers"] == json!(["web"])).await;
    assert_eq!(seen["never"]["checks"], 0);
}

#[tokio::test]
async fn status_that_cannot_be_encoded_is_an_error_entry() {
    struct Odd;

    impl Monitor for Odd {
        fn name(&self) -> &str {
            "odd"
        }

        fn interval(&self) -> Duration {
            Duration::from_secs(3600)
        }

        fn check(&mut self, _: Instant) -> Vec<Action> {
            Vec::new()
        }

        fn status(&self) -> Status {
            struct Never;

            impl serde::Serialize for Never {
                fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
                    Err(serde::ser::Error::custom("never"))
                }
            }

            Box::new(Never)
        }
    }

    let server = TestServer::start(Server::new().monitor(Odd));
    let client = server.client().await;
    let seen = status(&client).await;
    assert_eq!(seen["odd"]["error"]["class"], class::INTERNAL);
}

/// A monitor that wants this process restarted at each check.
fn wanting(process_id: u32) -> impl Monitor {
    TestMonitor::new("wanting", move |_| vec![Action::restart(process_id, "for a test")])
}

#[tokio::test]
async fn root_is_asked_to_replace_once() {
    let (root, mut requests) = TestRoot::new(true);
    let server = TestServer::start(Server::new().root(root).monitor(wanting(std::process::id())));
    let mut worker = server.lines().await;
    worker.register("web").await;
    let client = server.client().await;
    status_when(&client, |status| status["wanting"]["checks"].as_u64() > Some(20)).await;
    assert_eq!(requests.recv().await, Some(RootRequest::Replace(std::process::id(), "for a test".into())));
    assert!(requests.is_empty(), "never twice while one is under way");
}

#[tokio::test]
async fn process_that_is_not_connected_is_left_alone() {
    // Started by hand, and known to the supervisor by number only.
    let mut bystander = tokio::process::Command::new("sleep").arg("60").kill_on_drop(true).spawn().unwrap();
    let (root, _requests) = TestRoot::new(false);
    let server = TestServer::start(Server::new().root(root).monitor(wanting(bystander.id().unwrap())));
    let client = server.client().await;
    status_when(&client, |status| status["wanting"]["checks"].as_u64() > Some(20)).await;
    assert!(bystander.try_wait().unwrap().is_none());
}

/// What the tests below start: a worker in a process of its own, which ends by a signal only.
#[test]
fn worker_process() {
    use std::io::{BufRead, Write};

    let Some(path) = std::env::var_os("TEST_WORKER_SOCKET") else { return };
    let mut stream = std::os::unix::net::UnixStream::connect(path).unwrap();
    writeln!(stream, "{}", json!({"id": 2, "do": "register", "state": {"name": "child"}})).unwrap();
    std::io::BufReader::new(stream).lines().for_each(drop);
}

/// Starts such a process. `ignore` lets it be deaf to SIGINT.
fn start_worker(server: &TestServer, ignore: bool) -> tokio::process::Child {
    let trap = if ignore { "trap '' INT;" } else { "" };
    tokio::process::Command::new("sh")
        .args(["-c", &format!("{trap} exec \"$0\" --exact worker_process")])
        .arg(std::env::current_exe().unwrap())
        .env("TEST_WORKER_SOCKET", &server.path)
        .stdout(std::process::Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

/// A monitor that wants whatever it is told restarted.
fn obedient() -> (impl Monitor, Sender<u32>) {
    let (sender, receiver) = channel();
    let monitor = TestMonitor::new("obedient", move |_| {
        receiver.try_iter().map(|process_id| Action::restart(process_id, "told")).collect()
    });
    (monitor, sender)
}

async fn restart_child(ignore: bool) -> std::process::ExitStatus {
    let (root, _requests) = TestRoot::new(false);
    restart_child_of(root, ignore).await
}

async fn restart_child_of(root: TestRoot, ignore: bool) -> std::process::ExitStatus {
    let (monitor, want) = obedient();
    let server = TestServer::start(Server::new().root(root).monitor(monitor));
    let mut child = start_worker(&server, ignore);
    let mut client = server.lines().await;
    let listed = wait_for_worker(&mut client).await;
    assert_eq!(listed, child.id().unwrap());
    want.send(listed).unwrap();
    child.wait().await.unwrap()
}

async fn wait_for_worker(client: &mut Lines) -> u32 {
    loop {
        client.say(json!({"id": 2, "do": "status"})).await;
        let status = loop {
            let response = client.hear().await;
            if response["finished"] == true {
                break response;
            }
        };

        if let Some(process_id) = status["connections"][0]["process_id"].as_u64() {
            return process_id as u32;
        }
    }
}

#[tokio::test]
async fn without_a_root_that_can_the_process_gets_a_signal() {
    use std::os::unix::process::ExitStatusExt;
    assert_eq!(restart_child(false).await.signal(), Some(2));
}

/// As a server of another language that forks its workers.
#[tokio::test]
async fn a_worker_that_the_root_did_not_start_gets_a_signal() {
    use std::os::unix::process::ExitStatusExt;
    let (root, requests) = TestRoot::new(true);
    let other = ChildState { process_id: Some(std::process::id()), ..ChildState::default() };
    let root = root.with_state(RootState { children: vec![other], ..RootState::default() });
    assert_eq!(restart_child_of(root, false).await.signal(), Some(2));
    assert!(requests.is_empty());
}

#[tokio::test]
async fn the_next_has_its_turn_when_another_process_is_ready_in_the_place_of_the_one_before() {
    let (root, mut requests) = TestRoot::new(true);
    let root = root.with_state(RootState::default());
    let (monitor, want) = obedient();
    let server = Server::new().root(root.clone()).monitor(monitor).restarts_at_once(1);
    let server = TestServer::start(server);
    let (mut first, second) = (start_worker(&server, false), start_worker(&server, false));
    let [first_id, second_id] = [&first, &second].map(|worker| worker.id().unwrap());
    let set = |instance, process_id, state: &str| {
        let state = state.to_owned();
        root.set_state(|root| {
            root.children.retain(|child| child.instance != instance);
            let place = ChildState { service: "web".to_owned(), instance, ..ChildState::default() };
            root.children.push(ChildState { process_id, state, ..place });
        });
    };
    set(1, Some(first_id), "ready");
    set(2, Some(second_id), "ready");
    let client = server.client().await;
    let count = |status: &Value| status["connections"].as_array().map_or(0, Vec::len);
    status_when(&client, |status| count(status) == 2).await;

    for process_id in [first_id, second_id] {
        want.send(process_id).unwrap();
    }
    assert_eq!(requests.recv().await, Some(RootRequest::Replace(first_id, "told".into())));
    first.kill().await.unwrap();
    set(1, None, "starting");
    let status = status_when(&client, |status| count(status) == 1).await;
    // Long enough for all that is to be done about its end.
    let checks = |status: &Value| status["obedient"]["checks"].as_u64();
    let later = checks(&status).map(|checks| checks + 20);
    status_when(&client, |status| checks(status) > later).await;
    assert!(requests.is_empty(), "its place is empty");
    set(1, Some(std::process::id()), "starting");
    status_when(&client, |status| checks(status) > later.map(|later| later + 20)).await;
    assert!(requests.is_empty(), "nobody is ready there");
    set(1, Some(std::process::id()), "ready");
    assert_eq!(requests.recv().await, Some(RootRequest::Replace(second_id, "told".into())));
}

#[tokio::test(start_paused = true)]
async fn process_that_ignores_the_signal_is_killed() {
    use std::os::unix::process::ExitStatusExt;
    let before = tokio::time::Instant::now();
    assert_eq!(restart_child(true).await.signal(), Some(9));
    assert!(before.elapsed() >= Duration::from_secs(10));
}

#[tokio::test]
async fn monitors_end_with_their_server() {
    let (sender, mut receiver) = mpsc::unbounded_channel::<()>();
    let monitor = TestMonitor::new("holder", move |_| {
        let _ = &sender;
        Vec::new()
    });
    let server = Server::new().monitor(monitor);
    let _workers = server.workers();
    let server = TestServer::start(server);
    server.stop().await.unwrap();
    assert_eq!(receiver.recv().await, None, "the monitor is dropped with the server");
}
