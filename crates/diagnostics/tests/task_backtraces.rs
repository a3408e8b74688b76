//! What async-backtrace knows, in dumps.

use std::{
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use async_container_diagnostics::tasks::TaskDump;
use tokio::runtime::{Builder, Runtime};

const LIMIT: Duration = Duration::from_secs(20);

fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(2).enable_time().build().unwrap()
}

/// Takes dumps until one of the trees is as it should be.
fn wait_for(function: &str, wanted: impl Fn(&str) -> bool) -> (TaskDump, String) {
    let start = Instant::now();

    loop {
        let dump = TaskDump::take();
        let tree = dump.async_backtrace.iter().find(|tree| tree.contains(function) && wanted(tree)).cloned();

        if let Some(tree) = tree {
            return (dump, tree);
        }

        assert!(start.elapsed() < LIMIT, "no such tree of {function} in\n{dump}");
        thread::yield_now();
    }
}

#[async_backtrace::framed]
async fn outer() {
    inner().await;
}

#[async_backtrace::framed]
async fn inner() {
    std::future::pending::<()>().await;
}

#[async_backtrace::framed]
async fn blocked(began: mpsc::Sender<()>, release: mpsc::Receiver<()>) {
    began.send(()).unwrap();
    release.recv().unwrap_err();
}

/// The functions with the attribute drop what has panicked; this is still there after that.
fn panics() -> impl Future<Output = ()> + Send {
    async_backtrace::frame!(async { panic!("as it should") })
}

#[test]
fn functions_with_the_attribute_are_shown_as_trees() {
    let runtime = runtime();
    let _task = runtime.spawn(outer());
    let (dump, tree) = wait_for("task_backtraces::outer", |tree| tree.contains("inner"));
    let (first, second) = tree.split_once('\n').unwrap();
    assert!(first.contains("outer") && first.contains("tests/task_backtraces.rs:"), "{dump}");
    assert!(second.contains("inner") && second.contains("tests/task_backtraces.rs:"), "{dump}");

    let text = dump.to_string();
    let (_, section) = text.split_once(" of async-backtrace:\n").unwrap_or_else(|| panic!("{text}"));
    assert!(section.lines().any(|line| line.starts_with("  ╼ ") && line.contains("outer")), "{text}");
    let json = serde_json::to_value(&dump).unwrap();
    let trees = json["async_backtrace"].as_array().unwrap();
    assert!(trees.iter().any(|it| it.as_str() == Some(&tree)), "{json}");
}

#[test]
fn what_is_being_polled_is_not_waited_for() {
    let runtime = runtime();
    let (began, has_begun) = mpsc::channel();
    let (release, released) = mpsc::channel::<()>();
    let task = runtime.spawn(blocked(began, released));
    has_begun.recv_timeout(LIMIT).unwrap();
    // Without an end to what it is in, a dump that waits would not return.
    let (sender, dumped) = mpsc::channel();
    thread::spawn(move || sender.send(TaskDump::take()).is_ok());
    let dump = dumped.recv_timeout(LIMIT).expect("the dump waits for a task that is being polled");
    let tree = dump.async_backtrace.iter().find(|tree| tree.contains("::blocked::"));
    assert!(tree.unwrap_or_else(|| panic!("{dump}")).contains("POLLING"), "{dump}");
    drop(release);
    runtime.block_on(task).unwrap();
}

#[test]
fn what_has_panicked_and_is_still_there_is_shown_as_that() {
    let mut future = Box::pin(panics());
    // Caught, as a server does for its handlers.
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        future.as_mut().poll(&mut std::task::Context::from_waker(std::task::Waker::noop()))
    }));
    assert!(result.is_err());
    let (_, tree) = wait_for("panics", |_| true);
    assert!(tree.contains("PANICKED"), "{tree}");
    drop(future);
}
