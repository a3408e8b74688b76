use std::time::{Duration, Instant};

use async_container_monitors::{Action, MemoryMonitor, Monitor, Worker};
use serde_json::{Value, json};

use crate::helper::Helper;

const MEBIBYTE: u64 = 1 << 20;

fn monitor() -> MemoryMonitor {
    MemoryMonitor::new().maximum_size_limit(100 * MEBIBYTE)
}

fn status(monitor: &MemoryMonitor) -> Value {
    serde_json::to_value(monitor.status()).unwrap()
}

fn restarts(actions: &[Action]) -> Vec<u32> {
    let restarts = actions.iter().filter_map(|action| match action {
        Action::Restart(restart) => Some(restart.process_id),
        _ => None,
    });
    restarts.collect()
}

#[test]
fn defaults() {
    let monitor = MemoryMonitor::new();
    assert_eq!(monitor.name(), "memory");
    assert_eq!(Monitor::interval(&monitor), Duration::from_secs(10));
}

#[test]
fn a_process_over_the_limit_is_restarted_and_others_are_not() {
    let (mut large, small) = (Helper::spawn(), Helper::spawn());
    let mut monitor = monitor();
    monitor.register(&large.worker("a"));
    monitor.register(&small.worker("b"));
    let now = Instant::now();
    assert_eq!(monitor.check(now), []);

    large.run(&format!("allocate {}", 110 * MEBIBYTE));
    let actions = monitor.check(now);
    let [Action::Event(leak), Action::Restart(restart)] = &actions[..] else {
        panic!("{actions:?}");
    };
    let (process_id, reason) = (&restart.process_id, &restart.reason);
    assert_eq!(leak.name(), "leak");
    let leak = serde_json::to_value(leak.fields()).unwrap();
    assert_eq!(leak["process_id"], large.process_id());
    assert_eq!(leak["maximum_size_limit"], 100 * MEBIBYTE);
    assert!(leak["current_size"].as_u64().unwrap() > 110 * MEBIBYTE, "{leak}");
    assert_eq!(*process_id, large.process_id());
    let size = reason.strip_prefix("memory limit 100.0 MiB, was ").unwrap();
    let size: f64 = size.strip_suffix(" MiB").unwrap().parse().unwrap();
    assert!((110.0..130.0).contains(&size), "{reason}");
}

#[test]
fn without_a_limit_nothing_is_restarted() {
    let mut helper = Helper::spawn();
    helper.run(&format!("allocate {}", 50 * MEBIBYTE));
    let mut monitor = MemoryMonitor::new();
    monitor.register(&helper.worker("a"));
    assert_eq!(monitor.check(Instant::now()), []);
    assert!(status(&monitor)["total_size"].as_u64().unwrap() > 50 * MEBIBYTE);
}

#[test]
fn a_restart_is_asked_for_once_in_a_cooldown() {
    let mut helper = Helper::spawn();
    helper.run(&format!("allocate {}", 110 * MEBIBYTE));
    let mut monitor = monitor();
    monitor.register(&helper.worker("a"));
    let start = Instant::now();
    let after = |seconds| start + Duration::from_secs(seconds);

    let expected = [helper.process_id()];
    assert_eq!(restarts(&monitor.check(after(0))), expected);
    assert_eq!(monitor.check(after(10)), []);
    // Its connection is replaced: still the process that was asked.
    monitor.remove(&helper.worker("a"));
    assert_eq!(monitor.check(after(15)), []);
    monitor.register(&helper.worker("b"));
    assert_eq!(monitor.check(after(20)), []);
    assert_eq!(monitor.check(after(29)), []);
    assert_eq!(restarts(&monitor.check(after(30))), expected, "it ignored the first request");
    assert_eq!(monitor.check(after(59)), []);
}

#[test]
fn a_process_that_shrank_in_time_is_left_alone() {
    let mut helper = Helper::spawn();
    let mut monitor = monitor();
    monitor.register(&helper.worker("a"));
    helper.run(&format!("allocate {}", 90 * MEBIBYTE));
    assert_eq!(monitor.check(Instant::now()), []);
    helper.run("free");
    assert_eq!(monitor.check(Instant::now()), []);

    let status = status(&monitor);
    let process = &status["processes"][0];
    assert_eq!(process["sample_count"], 3, "one when it registered, and one a check");
    assert!(process["maximum_size"].as_u64().unwrap() > 90 * MEBIBYTE, "{process}");
    assert!(process["current_size"].as_u64().unwrap() < 50 * MEBIBYTE, "{process}");
    assert_eq!(process["maximum_size_limit"], 100 * MEBIBYTE);
}

#[test]
fn a_process_with_several_connections_counts_once() {
    let mut helper = Helper::spawn();
    helper.run(&format!("allocate {}", 110 * MEBIBYTE));
    let mut monitor = monitor();
    monitor.register(&helper.worker("a"));
    monitor.register(&helper.worker("b"));
    assert_eq!(restarts(&monitor.check(Instant::now())), [helper.process_id()]);
    assert_eq!(status(&monitor)["processes"].as_array().unwrap().len(), 1);

    monitor.remove(&helper.worker("a"));
    assert_eq!(status(&monitor)["processes"].as_array().unwrap().len(), 1);
    monitor.remove(&helper.worker("b"));
    assert_eq!(status(&monitor)["processes"], json!([]));
}

#[test]
fn a_vanished_process_is_no_error() {
    let mut helper = Helper::spawn();
    helper.run(&format!("allocate {}", 110 * MEBIBYTE));
    let mut monitor = monitor();
    monitor.register(&helper.worker("a"));
    helper.kill();
    assert_eq!(monitor.check(Instant::now()), [], "a zombie has no memory");
    helper.reap();
    assert_eq!(monitor.check(Instant::now()), []);
    assert_eq!(status(&monitor)["processes"][0]["current_size"], 0);

    // It registered, and was gone before it could be looked at.
    monitor.register(&helper.worker("b"));
    assert_eq!(monitor.check(Instant::now()), []);
    monitor.remove(&helper.worker("a"));
    monitor.remove(&helper.worker("b"));
    assert_eq!(status(&monitor)["processes"], json!([]));
}

#[test]
fn status_tells_totals_and_the_host() {
    let mut monitor = MemoryMonitor::new();
    assert_eq!(status(&monitor), json!({"maximum_size_limit": null, "total_size": 0, "host": null, "processes": []}));
    let worker = Worker { id: "a".into(), process_id: std::process::id(), name: "web".into() };
    monitor.register(&worker);
    // Before the first check, too.
    let status = status(&monitor);
    assert!(status["total_size"].as_u64().unwrap() > 0, "{status}");
    assert_eq!(status["total_size"], status["processes"][0]["current_size"]);
    assert_eq!(status["processes"][0]["name"], "web");
    assert!(status["host"]["available_size"].as_u64() <= status["host"]["total_size"].as_u64());
}
