//! What it costs to count, and to read what others have counted: measured by `cargo xtask bench monitors`.
//!
//! Prints one JSON object: nanoseconds for one update of each kind, for the bare instructions below it, and for one check of
//! the monitor.

use std::{
    hint::black_box,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use async_container_supervisor::{
    monitors::{Action, Answer, Monitor, UtilizationMonitor, Worker},
    utilization::{Metric, Registry, Schema, Type},
};
use serde_json::{Value, json};

/// What any way to count comes down to at the least: an integer is added to by one instruction. For floating point there is none,
/// and the least is what the standard library of C++ makes of `std::atomic<double>::fetch_add`.
const FLOORS: [&str; 3] = ["fetch_add", "fetch_add_f32", "fetch_add_f64"];
const UPDATES: u32 = 2_000_000;
const ROUNDS: usize = 15;
const SEGMENTS: usize = 1_000;
const CHECKS: usize = 200;

fn main() {
    // Each segment is a file, and the usual limit is 1,024.
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let raised = rustix::process::Rlimit { current: limit.maximum, ..limit };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, raised).expect("the limit can be raised");

    let registry = Registry::new();
    let [whole, single, double] = [const { AtomicU64::new(0) }; FLOORS.len()];
    let metrics = Type::ALL.map(|kind| (kind, registry.metric_of(&format!("metric_{kind}"), kind)));
    let mut result = serde_json::Map::new();

    // By turns, so that whatever else the machine does meets all of them.
    let mut best = [f64::MAX; FLOORS.len() + Type::ALL.len()];
    for _ in 0..ROUNDS {
        let mut now = Vec::with_capacity(best.len());
        now.push(time(|| {
            black_box(&whole).fetch_add(1, Ordering::Relaxed);
        }));
        now.push(time(|| add(black_box(&single), |bits| u64::from((f32::from_bits(bits as u32) + 1.0).to_bits()))));
        now.push(time(|| add(black_box(&double), |bits| (f64::from_bits(bits) + 1.0).to_bits())));
        now.extend(metrics.iter().map(|(_, metric)| time(|| black_box(metric).increment())));
        best.iter_mut().zip(now).for_each(|(best, now)| *best = best.min(now));
    }
    let names = FLOORS.into_iter().map(str::to_owned).chain(Type::ALL.map(|kind| format!("increment_{kind}")));
    result.extend(names.zip(best).map(|(name, best)| (name, json!(best))));
    result.insert("check".into(), json!(check().as_nanos() as u64));
    println!("{}", Value::Object(result));
}

/// Adds to what the bits of a word mean, as bare as it can be done.
#[inline]
fn add(word: &AtomicU64, sum: impl Fn(u64) -> u64) {
    let mut bits = word.load(Ordering::Relaxed);
    while let Err(other) = word.compare_exchange_weak(bits, sum(bits), Ordering::Relaxed, Ordering::Relaxed) {
        bits = other;
    }
}

/// Nanoseconds for one of many.
fn time(mut update: impl FnMut()) -> f64 {
    let start = Instant::now();
    for _ in 0..UPDATES {
        update();
    }
    start.elapsed().as_secs_f64() * 1e9 / f64::from(UPDATES)
}

/// The median of checks of a monitor of many workers, all of which have counted something meanwhile.
fn check() -> Duration {
    let registries: Vec<Registry> = (0..SEGMENTS).map(|_| Registry::with_schema(&Schema::default())).collect();
    let metrics: Vec<Metric> = registries.iter().map(|registry| registry.metric("requests_total")).collect();
    let mut monitor = UtilizationMonitor::new().emit(|_| {});

    for (index, registry) in registries.iter().enumerate() {
        let name = format!("service-{}", index % 4);
        monitor.register(&Worker { id: index.to_string(), process_id: std::process::id(), name });
        let descriptor = registry.share().expect("there is memory").descriptor();
        for action in monitor.react(Instant::now()) {
            let Action::Call(call) = action else { continue };
            let answer = json!({"descriptor": descriptor});
            let read = move |reader: &mut dyn FnMut(&mut dyn erased_serde::Deserializer<'_>)| {
                reader(&mut <dyn erased_serde::Deserializer<'_>>::erase(&answer));
            };
            monitor.answered(&call, Ok(Answer::new(read)));
        }
    }

    let mut times: Vec<Duration> = (0..CHECKS)
        .map(|_| {
            metrics.iter().for_each(Metric::increment);
            let start = Instant::now();
            black_box(monitor.check(start));
            start.elapsed()
        })
        .collect();
    times.sort();
    let status = serde_json::to_value(monitor.status()).expect("it can be shown");
    assert_eq!(status["services"]["service-0"]["worker_count"], SEGMENTS / 4);
    assert_eq!(status["services"]["service-0"]["metrics"]["requests_total"], CHECKS * SEGMENTS / 4);
    times[CHECKS / 2]
}
