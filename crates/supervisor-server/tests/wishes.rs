//! What monitors want done to workers: how it is paced, and what is found out before.

mod common;

use std::{
    os::unix::fs::PermissionsExt,
    time::{Duration, Instant},
};

use async_container_monitors::{Action, Destination, Diagnosis, Monitor, Restart, Status};
use async_container_supervisor_server::{Case, ChildState, Examination, Examiner, RootState, Server};
use common::{Lines, Log, RootRequest, TestRoot, TestServer};
use serde::Serialize;
use serde_json::{Value, json};

/// Wants what it is told to.
struct Teller(std::sync::mpsc::Receiver<Vec<Action>>);

impl Monitor for Teller {
    fn name(&self) -> &str {
        "teller"
    }

    fn interval(&self) -> Duration {
        Duration::from_millis(2)
    }

    fn check(&mut self, _: Instant) -> Vec<Action> {
        self.0.try_iter().flatten().collect()
    }

    fn status(&self) -> Status {
        Box::new(())
    }
}

fn teller() -> (Teller, std::sync::mpsc::Sender<Vec<Action>>) {
    let (sender, receiver) = std::sync::mpsc::channel();
    (Teller(receiver), sender)
}

const LONG: Duration = Duration::from_secs(3600);

/// More than there can be.
const NOBODY: u32 = 900_000_000;

/// A root that has these children.
fn children(process_ids: impl IntoIterator<Item = u32>) -> RootState {
    let child = |process_id| ChildState { process_id: Some(process_id), ..ChildState::default() };
    RootState { children: process_ids.into_iter().map(child).collect(), ..RootState::default() }
}

#[derive(Serialize)]
struct Parameters {
    duration: f64,
}

/// A monitor under another name.
struct Named(&'static str, Teller);

impl Monitor for Named {
    fn name(&self) -> &str {
        self.0
    }

    fn interval(&self) -> Duration {
        self.1.interval()
    }

    fn check(&mut self, now: Instant) -> Vec<Action> {
        self.1.check(now)
    }
}

/// A worker, and somebody who is told what is found out.
async fn peers(server: &TestServer) -> (Lines, Lines) {
    let mut worker = server.lines().await;
    worker.register("web").await;
    let mut subscriber = server.lines().await;
    subscriber.say(json!({"id": 2, "do": "subscribe", "events": ["diagnosis"]})).await;
    // It is answered after that.
    subscriber.ask(json!({"id": 4, "do": "ping"})).await;
    (worker, subscriber)
}

/// The call of a diagnostic, as the worker hears it.
async fn call(worker: &mut Lines, operation: &str) -> Value {
    let call = worker.hear().await;
    assert_eq!(call["do"], operation, "{call}");
    call
}

#[tokio::test]
async fn a_diagnostic_is_made_before_the_restart() {
    let (root, mut requests) = TestRoot::new(true);
    let (monitor, want) = teller();
    let server = TestServer::start(Server::new().root(root).monitor(monitor));
    let mut worker = server.lines().await;
    worker.register("web").await;
    let mut subscriber = server.lines().await;
    subscriber.say(json!({"id": 2, "do": "subscribe", "events": ["diagnosis", "restart"]})).await;
    subscriber.ask(json!({"id": 4, "do": "ping"})).await;

    let own = std::process::id();
    let sample = Diagnosis::new(own, "memory_sample")
        .parameters(Parameters { duration: 0.5 })
        .timeout(LONG)
        .to(Destination::Event);
    want.send(vec![Action::Restart(Restart::new(own, "too large").diagnosis(sample))]).unwrap();
    let heard = call(&mut worker, "memory_sample").await;
    assert_eq!(heard["duration"], 0.5);
    assert!(requests.is_empty(), "the restart waits");
    worker.say(json!({"id": heard["id"], "finished": true, "data": {"total": 7}})).await;
    let event = subscriber.hear().await;
    assert_eq!((&event["event"], &event["operation"]), (&json!("diagnosis"), &json!("memory_sample")), "{event}");
    assert_eq!((&event["result"]["data"]["total"], &event["monitor"]), (&json!(7), &json!("teller")));
    assert_eq!(requests.recv().await, Some(RootRequest::Replace(own, "too large".into())));
    let event = subscriber.hear().await;
    assert_eq!((&event["event"], &event["cause"]), (&json!("restart"), &json!("teller")));
}

#[tokio::test]
async fn a_diagnostic_that_does_not_come_holds_up_the_restart_for_its_time_only() {
    let (root, mut requests) = TestRoot::new(true);
    let (monitor, want) = teller();
    let server = TestServer::start(Server::new().root(root).monitor(monitor));
    let mut worker = server.lines().await;
    worker.register("web").await;
    let own = std::process::id();
    let dump = Diagnosis::new(own, "thread_dump").timeout(Duration::from_millis(50));
    want.send(vec![Action::Restart(Restart::new(own, "hangs").diagnosis(dump))]).unwrap();
    call(&mut worker, "thread_dump").await;
    // It streams for ever, which is no answer either.
    assert_eq!(requests.recv().await, Some(RootRequest::Replace(own, "hangs".into())));
    // Others can register while it waits.
    let mut other = server.lines().await;
    other.register("other").await;
}

#[tokio::test]
async fn an_urgent_restart_waits_for_nothing() {
    let (root, mut requests) = TestRoot::new(true);
    let (monitor, want) = teller();
    let server = TestServer::start(Server::new().root(root).monitor(monitor));
    let mut worker = server.lines().await;
    worker.register("web").await;
    let own = std::process::id();
    let dump = Diagnosis::new(own, "memory_sample").timeout(LONG);
    want.send(vec![Action::Restart(Restart::new(own, "too large").diagnosis(dump).start_first(LONG))]).unwrap();
    let heard = call(&mut worker, "memory_sample").await;
    assert!(requests.is_empty());
    want.send(vec![Action::Restart(Restart::new(own, "far too large").urgent())]).unwrap();
    assert_eq!(requests.recv().await, Some(RootRequest::Replace(own, "too large".into())), "for the first reason");
    assert_eq!(worker.hear().await, json!({"id": heard["id"], "cancel": true}));
}

#[tokio::test]
async fn that_there_is_no_time_for_a_diagnostic_is_told() {
    let (log, _guard) = Log::start(tracing::Level::WARN);
    let (root, mut requests) = TestRoot::new(true);
    let (monitor, want) = teller();
    let server = TestServer::start(Server::new().root(root).monitor(monitor));
    let mut worker = server.lines().await;
    worker.register("web").await;
    let own = std::process::id();
    let dump = Diagnosis::new(own, "memory_sample").timeout(LONG);
    want.send(vec![Action::Restart(Restart::new(own, "far too large").diagnosis(dump).urgent())]).unwrap();
    assert_eq!(requests.recv().await, Some(RootRequest::Replace(own, "far too large".into())));
    assert_eq!(log.text().matches("without waiting for its diagnostic").count(), 1, "{}", log.text());
}

#[tokio::test]
async fn restarts_wait_for_their_turn() {
    let (root, mut requests) = TestRoot::new(true);
    let root = root.with_state(children(NOBODY + 1..=NOBODY + 6));
    let (monitor, want) = teller();
    let server = TestServer::start(Server::new().root(root).monitor(monitor).restarts_at_once(2));
    let restarts = (1..=5).map(|number| Action::restart(NOBODY + number, "all of them"));
    want.send(restarts.collect()).unwrap();
    assert!(matches!(requests.recv().await, Some(RootRequest::Replace(..))));
    assert!(matches!(requests.recv().await, Some(RootRequest::Replace(..))));
    want.send(vec![Action::Restart(Restart::new(NOBODY + 6, "at once").urgent())]).unwrap();
    assert_eq!(requests.recv().await, Some(RootRequest::Replace(NOBODY + 6, "at once".into())));
    server.lines().await.register("web").await;
    assert!(requests.is_empty(), "two are under way, and nobody says that they ended");
}

/// Looks at nobody, but says whom it was to look at.
struct Looked(tokio::sync::mpsc::UnboundedSender<u32>);

impl Examiner for Looked {
    fn limit(&self) -> Duration {
        LONG
    }

    fn examine(&self, case: Case) -> Examination {
        self.0.send(case.process_id).unwrap();
        Box::pin(async { None })
    }
}

#[tokio::test]
async fn thousands_of_wishes_about_strangers_hold_up_nothing_and_nobody_looks_at_them() {
    let (root, mut requests) = TestRoot::new(true);
    let root = root.with_state(children([std::process::id()]));
    let (sender, mut looked) = tokio::sync::mpsc::unbounded_channel();
    let outside = sender.clone();
    let (monitor, want) = teller();
    let server = Server::new().root(root).monitor(monitor).examiner(Looked(sender));
    let server = server.outside("thread_dump", move |process_id| {
        outside.send(process_id)?;
        Ok(String::new())
    });
    let server = TestServer::start(server);
    let (_worker, mut subscriber) = peers(&server).await;

    let restarts = (0..10_000).map(|number| Action::restart(NOBODY + number, "nobody"));
    let dumps = (0..10_000).map(|number| Action::Diagnose(Diagnosis::new(NOBODY + number, "thread_dump")));
    let told = Action::Diagnose(Diagnosis::new(NOBODY, "thread_dump").to(Destination::Event));
    let own = Action::restart(std::process::id(), "its turn");
    want.send(restarts.chain(dumps).chain([told, own]).collect()).unwrap();
    // The root is asked for no other, and it does not wait for a turn.
    assert_eq!(requests.recv().await, Some(RootRequest::Replace(std::process::id(), "its turn".into())));
    assert_eq!(looked.recv().await, Some(std::process::id()));
    assert!(looked.is_empty() && requests.is_empty());
    let event = subscriber.hear().await;
    assert_eq!(
        (&event["failure"]["class"], &event["process_id"]),
        (&json!("ConnectionNotFound"), &json!(NOBODY)),
        "{event}"
    );
}

#[tokio::test]
async fn a_monitor_that_wants_too_much_to_be_known_keeps_no_other_from_it() {
    let (monitor, want) = teller();
    let (other, other_wants) = teller();
    let server = TestServer::start(Server::new().monitor(monitor).monitor(Named("other", other)));
    let (mut worker, mut subscriber) = peers(&server).await;
    let own = std::process::id();
    let dumps = ["a", "b", "c", "d", "e"].map(|operation| Diagnosis::new(own, operation).timeout(LONG));
    // Again and again, as a monitor may want it at each check; and at the end one that is told of at once.
    let last = Diagnosis::new(NOBODY, "thread_dump").to(Destination::Event);
    want.send(dumps.iter().cycle().take(5000).chain([&last]).cloned().map(Action::Diagnose).collect()).unwrap();
    assert_eq!(subscriber.hear().await["process_id"], NOBODY);
    let mut heard = Vec::new();
    for _ in 0..4 {
        heard.push(worker.hear().await);
    }
    heard.sort_by_key(|call| call["do"].to_string());
    let operations: Vec<&str> = heard.iter().filter_map(|call| call["do"].as_str()).collect();
    assert_eq!(operations, ["a", "b", "c", "d"], "four at once, each once");
    other_wants.send(vec![Action::Diagnose(Diagnosis::new(own, "thread_dump"))]).unwrap();
    call(&mut worker, "thread_dump").await;
    worker.say(json!({"id": heard[0]["id"], "finished": true})).await;
    call(&mut worker, "e").await;
    // What is over may be wanted anew.
    want.send(vec![Action::Diagnose(dumps[0].clone())]).unwrap();
    worker.say(json!({"id": heard[1]["id"], "finished": true})).await;
    call(&mut worker, "a").await;
}

#[tokio::test]
async fn diagnostics_with_other_parameters_are_others_and_there_is_an_end_to_them() {
    let (monitor, want) = teller();
    let server = TestServer::start(Server::new().monitor(monitor));
    let (mut worker, mut subscriber) = peers(&server).await;
    let own = std::process::id();
    let sample = |duration: f64| Diagnosis::new(own, "memory_sample").parameters(Parameters { duration }).timeout(LONG);
    let last = Diagnosis::new(NOBODY, "thread_dump").to(Destination::Event);
    // Each twice, and so many that no more than the first few are made.
    let samples = (1..=100).flat_map(|number| [sample(number.into()), sample(number.into())]);
    want.send(samples.chain([last]).map(Action::Diagnose).collect()).unwrap();
    assert_eq!(subscriber.hear().await["process_id"], NOBODY);
    let mut durations = Vec::new();
    for _ in 0..16 {
        let heard = call(&mut worker, "memory_sample").await;
        durations.push(heard["duration"].as_f64().unwrap() as u32);
        worker.say(json!({"id": heard["id"], "finished": true})).await;
    }
    durations.sort_unstable();
    assert_eq!(durations, (1..=16).collect::<Vec<_>>(), "each once");
    want.send(vec![Action::Diagnose(Diagnosis::new(own, "thread_dump"))]).unwrap();
    call(&mut worker, "thread_dump").await;
}

#[tokio::test]
async fn what_is_found_out_is_kept_in_a_file() {
    let (monitor, want) = teller();
    let directory = tempfile::tempdir().unwrap();
    let server = TestServer::start(Server::new().monitor(monitor));
    let mut worker = server.lines().await;
    worker.register("we/b").await;
    let own = std::process::id();
    let keep = |operation: &str| {
        Action::Diagnose(Diagnosis::new(own, operation).to(Destination::Directory(directory.path().into())))
    };
    want.send(vec![keep("thread_dump")]).unwrap();
    let heard = call(&mut worker, "thread_dump").await;
    worker.say(json!({"id": heard["id"], "finished": true, "data": "thread 1\n"})).await;
    want.send(vec![keep("memory_sample")]).unwrap();
    let heard = call(&mut worker, "memory_sample").await;
    worker.say(json!({"id": heard["id"], "finished": true, "data": {"total": 7}})).await;

    let files = loop {
        let entries = std::fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().path());
        let mut files: Vec<_> = entries.filter(|path| path.metadata().unwrap().len() > 0).collect();
        if files.len() == 2 {
            files.sort();
            break files;
        }
        tokio::task::yield_now().await;
    };
    let name = |number: usize| files[number].file_name().unwrap().to_string_lossy().into_owned();
    assert!(name(0).starts_with(&format!("we_b-{own}-memory_sample-")) && name(0).ends_with(".json"), "{files:?}");
    assert!(name(1).starts_with(&format!("we_b-{own}-thread_dump-")) && name(1).ends_with(".txt"), "{files:?}");
    assert_eq!(std::fs::read_to_string(&files[0]).unwrap(), "{\"total\":7}\n");
    assert_eq!(std::fs::read_to_string(&files[1]).unwrap(), "thread 1\n\n");
    assert_eq!(files[0].metadata().unwrap().permissions().mode() & 0o777, 0o600);
}

#[tokio::test]
async fn what_a_person_asks_for_does_not_wait_behind_monitors() {
    let (root, mut requests) = TestRoot::new(true);
    let own = std::process::id();
    let root = root.with_state(children([own, NOBODY]));
    let (monitor, want) = teller();
    let server = TestServer::start(Server::new().root(root).monitor(monitor).restarts_at_once(1));
    want.send(vec![Action::restart(NOBODY, "first")]).unwrap();
    assert_eq!(requests.recv().await, Some(RootRequest::Replace(NOBODY, "first".into())));
    let mut client = server.lines().await;
    client.ask(json!({"id": 2, "do": "replace", "process_id": own})).await;
    assert_eq!(requests.recv().await, Some(RootRequest::Replace(own, "asked for".into())));
}

#[tokio::test]
async fn what_a_worker_does_not_say_is_looked_for_from_outside() {
    let (monitor, want) = teller();
    let server = Server::new().monitor(monitor).outside("thread_dump", |process_id| Ok(format!("of {process_id}")));
    let server = TestServer::start(server);
    let (mut worker, mut subscriber) = peers(&server).await;
    let own = std::process::id();
    // Half of it passes before somebody looks, and the other half is enough on a busy machine.
    let dump = Diagnosis::new(own, "thread_dump").timeout(Duration::from_secs(3)).to(Destination::Event);
    want.send(vec![Action::Diagnose(dump)]).unwrap();
    call(&mut worker, "thread_dump").await;
    let event = subscriber.hear().await;
    assert_eq!(event["result"]["data"], format!("of {own}"), "{event}");
}

#[tokio::test]
async fn what_a_supervisor_that_stops_has_answered_was_asked_of_the_root() {
    let call = json!({"id": 2, "do": "replace", "process_id": std::process::id()});
    for turns in (0..20).cycle().take(200) {
        let (root, mut requests) = TestRoot::new(true);
        let server = TestServer::start(Server::new().root(root));
        let mut worker = server.lines().await;
        worker.register("web").await;
        let mut client = server.lines().await;
        client.say(call.clone()).await;
        for _ in 0..turns {
            tokio::task::yield_now().await;
        }
        server.stop().await.unwrap();
        let answer = client.hear().await;
        // It may have been too late to be heard.
        if answer["finished"] == json!(true) {
            assert!(requests.try_recv().is_ok(), "the root knows nothing of what was answered: {answer}");
        }
    }
}

/// A root with one child, in a place of its own.
fn one_child(root: TestRoot, process_id: u32) -> TestRoot {
    let child =
        ChildState { service: "web".to_owned(), instance: 1, state: "ready".to_owned(), ..ChildState::default() };
    let child = ChildState { process_id: Some(process_id), ..child };
    root.with_state(RootState { children: vec![child], ..RootState::default() })
}

fn set_child(root: &TestRoot, process_id: Option<u32>, state: &str) {
    root.set_state(|root| {
        root.children[0].process_id = process_id;
        root.children[0].state = state.to_owned();
    });
}

/// Wants what it is told to, and tells what is over. It panics where it is told to do nothing.
struct Hearer {
    teller: Teller,
    over: tokio::sync::mpsc::UnboundedSender<Restart>,
}

impl Monitor for Hearer {
    fn name(&self) -> &str {
        "hearer"
    }

    fn interval(&self) -> Duration {
        self.teller.interval()
    }

    fn restarted(&mut self, restart: &Restart) {
        self.over.send(restart.clone()).unwrap();
    }

    fn check(&mut self, _: Instant) -> Vec<Action> {
        self.teller
            .0
            .try_iter()
            .flat_map(|actions| if actions.is_empty() { panic!("told to") } else { actions })
            .collect()
    }
}

type Told = tokio::sync::mpsc::UnboundedReceiver<Restart>;

fn hearer() -> (Hearer, std::sync::mpsc::Sender<Vec<Action>>, Told) {
    let (teller, want) = teller();
    let (over, told) = tokio::sync::mpsc::unbounded_channel();
    (Hearer { teller, over }, want, told)
}

/// The next process whose restart is over.
async fn over(told: &mut Told) -> u32 {
    told.recv().await.unwrap().process_id
}

#[tokio::test]
async fn a_monitor_is_told_once_when_another_process_is_ready_in_the_place_of_the_one_that_it_wanted_to_go() {
    let (root, mut requests) = TestRoot::new(true);
    let root = one_child(root, NOBODY);
    let (monitor, want, mut told) = hearer();
    let _server = TestServer::start(Server::new().root(root.clone()).monitor(monitor));
    // What is asked for of a stranger is over at once, and so shows that nothing else was.
    let stranger = || Action::restart(NOBODY + 1, "nobody");
    for urgent in [Restart::new(NOBODY, "once"), Restart::new(NOBODY, "twice"), Restart::new(NOBODY, "now").urgent()] {
        want.send(vec![Action::Restart(urgent)]).unwrap();
    }
    assert_eq!(requests.recv().await, Some(RootRequest::Replace(NOBODY, "once".into())));
    for (process_id, state) in [(Some(NOBODY), "stopping"), (None, "starting"), (Some(NOBODY + 2), "starting")] {
        set_child(&root, process_id, state);
        want.send(vec![stranger()]).unwrap();
        assert_eq!(over(&mut told).await, NOBODY + 1, "{state}");
    }
    set_child(&root, Some(NOBODY + 2), "ready");
    assert_eq!(told.recv().await, Some(Restart::new(NOBODY, "once")), "as it was wanted first");
    want.send(vec![stranger()]).unwrap();
    assert_eq!(over(&mut told).await, NOBODY + 1, "and once");
}

#[tokio::test]
async fn a_monitor_that_panics_meanwhile_is_told_once_it_goes_on() {
    let (root, mut requests) = TestRoot::new(true);
    let root = one_child(root, NOBODY);
    let (monitor, want, mut told) = hearer();
    let server = TestServer::start(Server::new().root(root.clone()).monitor(monitor));
    want.send(vec![Action::restart(NOBODY, "for a test")]).unwrap();
    assert!(requests.recv().await.is_some());
    want.send(Vec::new()).unwrap();
    let mut client = server.lines().await;
    while client.ask(json!({"id": 2, "do": "status"})).await["hearer"]["error"].is_null() {
        assert_eq!(client.hear().await["finished"], true);
    }
    set_child(&root, None, "stopped");
    assert_eq!(over(&mut told).await, NOBODY);
}

/// One that never registered, so that nobody here has a handle to its process.
#[tokio::test]
async fn the_turn_of_a_child_that_is_no_worker_ends_when_the_root_tells_of_its_end() {
    let (root, mut requests) = TestRoot::new(true);
    let root = root.with_state(children([NOBODY, NOBODY + 1]));
    root.set_state(|root| root.children[1].instance = 1);
    let (monitor, want) = teller();
    let _server = TestServer::start(Server::new().root(root.clone()).monitor(monitor).restarts_at_once(1));
    want.send(vec![Action::restart(NOBODY, "first"), Action::restart(NOBODY + 1, "second")]).unwrap();
    assert_eq!(requests.recv().await, Some(RootRequest::Replace(NOBODY, "first".into())));
    set_child(&root, None, "waiting");
    let next = tokio::time::timeout(Duration::from_secs(20), requests.recv()).await;
    assert_eq!(next, Ok(Some(RootRequest::Replace(NOBODY + 1, "second".into()))));
}
