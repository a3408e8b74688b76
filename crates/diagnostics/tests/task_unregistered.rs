//! Tasks that nobody registered, which tokio shows in programs that were built for it.

#[path = "support/alone.rs"]
mod alone;

use async_container_diagnostics::tasks::{Options, TaskDump};
use tokio::runtime::Builder;

#[cfg(not(tokio_unstable))]
#[test]
fn a_program_that_was_not_built_for_it_says_so() {
    let _alone = alone::alone();
    let runtime = Builder::new_current_thread().build().unwrap();
    let _task = runtime.spawn(std::future::pending::<()>());
    let _within = runtime.enter();
    let dump = Options::new().unregistered().take();
    assert!(dump.unregistered.is_empty());
    assert!(dump.notes.iter().any(|note| note.contains("--cfg tokio_unstable")), "{dump}");
    assert!(dump.notes.iter().any(|note| note.contains("1 more task of these runtimes is not registered")), "{dump}");
    // Where nobody wants them, nobody is told what it would take.
    let dump = TaskDump::take();
    assert!(!dump.notes.iter().any(|note| note.contains("tokio_unstable")), "{dump}");
}

#[cfg(tokio_unstable)]
mod built_for_it {
    use std::{
        sync::{Arc, mpsc as blocking},
        thread,
        time::{Duration, Instant},
    };

    use async_container_diagnostics::tasks::{self, Unregistered};
    use tokio::{
        runtime::Handle,
        sync::{Mutex, mpsc, oneshot},
    };

    use super::*;

    const LIMIT: Duration = Duration::from_secs(20);

    async fn wait_for_the_lock(lock: Arc<Mutex<()>>) {
        let _guard = lock.lock().await;
    }

    async fn wait_for_a_message(mut receiver: mpsc::Receiver<()>) {
        receiver.recv().await;
    }

    fn waits_in<'a>(dump: &'a TaskDump, function: &str) -> Option<&'a Unregistered> {
        let is_in =
            |task: &&Unregistered| task.waits_at.iter().flatten().any(|frame| frame.function.contains(function));
        dump.unregistered.iter().find(is_in)
    }

    /// A runtime of one thread, and what ends it.
    fn driven(start: impl FnOnce() + Send + 'static) -> (Handle, Driven) {
        let (sender, handle) = blocking::channel();
        let (end, ended) = oneshot::channel::<()>();
        let thread = thread::spawn(move || {
            let runtime = Builder::new_current_thread().enable_time().build().unwrap();
            runtime.block_on(async {
                start();
                sender.send(Handle::current()).unwrap();
                ended.await.unwrap();
            });
        });
        (handle.recv_timeout(LIMIT).unwrap(), Driven { end, thread })
    }

    struct Driven {
        end: oneshot::Sender<()>,
        thread: thread::JoinHandle<()>,
    }

    impl Driven {
        fn end(self) {
            self.end.send(()).unwrap();
            self.thread.join().unwrap();
        }
    }

    fn take(handle: &Handle) -> TaskDump {
        let _within = handle.enter();
        Options::new().unregistered().take()
    }

    #[test]
    fn tasks_that_nobody_registered_are_shown_where_they_wait() {
        let _alone = alone::alone();
        let lock = Arc::new(Mutex::new(()));
        let held = lock.clone().try_lock_owned().unwrap();
        let (sender, receiver) = mpsc::channel::<()>(1);
        let (done, both_are_done) = blocking::channel();
        let (handle, driven) = driven(move || {
            let (one, other) = (done.clone(), done);
            tokio::spawn(async move {
                wait_for_the_lock(lock).await;
                one.send(()).unwrap();
            });
            tokio::spawn(async move {
                wait_for_a_message(receiver).await;
                other.send(()).unwrap();
            });
            tokio::spawn(std::future::pending::<()>());
            tasks::spawn("registered", std::future::pending::<()>());
        });

        for _ in 0..20 {
            let dump = take(&handle);
            let task = waits_in(&dump, "wait_for_the_lock").unwrap_or_else(|| panic!("{dump}"));
            let frame =
                task.waits_at.iter().flatten().find(|frame| frame.function.contains("wait_for_the_lock")).unwrap();
            let file = frame.file.as_deref().unwrap();
            assert!(file.ends_with("tests/task_unregistered.rs") && frame.line.is_some(), "{dump}");
            let text = dump.to_string();
            assert!(text.contains("3 tasks that are not registered"), "{text}");
            assert!(text.contains("in task_unregistered::built_for_it::wait_for_a_message at "), "{text}");
            assert!(text.contains("waits for nothing of tokio's"), "{text}");
            assert!(!text.contains("and not shown"), "{text}");
            assert_eq!(dump.tasks.iter().filter(|task| task.name == "registered").count(), 1, "{text}");
            let json = serde_json::to_value(&dump).unwrap();
            let tasks = json["unregistered"].as_array().unwrap();
            assert_eq!(tasks.len(), 3, "{json}");
            assert!(tasks.iter().any(|task| task["waits_at"][0][0]["function"].is_string()), "{json}");
        }

        // What was looked at goes on as before.
        drop((held, sender));
        for _ in 0..2 {
            both_are_done.recv_timeout(LIMIT).unwrap();
        }
        driven.end();
    }

    #[test]
    fn a_blocked_runtime_is_not_waited_for() {
        let _alone = alone::alone();
        let (began, has_begun) = blocking::channel();
        let (release, released) = blocking::channel::<()>();
        let (handle, driven) = driven(move || {
            tokio::spawn(async move {
                began.send(()).unwrap();
                released.recv().unwrap_err();
            });
        });
        has_begun.recv_timeout(LIMIT).unwrap();
        let start = Instant::now();
        let dump = take(&handle);
        assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
        assert!(dump.unregistered.is_empty(), "{dump}");
        let is_said = |note: &String| note.contains("did not come to it within 250 ms");
        assert!(dump.notes.iter().any(is_said), "{dump}");
        assert!(dump.notes.iter().any(|note| note.contains("1 more task") && note.contains("not shown")), "{dump}");
        drop(release);
        driven.end();
    }

    #[test]
    fn a_registered_task_that_blocks_is_named_instead() {
        let _alone = alone::alone();
        let (began, has_begun) = blocking::channel();
        let (release, released) = blocking::channel::<()>();
        let (handle, driven) = driven(move || {
            tokio::spawn(std::future::pending::<()>());
            tasks::spawn("blocks", async move {
                began.send(()).unwrap();
                released.recv().unwrap_err();
            });
        });
        has_begun.recv_timeout(LIMIT).unwrap();
        let options = Options::new().unregistered().blocked_after(Duration::ZERO).deadline(LIMIT);
        let dump = {
            let _within = handle.enter();
            options.take()
        };
        let id = dump.tasks.iter().find(|task| task.name == "blocks").unwrap().id;
        let is_said = |note: &String| note.contains(&format!("are not shown: task {id} blocks it"));
        assert!(dump.notes.iter().any(is_said), "{dump}");
        drop(release);
        driven.end();
    }

    #[test]
    fn a_runtime_of_several_workers_is_left_alone() {
        let _alone = alone::alone();
        let runtime = Builder::new_multi_thread().worker_threads(2).build().unwrap();
        let _task = runtime.spawn(std::future::pending::<()>());
        let dump = take(runtime.handle());
        assert!(dump.unregistered.is_empty(), "{dump}");
        assert!(dump.notes.iter().any(|note| note.contains("only of runtimes of the current thread")), "{dump}");
    }
}
