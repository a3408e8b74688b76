//! What a process sees of its own metrics.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    pin::pin,
    task::{Context, Waker},
};

use async_container_utilization::{CAPACITY, NAME_LIMIT, Number, Registry, Schema, Type, View};

fn view(registry: &Registry) -> View {
    let shared = registry.share().unwrap();
    View::open(shared.process_id(), shared.descriptor()).unwrap()
}

fn value(view: &View, name: &str) -> Option<Number> {
    view.fields().find(|(field, _)| field.name() == name).map(|(_, value)| value)
}

#[test]
fn every_type_counts() {
    let registry = Registry::new();
    let metrics = Type::ALL.map(|kind| registry.metric_of(kind.name(), kind));
    for metric in &metrics {
        metric.set(10u8);
        metric.increment();
        metric.increment_by(5.5);
        metric.decrement();
        metric.decrement_by(2i64);
    }
    let expected = [
        Number::Unsigned(13),
        Number::Unsigned(13),
        Number::Signed(13),
        Number::Signed(13),
        Number::Float(13.5),
        Number::Float(13.5),
    ];
    assert_eq!(metrics.each_ref().map(|metric| metric.value()), expected);
    assert_eq!(view(&registry).values().collect::<Vec<_>>(), expected);
}

#[test]
fn integers_wrap_around_at_their_width() {
    let registry = Registry::new();
    let after = |kind, start: Number, step: i64| {
        let metric = registry.metric_of(&format!("a_{kind}"), kind);
        metric.set(start);
        metric.increment_by(step);
        metric.value()
    };
    assert_eq!(after(Type::U32, Number::Unsigned(0), -1), Number::Unsigned(u32::MAX.into()));
    assert_eq!(after(Type::U64, Number::Unsigned(u64::MAX), 1), Number::Unsigned(0));
    assert_eq!(after(Type::I32, Number::Signed(i32::MAX.into()), 1), Number::Signed(i32::MIN.into()));
    assert_eq!(after(Type::I64, Number::Signed(i64::MIN), -1), Number::Signed(i64::MAX));
}

#[test]
fn a_metric_is_made_once_a_name() {
    let registry = Registry::new();
    registry.metric("requests_total").increment();
    registry.clone().metric("requests_total").increment();
    assert_eq!(registry.metric("requests_total").value(), Number::Unsigned(2));

    // The first type holds.
    assert_eq!(registry.metric_of("requests_total", Type::F64).kind(), Type::U64);
    assert_eq!(registry.metric("requests_active").kind(), Type::U32, "as in the usual schema");
    assert_eq!(registry.metric("anything").kind(), Type::U64);
    assert_eq!(registry.schema().fields().len(), 3);
}

#[test]
fn a_schema_is_seen_before_anything_is_counted() {
    let registry = Registry::with_schema(&Schema::default());
    let view = view(&registry);
    let fields = view.fields().map(|(field, value)| (field.name(), field.kind().name(), field.offset(), value));
    let zero = Number::Unsigned(0);
    assert_eq!(
        fields.collect::<Vec<_>>(),
        [
            ("connections_active", "u32", 64, zero),
            ("connections_total", "u64", 320, zero),
            ("requests_active", "u32", 576, zero),
            ("requests_total", "u64", 832, zero),
        ]
    );
    assert_eq!(registry.schema(), Schema::default());
}

/// RT-34, and what was counted while nobody looked.
#[test]
fn readers_that_come_and_go_change_nothing() {
    let registry = Registry::new();
    let metric = registry.metric("requests_total");
    metric.increment();
    for expected in 1..=3u64 {
        let view = view(&registry);
        assert_eq!(value(&view, "requests_total"), Some(Number::Unsigned(expected)));
        drop(view);
        metric.increment();
    }
    assert_eq!(metric.value(), Number::Unsigned(4));
}

#[test]
fn what_is_tracked_is_counted_down_however_it_ends() {
    let registry = Registry::new();
    let active = registry.metric("requests_active");
    let is_active = |expected: u64| assert_eq!(active.value(), Number::Unsigned(expected));

    fn fails(active: &async_container_utilization::Metric) -> Result<(), std::fmt::Error> {
        let _active = active.track();
        Err(std::fmt::Error)?;
        unreachable!()
    }
    assert!(fails(&active).is_err());
    is_active(0);

    let panicked = catch_unwind(AssertUnwindSafe(|| {
        let _active = active.track();
        is_active(1);
        panic!("as it happens");
    }));
    assert!(panicked.is_err());
    is_active(0);

    {
        let mut cancelled = pin!(async {
            let _active = active.track_owned();
            std::future::pending::<()>().await;
        });
        assert!(cancelled.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        is_active(1);
    }
    is_active(0);
}

#[test]
fn metrics_made_later_are_found_and_the_old_ones_stay() {
    let registry = Registry::new();
    let first = registry.metric("first");
    first.increment();
    let mut view = view(&registry);
    assert!(!view.refresh(), "nothing is new");
    let size = registry.share().unwrap().size();

    let all: Vec<_> = (0..500).map(|index| registry.metric(&format!("metric_{index}"))).collect();
    assert!(registry.share().unwrap().size() > size, "it has grown");
    first.increment();
    all.iter().enumerate().for_each(|(index, metric)| metric.set(index));
    assert_eq!(value(&view, "first"), Some(Number::Unsigned(2)), "what was mapped before is still right");

    assert!(view.refresh());
    assert_eq!(view.fields().len(), 501);
    for (index, value) in view.values().skip(1).enumerate() {
        assert_eq!(value, Number::from(index));
    }
}

#[test]
fn many_threads_lose_nothing() {
    const THREADS: u64 = 8;
    const EACH: u64 = 2_000;
    let registry = Registry::new();
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let registry = &registry;
            scope.spawn(move || {
                let (whole, half) = (registry.metric("whole"), registry.metric_of("half", Type::F64));
                for step in 0..EACH {
                    whole.increment();
                    half.increment_by(0.5);
                    if step % 100 == 0 {
                        registry.metric(&format!("metric_{}", (step / 100 + thread) % 40)).increment();
                    }
                }
            });
        }
        // Somebody who reads all the while.
        let mut view = view(&registry);
        let mut last = 0;
        while last < THREADS * EACH {
            view.refresh();
            let now = value(&view, "whole").map_or(0, Number::as_u64);
            assert!(now >= last, "from {last} back to {now}");
            last = now;
            std::thread::yield_now();
        }
    });
    let view = view(&registry);
    assert_eq!(value(&view, "whole"), Some(Number::Unsigned(THREADS * EACH)));
    assert_eq!(value(&view, "half"), Some(Number::Float((THREADS * EACH) as f64 / 2.0)));
    let sum: u64 = (0..40).filter_map(|index| value(&view, &format!("metric_{index}"))).map(Number::as_u64).sum();
    assert_eq!(sum, THREADS * EACH / 100);
}

#[test]
fn what_cannot_be_shared_counts_all_the_same() {
    let registry = Registry::new();
    let long = "a".repeat(NAME_LIMIT + 1);
    for name in ["", "with space", "1st", &long] {
        let metric = registry.metric(name);
        metric.increment();
        registry.metric(name).increment();
        assert_eq!(metric.value(), Number::Unsigned(2), "{name}");
        assert!(!metric.is_shared());
    }
    assert!(registry.schema().is_empty());

    for index in 0..CAPACITY {
        assert!(registry.metric(&format!("metric_{index}")).is_shared());
    }
    let beyond = registry.metric("beyond");
    beyond.increment();
    assert_eq!(beyond.value(), Number::Unsigned(1));
    assert!(!beyond.is_shared());
    assert_eq!(view(&registry).fields().len(), CAPACITY);
}
