//! Where tasks wait. These dumps poll tasks once more, so they are apart from those that count polls.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use async_container_diagnostics::{
    symbols::Frame,
    tasks::{self, Options, State, Task, TaskDump},
};
use tokio::{
    runtime::{Builder, Runtime},
    sync::{Mutex, mpsc, oneshot},
};

/// Takes dumps until a task is as it should be: it needs a moment to come to where it is to be seen.
fn wait_for(options: &Options, name: &str, wanted: impl Fn(&Task) -> bool) -> (TaskDump, Task) {
    let start = Instant::now();

    loop {
        let dump = options.take();
        let found = dump.tasks.iter().find(|task| task.name == name && wanted(task)).cloned();

        if let Some(found) = found {
            return (dump, found);
        }

        assert!(start.elapsed() < Duration::from_secs(20), "no such task {name} in\n{dump}");
        thread::yield_now();
    }
}

/// Waits until no task of that name is left.
fn wait_for_none(name: &str) {
    let start = Instant::now();

    while TaskDump::take().tasks.iter().any(|task| task.name == name) {
        assert!(start.elapsed() < Duration::from_secs(20), "{}", TaskDump::take());
        thread::yield_now();
    }
}

/// A runtime of two threads, whose tasks end with it.
fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(2).thread_name("tasks").enable_time().build().unwrap()
}

/// Spawns in a runtime from outside of it.
fn within<T>(runtime: &Runtime, spawn: impl FnOnce() -> T) -> T {
    let _within = runtime.enter();
    spawn()
}

async fn wait_for_the_lock(lock: &Mutex<()>) {
    let _guard = lock.lock().await;
}

async fn wait_for_a_message(mut receiver: mpsc::Receiver<()>) {
    receiver.recv().await;
}

fn with_stacks() -> Options {
    Options::new().stacks(1000).deadline(Duration::from_secs(10))
}

fn place_of<'a>(task: &'a Task, function: &str) -> Option<&'a Frame> {
    task.waits_at.iter().flatten().find(|frame| frame.function.contains(function))
}

#[test]
fn an_await_that_is_stuck_is_named_with_its_place() {
    let runtime = runtime();
    let lock = Arc::new(Mutex::new(()));
    let (sender, receiver) = mpsc::channel::<()>(1);
    runtime.block_on(async {
        let its = lock.clone();
        let (locked, has_locked) = oneshot::channel();
        tasks::spawn("holds the lock", async move {
            let _guard = its.lock().await;
            locked.send(()).unwrap();
            std::future::pending::<()>().await;
        });
        has_locked.await.unwrap();
        tasks::spawn("wants the lock", async move { wait_for_the_lock(&lock).await });
        tasks::spawn("wants a message", wait_for_a_message(receiver));
    });

    let (dump, task) = wait_for(&with_stacks(), "wants the lock", |task| !task.waits_at.is_empty());
    let frame = place_of(&task, "wait_for_the_lock").unwrap_or_else(|| panic!("{dump}"));
    assert!(frame.file.as_deref().unwrap().ends_with("tests/task_stacks.rs"), "{dump}");
    assert!(place_of(&task, "tokio::sync::mutex::Mutex").is_some(), "{dump}");
    assert!(place_of(&task, "runtime::").is_none(), "what polls the task is no part of it: {dump}");

    let (dump, task) = wait_for(&with_stacks(), "wants a message", |task| !task.waits_at.is_empty());
    let frame = place_of(&task, "wait_for_a_message").unwrap_or_else(|| panic!("{dump}"));
    assert!(frame.line.is_some(), "{dump}");
    let text = dump.to_string();
    let waits = "waits at tokio::sync::mpsc::bounded::Receiver<T>::recv at ";
    assert!(text.contains(waits) && text.contains("in task_stacks::wait_for_a_message at "), "{dump}");

    // What was looked at goes on as before.
    sender.blocking_send(()).unwrap();
    wait_for_none("wants a message");
}

#[test]
fn all_that_a_task_waits_for_is_named() {
    async fn one() {
        std::future::pending::<()>().await;
    }

    let runtime = runtime();
    let (_sender, receiver) = mpsc::channel::<()>(1);
    let lock = Arc::new(Mutex::new(()));
    let _held = lock.clone().try_lock_owned().unwrap();
    within(&runtime, || {
        tasks::spawn("waits for three", async move {
            tokio::select! {
                () = wait_for_the_lock(&lock) => {}
                () = wait_for_a_message(receiver) => {}
                () = tasks::instrument("within", one()) => {}
            }
        })
    });

    let (dump, task) = wait_for(&with_stacks(), "waits for three", |task| task.waits_at.len() >= 3);
    assert!(place_of(&task, "wait_for_the_lock").is_some(), "{dump}");
    assert!(place_of(&task, "wait_for_a_message").is_some(), "{dump}");
    assert!(task.waits_at.iter().flatten().all(|frame| !frame.function.contains("diagnostics::tasks")), "{dump}");
}

#[test]
fn tasks_end_and_wake_under_a_hail_of_dumps() {
    let runtime = runtime();
    let end = Arc::new(AtomicBool::new(false));
    let dumping: Vec<_> = (0..2)
        .map(|_| {
            let end = end.clone();
            thread::spawn(move || {
                while !end.load(Ordering::Relaxed) {
                    with_stacks().take();
                }
            })
        })
        .collect();

    runtime.block_on(async {
        for _ in 0..200 {
            let (sender, mut receiver) = mpsc::channel(1);
            let (back, mut returned) = mpsc::channel(1);
            let echo = tasks::spawn("echo", async move {
                while let Some(number) = receiver.recv().await {
                    back.send(number).await.unwrap();
                }
            });

            for number in 0..20 {
                sender.send(number).await.unwrap();
                // A wake that is lost would end in the limit.
                let answer = tokio::time::timeout(Duration::from_secs(10), returned.recv()).await;
                assert_eq!(answer.unwrap(), Some(number));
            }

            drop(sender);
            echo.await.unwrap();
        }
    });
    end.store(true, Ordering::Relaxed);
    dumping.into_iter().for_each(|thread| thread.join().unwrap());
    wait_for_none("echo");
}

#[test]
fn a_blocked_executor_does_not_hold_the_dump_up() {
    let runtime = Builder::new_multi_thread().worker_threads(1).build().unwrap();
    within(&runtime, || tasks::spawn("cannot answer", std::future::pending::<()>()));
    wait_for(&Options::new(), "cannot answer", |task| task.state == State::Idle);
    let (began, has_begun) = oneshot::channel();
    let (release, released) = std::sync::mpsc::channel::<()>();
    within(&runtime, || {
        tasks::spawn("in its way", async move {
            began.send(()).unwrap();
            released.recv().unwrap_err();
        })
    });
    runtime.block_on(has_begun).unwrap();

    let (dump, task) = wait_for(&with_stacks().deadline(Duration::from_millis(100)), "in its way", |task| {
        task.is_late && !task.runs_at.is_empty()
    });
    let is_within = |frame: &Frame| frame.function.contains("a_blocked_executor_does_not_hold_the_dump_up");
    assert!(
        task.runs_at.iter().any(is_within) && !task.runs_at.iter().any(|frame| frame.function.contains("harness")),
        "{dump}"
    );
    assert!(dump.to_string().contains("runs "), "{dump}");

    let limit = Duration::from_millis(50);
    let dump = Options::new().stacks(1000).deadline(limit).take();
    assert!(dump.notes.iter().any(|note| note.contains("did not come to be polled within 50 ms")), "{dump}");
    let found = |name| dump.tasks.iter().find(|task: &&Task| task.name == name).unwrap();
    assert_eq!(found("cannot answer").state, State::Idle);
    assert_eq!(found("in its way").state, State::Running);
    drop(release);
}
