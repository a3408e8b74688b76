//! Monitors that have operations of workers called.

mod common;

use std::time::{Duration, Instant};

use async_container_monitors::{Action, Answer, Call, CallFailure, Monitor, Status, Worker};
use async_container_supervisor_server::Server;
use common::TestServer;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::mpsc;

#[derive(Serialize)]
struct Numbers {
    one: i64,
    two: i64,
}

#[derive(Deserialize)]
struct Sum {
    sum: i64,
}

/// Asks each worker for a sum as soon as it registers.
struct Asker {
    to_ask: Vec<Call>,
    call: fn(&Worker) -> Call,
    answers: mpsc::UnboundedSender<Result<i64, String>>,
}

impl Monitor for Asker {
    fn name(&self) -> &str {
        "asker"
    }

    fn interval(&self) -> Duration {
        Duration::from_secs(3600)
    }

    fn register(&mut self, worker: &Worker) {
        self.to_ask.push((self.call)(worker));
    }

    fn react(&mut self, _: Instant) -> Vec<Action> {
        self.to_ask.drain(..).map(Action::Call).collect()
    }

    fn answered(&mut self, call: &Call, answer: Result<Answer, CallFailure>) {
        assert_eq!(call.operation(), "add");
        let answer = match answer {
            Ok(answer) => answer.get::<Sum>().map(|sum| sum.sum).map_err(|error| error.to_string()),
            Err(failure) => Err(failure.class),
        };
        self.answers.send(answer).unwrap();
    }

    fn check(&mut self, _: Instant) -> Vec<Action> {
        Vec::new()
    }

    fn status(&self) -> Status {
        Box::new(())
    }
}

fn asker(call: fn(&Worker) -> Call) -> (Asker, mpsc::UnboundedReceiver<Result<i64, String>>) {
    let (sender, answers) = mpsc::unbounded_channel();
    (Asker { to_ask: Vec::new(), call, answers: sender }, answers)
}

fn add(worker: &Worker) -> Call {
    Call::new(&worker.id, "add").parameters(Numbers { one: 40, two: 2 })
}

#[tokio::test]
async fn a_monitor_is_told_the_answer_of_a_worker() {
    let (monitor, mut answers) = asker(add);
    let server = TestServer::start(Server::new().monitor(monitor));
    let mut worker = server.lines().await;
    worker.register("calculator").await;
    let call = worker.hear().await;
    assert_eq!((&call["do"], &call["one"], &call["two"]), (&json!("add"), &json!(40), &json!(2)));
    worker.say(json!({"id": call["id"], "finished": true, "sum": 42})).await;
    assert_eq!(answers.recv().await, Some(Ok(42)));
}

#[tokio::test]
async fn an_answer_that_makes_no_sense_is_the_monitors_to_judge() {
    let (monitor, mut answers) = asker(add);
    let server = TestServer::start(Server::new().monitor(monitor));
    let mut worker = server.lines().await;
    worker.register("calculator").await;
    let call = worker.hear().await;
    worker.say(json!({"id": call["id"], "finished": true, "sum": "many"})).await;
    let error = answers.recv().await.unwrap().unwrap_err();
    assert!(error.contains("sum"), "{error}");
}

#[tokio::test]
async fn a_monitor_is_told_why_there_is_no_answer() {
    let (monitor, mut answers) = asker(add);
    let server = TestServer::start(Server::new().monitor(monitor));
    let mut worker = server.lines().await;
    worker.register("calculator").await;
    let call = worker.hear().await;
    let error = json!({"class": "UnknownOperation", "message": "no such operation"});
    worker.say(json!({"id": call["id"], "finished": true, "failed": true, "error": error})).await;
    assert_eq!(answers.recv().await, Some(Err("UnknownOperation".to_owned())));

    let mut worker = server.lines().await;
    worker.register("calculator").await;
    worker.hear().await;
    drop(worker);
    assert_eq!(answers.recv().await, Some(Err("ConnectionClosed".to_owned())));
}

#[tokio::test]
async fn a_worker_that_does_not_answer_costs_the_monitor_its_patience_only() {
    let (monitor, mut answers) = asker(|worker| add(worker).timeout(Duration::from_millis(50)));
    let server = TestServer::start(Server::new().monitor(monitor));
    let mut worker = server.lines().await;
    worker.register("calculator").await;
    let call = worker.hear().await;
    assert_eq!(answers.recv().await, Some(Err("TimedOut".to_owned())));
    assert_eq!(worker.hear().await, json!({"id": call["id"], "cancel": true}));
}

#[tokio::test]
async fn nobody_is_there_to_be_called() {
    let (monitor, mut answers) = asker(|_| Call::new("nobody", "add"));
    let server = TestServer::start(Server::new().monitor(monitor));
    let mut worker = server.lines().await;
    worker.register("calculator").await;
    assert_eq!(answers.recv().await, Some(Err("ConnectionNotFound".to_owned())));
}

#[tokio::test]
async fn parameters_that_cannot_be_sent_are_told_to_the_monitor() {
    let (monitor, mut answers) = asker(|worker| Call::new(&worker.id, "add").parameters("no map"));
    let server = TestServer::start(Server::new().monitor(monitor));
    let mut worker = server.lines().await;
    worker.register("calculator").await;
    assert_eq!(answers.recv().await, Some(Err("InvalidParameters".to_owned())));
}
