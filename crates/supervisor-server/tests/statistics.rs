//! What a supervisor counts of the calls that it answers.

mod common;

use std::time::Duration;

use async_container_supervisor_server::{OperationStatistics, Server, Statistics};
use common::TestServer;
use serde_json::json;

fn of(statistics: &Statistics, operation: &str) -> OperationStatistics {
    let all = statistics.operations();
    all.iter().find(|known| known.operation == operation).unwrap_or_else(|| panic!("{all:?}")).clone()
}

/// How many were started, finished, failed and cancelled.
fn counts(statistics: &Statistics, operation: &str) -> [u64; 4] {
    let counted = of(statistics, operation);
    assert_eq!(counted.latency.count, counted.finished + counted.failed + counted.cancelled);
    [counted.started, counted.finished, counted.failed, counted.cancelled]
}

#[tokio::test]
async fn calls_are_counted_by_operation_and_by_how_they_end() {
    let server = Server::new().operation("count", |_| async { Ok(()) }).operation("sleep", |_| async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        Ok(())
    });
    let statistics = server.statistics();
    assert!(statistics.operations().is_empty(), "it does not serve yet");
    let server = TestServer::start(server);
    let mut worker = server.lines().await;
    let id = worker.register("web").await;
    let mut client = server.lines().await;

    for line in [
        json!({"id": 2, "do": "ping"}),
        json!({"id": 2, "do": "ping"}),
        json!({"id": 2, "do": "count"}),
        json!({"id": 2, "do": "sleep"}),
        json!({"id": 2, "do": "this"}),
        json!({"id": 2, "do": "that"}),
        json!({"id": 2, "do": "forward", "connection_id": "none", "operation": {"do": "x"}}),
    ] {
        client.ask(line).await;
    }

    client.say(json!({"id": 4, "do": "forward", "connection_id": id, "operation": {"do": "x"}})).await;
    worker.hear().await;
    assert_eq!(counts(&statistics, "forward"), [2, 0, 1, 0], "one is under way");
    client.say(json!({"id": 4, "cancel": true})).await;
    worker.hear().await;

    assert_eq!(counts(&statistics, "forward"), [2, 0, 1, 1]);
    assert_eq!(counts(&statistics, "register"), [1, 1, 0, 0]);
    assert_eq!(counts(&statistics, "ping"), [2, 2, 0, 0]);
    assert_eq!(counts(&statistics, "count"), [1, 1, 0, 0]);
    assert_eq!(counts(&statistics, "other"), [2, 0, 2, 0], "whatever it is called");
    assert_eq!(counts(&statistics, "status"), [0; 4]);

    let sleep = of(&statistics, "sleep").latency;
    assert!(sleep.sum >= Duration::from_millis(20));
    assert!(sleep.buckets.iter().all(|(bound, count)| *count == u64::from(*bound >= sleep.sum)), "{sleep:?}");
}

/// How many calls of an operation of workers were started, finished, failed and cancelled.
fn forwarded(statistics: &Statistics, operation: &str) -> Option<[u64; 4]> {
    let all = statistics.forwarded();
    let counted = all.iter().find(|known| known.operation == operation)?;
    assert_eq!(counted.latency.count, counted.finished + counted.failed + counted.cancelled);
    Some([counted.started, counted.finished, counted.failed, counted.cancelled])
}

#[tokio::test]
async fn calls_that_are_passed_on_are_counted_by_the_operation_of_the_worker() {
    let server = Server::new();
    let statistics = server.statistics();
    let server = TestServer::start(server);
    let mut worker = server.lines().await;
    let id = worker.register("web").await;
    let mut client = server.lines().await;
    let call = |operation: &str| json!({"id": 2, "do": "forward", "connection_id": id, "operation": {"do": operation}});
    // Not known yet: what it is counted as shows at its end.
    for (operation, is_known) in [("flush", true), ("thread_dump", true), ("nonsense", false)] {
        client.say(call(operation)).await;
        let heard = worker.hear().await;
        assert_eq!(forwarded(&statistics, operation), None);
        let answer = match operation {
            "flush" => json!({"id": heard["id"], "finished": true}),
            _ => json!({"id": heard["id"], "failed": true, "error": {"class": "UnknownOperation", "message": "?"}}),
        };
        worker.say(answer).await;
        client.hear().await;
        assert_eq!(forwarded(&statistics, operation).is_some(), is_known, "{operation}");
    }
    client.say(call("flush")).await;
    worker.hear().await;
    assert_eq!(forwarded(&statistics, "flush"), Some([2, 1, 0, 0]), "one is under way");
    assert_eq!(forwarded(&statistics, "thread_dump"), Some([1, 0, 1, 0]));
    assert_eq!(forwarded(&statistics, "other"), Some([1, 0, 1, 0]));
    assert_eq!(counts(&statistics, "forward"), [4, 1, 2, 0], "all together");
}

#[tokio::test]
async fn there_is_an_end_to_the_operations_of_workers_that_are_counted_apart() {
    let server = Server::new();
    let statistics = server.statistics();
    let server = TestServer::start(server);
    let mut worker = server.lines().await;
    let id = worker.register("web").await;
    let mut client = server.lines().await;
    let long = "x".repeat(100);
    for number in 0..100 {
        let operation = if number == 0 { long.clone() } else { format!("operation_{number}") };
        client.say(json!({"id": 2, "do": "forward", "connection_id": id, "operation": {"do": operation}})).await;
        let heard = worker.hear().await;
        worker.say(json!({"id": heard["id"], "finished": true})).await;
        client.hear().await;
    }
    assert_eq!(statistics.forwarded().len(), 65);
    assert_eq!(forwarded(&statistics, "operation_64"), Some([1, 1, 0, 0]));
    assert_eq!(forwarded(&statistics, "other"), Some([36, 36, 0, 0]));
}
