//! A process that runs out of file descriptors. It is a test of its own, because the limit is one of the process.

mod common;

use async_container_supervisor_server::Server;
use common::TestServer;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::json;
use tokio::net::UnixStream;

#[tokio::test]
async fn server_waits_until_there_are_files_again() {
    let server = TestServer::start(Server::new());
    let mut first = server.lines().await;
    first.ask(json!({"id": 2, "do": "ping"})).await;
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: Some(64), maximum }).unwrap();
    let mut held = Vec::new();

    while let Ok(stream) = UnixStream::connect(&server.path).await {
        held.push(stream);
    }

    // Nothing can be accepted now, and whoever is connected is served.
    assert!(first.ask(json!({"id": 4, "do": "ping"})).await["version"].is_string());
    held.truncate(8);
    let mut late = server.lines().await;
    assert!(late.ask(json!({"id": 2, "do": "ping"})).await["version"].is_string());
    server.stop().await.unwrap();
}
