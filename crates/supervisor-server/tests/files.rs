//! What connections take of the files that a process may have open. It is a test of its own, because those of others would count.

mod common;

use async_container_supervisor_server::Server;
use common::TestServer;
use serde_json::json;

fn open_files() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

#[tokio::test]
async fn a_connection_takes_one_file_and_a_worker_two() {
    const COUNT: usize = 20;
    let server = TestServer::start(Server::new());
    // Whatever is opened once is open afterwards.
    server.lines().await.register("first").await;
    let before = open_files();
    let mut clients = Vec::new();

    for _ in 0..COUNT {
        let mut client = server.lines().await;
        client.ask(json!({"id": 2, "do": "ping"})).await;
        clients.push(client);
    }

    // This process is both ends. The first one may be gone by now, with its two.
    let connected = open_files();
    assert!((before + 2 * COUNT - 2..=before + 2 * COUNT).contains(&connected), "{before} {connected}");

    for client in &mut clients {
        client.register("worker").await;
        client.register("worker").await;
    }

    let workers = open_files() - connected;
    assert!((COUNT - 2..=COUNT).contains(&workers), "{workers}");
    server.stop().await.unwrap();
}
