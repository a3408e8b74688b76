//! What monitors want done to workers: how it is paced, and what is found out before.

mod common;

use std::{
    os::unix::fs::PermissionsExt,
    time::{Duration, Instant},
};

use async_container_monitors::{Action, Destination, Diagnosis, Monitor, Restart, Status};
use async_container_supervisor_server::{ChildState, RootState, Server};
use common::{Lines, RootRequest, TestRoot, TestServer};
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

#[derive(Serialize)]
struct Parameters {
    duration: f64,
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
async fn restarts_wait_for_their_turn() {
    let (root, mut requests) = TestRoot::new(true);
    let (monitor, want) = teller();
    let server = TestServer::start(Server::new().root(root).monitor(monitor).restarts_at_once(2));
    let restarts = (1..=5).map(|number| Action::restart(900_000_000 + number, "all of them"));
    want.send(restarts.collect()).unwrap();
    assert!(matches!(requests.recv().await, Some(RootRequest::Replace(..))));
    assert!(matches!(requests.recv().await, Some(RootRequest::Replace(..))));
    want.send(vec![Action::Restart(Restart::new(800_000_000, "at once").urgent())]).unwrap();
    assert_eq!(requests.recv().await, Some(RootRequest::Replace(800_000_000, "at once".into())));
    server.lines().await.register("web").await;
    assert!(requests.is_empty(), "two are under way, and nobody says that they ended");
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
    let child = ChildState { process_id: Some(own), ..ChildState::default() };
    let root = root.with_state(RootState { children: vec![child], ..RootState::default() });
    let (monitor, want) = teller();
    let server = TestServer::start(Server::new().root(root).monitor(monitor).restarts_at_once(1));
    want.send(vec![Action::restart(900_000_000, "first")]).unwrap();
    assert_eq!(requests.recv().await, Some(RootRequest::Replace(900_000_000, "first".into())));
    let mut client = server.lines().await;
    client.ask(json!({"id": 2, "do": "replace", "process_id": own})).await;
    assert_eq!(requests.recv().await, Some(RootRequest::Replace(own, "asked for".into())));
}

#[tokio::test]
async fn what_a_worker_does_not_say_is_looked_for_from_outside() {
    let (monitor, want) = teller();
    let server = Server::new().monitor(monitor).outside("thread_dump", |process_id| Ok(format!("of {process_id}")));
    let server = TestServer::start(server);
    let mut worker = server.lines().await;
    worker.register("web").await;
    let mut subscriber = server.lines().await;
    subscriber.say(json!({"id": 2, "do": "subscribe", "events": ["diagnosis"]})).await;
    subscriber.ask(json!({"id": 4, "do": "ping"})).await;
    let own = std::process::id();
    let dump = Diagnosis::new(own, "thread_dump").timeout(Duration::from_millis(400)).to(Destination::Event);
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
