//! Clients that say all that they have to say in one go, and that there will be no more, as `printf … | nc -N` does.

mod common;

use std::sync::Arc;

use async_container_supervisor_server::{Server, Signal};
use common::{RootRequest, TestRoot, TestServer};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    sync::Notify,
};

/// Says these lines and no more.
async fn say(server: &TestServer, lines: &[Value]) -> UnixStream {
    let mut stream = UnixStream::connect(&server.path).await.unwrap();
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    stream.write_all(text.as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    stream
}

/// Everything up to the end.
async fn hear(mut stream: UnixStream) -> Vec<Value> {
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
async fn restart_that_is_cancelled_in_the_same_breath_is_not_carried_out() {
    let (root, mut requests) = TestRoot::new(true);
    let server = TestServer::start(Server::new().root(root));
    let restart = json!({"id": 2, "do": "restart", "signal": "HUP"});
    let stream = say(&server, &[restart.clone(), json!({"id": 2, "cancel": true})]).await;
    assert_eq!(hear(stream).await, [] as [Value; 0]);

    // And one that is not is, though nobody could cancel it any more.
    let stream = say(&server, &[json!({"id": 2, "do": "restart", "signal": "TERM"})]).await;
    assert_eq!(hear(stream).await, [json!({"id": 2, "finished": true})]);
    assert_eq!(requests.recv().await, Some(RootRequest::Signal(Signal::Term)), "and no other before it");
}

#[tokio::test]
async fn answers_that_take_their_time_are_given() {
    let (called, answered) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (calls, answers) = (called.clone(), answered.clone());
    let server = TestServer::start(Server::new().operation("slow", move |_| {
        let (called, answered) = (calls.clone(), answers.clone());
        async move {
            called.notify_one();
            answered.notified().await;
            Ok(())
        }
    }));
    let stream = say(&server, &[json!({"id": 2, "do": "slow"}), json!({"id": 4, "do": "status"})]).await;
    called.notified().await;
    answered.notify_one();
    let mut ids: Vec<_> = hear(stream).await.into_iter().map(|answer| answer["id"].clone()).collect();
    ids.sort_by_key(Value::as_u64);
    assert_eq!(ids, [2, 4]);
}

/// It would be called and could not answer.
#[tokio::test]
async fn worker_that_sends_no_more_is_forgotten() {
    let server = TestServer::start(Server::new());
    let mut watcher = server.lines().await;
    watcher.say(json!({"id": 2, "do": "subscribe", "events": ["register", "remove"]})).await;
    // Answered by nothing, and would keep the connection of anybody else.
    let stream =
        say(&server, &[json!({"id": 2, "do": "register", "state": {}}), json!({"id": 4, "do": "subscribe"})]).await;
    let registered = watcher.hear().await;
    assert_eq!(registered["event"], "register");
    assert_eq!(hear(stream).await[0]["connection_id"], registered["connection_id"]);
    assert_eq!(watcher.hear().await["event"], "remove");
}
