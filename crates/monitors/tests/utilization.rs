//! The utilization monitor over the memory of real processes.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    os::{fd::AsRawFd, unix::fs::MetadataExt},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    time::{Duration, Instant},
};

use async_container_monitors::{
    Action, Answer, CallFailure, Kind, Monitor, Sample, ServiceUtilization, UtilizationMonitor, Worker,
};
use async_container_utilization::{Number, Type, View, metric, registry};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

const VARIABLE: &str = "MONITORS_TEST_UTILIZATION";

/// A process that counts what it is told to. As an ordinary test it does nothing.
#[test]
fn helper() {
    if std::env::var_os(VARIABLE).is_none() {
        return;
    }
    for line in std::io::stdin().lines() {
        let line = line.unwrap();
        let (name, amount) = line.split_once(' ').unwrap();
        match name {
            "storm" => storm(amount.parse().unwrap()),
            name => metric(name).increment_by(amount.parse::<i64>().unwrap()),
        }
        println!("\nanswer {}", registry().share().unwrap().descriptor());
        std::io::stdout().flush().unwrap();
    }
    std::process::exit(0);
}

/// Two values of each type that differ in every part, so that one of both halves is neither.
fn patterns(kind: Type) -> [Number; 2] {
    let (one, other) = (0x5555_5555_5555_5555_u64, 0xaaaa_aaaa_aaaa_aaaa_u64);
    match kind {
        Type::U32 => [one as u32, other as u32].map(Number::from),
        Type::U64 => [one, other].map(Number::from),
        Type::I32 => [one as i32, other as i32].map(Number::from),
        Type::I64 => [one as i64, other as i64].map(Number::from),
        Type::F32 => [0x3f80_3f80, 0x4120_4120].map(|bits| f32::from_bits(bits).into()),
        Type::F64 => [0x3ff0_3ff0_3ff0_3ff0, 0x4024_4024_4024_4024].map(|bits| f64::from_bits(bits).into()),
    }
}

/// Threads that change metrics of all types without a pause, and one that makes new ones.
fn storm(threads: usize) {
    let made = Type::ALL.map(|kind| {
        (
            registry().metric_of(&format!("{kind}_total"), kind),
            registry().metric_of(&format!("{kind}_pattern"), kind),
            patterns(kind),
        )
    });
    for _ in 0..threads {
        let made = made.clone();
        std::thread::spawn(move || {
            loop {
                for (total, pattern, [one, other]) in &made {
                    pattern.set(*one);
                    total.increment();
                    pattern.set(*other);
                }
            }
        });
    }
    std::thread::spawn(|| {
        for number in 1..200 {
            registry().metric_of(&format!("grown_{number}"), Type::ALL[number % Type::ALL.len()]).set(number);
        }
    });
}

struct Helper {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
    descriptor: i32,
    worker: Worker,
}

impl Helper {
    fn spawn(id: &str, name: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "helper", "--nocapture", "--test-threads=1"])
            .env(VARIABLE, "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdin = child.stdin.take();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let worker = Worker { id: id.into(), process_id: child.id(), name: name.into() };
        Self { child, stdin, stdout, descriptor: -1, worker }
    }

    fn add(&mut self, name: &str, amount: i64) {
        writeln!(self.stdin.as_mut().unwrap(), "{name} {amount}").unwrap();
        loop {
            let mut line = String::new();
            assert_ne!(self.stdout.read_line(&mut line).unwrap(), 0, "the helper ended");
            if let Some(answer) = line.strip_prefix("answer ") {
                self.descriptor = answer.trim().parse().unwrap();
                return;
            }
        }
    }

    fn answer(&self) -> Result<Answer, CallFailure> {
        answer(json!({"descriptor": self.descriptor, "path": "of no interest"}))
    }

    /// Ends it, whatever it is at.
    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        self.stdin = None;
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn answer(value: Value) -> Result<Answer, CallFailure> {
    Ok(Answer::new(move |reader| reader(&mut <dyn erased_serde::Deserializer<'_>>::erase(&value))))
}

fn monitor() -> (UtilizationMonitor, Receiver<ServiceUtilization>) {
    let (sender, receiver) = channel();
    let monitor = UtilizationMonitor::new().emit(move |service| drop(sender.send(service.clone())));
    (monitor, receiver)
}

/// Registers a worker, and gives the answer to what the monitor asks.
fn register(monitor: &mut UtilizationMonitor, worker: &Worker, answer: Result<Answer, CallFailure>) {
    monitor.register(worker);
    let actions = monitor.react(Instant::now());
    let [Action::Call(call)] = &actions[..] else { panic!("{actions:?}") };
    assert_eq!((call.worker_id(), call.operation()), (worker.id.as_str(), "utilization"));
    monitor.answered(call, answer);
}

/// The sums after a check, by service.
fn check(monitor: &mut UtilizationMonitor) -> Value {
    monitor.check(Instant::now());
    status(monitor)["services"].take()
}

fn status(monitor: &UtilizationMonitor) -> Value {
    serde_json::to_value(monitor.status()).unwrap()
}

#[test]
fn workers_are_added_up_by_service() {
    let mut helpers = [Helper::spawn("1", "web"), Helper::spawn("2", "web"), Helper::spawn("3", "")];
    let (mut monitor, emitted) = monitor();
    for (helper, amount) in helpers.iter_mut().zip([1, 20, 300]) {
        helper.add("requests_total", amount);
        helper.add("requests_active", amount * 2);
        register(&mut monitor, &helper.worker, helper.answer());
    }
    let expected = json!({
        "unknown": {"worker_count": 1, "metrics": {"requests_active": 600, "requests_total": 300}},
        "web": {"worker_count": 2, "metrics": {"requests_active": 42, "requests_total": 21}},
    });
    assert_eq!(check(&mut monitor), expected);

    let workers = &status(&monitor)["workers"];
    let metrics = json!({"requests_active": 40, "requests_total": 20});
    let second = json!({"id": "2", "process_id": helpers[1].worker.process_id, "name": "web", "metrics": metrics});
    assert_eq!(workers[1], second);

    let services: Vec<_> = emitted.try_iter().collect();
    assert_eq!(services.len(), 2);
    assert_eq!(services[1].name, "web");
    assert_eq!(services[1].metrics.to_string(), "requests_active=42 requests_total=21");
    assert_eq!(services[1].metrics.get("requests_total"), Some(Number::Unsigned(21)));

    // Without asking anybody again.
    helpers[0].add("requests_total", 1);
    helpers[0].add("connections_total", 5);
    assert_eq!(
        check(&mut monitor)["web"]["metrics"],
        json!({
            "connections_total": 5, "requests_active": 42, "requests_total": 22,
        })
    );
}

#[test]
fn sums_are_metrics() {
    let mut helper = Helper::spawn("1", "web");
    helper.add("requests_total", 5);
    helper.add("requests_active", 2);
    let (mut monitor, _) = monitor();
    register(&mut monitor, &helper.worker, helper.answer());
    monitor.check(Instant::now());
    let families = monitor.metrics();
    let named: Vec<_> = families.iter().map(|family| (family.name(), family.kind(), &family.samples()[0])).collect();
    let sample = |value: u32| Sample { labels: vec![("service".into(), "web".into())], value: value.into() };
    let expected = [
        ("utilization_workers", Kind::Gauge, &sample(1)),
        ("utilization_requests_active", Kind::Gauge, &sample(2)),
        ("utilization_requests", Kind::Counter, &sample(5)),
    ];
    assert_eq!(named, expected);
}

#[test]
fn what_another_supervisor_has_told_of_is_in_the_sums_but_not_in_what_is_collected() {
    let mut helpers = [Helper::spawn("1", "web"), Helper::spawn("2", "web"), Helper::spawn("3", "web")];
    let (mut monitor, _) = monitor();
    // Two have been asked before, the third one has just been started.
    for (helper, (amount, first_asked)) in helpers.iter_mut().zip([(100, 60.0), (20, 0.5), (3, 0.0)]) {
        helper.add("requests_total", amount);
        helper.add("busy_total", amount);
        helper.add("requests_active", amount);
        let place = json!({"descriptor": helper.descriptor, "first_asked": first_asked});
        register(&mut monitor, &helper.worker, answer(place));
    }
    let collected = |monitor: &UtilizationMonitor| -> BTreeMap<String, Value> {
        let families = monitor.metrics();
        let values = families.iter().map(|family| (family.name().to_owned(), &family.samples()[0].value));
        let numbers = values.map(|(name, value)| match value {
            async_container_monitors::Value::Integer(value) => (name, json!(value)),
            other => panic!("{name}: {other:?}"),
        });
        numbers.collect()
    };
    let names = ["utilization_busy", "utilization_requests", "utilization_requests_active", "utilization_workers"];
    let expected = |values: [u64; 4]| -> BTreeMap<String, Value> {
        names.iter().zip(values).map(|(name, value)| ((*name).to_owned(), json!(value))).collect()
    };

    let sums = check(&mut monitor)["web"]["metrics"].take();
    assert_eq!(sums, json!({"busy_total": 123, "requests_active": 123, "requests_total": 123}));
    assert_eq!(collected(&monitor), expected([3, 3, 123, 3]));

    helpers[0].add("requests_total", 1_000);
    helpers[2].add("requests_total", 1_000);
    check(&mut monitor);
    assert_eq!(collected(&monitor), expected([3, 2_003, 123, 3]));

    // It takes with it neither what it has counted nor what it had counted before.
    helpers[0].kill();
    monitor.remove(&helpers[0].worker);
    let sums = check(&mut monitor)["web"]["metrics"].take();
    assert_eq!(sums, json!({"busy_total": 123, "requests_active": 23, "requests_total": 2_123}));
    assert_eq!(collected(&monitor), expected([3, 2_003, 23, 2]));
}

#[test]
fn services_are_told_to_subscribers() {
    let mut helper = Helper::spawn("1", "web");
    helper.add("requests_total", 1);
    let (mut monitor, _) = monitor();
    assert_eq!(monitor.check(Instant::now()), [], "there is nothing to tell");
    register(&mut monitor, &helper.worker, helper.answer());
    let actions = monitor.check(Instant::now());
    let [Action::Event(event)] = &actions[..] else { panic!("{actions:?}") };
    assert_eq!(event.name(), "metrics");
    let fields = serde_json::to_value(event.fields()).unwrap();
    assert_eq!(fields, json!({"services": {"web": {"worker_count": 1, "metrics": {"requests_total": 1}}}}));
}

#[test]
fn totals_do_not_go_back_when_a_worker_is_killed() {
    let (mut monitor, _) = monitor();
    let mut first = Helper::spawn("1", "web");
    first.add("requests_total", 5);
    first.add("requests_active", 3);
    register(&mut monitor, &first.worker, first.answer());
    assert_eq!(check(&mut monitor)["web"]["metrics"], json!({"requests_active": 3, "requests_total": 5}));

    // What it counts while it has no connection is not lost, either.
    monitor.remove(&first.worker);
    first.add("requests_total", 2);
    let left = json!({"worker_count": 0, "metrics": {"requests_total": 7}});
    assert_eq!(check(&mut monitor)["web"], left);
    first.add("requests_total", 1);
    first.kill();
    for _ in 0..2 {
        assert_eq!(check(&mut monitor)["web"]["metrics"], json!({"requests_total": 8}));
    }

    let mut second = Helper::spawn("2", "web");
    second.add("requests_total", 10);
    register(&mut monitor, &second.worker, second.answer());
    let metrics = json!({"requests_active": 0, "requests_total": 18});
    assert_eq!(check(&mut monitor)["web"], json!({"worker_count": 1, "metrics": metrics}));
}

/// What a worker in a storm had by now. Panics if a value is one that was never there.
fn whole(view: &View) -> BTreeMap<String, Number> {
    let values = view.fields().map(|(field, value)| {
        let (name, kind) = (field.name(), field.kind());
        let number = name.strip_prefix("grown_").map(|number| number.parse::<u64>().unwrap());
        let is_whole = match number {
            Some(number) => {
                kind == Type::ALL[number as usize % Type::ALL.len()] && [0, number].contains(&value.as_u64())
            }
            None if name == format!("{kind}_pattern") => value.as_u64() == 0 || patterns(kind).contains(&value),
            // So far nobody counts in this time.
            None => name == format!("{kind}_total") && value.as_u64() < 1 << 31 && value.as_f64().fract() == 0.0,
        };
        assert!(is_whole, "{name}, {kind}: {value}");
        (name.to_owned(), value)
    });
    values.collect()
}

/// Whether this process has mapped that file.
fn is_mapped(inode: u64) -> bool {
    let inode = inode.to_string();
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    maps.lines().filter(|line| line.contains("/memfd:")).any(|line| line.split_whitespace().nth(4) == Some(&inode))
}

#[test]
fn workers_killed_in_the_midst_of_an_update_leave_whole_values_that_stay_in_the_sums() {
    const KILLS: u32 = 200;
    let (mut monitor, _) = monitor();
    let mut bystander = Helper::spawn("bystander", "web");
    bystander.add("u64_total", 7);
    register(&mut monitor, &bystander.worker, bystander.answer());
    let mut counted = BTreeMap::from([("u64_total".to_owned(), Number::Unsigned(7))]);

    for round in 0..KILLS {
        let mut helper = Helper::spawn(&round.to_string(), "web");
        helper.add("storm", 2);
        let mut view = View::open(helper.worker.process_id, helper.descriptor).unwrap();
        let path = format!("/proc/{}/fd/{}", helper.worker.process_id, helper.descriptor);
        let inode = std::fs::metadata(path).unwrap().ino();
        register(&mut monitor, &helper.worker, helper.answer());
        assert!(is_mapped(inode));

        // It ends sooner or later after it has begun, and is read meanwhile.
        (0..round % 4).for_each(|_| drop(monitor.check(Instant::now())));
        view.refresh();
        let before = whole(&view);
        kill_process(Pid::from_child(&helper.child), Signal::KILL).unwrap();
        let during = check(&mut monitor)["web"].take();
        assert_eq!(during["worker_count"], 2, "none of them is missing");
        helper.kill();
        monitor.remove(&helper.worker);

        let after = whole(&view);
        for (name, value) in after.iter().filter(|(name, _)| name.ends_with("_total")) {
            assert!(value.as_u64() >= before[name].as_u64(), "{name} of a worker went back");
            let sum = counted.entry(name.clone()).or_insert(Number::Unsigned(0));
            *sum = sum.plus(*value);
        }
        drop(view);

        let sums = check(&mut monitor)["web"].take();
        assert_eq!(sums["worker_count"], 1);
        assert!(!is_mapped(inode), "its memory is freed");
        for (name, sum) in &counted {
            let (during, now) = (during["metrics"][name].as_f64(), sums["metrics"][name].as_f64());
            assert!(during <= now && now == Some(sum.as_f64()), "{name}: {during:?}, then {now:?}, and not {sum}");
        }
    }
}

#[test]
fn a_worker_that_comes_back_is_not_counted_twice() {
    let (mut monitor, _) = monitor();
    let mut helper = Helper::spawn("1", "web");
    helper.add("requests_total", 5);
    register(&mut monitor, &helper.worker, helper.answer());
    monitor.remove(&helper.worker);
    check(&mut monitor);
    let again = Worker { id: "2".into(), ..helper.worker.clone() };
    register(&mut monitor, &again, helper.answer());
    assert_eq!(check(&mut monitor)["web"], json!({"worker_count": 1, "metrics": {"requests_total": 5}}));
}

#[test]
fn workers_of_one_process_are_counted_once() {
    let (mut monitor, _) = monitor();
    let mut helper = Helper::spawn("1", "web");
    helper.add("requests_total", 5);
    register(&mut monitor, &helper.worker, helper.answer());
    let other_thread = Worker { id: "2".into(), ..helper.worker.clone() };
    register(&mut monitor, &other_thread, helper.answer());
    assert_eq!(check(&mut monitor)["web"], json!({"worker_count": 2, "metrics": {"requests_total": 5}}));
    monitor.remove(&helper.worker);
    assert_eq!(check(&mut monitor)["web"], json!({"worker_count": 1, "metrics": {"requests_total": 5}}));
}

#[test]
fn a_worker_may_change_its_name() {
    let (mut monitor, _) = monitor();
    let mut helper = Helper::spawn("1", "");
    helper.add("requests_active", 5);
    register(&mut monitor, &helper.worker, helper.answer());
    let named = Worker { name: "web".into(), ..helper.worker.clone() };
    monitor.register(&named);
    assert_eq!(monitor.react(Instant::now()), [], "it need not be asked again");
    assert_eq!(check(&mut monitor), json!({"web": {"worker_count": 1, "metrics": {"requests_active": 5}}}));
}

#[test]
fn a_worker_that_cannot_be_read_is_shown_with_the_reason() {
    let (mut monitor, _) = monitor();
    let worker = |id: &str| Worker { id: id.into(), process_id: std::process::id(), name: "web".into() };
    let device = std::fs::File::open("/dev/null").unwrap();
    let unknown = CallFailure::new("UnknownOperation", "the operation 'utilization' is unknown");
    let answers = [
        ("1", Err(unknown), "the worker has no operation 'utilization'"),
        ("2", Err(CallFailure::new("NotSupported", "no memory")), "no memory"),
        ("3", answer(json!({})), "the answer of the worker makes no sense: missing field"),
        ("4", answer(json!({"descriptor": "four"})), "the answer of the worker makes no sense: invalid type"),
        ("5", answer(json!({"descriptor": device.as_raw_fd()})), "not a segment of metrics: it is no file"),
        ("6", answer(json!({"descriptor": 1_000_000})), "could not open descriptor 1000000 of process"),
    ];
    let mut expected_errors = Vec::new();
    for (id, answer, expected) in answers {
        register(&mut monitor, &worker(id), answer);
        expected_errors.push(expected);
    }
    assert_eq!(check(&mut monitor), json!({}));
    let status = status(&monitor);
    for (worker, expected) in status["workers"].as_array().unwrap().iter().zip(expected_errors) {
        let error = worker["error"].as_str().unwrap();
        assert!(error.starts_with(expected), "{error}");
    }
    assert_eq!(monitor.react(Instant::now()), [], "they are not asked again");
}

#[test]
fn a_worker_that_hangs_is_asked_again_at_the_next_check() {
    let (mut monitor, _) = monitor();
    let mut helper = Helper::spawn("1", "web");
    helper.add("requests_total", 1);
    register(&mut monitor, &helper.worker, Err(CallFailure::new("TimedOut", "no answer within the time given")));
    assert_eq!(status(&monitor)["workers"][0]["error"], "the worker does not answer");
    let actions = monitor.check(Instant::now());
    let [Action::Call(call)] = &actions[..] else { panic!("{actions:?}") };
    monitor.answered(call, helper.answer());
    assert_eq!(check(&mut monitor)["web"]["worker_count"], 1);
}

#[test]
fn an_answer_for_a_worker_that_has_left_is_of_no_use() {
    let (mut monitor, _) = monitor();
    let mut helper = Helper::spawn("1", "web");
    helper.add("requests_total", 1);
    monitor.register(&helper.worker);
    let actions = monitor.react(Instant::now());
    let [Action::Call(call)] = &actions[..] else { panic!("{actions:?}") };
    monitor.remove(&helper.worker);
    monitor.answered(call, helper.answer());
    assert_eq!(check(&mut monitor), json!({}));
}

#[test]
fn intervals_are_what_is_asked_for() {
    assert_eq!(Monitor::interval(&UtilizationMonitor::new()), Duration::from_secs(10));
    let never = UtilizationMonitor::new().interval(Duration::ZERO).validate();
    assert!(never.is_err_and(|problem| problem == "interval is 0ns, and has to be 1ms at least"));
}
