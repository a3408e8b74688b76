//! How many connections are accepted before those that came before them are looked at. It is a test of its own, because it
//! counts the open files of the process.

mod common;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_container_supervisor_server::Server;
use common::TestServer;
use serde_json::json;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    net::UnixStream,
};

/// As many as wait in the backlog of the socket at once.
const CLIENTS: usize = 300;
/// Far more than there may be newcomers, who say nothing.
const SILENT: usize = 100;
const NEWCOMERS: usize = 16;

fn open_files() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

#[tokio::test]
async fn connections_are_looked_at_before_more_are_accepted() {
    let (base, served, ahead) = (Arc::new(AtomicUsize::new(0)), AtomicUsize::new(0), Arc::new(AtomicUsize::new(0)));
    let (files_before, most_ahead) = (base.clone(), ahead.clone());
    let server = Server::new().operation("look", move |_| {
        // Runs when the connection is looked at for the first time.
        let accepted = open_files() - files_before.load(Ordering::Relaxed);
        most_ahead.fetch_max(accepted - served.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed);
        async { Ok(()) }
    });
    let server = TestServer::start(server);
    // What it opens for itself is open then.
    let mut first = server.lines().await;
    first.ask(json!({"id": 2, "do": "ping"})).await;
    // The server runs on this thread, so it accepts nobody before this waits for an answer.
    let mut streams = Vec::new();

    for _ in 0..CLIENTS {
        let stream = std::os::unix::net::UnixStream::connect(&server.path).unwrap();
        stream.set_nonblocking(true).unwrap();
        std::io::Write::write_all(&mut &stream, b"{\"id\":2,\"do\":\"look\"}\n").unwrap();
        streams.push(BufReader::new(UnixStream::from_std(stream).unwrap()));
    }

    base.store(open_files(), Ordering::Relaxed);

    for stream in &mut streams {
        let mut line = String::new();
        stream.read_line(&mut line).await.unwrap();
        assert_eq!(line, "{\"id\":2,\"finished\":true}\n");
    }

    let ahead = ahead.load(Ordering::Relaxed);
    assert!((1..=NEWCOMERS).contains(&ahead), "{ahead} connections were accepted before they could be looked at");

    // Whoever says nothing was looked at as well, and takes nobody's place.
    let mut silent = Vec::new();

    for _ in 0..SILENT {
        silent.push(UnixStream::connect(&server.path).await.unwrap());
    }

    let mut last = server.lines().await;
    let answer = tokio::time::timeout(Duration::from_secs(60), last.ask(json!({"id": 2, "do": "ping"})));
    assert!(answer.await.unwrap()["version"].is_string());
}
