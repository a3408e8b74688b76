//! A queue of jobs that survives its workers: `cargo run --example queue -- --jobs 20`
//!
//! The dispatcher gives one job at a time to each worker that connects, over a Unix socket that the root has bound. A worker
//! that crashes takes nothing with it: its connection closes, and its job goes back into the queue. Here every fifth job
//! crashes the first worker that gets it. When all are done, the dispatcher says so and ends, and with it the application.

use std::collections::VecDeque;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_container_supervisor::{Address, Application, Backoff, BoxError, Instance, Service};
use clap::Parser;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::sync::Notify;
use tracing::{info, warn};

const SOCKET: &str = "queue.ipc";

#[derive(Clone, Copy, Parser)]
struct Arguments {
    /// How many jobs there are to be done.
    #[arg(long, default_value_t = 20)]
    jobs: u32,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let dispatch = move |instance| dispatch(instance, arguments.jobs);
    let backoff = Backoff::new().maximum(Duration::from_millis(100));
    Application::new("queue")
        .service(Service::new("dispatcher", dispatch).count(1).listen("queue", Address::unix(SOCKET)).essential())
        .service(Service::new("worker", work).count(3).backoff(backoff))
        .run()
}

/// A job, and how often it was given out before.
type Job = (u32, u32);

#[derive(Default)]
struct Queue {
    waiting: Mutex<VecDeque<Job>>,
    left: AtomicU32,
    changed: Notify,
}

impl Queue {
    fn next(&self) -> Option<Job> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    fn add(&self, job: Job) {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).push_back(job);
    }
}

async fn dispatch(instance: Instance, jobs: u32) -> Result<(), BoxError> {
    let listener = instance.unix_listener("queue")?;
    instance.ready()?;
    let queue = Arc::new(Queue { left: AtomicU32::new(jobs), ..Queue::default() });
    (1..=jobs).for_each(|number| queue.add((number, 0)));
    while queue.left.load(Ordering::Relaxed) > 0 {
        tokio::select! {
            accepted = listener.accept() => drop(tokio::spawn(serve(accepted?.0, queue.clone()))),
            () = queue.changed.notified() => {}
            () = instance.shutdown() => return Err("asked to end before all jobs were done".into()),
        }
    }
    println!("all {jobs} jobs are done");
    Ok(())
}

/// Gives jobs to one worker until there is none, or the worker is gone.
async fn serve(stream: UnixStream, queue: Arc<Queue>) {
    let mut stream = BufReader::new(stream);
    while let Some((number, tries)) = queue.next() {
        let mut answer = String::new();
        let asked = stream.write_all(format!("{number} {tries}\n").as_bytes()).await;
        if asked.is_err() || !stream.read_line(&mut answer).await.is_ok_and(|length| length > 0) {
            warn!(number, "a worker is gone: its job goes back");
            return queue.add((number, tries + 1));
        }
        queue.left.fetch_sub(1, Ordering::Relaxed);
    }
    queue.changed.notify_one();
}

async fn work(instance: Instance) -> Result<(), BoxError> {
    let mut jobs = BufReader::new(UnixStream::connect(SOCKET).await?);
    instance.ready()?;
    loop {
        let mut line = String::new();
        tokio::select! {
            length = jobs.read_line(&mut line) => if length? == 0 { break },
            () = instance.shutdown() => return Ok(()),
        }
        let (number, tries) = line.trim_end().split_once(' ').ok_or("no job")?;
        if number.parse::<u32>()? % 5 == 0 && tries == "0" {
            return Err(format!("job {number} is too much for me").into());
        }
        info!(number, worker = instance.name(), "done");
        jobs.write_all(b"done\n").await?;
    }
    // No more jobs: the dispatcher is about to end all of this.
    instance.shutdown().await;
    Ok(())
}
