use std::{
    io::{Read, Write},
    process::{Command, Stdio},
    sync::mpsc::{Receiver, channel},
    time::{Duration, Instant},
};

use async_container_monitors::{Monitor, ProcessMetrics, ProcessMonitor, sample::Stat};
use serde_json::Value;

use crate::helper::{Helper, eventually};

fn monitor(root: u32) -> (ProcessMonitor, Receiver<ProcessMetrics>) {
    let (sender, receiver) = channel();
    let monitor =
        ProcessMonitor::new().root_process_id(root).emit(move |metrics| sender.send(metrics.clone()).unwrap());
    (monitor, receiver)
}

fn process_ids(receiver: &Receiver<ProcessMetrics>) -> Vec<u32> {
    receiver.try_iter().map(|metrics| metrics.process_id).collect()
}

#[test]
fn defaults() {
    let mut monitor = ProcessMonitor::new();
    assert_eq!(monitor.name(), "process");
    assert_eq!(Monitor::interval(&monitor), Duration::from_secs(60));
    let status = serde_json::to_value(monitor.status()).unwrap();
    assert_eq!(status["root_process_id"], Value::Null);

    monitor.check(Instant::now());
    let status = serde_json::to_value(monitor.status()).unwrap();
    assert_eq!(status["root_process_id"], std::os::unix::process::parent_id());
    let processes = status["processes"].as_array().unwrap();
    assert_eq!(processes[0]["process_id"], std::os::unix::process::parent_id());
    assert!(processes.iter().any(|process| process["process_id"] == std::process::id()));
}

#[test]
fn every_process_of_the_tree_is_measured_once() {
    let mut helper = Helper::spawn();
    let (first, second) = (helper.spawn_child(), helper.spawn_child());
    let (mut monitor, receiver) = monitor(helper.process_id());
    // A member of the tree that registered, and one of another tree.
    let other = Helper::spawn();
    monitor.register(&helper.worker("a"));
    monitor.register(&other.worker("b"));

    assert_eq!(monitor.check(Instant::now()), []);
    let mut found = process_ids(&receiver);
    let mut expected = vec![helper.process_id(), first, second, other.process_id()];
    assert_eq!(found[0], helper.process_id(), "parents come first");
    found.sort_unstable();
    expected.sort_unstable();
    assert_eq!(found, expected);

    monitor.remove(&other.worker("b"));
    helper.run(&format!("kill {first}"));
    helper.run(&format!("kill {second}"));
    eventually(|| [first, second].iter().all(|id| Stat::read(*id).unwrap().ended));
    monitor.check(Instant::now());
    assert_eq!(process_ids(&receiver), [helper.process_id()], "zombies are not measured");
}

#[test]
fn a_process_has_one_name_in_metrics_whatever_it_is_called_later() {
    let mut child =
        Command::new("sh").args(["-c", "read line; exec sleep 1000"]).stdin(Stdio::piped()).spawn().unwrap();
    let (mut monitor, receiver) = monitor(child.id());
    let mut checked = || {
        monitor.check(Instant::now());
        let families = monitor.metrics();
        let labels = families[0].samples()[0].labels.clone();
        assert!(labels[1].0 == "command" && labels[1].1 == "sh -c read line; exec sleep 1000", "{labels:?}");
        receiver.try_iter().last().unwrap()
    };
    eventually(|| checked().elapsed_time > Duration::from_secs(2));
    // It becomes another program.
    writeln!(child.stdin.as_mut().unwrap(), "go on").unwrap();
    eventually(|| checked().command == "sleep 1000");
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_root_that_ended_has_no_tree() {
    let mut helper = Helper::spawn();
    let (mut monitor, receiver) = monitor(helper.process_id());
    monitor.check(Instant::now());
    assert_eq!(process_ids(&receiver), [helper.process_id()]);
    helper.kill();
    helper.reap();
    monitor.check(Instant::now());
    assert!(process_ids(&receiver).is_empty());
}

/// By `stat`, user and system time count in ticks of 10 ms, each by itself.
const TICKS: Duration = Duration::from_millis(20);

#[test]
fn utilization_is_measured() {
    let mut helper = Helper::spawn();
    let idle = helper.spawn_child();
    let read = || Stat::read(helper.process_id()).unwrap();
    // Younger than that, it would be measured from its start on at the next check, too.
    eventually(|| read().elapsed_time() > Duration::from_millis(100));
    let (mut monitor, receiver) = monitor(helper.process_id());
    let outer_start = read();
    monitor.check(Instant::now());
    let inner_start = read();
    let before: Vec<_> = receiver.try_iter().collect();

    helper.run("burn");
    let read = || Stat::read(helper.process_id()).unwrap();
    eventually(|| read().processor_time > inner_start.processor_time + Duration::from_millis(300));
    let inner_end = read();
    monitor.check(Instant::now());
    let outer_end = read();
    let after: Vec<_> = receiver.try_iter().collect();

    // By the figures of the two checks themselves it is exact, however busy the machine is.
    let time = (after[0].processor_time - before[0].processor_time).as_secs_f64();
    let elapsed = (after[0].elapsed_time - before[0].elapsed_time).as_secs_f64();
    let utilization = after[0].processor_utilization;
    assert!((utilization - time / elapsed).abs() < 1e-6, "{before:?} {after:?}");

    // And it lies between what it is at least and at most by readings around them.
    let at_least = (inner_end.processor_time - inner_start.processor_time).saturating_sub(TICKS).as_secs_f64()
        / (outer_end.at - outer_start.at).as_secs_f64();
    let at_most = (outer_end.processor_time - outer_start.processor_time + TICKS).as_secs_f64()
        / (inner_end.at - inner_start.at).as_secs_f64();
    assert!((at_least..=at_most).contains(&utilization), "{at_least} {utilization} {at_most}");
    assert!(at_least > 0.0);
    assert_eq!(after[1].process_id, idle);
    assert!(after[1].processor_utilization < utilization / 2.0, "{after:?}");
}

#[test]
fn the_first_utilization_is_the_average_since_the_start() {
    let mut helper = Helper::spawn();
    helper.run("burn");
    let process_id = helper.process_id();
    eventually(|| Stat::read(process_id).unwrap().processor_time > Duration::from_millis(300));
    let (mut monitor, receiver) = monitor(process_id);
    monitor.check(Instant::now());
    let metrics = receiver.recv().unwrap();
    let average = metrics.processor_time.as_secs_f64() / metrics.elapsed_time.as_secs_f64();
    assert!((metrics.processor_utilization - average).abs() < 0.01, "{metrics:?}");
    assert!(average > 0.0);
}

/// Each of its children takes a tenth of a second or so, which is less than between most checks.
const SHORT_CHILDREN: &str = "for child in 1 2 3; do
    sh -c 'count=0; while [ $count -lt 100000 ]; do count=$((count + 1)); done'
done
echo done
read end";

#[test]
fn what_children_took_that_came_and_went_is_told_of_the_one_that_waited_for_them() {
    let shell = Command::new("sh").args(["-c", SHORT_CHILDREN]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut shell = shell.unwrap();
    shell.stdout.as_mut().unwrap().read_exact(&mut [0; 5]).unwrap();
    let (mut monitor, receiver) = monitor(shell.id());
    monitor.check(Instant::now());
    let metrics: Vec<ProcessMetrics> = receiver.try_iter().collect();
    drop(shell.stdin.take());
    shell.wait().unwrap();
    assert_eq!(metrics.len(), 1, "no child is there any more: {metrics:?}");
    let Stat { children_processor_time, .. } = Stat::read(std::process::id()).unwrap();
    assert!(metrics[0].children_processor_time > Duration::from_millis(20), "{metrics:?}");
    assert!(children_processor_time >= metrics[0].children_processor_time, "they are ours as well now");
}

#[test]
fn status_is_in_bytes_and_seconds() {
    let mut helper = Helper::spawn();
    helper.run("allocate 20000000");
    let (mut monitor, _receiver) = monitor(helper.process_id());
    monitor.check(Instant::now());
    let status = serde_json::to_value(monitor.status()).unwrap();
    assert_eq!(status["root_process_id"], helper.process_id());
    let process = &status["processes"][0];

    let mut keys: Vec<_> = process.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    assert_eq!(
        keys,
        [
            "children_processor_time",
            "command",
            "elapsed_time",
            "involuntary_switches",
            "major_faults",
            "memory",
            "minor_faults",
            "open_files",
            "parent_process_id",
            "process_group_id",
            "process_id",
            "processor_time",
            "processor_utilization",
            "resident_size",
            "threads",
            "total_size",
            "virtual_size",
            "voluntary_switches",
        ]
    );
    let mut keys: Vec<_> = process["memory"].as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    assert_eq!(
        keys,
        [
            "anonymous_size",
            "map_count",
            "private_clean_size",
            "private_dirty_size",
            "private_size",
            "proportional_file_size",
            "proportional_size",
            "proportional_swap_size",
            "referenced_size",
            "resident_size",
            "shared_clean_size",
            "shared_dirty_size",
            "shared_size",
            "swap_size",
        ]
    );
    let memory = |key: &str| process["memory"][key].as_u64().unwrap();
    assert!(memory("anonymous_size") > 20_000_000 && memory("private_dirty_size") > 20_000_000, "{process}");
    assert_eq!(memory("private_size"), memory("private_clean_size") + memory("private_dirty_size"));
    assert!(memory("map_count") > 10, "{process}");
    let size = |key: &str| process[key].as_u64().unwrap();
    assert!(size("resident_size") > 20_000_000 && size("virtual_size") > size("resident_size"));
    assert!(size("total_size") > 20_000_000 && size("total_size") <= size("resident_size") + (4 << 20));
    assert!(process["elapsed_time"].as_f64().unwrap() < 600.0);
    assert!(process["processor_time"].as_f64().unwrap() < 600.0);
    assert_eq!(process["parent_process_id"], std::process::id());
    assert!(process["command"].as_str().unwrap().ends_with(" --exact helper::helper --nocapture --test-threads=1"));
}

#[test]
fn threads_descriptors_switches_and_faults_are_counted() {
    let mut helper = Helper::spawn();
    let (mut monitor, receiver) = monitor(helper.process_id());
    monitor.check(Instant::now());
    let before = receiver.recv().unwrap();
    for _ in 0..3 {
        helper.spawn_child();
    }
    helper.run("burn");
    helper.run("allocate 20000000");
    monitor.check(Instant::now());
    let after = receiver.recv().unwrap();
    assert_eq!(after.threads, before.threads + 1, "the one that burns");
    // The standard input of each child.
    assert_eq!(after.open_files, before.open_files.map(|files| files + 3));
    // It waited for commands, if not for each: some came before it had begun to.
    assert!(after.voluntary_switches > before.voluntary_switches, "{before:?} {after:?}");
    assert!(after.minor_faults > before.minor_faults + 100, "{before:?} {after:?}");
    assert!(after.memory.unwrap().sizes.referenced_size > 0);
}
