//! Tasks of another process, which is this program once more.

use std::{
    env,
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use async_container_diagnostics::{
    external::ExternalError,
    tasks::{self, Options, State, Task, TaskDump},
};
use tokio::{
    runtime::{Builder, Runtime},
    sync::oneshot,
};

/// How long to wait for what is sure to come, on a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(60);

/// A test of this file that runs in another process, until it is killed.
struct Other(Child);

impl Other {
    fn start(test: &str) -> Self {
        let mut child = Command::new(env::current_exe().unwrap())
            .args(["--exact", test, "--ignored", "--nocapture"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.map(Result::unwrap).any(|line| line.ends_with("begun")), "it ended");
        Self(child)
    }

    fn dump_with(&self, options: &Options, wanted: impl Fn(&TaskDump) -> bool) -> TaskDump {
        let start = Instant::now();
        loop {
            let dump = options.take_from_outside(self.0.id()).unwrap();
            if wanted(&dump) {
                return dump;
            }
            assert!(start.elapsed() < PATIENCE, "{dump}");
            thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn named<'a>(dump: &'a TaskDump, name: &str) -> Option<&'a Task> {
    dump.tasks.iter().find(|task| task.name == name)
}

fn runtime() -> Runtime {
    Builder::new_current_thread().build().unwrap()
}

#[inline(never)]
fn block() {
    println!("begun");
    thread::sleep(PATIENCE * 10);
}

/// A program with one executor, which it blocks.
#[test]
#[ignore = "runs until it is killed"]
fn blocked_program() {
    runtime().block_on(async {
        tasks::spawn("parent", async {
            tasks::spawn("child", std::future::pending::<()>());
            std::future::pending::<()>().await;
        });
        let (_sender, receiver) = oneshot::channel::<()>();
        tasks::spawn(String::from("made of pieces"), receiver);
        tokio::task::yield_now().await;
        tokio::task::yield_now().await;
        tasks::instrument("blocker", async { block() }).await;
    });
}

#[test]
fn a_blocked_executor_is_seen_with_all_its_tasks() {
    let other = Other::start("blocked_program");
    let options = Options::new().stacks(1).blocked_after(Duration::from_millis(50));
    let dump = other.dump_with(&options, |dump| {
        named(dump, "blocker").is_some_and(|blocker| blocker.is_late && !blocker.runs_at.is_empty())
    });
    assert!(dump.from_outside && dump.process_id == other.0.id(), "{dump}");
    assert_eq!(dump.tasks.len(), 4, "{dump}");

    let blocker = named(&dump, "blocker").unwrap();
    assert_eq!((blocker.state, blocker.in_place, blocker.polls), (State::Running, true, 1), "{dump}");
    assert!(blocker.state_time >= 0.05 && blocker.state_time < PATIENCE.as_secs_f64(), "{dump}");
    assert!(blocker.runs_at.iter().any(|frame| frame.function.contains("task_outside::block")), "{dump}");
    // The test harness has a thread for it.
    assert!(blocker.thread.as_ref().is_some_and(|thread| thread.name.starts_with("blocked_")), "{dump}");

    let child = named(&dump, "child").unwrap();
    assert_eq!(child.parent, Some(named(&dump, "parent").unwrap().id), "{dump}");
    assert_eq!((child.state, child.spawned_by.as_deref()), (State::Idle, Some("parent")), "{dump}");
    assert!(child.file.ends_with("tests/task_outside.rs") && child.line > 0, "{dump}");
    assert!(named(&dump, "made of pieces").is_some(), "{dump}");
}

/// A program whose tasks come and go on two threads, beside some that stay.
#[test]
#[ignore = "runs until it is killed"]
fn busy_program() {
    let runtime = Builder::new_multi_thread().worker_threads(2).build().unwrap();
    runtime.block_on(async {
        for number in 0..100 {
            tasks::spawn(format!("steady {number}"), std::future::pending::<()>());
        }
        for _ in 0..2 {
            tokio::spawn(async {
                loop {
                    let some =
                        (0..200).map(|number| tasks::spawn(format!("passing {number}"), tokio::task::yield_now()));
                    for task in some.collect::<Vec<_>>() {
                        task.await.unwrap();
                    }
                }
            });
        }
        println!("begun");
        std::future::pending::<()>().await;
    });
}

#[test]
fn tasks_that_come_and_go_are_whole_or_not_there() {
    let other = Other::start("busy_program");
    let (mut passing, mut whole) = (0, 0);

    for _ in 0..300 {
        let dump = Options::new().take_from_outside(other.0.id()).unwrap();
        let steady = dump.tasks.iter().filter(|task| task.name.starts_with("steady ")).count();
        whole += u32::from(steady == 100);
        passing += dump.tasks.len() - steady;
        let is_known = |task: &Task| {
            let number = task.name.strip_prefix("steady ").or(task.name.strip_prefix("passing "));
            number.is_some_and(|number| number.parse::<u8>().is_ok()) && task.file.ends_with("task_outside.rs")
        };
        let strange: Vec<&Task> = dump.tasks.iter().filter(|task| !is_known(task)).collect();
        assert!(strange.is_empty(), "{strange:?}");
    }

    assert!(passing > 0, "none was ever seen");
    assert!(whole > 270, "only {whole} dumps of 300 had all tasks that stay");
}

#[test]
fn another_program_is_refused() {
    let mut sleep = Other(Command::new("sleep").arg("600").spawn().unwrap());
    // Until then, it is a copy of this one.
    let start = Instant::now();
    let error = loop {
        match Options::new().take_from_outside(sleep.0.id()) {
            Err(error) => break error,
            Ok(dump) => assert!(start.elapsed() < PATIENCE, "{dump}"),
        }
    };
    assert!(matches!(error, ExternalError::OtherProgram { .. }), "{error}");
    sleep.0.kill().unwrap();
    sleep.0.wait().unwrap();
    let error = Options::new().take_from_outside(sleep.0.id()).unwrap_err();
    assert!(matches!(error, ExternalError::Gone { .. }), "{error}");
}
