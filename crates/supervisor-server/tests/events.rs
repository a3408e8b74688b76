//! What subscribers hear.

mod common;

use std::{
    collections::BTreeMap,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use async_container_monitors::{Action, Event, Monitor, Status};
use async_container_protocol::class;
use async_container_supervisor_server::{ServeError, Server};
use common::{Lines, RootRequest, TestRoot, TestServer};
use serde_json::{Value, json};
use tokio::net::UnixListener;

async fn subscribe(server: &TestServer, events: Value) -> Lines {
    let mut subscriber = server.lines().await;
    subscriber.say(json!({"id": 2, "do": "subscribe", "events": events})).await;
    // Calls are taken in order, so the subscription is there once this is answered.
    let pong = subscriber.ask(json!({"id": 4, "do": "ping"})).await;
    assert!(pong["version"].is_string(), "{pong}");
    subscriber
}

#[tokio::test]
async fn workers_are_heard_to_come_and_go() {
    let server = TestServer::start(Server::new());
    let mut subscriber = subscribe(&server, Value::Null).await;
    let before = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
    let mut worker = server.lines().await;
    let id = worker.register("web").await;

    let event = subscriber.hear().await;
    let at = event["at"].as_f64().unwrap();
    assert!((before..before + 60.0).contains(&at), "{event}");
    let expected = json!({
        "id": 2, "event": "register", "at": at, "connection_id": id, "process_id": std::process::id(), "name": "web",
    });
    assert_eq!(event, expected);

    worker.register("renamed").await;
    let event = subscriber.hear().await;
    assert_eq!((&event["event"], &event["name"]), (&json!("register"), &json!("renamed")));
    drop(worker);
    let event = subscriber.hear().await;
    assert_eq!((&event["event"], &event["connection_id"]), (&json!("remove"), &json!(id)));
    assert_eq!(event["name"], "renamed");
}

#[tokio::test]
async fn only_what_was_asked_for_is_heard() {
    let server = TestServer::start(Server::new());
    let mut subscriber = subscribe(&server, json!(["remove"])).await;
    let mut worker = server.lines().await;
    worker.register("web").await;
    drop(worker);
    assert_eq!(subscriber.hear().await["event"], "remove");
}

#[tokio::test]
async fn unknown_names_are_refused_with_the_known_ones() {
    let server = TestServer::start(Server::new());
    let mut client = server.lines().await;
    let answer = client.ask(json!({"id": 2, "do": "subscribe", "events": ["leak", "lost"]})).await;
    assert_eq!(answer["error"]["class"], class::INVALID_PARAMETERS);
    let message = answer["error"]["message"].as_str().unwrap();
    assert_eq!(
        message,
        "there is no event 'lost': there are register, remove, restart, incident, stopping, leak, metrics, health, diagnosis"
    );

    for events in [json!("leak"), json!([7]), json!({"leak": true})] {
        let answer = client.ask(json!({"id": 2, "do": "subscribe", "events": events})).await;
        assert_eq!(answer["error"]["class"], class::INVALID_PARAMETERS, "{answer}");
    }
}

#[tokio::test]
async fn cancelled_subscription_is_silent() {
    let server = TestServer::start(Server::new());
    let mut subscriber = subscribe(&server, json!([])).await;
    subscriber.say(json!({"id": 2, "cancel": true})).await;
    assert!(subscriber.ask(json!({"id": 6, "do": "ping"})).await["version"].is_string());
    let mut worker = server.lines().await;
    worker.register("web").await;
    assert_eq!(subscriber.ask(json!({"id": 8, "do": "ping"})).await["id"], 8);
}

#[tokio::test]
async fn signals_to_the_root_are_heard() {
    let (root, mut requests) = TestRoot::new(true);
    let server = TestServer::start(Server::new().root(root));
    let mut subscriber = subscribe(&server, json!(["restart"])).await;
    let mut client = server.lines().await;
    client.ask(json!({"id": 2, "do": "restart", "signal": "HUP"})).await;
    assert!(matches!(requests.recv().await, Some(RootRequest::Signal(_))));
    let event = subscriber.hear().await;
    assert_eq!((&event["event"], &event["signal"]), (&json!("restart"), &json!("HUP")));
}

#[tokio::test]
async fn supervisor_that_stops_says_so_and_ends_the_stream() {
    let server = TestServer::start(Server::new());
    let mut subscriber = subscribe(&server, json!(["stopping"])).await;
    server.stop().await.unwrap();
    assert_eq!(subscriber.hear().await["event"], "stopping");
    assert_eq!(subscriber.hear().await, json!({"id": 2, "finished": true}));
    assert_eq!(subscriber.hear().await, Value::Null);
}

/// A monitor that emits events, and wants a process to be replaced once.
struct Emitting {
    events: Vec<Action>,
    names: &'static [&'static str],
}

impl Emitting {
    fn new(events: Vec<Action>) -> Self {
        Self { events, names: &["queue"] }
    }
}

impl Monitor for Emitting {
    fn name(&self) -> &str {
        "emitting"
    }

    fn interval(&self) -> Duration {
        Duration::from_millis(10)
    }

    fn events(&self) -> &[&str] {
        self.names
    }

    fn check(&mut self, _: Instant) -> Vec<Action> {
        self.events.clone()
    }

    fn status(&self) -> Status {
        Box::new(())
    }
}

fn event(name: &str, fields: impl serde::Serialize + Send + Sync + 'static) -> Action {
    Action::Event(Event::new(name, fields))
}

#[tokio::test]
async fn monitors_emit_what_they_declared() {
    struct Panics;

    impl serde::Serialize for Panics {
        fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
            panic!("for a test")
        }
    }

    let (root, _requests) = TestRoot::new(true);
    let monitor = Emitting::new(vec![
        event("register", ()),
        event("undeclared", ()),
        event("metrics", "no map"),
        event("metrics", Panics),
        event("queue", BTreeMap::from([("length", 7), ("at", 7), ("event", 7)])),
        Action::restart(999_999_999, "too old"),
    ]);
    let server = TestServer::start(Server::new().monitor(monitor).root(root));

    let mut subscriber = subscribe(&server, json!(["queue", "register", "metrics"])).await;
    let heard = subscriber.hear().await;
    let expected = json!({"id": 2, "event": "queue", "at": heard["at"], "monitor": "emitting", "length": 7});
    assert_eq!(heard, expected);
    assert!(heard["at"].as_f64().unwrap() > 7.0);
}

#[tokio::test]
async fn restarts_are_heard_with_their_reason() {
    let (root, _requests) = TestRoot::new(true);
    let action = Action::restart(std::process::id(), "too old");
    // Restarts of one process are not repeated while one is under way, so the subscriber has to be there before the worker.
    let (sender, ready) = std::sync::mpsc::channel();
    struct Later(std::sync::mpsc::Receiver<Action>);

    impl Monitor for Later {
        fn name(&self) -> &str {
            "later"
        }

        fn interval(&self) -> Duration {
            Duration::from_millis(10)
        }

        fn check(&mut self, _: Instant) -> Vec<Action> {
            self.0.try_iter().collect()
        }

        fn status(&self) -> Status {
            Box::new(())
        }
    }

    let server = TestServer::start(Server::new().monitor(Later(ready)).root(root));
    let mut worker = server.lines().await;
    worker.register("web").await;
    let mut subscriber = subscribe(&server, json!(["restart"])).await;
    sender.send(action).unwrap();
    let heard = subscriber.hear().await;
    let process_id = std::process::id();
    let expected = json!({
        "id": 2, "event": "restart", "at": heard["at"], "process_id": process_id, "name": "web", "reason": "too old",
        "cause": "later",
    });
    assert_eq!(heard, expected);
}

#[tokio::test]
async fn monitor_cannot_declare_what_is_the_supervisors_own() {
    let directory = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(directory.path().join("socket")).unwrap();
    let monitor = Emitting { events: Vec::new(), names: &["stopping"] };
    let result = Server::new().monitor(monitor).serve(listener, std::future::pending::<()>()).await;
    assert!(matches!(result, Err(ServeError::EventName { .. })), "{result:?}");
}

/// The subscriber reads nothing while so much happens that no socket would hold it. What it reads then are whole events
/// in their order, the number of those that are missing, and nothing twice.
#[tokio::test]
async fn slow_subscriber_loses_events_and_learns_how_many() {
    let server = TestServer::start(Server::new());
    let mut subscriber = subscribe(&server, json!(["register"])).await;
    let mut worker = server.lines().await;
    let total = 20_000;

    for round in 0..total {
        let state = json!({"name": format!("{round:0>200}")});
        let answer = worker.ask(json!({"id": 2, "do": "register", "state": state})).await;
        assert!(answer["connection_id"].is_string(), "{answer}");
    }

    let (mut heard, mut lost) = (0, 0);

    while heard + lost < total {
        let event = subscriber.hear().await;

        match event["event"].as_str() {
            Some("register") => {
                assert_eq!(event["name"], format!("{:0>200}", heard + lost));
                heard += 1;
            }
            Some("lost") => lost += event["count"].as_u64().unwrap(),
            _ => panic!("{event}"),
        }
    }

    assert!(lost > 10_000, "{lost} were lost, {heard} heard");
}
