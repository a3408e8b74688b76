//! What the log tells of who had what done.

mod common;

use std::sync::{Arc, Mutex};

use async_container_supervisor_server::Server;
use common::{TestRoot, TestServer};
use serde_json::json;

const TARGET: &str = "async_container_supervisor_server::audit";

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
    fn start(level: tracing::Level) -> (Self, tracing::subscriber::DefaultGuard) {
        let log = Self::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(level)
            .with_ansi(false)
            .without_time()
            .with_writer(move || writer.clone())
            .finish();
        (log, tracing::subscriber::set_default(subscriber))
    }

    fn audit(&self) -> Vec<String> {
        let log = self.0.lock().unwrap();
        let text = String::from_utf8_lossy(&log);
        let lines = text.lines().filter_map(|line| line.split_once(&format!("{TARGET}: ")));
        lines.map(|(level, rest)| format!("{} {rest}", level.trim())).collect()
    }
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
    log.audit().into_iter().map(|line| line.replace(&id, "ID")).collect()
}

fn line(level: &str, what: &str) -> String {
    let (process_id, user_id) = (std::process::id(), rustix::process::geteuid().as_raw());
    format!("{level} called process_id={process_id} user_id={user_id} {what}")
}

#[tokio::test]
async fn who_had_what_done_is_told_with_what_came_of_it() {
    let expected = [
        line("INFO", r#"operation="restart" role=operate result="finished""#),
        line("INFO", r#"operation="restart" role=operate result="InvalidParameters""#),
        line("INFO", r#"operation="memory_dump" worker="none" role=diagnose result="ConnectionNotFound""#),
        line("INFO", r#"operation="thread_dump" worker="ID" role=diagnose result="cancelled""#),
    ];
    assert_eq!(told(tracing::Level::INFO).await, expected);
}

#[tokio::test]
async fn daily_work_is_told_to_those_who_want_to_know() {
    let told = told(tracing::Level::DEBUG).await;
    let daily: Vec<&String> = told.iter().filter(|line| line.starts_with("DEBUG")).collect();
    let expected = [
        line("DEBUG", r#"operation="count" role=operate result="finished""#),
        line("DEBUG", r#"operation="flush" worker="none" role=operate result="ConnectionNotFound""#),
    ];
    assert_eq!(daily, expected.each_ref());
    assert_eq!(told.len(), 6);
}
