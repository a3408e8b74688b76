//! What somebody can do who means ill, and connects again and again.

mod common;

use async_container_supervisor_server::Server;
use common::{Log, TestServer};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
};

#[tokio::test]
async fn log_is_not_flooded_by_peers_that_break_the_protocol() {
    let (log, _guard) = Log::start(tracing::Level::WARN);
    let server = TestServer::start(Server::new());

    for round in 0..1000 {
        let mut stream = UnixStream::connect(&server.path).await.unwrap();
        let bytes: &[u8] = if round % 2 == 0 { b"{\"id\":1,\"do\":\"st" } else { b"\0\0\0\x01\xc0" };
        stream.write_all(bytes).await.unwrap();
        stream.shutdown().await.unwrap();
        stream.read_to_end(&mut Vec::new()).await.unwrap();
    }

    let lines = log.text().lines().filter(|line| line.contains("closed a connection")).count();
    // At first so many, and then one in a while, however long this took.
    assert!((10..100).contains(&lines), "{}", log.text());
}
