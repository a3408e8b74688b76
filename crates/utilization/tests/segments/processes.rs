//! Metrics of a process that ends, hangs, or has no files left.

use std::{
    collections::HashSet,
    sync::atomic::{AtomicBool, Ordering},
};

use async_container_utilization::{Number, View};

use crate::helper::Helper;

fn values(view: &View) -> Vec<(String, u64)> {
    view.fields().map(|(field, value)| (field.name().to_owned(), value.as_u64())).collect()
}

#[test]
fn another_process_is_seen_counting() {
    let mut helper = Helper::spawn();
    helper.run("increment requests_total");
    let mut view = helper.view();
    assert_eq!(values(&view), [("requests_total".to_owned(), 1)]);

    helper.run("increment requests_total");
    helper.run("increment connections_total");
    assert_eq!(values(&view), [("requests_total".to_owned(), 2)]);
    assert!(view.refresh());
    assert_eq!(values(&view)[1], ("connections_total".to_owned(), 1));
}

#[test]
fn a_process_without_metrics_can_have_some_later() {
    let mut helper = Helper::spawn();
    let mut view = helper.view();
    assert_eq!(view.fields().len(), 0);
    helper.run("increment requests_total");
    assert!(view.refresh());
    assert_eq!(values(&view), [("requests_total".to_owned(), 1)]);
}

#[test]
fn a_process_killed_in_the_middle_of_counting_leaves_whole_values() {
    let mut helper = Helper::spawn();
    for name in ["one", "two", "one"] {
        helper.run(&format!("hammer {name}"));
    }
    let view = helper.view();
    let before = values(&view);
    helper.kill();

    let after = values(&view);
    assert_eq!(after, values(&view), "nobody writes any more");
    for ((name, before), (_, after)) in before.iter().zip(&after) {
        // A torn value would be off by a power of two that no processor counts to in that time.
        assert!(before <= after && *after < 1 << 40, "{name}: {before}, then {after}");
    }
    assert!(View::open(helper.process_id(), 3).is_err(), "there is nothing left to open");
}

#[test]
fn what_a_process_made_before_it_was_killed_is_seen_as_far_as_it_is_mapped() {
    let mut helper = Helper::spawn();
    helper.run("increment first");
    let mut view = helper.view();
    for index in 0..40 {
        helper.run(&format!("increment metric_{index}"));
    }
    helper.kill();
    // The segment had grown since, and cannot be opened any more.
    view.refresh();
    assert_eq!(view.fields().len(), 15);
    assert!(values(&view).iter().all(|(_, value)| *value == 1));
}

#[test]
fn segments_can_be_told_apart() {
    let mut helpers = [Helper::spawn(), Helper::spawn()];
    let identities: HashSet<_> = helpers.iter_mut().map(|helper| helper.view().identity()).collect();
    assert_eq!(identities.len(), 2);
    assert_eq!(helpers[0].view().identity(), helpers[0].view().identity());
}

#[test]
fn a_process_without_files_counts_for_itself() {
    let mut helper = Helper::spawn();
    helper.run("no_files");
    assert_eq!(helper.run("increment requests_total"), "1");
    assert_eq!(helper.run("increment requests_total"), "2");
    let answer = helper.run("share");
    assert!(answer.starts_with("no memory could be had that other processes can read: "), "{answer}");
}

/// The kernel ends who makes a file larger than that, by `SIGXFSZ`.
#[test]
fn a_process_that_may_have_no_large_files_counts_for_itself() {
    let mut helper = Helper::spawn();
    helper.run("file_size 100");
    assert_eq!(helper.run("increment requests_total"), "1");
    let answer = helper.run("share");
    assert!(answer.ends_with("files of this process may have 100 bytes at most (RLIMIT_FSIZE)"), "{answer}");

    let mut helper = Helper::spawn();
    helper.run("file_size 4096");
    for index in 0..20 {
        assert_eq!(helper.run(&format!("increment metric_{index}")), "1");
    }
    assert_eq!(helper.run("increment metric_19"), "2");
    let mut view = helper.view();
    assert_eq!(view.fields().len(), 15, "what there was room for");

    // There is room now, and what was made without it stays where it is.
    helper.run("file_size 8192");
    helper.run("increment metric_20");
    assert!(view.refresh());
    assert_eq!(values(&view).last().unwrap(), &("metric_20".to_owned(), 1));
}

/// Sets it when it is dropped, also by a panic.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Somebody of the same user can cut a file that is not sealed yet.
#[test]
fn a_process_whose_memory_is_cut_while_it_is_made_counts_on() {
    let mut helper = Helper::spawn();
    let directory = format!("/proc/{}/fd", helper.process_id());
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                for path in (3..6).map(|descriptor| format!("{directory}/{descriptor}")) {
                    let Ok(file) = std::fs::File::options().write(true).open(path) else { continue };
                    // What is no file in memory is none of ours.
                    let is_memory = rustix::fs::fcntl_get_seals(&file).is_ok();
                    while is_memory && file.set_len(0).is_ok() && !is_over.load(Ordering::Relaxed) {}
                }
            }
        });
        let _over = Over(&is_over);
        assert_eq!(helper.run("segments 20000"), "");
    });
}

#[test]
fn values_are_those_that_were_set() {
    let registry = async_container_utilization::Registry::new();
    let metric = registry.metric("requests_total");
    metric.set(u64::MAX);
    let shared = registry.share().unwrap();
    let view = View::open(shared.process_id(), shared.descriptor()).unwrap();
    assert_eq!(view.values().next(), Some(Number::Unsigned(u64::MAX)));
}
