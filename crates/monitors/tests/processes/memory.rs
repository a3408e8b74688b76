use std::time::{Duration, Instant};

use async_container_monitors::{
    Action, Destination, MemoryMonitor, Monitor, Restart, Worker,
    sample::{HostMemory, Stat},
};
use serde_json::{Value, json};

use crate::helper::{Helper, eventually};

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
    let expected = json!({
        "maximum_size_limit": null, "threshold_size": 10 * MEBIBYTE, "increase_limit": null,
        "total_size": 0, "total_size_limit": null, "free_size_minimum": null,
        "pressure_limit": null, "pressure": null, "host": null, "left_alone": null,
        "processes": [],
    });
    assert_eq!(status(&monitor), expected);
    let worker = Worker { id: "a".into(), process_id: std::process::id(), name: "web".into() };
    monitor.register(&worker);
    // Before the first check, too.
    let status = status(&monitor);
    assert!(status["total_size"].as_u64().unwrap() > 0, "{status}");
    assert_eq!(status["total_size"], status["processes"][0]["current_size"]);
    assert_eq!(status["processes"][0]["name"], "web");
    let host = &status["host"];
    assert!(host["available_size"].as_u64() <= host["total_size"].as_u64());
    let keys: Vec<&String> = status["processes"][0].as_object().unwrap().keys().collect();
    let expected = [
        "current_private_size",
        "current_resident_size",
        "current_shared_size",
        "current_size",
        "increase_count",
        "increase_limit",
        "left_alone",
        "maximum_size",
        "maximum_size_limit",
        "name",
        "process_id",
        "restarting",
        "sample_count",
        "threshold_size",
    ];
    assert_eq!(keys, expected);
}

/// The restarts that are asked for, whole.
fn wishes(actions: Vec<Action>) -> Vec<Restart> {
    let restarts = actions.into_iter().filter_map(|action| match action {
        Action::Restart(restart) => Some(restart),
        _ => None,
    });
    restarts.collect()
}

fn rules(actions: &[Action]) -> Vec<Value> {
    let leaks = actions.iter().filter_map(|action| match action {
        Action::Event(event) => Some(serde_json::to_value(event.fields()).unwrap()),
        _ => None,
    });
    leaks.collect()
}

#[test]
fn growth_is_counted_in_steps_from_a_mark() {
    let mut helper = Helper::spawn();
    let mut monitor = MemoryMonitor::new().increase_limit(3);
    monitor.register(&helper.worker("a"));
    let start = Instant::now();
    assert_eq!(monitor.check(start), [], "the first mark");
    helper.run(&format!("allocate {}", 6 * MEBIBYTE));
    assert_eq!(monitor.check(start), []);
    assert_eq!(status(&monitor)["processes"][0]["increase_count"], 0, "less than a step");
    for expected in 1..=2 {
        helper.run(&format!("allocate {}", 11 * MEBIBYTE));
        assert_eq!(monitor.check(start), []);
        assert_eq!(status(&monitor)["processes"][0]["increase_count"], expected);
        assert_eq!(monitor.check(start), [], "and no further growth is no further step");
    }
    helper.run(&format!("allocate {}", 40 * MEBIBYTE));
    let actions = monitor.check(start);
    assert_eq!(rules(&actions)[0]["rule"], "increase");
    let [restart] = &wishes(actions)[..] else { panic!("no restart") };
    assert!(restart.reason.starts_with("memory grew 3 times by more than 10.0 MiB, to "), "{}", restart.reason);
}

#[test]
fn increases_have_no_limit_unless_they_are_given_one() {
    let mut helper = Helper::spawn();
    let mut monitor = MemoryMonitor::new();
    monitor.register(&helper.worker("a"));
    for _ in 0..5 {
        helper.run(&format!("allocate {}", 15 * MEBIBYTE));
        assert_eq!(monitor.check(Instant::now()), []);
    }
    assert_eq!(status(&monitor)["processes"][0]["increase_count"], 4);
}

#[test]
fn the_largest_goes_when_all_together_are_too_large() {
    let (mut large, mut small) = (Helper::spawn(), Helper::spawn());
    large.run(&format!("allocate {}", 80 * MEBIBYTE));
    small.run(&format!("allocate {}", 50 * MEBIBYTE));
    let mut monitor = MemoryMonitor::new().total_size_limit(200 * MEBIBYTE);
    monitor.register(&small.worker("a"));
    monitor.register(&large.worker("b"));
    let now = Instant::now();
    assert_eq!(monitor.check(now), []);

    small.run(&format!("allocate {}", 110 * MEBIBYTE));
    let actions = monitor.check(now);
    assert_eq!(rules(&actions)[0]["rule"], "total_size");
    assert_eq!(restarts(&actions), [small.process_id()], "which is the largest now");
    assert_eq!(monitor.check(now), [], "what it will free is enough");
    small.kill();
    assert_eq!(monitor.check(now), []);
}

#[test]
fn the_largest_goes_when_the_host_has_too_little() {
    let (mut large, small) = (Helper::spawn(), Helper::spawn());
    large.run(&format!("allocate {}", 50 * MEBIBYTE));
    // No host has so much.
    let mut monitor = MemoryMonitor::new().free_size_minimum(1 << 60);
    monitor.register(&small.worker("a"));
    monitor.register(&large.worker("b"));
    let now = Instant::now();
    let actions = monitor.check(now);
    assert_eq!(rules(&actions)[0]["rule"], "free_size");
    assert_eq!(restarts(&actions), [large.process_id()], "one at a time");
    assert_eq!(monitor.check(now), []);
    large.kill();
    monitor.restarted(&Restart::new(large.process_id(), ""));
    // Whether that helped depends on what everybody else on this host does meanwhile.
    match restarts(&monitor.check(now))[..] {
        [] => {
            let left_alone = status(&monitor)["left_alone"].as_f64();
            assert!(left_alone.is_some_and(|left| left <= 30.0), "it did, and the next one is new: {left_alone:?}");
        }
        ref next => assert_eq!(next, [small.process_id()], "it did not: the next one"),
    }
}

#[test]
fn only_so_many_go_at_once_unless_it_is_urgent() {
    let mut helpers: Vec<Helper> = (0..3).map(|_| Helper::spawn()).collect();
    let mut monitor = monitor();
    for (number, helper) in helpers.iter_mut().enumerate() {
        helper.run(&format!("allocate {}", 105 * MEBIBYTE));
        monitor.register(&Worker { name: format!("web{number}"), ..helper.worker(&number.to_string()) });
    }
    let now = Instant::now();
    assert_eq!(restarts(&monitor.check(now)).len(), 1);
    assert_eq!(monitor.check(now), []);
    helpers[2].run(&format!("allocate {}", 30 * MEBIBYTE));
    let [restart] = &wishes(monitor.check(now))[..] else { panic!("no restart") };
    assert_eq!((restart.process_id, restart.urgent), (helpers[2].process_id(), true));
    assert_eq!(restart.start_first, None);
    // The first one is on its way, and looking into itself.
    helpers[0].run(&format!("allocate {}", 30 * MEBIBYTE));
    let has_looked = now + Duration::from_secs(6);
    assert_eq!(monitor.check(has_looked), []);
    helpers[0].run(&format!("allocate {}", 30 * MEBIBYTE));
    let [restart] = &wishes(monitor.check(has_looked))[..] else { panic!("no restart") };
    assert_eq!((restart.process_id, restart.urgent), (helpers[0].process_id(), true));
}

#[test]
fn the_next_one_has_its_turn_when_the_place_of_the_one_before_is_filled() {
    let mut helpers = [Helper::spawn(), Helper::spawn()];
    let mut monitor = monitor();
    for (number, helper) in helpers.iter_mut().enumerate() {
        helper.run(&format!("allocate {}", 105 * MEBIBYTE));
        monitor.register(&Worker { name: format!("web{number}"), ..helper.worker(&number.to_string()) });
    }
    let now = Instant::now();
    let [first] = &wishes(monitor.check(now))[..] else { panic!("no restart") };
    let [one, other] = helpers.each_ref().map(Helper::process_id);
    let (ended, next) = if first.process_id == one { (0, other) } else { (1, one) };
    helpers[ended].kill();
    monitor.remove(&helpers[ended].worker(&ended.to_string()));
    assert_eq!(monitor.check(now + Duration::from_secs(20)), [], "nobody is in its place");
    monitor.restarted(first);
    assert_eq!(restarts(&monitor.check(now + Duration::from_secs(20))), [next]);
}

#[test]
fn a_worker_that_ignores_it_is_asked_for_urgently() {
    let mut helper = Helper::spawn();
    helper.run(&format!("allocate {}", 105 * MEBIBYTE));
    let mut monitor = monitor().diagnostic("thread_dump", Duration::from_secs(1), Destination::Log);
    monitor.register(&helper.worker("a"));
    let start = Instant::now();
    let [first] = &wishes(monitor.check(start))[..] else { panic!("no restart") };
    assert!(!first.urgent);
    assert_eq!(first.diagnosis.as_ref().map(|it| it.operation().to_owned()), Some("thread_dump".to_owned()));
    let [second] = &wishes(monitor.check(start + Duration::from_secs(30)))[..] else { panic!("no restart") };
    assert!(second.urgent);
    assert_eq!(second.diagnosis, None);
}

#[test]
fn another_one_is_started_first_where_there_is_room() {
    let mut helper = Helper::spawn();
    let register = |mut monitor: MemoryMonitor, helper: &Helper| {
        monitor.register(&helper.worker("a"));
        monitor
    };
    let limit = Duration::from_secs(60);
    let mut roomy = register(monitor(), &helper);
    let mut cramped = register(monitor().free_size_minimum(1 << 60), &helper);
    let mut told = register(monitor().stop_first(), &helper);
    helper.run(&format!("allocate {}", 105 * MEBIBYTE));
    let now = Instant::now();
    assert_eq!(wishes(roomy.check(now))[0].start_first, Some(limit));
    assert_eq!(wishes(cramped.check(now))[0].start_first, None);
    assert_eq!(wishes(told.check(now))[0].start_first, None);
}

#[test]
fn processes_that_a_worker_starts_count_as_its_own() {
    let mut helper = Helper::spawn();
    let mut monitor = MemoryMonitor::new();
    monitor.register(&helper.worker("a"));
    monitor.check(Instant::now());
    let size = |monitor: &MemoryMonitor| status(monitor)["processes"][0]["current_resident_size"].as_u64().unwrap();
    let before = size(&monitor);
    // A shell within a shell: the grandchild has the memory.
    helper.run_below(&format!("head -c {} /dev/zero | tail | sleep 1000000", 64 * MEBIBYTE));
    eventually(|| {
        monitor.check(Instant::now());
        size(&monitor) > before + 60 * MEBIBYTE
    });
}

#[test]
fn a_process_that_is_started_later_counts_at_the_next_check() {
    let mut helpers: Vec<Helper> = (0..3).map(|_| Helper::spawn()).collect();
    let mut monitor = MemoryMonitor::new();
    for (number, helper) in helpers.iter().enumerate() {
        monitor.register(&helper.worker(&number.to_string()));
    }
    // All have had their turn by then, so that only what is started is looked at.
    (0..50).for_each(|_| drop(monitor.check(Instant::now())));
    let mut size = |helper: &Helper| {
        monitor.check(Instant::now());
        let status = status(&monitor);
        let processes = status["processes"].as_array().unwrap();
        let process = processes.iter().find(|process| process["process_id"] == helper.process_id()).unwrap();
        process["current_resident_size"].as_u64().unwrap()
    };
    let before = size(&helpers[1]);
    helpers[1].spawn_child();
    assert!(size(&helpers[1]) > before, "at once");
}

/// As a daemon is, by the end of the one that started it.
#[test]
fn a_process_that_is_left_to_another_parent_still_counts() {
    let mut helper = Helper::spawn();
    let directory = tempfile::tempdir().unwrap();
    let (between, go) = (directory.path().join("between"), directory.path().join("go"));
    let mut monitor = MemoryMonitor::new();
    monitor.register(&helper.worker("a"));
    monitor.check(Instant::now());
    let size = |monitor: &MemoryMonitor| status(monitor)["processes"][0]["current_resident_size"].as_u64().unwrap();
    let before = size(&monitor);
    helper.run_below(&format!(
        "(head -c {} /dev/zero | tail | sleep 1000000) & sh -c 'echo $PPID' > {}; while [ ! -e {} ]; do sleep 0.01; done",
        64 * MEBIBYTE,
        between.display(),
        go.display()
    ));
    eventually(|| {
        monitor.check(Instant::now());
        size(&monitor) > before + 60 * MEBIBYTE
    });
    let between: u32 = std::fs::read_to_string(&between).unwrap().trim().parse().unwrap();
    std::fs::write(&go, "").unwrap();
    eventually(|| Stat::read(between).map_or(true, |stat| stat.ended));
    for _ in 0..2 {
        monitor.check(Instant::now());
        // Less than before: the shell that ended, and what it waited for, had a few of them.
        assert!(size(&monitor) > before + 48 * MEBIBYTE, "{}", status(&monitor));
    }
}

#[test]
fn a_limit_below_what_a_worker_needs_is_no_kill_loop() {
    let mut monitor = MemoryMonitor::new().maximum_size_limit(4096);
    // At its very beginning it has next to nothing.
    let spawn = || {
        let mut helper = Helper::spawn();
        helper.run("free");
        helper
    };
    let first = spawn();
    monitor.register(&first.worker("a"));
    let now = Instant::now();
    assert_eq!(restarts(&monitor.check(now)), [first.process_id()]);
    drop(first);
    let second = spawn();
    monitor.remove(&second.worker("a"));
    monitor.register(&second.worker("b"));
    let actions = monitor.check(now + Duration::from_secs(1));
    assert!(restarts(&actions).is_empty(), "it would not help");
    assert_eq!(rules(&actions)[0]["left_alone"], 30.0, "and that is said");
    assert!(status(&monitor)["processes"][0]["left_alone"].as_f64() > Some(0.0), "and shown: {}", status(&monitor));
    assert_eq!(monitor.check(now + Duration::from_secs(20)), [], "once");
    assert_eq!(restarts(&monitor.check(now + Duration::from_secs(32))), [second.process_id()]);
}

#[test]
fn what_grows_fast_is_looked_at_sooner() {
    let mut helper = Helper::spawn();
    let mut monitor = MemoryMonitor::new().maximum_size_limit(1024 * MEBIBYTE);
    monitor.register(&helper.worker("a"));
    let start = Instant::now();
    monitor.check(start);
    assert_eq!(Monitor::interval(&monitor), Duration::from_secs(10));
    helper.run(&format!("allocate {}", 100 * MEBIBYTE));
    monitor.check(start + Duration::from_secs(1));
    let interval = Monitor::interval(&monitor);
    assert!(interval > Duration::from_secs(3) && interval < Duration::from_secs(6), "{interval:?}");
    monitor.check(start + Duration::from_secs(2));
    assert_eq!(Monitor::interval(&monitor), Duration::from_secs(10), "it stopped growing");
}

#[test]
fn where_all_together_grow_fast_they_are_looked_at_sooner() {
    let free = HostMemory::read().unwrap().available_size;
    for monitor in [
        MemoryMonitor::new().total_size_limit(1024 * MEBIBYTE),
        // Others may take some meanwhile, or give some back.
        MemoryMonitor::new().free_size_minimum(free.saturating_sub(1024 * MEBIBYTE).max(1)),
    ] {
        let (mut monitor, mut helpers) = (monitor, [Helper::spawn(), Helper::spawn()]);
        for (helper, id) in helpers.iter().zip(["a", "b"]) {
            monitor.register(&helper.worker(id));
        }
        let start = Instant::now();
        monitor.check(start);
        assert_eq!(Monitor::interval(&monitor), Duration::from_secs(10));
        for helper in &mut helpers {
            helper.run(&format!("allocate {}", 100 * MEBIBYTE));
        }
        monitor.check(start + Duration::from_secs(1));
        let interval = Monitor::interval(&monitor);
        assert!(interval < Duration::from_secs(7), "{interval:?}, {}", status(&monitor));
        monitor.check(start + Duration::from_secs(2));
        assert_eq!(Monitor::interval(&monitor), Duration::from_secs(10), "they stopped growing");
    }
}

#[test]
fn a_limit_below_what_all_share_is_no_kill_loop() {
    // What is free of the host changes by what other tests do, which looks as if restarts helped.
    let mut monitor = MemoryMonitor::new().total_size_limit(4096);
    let now = Instant::now();
    let mut told = Vec::new();
    let mut restarted = 0;
    assert_eq!(status(&monitor)["left_alone"], Value::Null);
    for second in 0..120 {
        let worker = Helper::spawn();
        monitor.register(&worker.worker("a"));
        let actions = monitor.check(now + Duration::from_secs(second));
        restarted += restarts(&actions).len();
        told.extend(rules(&actions).into_iter().filter(|leak| leak["left_alone"].is_number()));
        monitor.remove(&worker.worker("a"));
    }
    assert!((2..=5).contains(&restarted), "of 120 that might have been: {restarted}");
    assert!(status(&monitor)["left_alone"].as_f64() > Some(0.0), "{}", status(&monitor));
    assert_eq!((&told[0]["rule"], &told[0]["left_alone"]), (&json!("total_size"), &json!(30.0)), "{told:?}");
}
