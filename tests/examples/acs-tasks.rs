//! What it costs to register tasks, and to dump them: measured by `cargo xtask bench diagnostics`.
//!
//! Prints one JSON object: nanoseconds for one poll, bare and registered; for one task of a runtime that is polled, and that
//! comes and goes, by tokio alone and registered; and for dumps.

#![forbid(unsafe_code)]

use std::{
    future::poll_fn,
    hint::black_box,
    pin::pin,
    task::{Context, Poll, Waker},
    time::Instant,
};

use async_container_supervisor::diagnostics::tasks::{self, Options, TaskDump};
use serde_json::json;
use tokio::{runtime::Builder, sync::watch, task::JoinHandle};

const ROUNDS: usize = 15;
const POLLS: usize = 500_000;
const YIELDS: usize = 100_000;
const TASKS: usize = 10_000;
const STACKS: usize = 256;

fn main() {
    let mut polls = [f64::MAX; 2];
    let mut yields = [f64::MAX; 2];
    let mut lives = [f64::MAX; 2];

    // By turns, so that whatever else the machine does meets both.
    for _ in 0..ROUNDS {
        polls[0] = polls[0].min(time_polls(pending()));
        polls[1] = polls[1].min(time_polls(tasks::instrument("polled", pending())));
        yields[0] = yields[0].min(time_yields(tokio::spawn));
        yields[1] = yields[1].min(time_yields(|future| tasks::spawn("yielding", future)));
        lives[0] = lives[0].min(time_lives(|| tokio::spawn(async {})));
        lives[1] = lives[1].min(time_lives(|| tasks::spawn("short-lived", async {})));
    }

    let dumps = time_dumps();
    let result = json!({
        "poll": polls,
        "yield": yields,
        "life": lives,
        "read": dumps.read,
        "text": dumps.text,
        "json": dumps.json,
        "stacks": dumps.stacks,
    });
    println!("{result}");
}

/// Never ready, and never woken.
fn pending() -> impl Future<Output = ()> {
    poll_fn(|context| {
        black_box(context);
        Poll::Pending
    })
}

/// Nanoseconds for a poll.
fn time_polls(future: impl Future<Output = ()>) -> f64 {
    let mut future = pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    let start = Instant::now();

    for _ in 0..POLLS {
        assert!(black_box(&mut future).as_mut().poll(&mut context).is_pending());
    }

    nanoseconds(start, POLLS)
}

type Yielding = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

/// Nanoseconds for a task to wake itself and to be polled, beside what the runtime does for that.
fn time_yields(spawn: impl FnOnce(Yielding) -> JoinHandle<()>) -> f64 {
    let runtime = Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(async {
        let start = Instant::now();
        let task = spawn(Box::pin(async {
            for _ in 0..YIELDS {
                tokio::task::yield_now().await;
            }
        }));
        task.await.expect("it ends");
        nanoseconds(start, YIELDS)
    })
}

/// Nanoseconds for a task to come and go, on two threads.
fn time_lives(spawn: impl Fn() -> JoinHandle<()> + Copy + Send + 'static) -> f64 {
    let runtime = Builder::new_multi_thread().worker_threads(2).build().expect("a runtime");
    let start = Instant::now();
    let halves: Vec<_> = (0..2)
        .map(|_| {
            runtime.spawn(async move {
                for task in (0..TASKS / 2).map(|_| spawn()).collect::<Vec<_>>() {
                    task.await.expect("it ends");
                }
            })
        })
        .collect();
    runtime.block_on(async {
        for half in halves {
            half.await.expect("it ends");
        }
    });
    nanoseconds(start, TASKS)
}

fn nanoseconds(start: Instant, count: usize) -> f64 {
    start.elapsed().as_secs_f64() * 1e9 / count as f64
}

struct Dumps {
    read: f64,
    text: f64,
    json: f64,
    stacks: f64,
}

/// Nanoseconds for dumps of many tasks in a tree: to be read, and as text, JSON, and text with stacks.
fn time_dumps() -> Dumps {
    let runtime = Builder::new_multi_thread().worker_threads(2).build().expect("a runtime");
    let (_sender, receiver) = watch::channel(());
    {
        let _within = runtime.enter();
        for number in 0..100 {
            let receiver = receiver.clone();
            tasks::spawn(format!("group {number}"), async move {
                for of_group in 1..TASKS / 100 {
                    let mut receiver = receiver.clone();
                    // Different names, so that the text has lines for each.
                    tasks::spawn(format!("session {of_group}"), async move { receiver.changed().await });
                }
                std::future::pending::<()>().await;
            });
        }
    }
    while TaskDump::take().tasks.iter().filter(|task| task.state == tasks::State::Idle).count() < TASKS {
        std::thread::yield_now();
    }
    let time = |dump: &dyn Fn() -> usize| {
        let once = |_| {
            let start = Instant::now();
            assert!(black_box(dump()) > 0);
            nanoseconds(start, 1)
        };
        // The median.
        let mut times: Vec<f64> = (0..ROUNDS).map(once).collect();
        times.sort_by(f64::total_cmp);
        times[ROUNDS / 2]
    };
    Dumps {
        read: time(&|| TaskDump::take().tasks.len()),
        text: time(&|| TaskDump::take().to_string().len()),
        json: time(&|| serde_json::to_vec(&TaskDump::take()).expect("it can be written").len()),
        stacks: time(&|| Options::new().stacks(STACKS).take().to_string().len()),
    }
}
