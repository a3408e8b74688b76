//! What the log tells of who had what done.

mod common;

use async_container_supervisor_server::Server;
use common::{Log, TestRoot, TestServer};
use serde_json::json;

const TARGET: &str = "async_container_supervisor_server::audit";

/// What was told of calls.
fn audit(log: &Log) -> Vec<String> {
    let text = log.text();
    let lines = text.lines().filter_map(|line| line.split_once(&format!("{TARGET}: ")));
    lines.map(|(level, rest)| format!("{} {rest}", level.trim())).collect()
}

/// Has everything done that there is, and gives what was told of it.
async fn told(level: tracing::Level) -> Vec<String> {
    let (log, _guard) = Log::start(level);
    let (root, _requests) = TestRoot::new(true);
    let server = TestServer::start(Server::new().root(root).operation("count", |_| async { Ok(()) }));
    let mut client = server.lines().await;

    for line in [
        json!({"id": 2, "do": "ping"}),
        json!({"id": 2, "do": "status"}),
        json!({"id": 2, "do": "register", "state": {}}),
        json!({"id": 2, "do": "restart", "signal": "HUP"}),
        json!({"id": 2, "do": "restart", "signal": "KILL"}),
        json!({"id": 2, "do": "replace", "process_id": 1}),
        json!({"id": 2, "do": "count"}),
        json!({"id": 2, "do": "forward", "connection_id": "none", "operation": {"do": "memory_dump"}}),
        json!({"id": 2, "do": "forward", "connection_id": "none", "operation": {"do": "flush"}}),
    ] {
        client.ask(line).await;
    }

    let mut worker = server.lines().await;
    let id = worker.register("web").await;
    client.say(json!({"id": 4, "do": "forward", "connection_id": id, "operation": {"do": "thread_dump"}})).await;
    worker.hear().await;
    client.say(json!({"id": 4, "cancel": true})).await;
    worker.hear().await;
    audit(&log).into_iter().map(|line| line.replace(&id, "ID")).collect()
}

fn line(what: &str) -> String {
    let (process_id, user_id) = (std::process::id(), rustix::process::geteuid().as_raw());
    let group_id = rustix::process::getegid().as_raw();
    format!("INFO called process_id={process_id} user_id={user_id} group_id={group_id} {what}")
}

#[tokio::test]
async fn who_had_what_done_is_told_with_what_came_of_it() {
    let process_id = std::process::id();
    let worker = format!(r#"worker.id="ID" worker.process_id={process_id} worker.name="web""#);
    let expected = [
        line(r#"operation="restart" role=operate result="finished""#),
        line(r#"operation="restart" role=operate result="InvalidParameters""#),
        line(r#"operation="replace" worker.process_id=1 role=operate result="ConnectionNotFound""#),
        line(r#"operation="count" role=operate result="finished""#),
        line(r#"operation="memory_dump" worker.id="none" role=diagnose result="ConnectionNotFound""#),
        line(r#"operation="flush" worker.id="none" role=operate result="ConnectionNotFound""#),
        line(&format!(r#"operation="thread_dump" {worker} role=diagnose result="cancelled""#)),
    ];
    assert_eq!(told(tracing::Level::INFO).await, expected);
}

#[tokio::test]
async fn nobody_who_does_not_listen_is_told() {
    assert!(told(tracing::Level::WARN).await.is_empty());
}
