//! Dumps of tasks that do what tasks do when something is wrong.

use std::{
    future::poll_fn,
    panic::Location,
    sync::{
        Arc, Barrier,
        atomic::{AtomicBool, Ordering},
    },
    task::Poll,
    thread,
    time::{Duration, Instant},
};

use async_container_diagnostics::tasks::{self, State, Task, TaskDump};
use tokio::{
    runtime::{Builder, Runtime},
    sync::oneshot,
    task::JoinSet,
};

/// Takes dumps until a task is as it should be: it needs a moment to come to where it is to be seen.
fn wait_for(name: &str, wanted: impl Fn(&Task) -> bool) -> (TaskDump, Task) {
    let start = Instant::now();

    loop {
        let dump = TaskDump::take();
        let found = dump.tasks.iter().find(|task| task.name == name && wanted(task)).cloned();

        if let Some(found) = found {
            return (dump, found);
        }

        assert!(start.elapsed() < Duration::from_secs(20), "no such task {name} in\n{dump}");
        thread::yield_now();
    }
}

fn count(name: &str) -> usize {
    TaskDump::take().tasks.iter().filter(|task| task.name == name).count()
}

/// Waits until no task of that name is left.
fn wait_for_none(name: &str) {
    let start = Instant::now();

    while count(name) > 0 {
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

#[test]
fn a_task_is_known_by_its_name_and_its_place_until_it_ends() {
    let runtime = runtime();
    let (sender, receiver) = oneshot::channel::<u32>();
    let (line, task) = within(&runtime, || (line!(), tasks::spawn("known", receiver)));

    let (dump, known) = wait_for("known", |task| task.state == State::Idle);
    assert!(known.file.ends_with("tests/tasks.rs"), "{known:?}");
    assert_eq!(known.line, line);
    assert_eq!(known.parent, None);
    assert_eq!(known.polls, 1);
    assert!(!known.in_place);
    assert_eq!(known.task_id, Some(task.id().to_string()));
    assert!(known.busy > 0.0 && known.busy <= known.age && known.idle <= known.age, "{known:?}");
    let its_runtime = &dump.runtimes[known.runtime.unwrap()];
    assert_eq!(its_runtime.flavor, "multi thread");
    assert_eq!(its_runtime.workers.len(), 2);
    assert_eq!((its_runtime.alive_tasks, its_runtime.unregistered), (1, 0));

    sender.send(7).unwrap();
    assert_eq!(runtime.block_on(task).unwrap().unwrap(), 7);
    assert_eq!(count("known"), 0);
}

#[test]
fn a_blocked_executor_is_named_with_its_task_and_thread() {
    let runtime = Builder::new_multi_thread().worker_threads(1).thread_name("only one").build().unwrap();
    let end = Arc::new(AtomicBool::new(false));
    let its = end.clone();
    let (began, has_begun) = oneshot::channel();
    let blocking = within(&runtime, || {
        tasks::spawn("blocking", async move {
            began.send(()).unwrap();
            tasks::instrument("spinning", async {
                while !its.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            })
            .await;
        })
    });
    runtime.block_on(has_begun).unwrap();
    let waiting = within(&runtime, || tasks::spawn("behind it", async {}));

    let limit = Duration::from_millis(100);
    let (dump, spinning) = wait_for("spinning", |task| task.is_late);
    assert_eq!(spinning.state, State::Running);
    assert!(spinning.state_time >= limit.as_secs_f64() && spinning.busy >= spinning.state_time, "{spinning:?}");
    assert_eq!(spinning.thread.as_ref().unwrap().name, "only one");
    let outer = dump.tasks.iter().find(|task| task.name == "blocking").unwrap();
    assert_eq!((outer.state, outer.is_late, outer.running), (State::Running, false, Some(spinning.id)));
    let text = dump.to_string();
    assert!(
        text.contains("1 task blocks its executor:\n") || text.contains("tasks block their executors:\n"),
        "{text}"
    );
    assert!(text.contains(&format!("{} \"spinning\" at ", spinning.id)), "{text}");
    assert!(text.contains("BLOCKS ITS EXECUTOR, on thread"), "{text}");

    let (dump, _) = wait_for("behind it", |task| task.is_late && task.state == State::New);
    assert!(dump.to_string().contains("NOT POLLED YET since it was made"), "{dump}");

    end.store(true, Ordering::Relaxed);
    runtime.block_on(async { (blocking.await.unwrap(), waiting.await.unwrap()) });
    wait_for_none("spinning");
}

#[test]
fn a_task_that_was_woken_and_is_not_polled_is_named() {
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_time().build().unwrap();
    let (sender, receiver) = oneshot::channel::<()>();
    let starved = within(&runtime, || tasks::spawn("starved", receiver));
    wait_for("starved", |task| task.state == State::Idle);

    let (began, has_begun) = oneshot::channel();
    let (release, released) = std::sync::mpsc::channel::<()>();
    // Not registered: what it does is not known, but what comes of it is.
    runtime.spawn(async move {
        began.send(()).unwrap();
        released.recv().unwrap_err();
    });
    runtime.block_on(has_begun).unwrap();
    sender.send(()).unwrap();

    let (dump, task) = wait_for("starved", |task| task.is_late);
    assert_eq!(task.state, State::Woken);
    assert!(dump.to_string().contains("NOT POLLED since it was woken"), "{dump}");
    let of_it = &dump.runtimes[task.runtime.unwrap()];
    assert_eq!(of_it.unregistered, 1, "{dump}");
    assert!(dump.notes.iter().any(|note| note.contains("not registered")), "{dump}");

    drop(release);
    runtime.block_on(starved).unwrap().unwrap();
}

#[test]
fn children_stand_below_the_task_that_spawned_them() {
    let runtime = runtime();
    let parent = within(&runtime, || {
        tasks::spawn("parent", async {
            let (hold, held) = oneshot::channel::<()>();
            tasks::spawn("child", async move {
                let _orphan = tasks::spawn("grandchild", std::future::pending::<()>());
                let _ = held.await;
            });
            tasks::instrument("in place", std::future::pending::<()>()).await;
            drop(hold);
        })
    });

    let (dump, grandchild) = wait_for("grandchild", |task| task.state == State::Idle);
    let by_name = |name| dump.tasks.iter().find(|task: &&Task| task.name == name).unwrap();
    let (parent_id, child) = (by_name("parent").id, by_name("child"));
    assert_eq!(child.parent, Some(parent_id));
    assert_eq!(grandchild.parent, Some(child.id));
    assert_eq!(wait_for("in place", |task| task.in_place).1.parent, Some(parent_id));

    // Each stands below its parent, further to the right.
    let text = dump.to_string();
    let column = |name: &str| {
        let line = text.lines().find(|line| line.contains(&format!("\"{name}\" at"))).unwrap();
        line.len() - line.trim_start().len()
    };
    assert_eq!((column("parent"), column("child"), column("grandchild")), (0, 2, 4), "{text}");

    // The parent goes: its child, which then ends, and what that has left behind, name who made them.
    parent.abort();
    wait_for_none("in place");
    let (dump, orphan) = wait_for("grandchild", |task| task.parent.is_none());
    assert_eq!(orphan.spawned_by.as_deref(), Some("child"));
    assert!(dump.to_string().contains("made by \"child\", which has ended"), "{dump}");

    drop(runtime);
    wait_for_none("grandchild");
}

#[test]
fn what_is_aborted_or_panics_or_is_dropped_leaves_nothing() {
    let runtime = runtime();
    let aborted = within(&runtime, || tasks::spawn("aborted", std::future::pending::<()>()));
    wait_for("aborted", |task| task.state == State::Idle);
    aborted.abort();
    assert!(runtime.block_on(aborted).unwrap_err().is_cancelled());
    wait_for_none("aborted");

    let panicking = within(&runtime, || tasks::spawn("panicking", async { panic!("as it should") }));
    assert!(runtime.block_on(panicking).unwrap_err().is_panic());
    wait_for_none("panicking");

    drop(tasks::instrument("never polled", async {}));
    assert_eq!(count("never polled"), 0);

    let mut set = JoinSet::new();
    runtime.block_on(async {
        for _ in 0..10 {
            set.spawn(tasks::instrument("of a set", std::future::pending::<()>()));
        }
    });
    assert_eq!(count("of a set"), 10);
    drop(set);
    wait_for_none("of a set");

    // After a panic, the thread polls others as before.
    let after = within(&runtime, || tasks::spawn("after", async { tasks::spawn("below", async {}).await }));
    runtime.block_on(after).unwrap().unwrap();
}

#[test]
fn what_is_leaked_is_shown_for_what_it_is() {
    std::mem::forget(tasks::instrument("leaked", std::future::pending::<()>()));
    let (_, task) = wait_for("leaked", |task| task.state == State::New && task.is_late);
    assert_eq!((task.polls, task.runtime), (0, None));
}

#[test]
fn the_place_can_be_somewhere_else() {
    let place = Location::caller();
    let _future = tasks::instrument_at("elsewhere", place, async {});
    assert_eq!(wait_for("elsewhere", |_| true).1.line, place.line());
}

#[test]
fn polls_and_their_times_are_counted() {
    let runtime = runtime();
    let mut left = 3;
    let busy = Duration::from_millis(2);
    let (sender, receiver) = oneshot::channel::<()>();
    let mut receiver = Some(receiver);
    let task = within(&runtime, || {
        tasks::spawn("busy", async move {
            poll_fn(|context| {
                let start = Instant::now();

                while start.elapsed() < busy {}

                left -= 1;
                context.waker().wake_by_ref();
                if left == 0 { Poll::Ready(()) } else { Poll::Pending }
            })
            .await;
            let _ = receiver.take().unwrap().await;
        })
    });
    let (_, seen) = wait_for("busy", |task| task.state == State::Idle && task.polls >= 3);
    assert!(seen.busy >= 3.0 * busy.as_secs_f64() && seen.longest_poll >= busy.as_secs_f64(), "{seen:?}");
    assert!(seen.longest_poll < seen.busy && seen.delay > 0.0 && seen.delay < seen.age, "{seen:?}");
    sender.send(()).unwrap();
    runtime.block_on(task).unwrap();
}

#[test]
fn ten_thousand_tasks_come_and_go_while_dumps_are_taken() {
    let runtime = runtime();
    let end = Arc::new(AtomicBool::new(false));
    let dumping: Vec<_> = (0..2)
        .map(|_| {
            let end = end.clone();
            thread::spawn(move || {
                while !end.load(Ordering::Relaxed) {
                    let dump = TaskDump::take();
                    let written = dump.to_string();
                    assert!(written.starts_with("Task dump of process"));
                }
            })
        })
        .collect();

    for _ in 0..3 {
        let (sender, receiver) = tokio::sync::watch::channel(false);
        let all = within(&runtime, || {
            let spawn = |_| {
                let mut receiver = receiver.clone();
                tasks::spawn("one of ten thousand", async move {
                    receiver.wait_for(|go| *go).await.unwrap();
                })
            };
            (0..10_000).map(spawn).collect::<Vec<_>>()
        });
        assert_eq!(count("one of ten thousand"), 10_000);
        sender.send(true).unwrap();

        for task in all {
            runtime.block_on(task).unwrap();
        }

        assert_eq!(count("one of ten thousand"), 0);
    }

    end.store(true, Ordering::Relaxed);

    for thread in dumping {
        thread.join().unwrap();
    }
}

#[test]
fn a_crowd_is_written_as_one() {
    let runtime = runtime();
    let crowd: Vec<_> =
        within(&runtime, || (0..50).map(|_| tasks::spawn("in a crowd", std::future::pending::<()>())).collect());
    let start = Instant::now();

    while TaskDump::take().tasks.iter().filter(|task| task.name == "in a crowd" && task.state == State::Idle).count()
        < 50
    {
        assert!(start.elapsed() < Duration::from_secs(20));
        thread::yield_now();
    }

    let dump = TaskDump::take();
    let text = dump.to_string();
    assert!(text.contains("50 tasks \"in a crowd\" at "), "{text}");
    assert!(!text.contains("\n0 \"in a crowd\""), "{text}");
    let json = serde_json::to_value(&dump).unwrap();
    let in_json = json["tasks"].as_array().unwrap().iter().filter(|task| task["name"] == "in a crowd");
    assert!(in_json.clone().all(|task| task["state"] == "idle" && task["polls"] == 1), "{json}");
    assert_eq!(in_json.count(), 50);
    crowd.iter().for_each(|task| task.abort());
}

#[test]
fn a_task_that_moves_between_pollers_is_woken_by_the_last_one() {
    let (sender, receiver) = oneshot::channel::<u32>();
    let mut moved = Box::pin(tasks::instrument("moved", receiver));
    let first = Builder::new_current_thread().build().unwrap();
    first.block_on(poll_fn(|context| {
        assert!(moved.as_mut().poll(context).is_pending());
        Poll::Ready(())
    }));
    let barrier = Arc::new(Barrier::new(2));
    let at = barrier.clone();
    let second = thread::spawn(move || {
        let runtime = Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let mut waited = false;
            poll_fn(|context| {
                let result = moved.as_mut().poll(context);

                if !std::mem::replace(&mut waited, true) {
                    at.wait();
                }

                result
            })
            .await
        })
    });
    barrier.wait();
    sender.send(9).unwrap();
    assert_eq!(second.join().unwrap().unwrap(), 9);
    wait_for_none("moved");
}
