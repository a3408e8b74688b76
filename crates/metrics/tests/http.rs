//! What somebody who asks over HTTP is answered.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_container_metrics::{Family, serve};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    time::timeout,
};

const LIMIT: Duration = Duration::from_secs(30);

async fn families() -> Vec<Family> {
    vec![Family::gauge("temperature", "Of the room.").unit("celsius").with(21.5)]
}

/// Everything that is answered, until the connection ends.
async fn ask(path: &Path, request: &str) -> String {
    let mut stream = UnixStream::connect(path).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

fn request(line: &str, headers: &str) -> String {
    format!("{line} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n")
}

fn start() -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("metrics.ipc");
    let listener = UnixListener::bind(&path).unwrap();
    tokio::spawn(serve(listener, families));
    (directory, path)
}

#[tokio::test]
async fn the_format_is_the_one_that_is_accepted() {
    let (_directory, path) = start();
    let answer = ask(&path, &request("GET /metrics", "")).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(answer.contains("content-type: text/plain; version=0.0.4; charset=utf-8\r\n"), "{answer}");
    let body = "# HELP acs_temperature_celsius Of the room.\n# TYPE acs_temperature_celsius gauge\nacs_temperature_celsius 21.5\n";
    assert!(answer.ends_with(&format!("\r\n\r\n{body}")), "{answer}");

    let accept = "Accept: application/openmetrics-text;version=1.0.0;q=0.5,text/plain;q=0.2\r\n";
    let answer = ask(&path, &request("GET /metrics", accept)).await;
    assert!(
        answer.contains("content-type: application/openmetrics-text; version=1.0.0; charset=utf-8\r\n"),
        "{answer}"
    );
    assert!(answer.ends_with("acs_temperature_celsius 21.5\n# EOF\n"), "{answer}");
}

#[tokio::test]
async fn there_is_nothing_else() {
    let (_directory, path) = start();
    let answer = ask(&path, &request("GET /", "")).await;
    assert!(answer.starts_with("HTTP/1.1 404 ") && answer.ends_with("metrics are at /metrics\n"), "{answer}");
    let answer = ask(&path, &request("DELETE /metrics", "")).await;
    assert!(answer.starts_with("HTTP/1.1 405 ") && answer.contains("allow: GET, HEAD\r\n"), "{answer}");
    let answer = ask(&path, &request("HEAD /metrics", "")).await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("\r\n\r\n"), "{answer}");
    let answer = ask(&path, "nonsense\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
}

#[tokio::test]
async fn a_connection_serves_many_requests() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let gathered = Arc::new(AtomicUsize::new(0));
    let counter = gathered.clone();
    tokio::spawn(serve(listener, move || {
        counter.fetch_add(1, Ordering::Relaxed);
        families()
    }));
    let mut stream = TcpStream::connect(address).await.unwrap();
    for _ in 0..3 {
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"acs_temperature_celsius 21.5\n") {
            assert_ne!(timeout(LIMIT, stream.read_buf(&mut answer)).await.expect("it answers").unwrap(), 0);
        }
    }
    assert_eq!(gathered.load(Ordering::Relaxed), 3, "each as of then");
}

/// Nor do those who ask, and do not read what they are answered.
#[tokio::test(start_paused = true)]
async fn who_takes_no_answer_is_let_go() {
    let (_directory, path) = start();
    let mut deaf = Vec::new();
    for _ in 0..16 {
        let mut stream = UnixStream::connect(&path).await.unwrap();
        // Until there is no room for more answers, and so no more questions are read either.
        let request = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n".repeat(1000);
        let all = async { while stream.write_all(&request).await.is_ok() {} };
        timeout(Duration::from_secs(1), all).await.expect_err("it answers, and then waits");
        deaf.push(stream);
    }
    let begin = tokio::time::Instant::now();
    let answer = ask(&path, &request("GET /metrics", "")).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    assert!(begin.elapsed() < LIMIT, "{:?}", begin.elapsed());
}

/// Those who only connect keep nobody from asking for longer than they may take.
#[tokio::test(start_paused = true)]
async fn who_asks_for_nothing_is_let_go() {
    let (_directory, path) = start();
    let mut idle = Vec::new();
    for _ in 0..16 {
        idle.push(UnixStream::connect(&path).await.unwrap());
    }
    let answer = ask(&path, &request("GET /metrics", "")).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
}
