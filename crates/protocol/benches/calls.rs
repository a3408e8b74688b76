//! What a call costs: one at a time beside a bare echo of the same sizes, and many at once.
//!
//! `cargo bench -p async-container-protocol`. Both sides share a current-thread runtime each, in a thread of its own, as a
//! worker and a supervisor would be in processes of their own.

use std::time::{Duration, Instant};

use async_container_protocol::{Client, Driver, NoOperations, Operations, Request, Settings, Side};
use serde::Serialize;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
};

const CALLS: usize = 40_000;
const ROUNDS: usize = 5;
/// The sizes of a `ping` and its answer on the wire.
const SIZES: (usize, usize) = (60, 60);

#[derive(Serialize)]
struct Padding {
    padding: &'static str,
}

const PADDING: Padding = Padding { padding: "0123456789012345678901234567890" };

fn main() {
    let directory = tempfile::tempdir().expect("a directory");
    let echo_path = directory.path().join("echo");
    let call_path = directory.path().join("call");
    serve(echo_path.clone(), |mut stream| async move {
        let mut request = vec![0; SIZES.0];
        let answer = vec![0; SIZES.1];
        while stream.read_exact(&mut request).await.is_ok() {
            stream.write_all(&answer).await.expect("the bench reads");
        }
    });
    serve(call_path.clone(), |stream| async move {
        let operations = Operations::new()
            .immediate("immediate", |request: &Request| Ok(request.fields().clone()))
            .operation("boxed", |request: Request| async move { Ok(request.into_fields()) })
            .operation("waiting", |request: Request| async move {
                tokio::task::yield_now().await;
                Ok(request.into_fields())
            });
        let (_, driver) = Driver::new(stream, Side::Accepted, operations, Settings::default());
        let _ = driver.await;
    });

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let mut echo = connect(&echo_path).await;
        let client = {
            let stream = connect(&call_path).await;
            let (client, driver) = Driver::new(stream, Side::Connected, NoOperations, Settings::default());
            driver.spawn();
            client
        };

        for _ in 0..ROUNDS {
            let mut request = vec![0; SIZES.0];
            let raw = latency(async || {
                echo.write_all(&request).await.expect("it echoes");
                echo.read_exact(&mut request).await.expect("it echoes");
            })
            .await;
            print!("raw echo {raw:>6.1?}");

            for operation in ["immediate", "boxed", "waiting"] {
                let median = latency(async || {
                    client.call(operation, &PADDING).finish().await.expect("it answers");
                })
                .await;
                print!("  {operation} {median:>6.1?} ({:.2}x)", median.as_secs_f64() / raw.as_secs_f64());
            }

            for (operation, flight) in [("immediate", 64), ("immediate", 512), ("waiting", 64)] {
                let rate = throughput(&client, operation, flight).await;
                print!("  {operation}@{flight} {:.0}k/s", rate / 1e3);
            }

            println!();
        }
    });
}

async fn latency(mut once: impl AsyncFnMut()) -> Duration {
    let mut times = Vec::with_capacity(CALLS);

    for _ in 0..CALLS {
        let start = Instant::now();
        once().await;
        times.push(start.elapsed());
    }

    times.sort_unstable();
    times[CALLS / 2]
}

async fn throughput(client: &Client, operation: &'static str, flight: usize) -> f64 {
    let each = CALLS * 10 / flight;
    let start = Instant::now();
    let tasks: Vec<_> = (0..flight)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move {
                for _ in 0..each {
                    client.call(operation, &PADDING).finish().await.expect("it answers");
                }
            })
        })
        .collect();

    for task in tasks {
        task.await.expect("it ends");
    }

    (each * flight) as f64 / start.elapsed().as_secs_f64()
}

async fn connect(path: &std::path::Path) -> UnixStream {
    loop {
        match UnixStream::connect(path).await {
            Ok(stream) => return stream,
            Err(_) => tokio::task::yield_now().await,
        }
    }
}

fn serve<F: Future<Output = ()> + 'static>(
    path: std::path::PathBuf,
    session: impl Fn(UnixStream) -> F + Send + 'static,
) {
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let listener = UnixListener::bind(path).expect("a socket");
            let (stream, _) = listener.accept().await.expect("a connection");
            session(stream).await;
        });
    });
}
