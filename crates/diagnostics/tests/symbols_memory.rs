//! What it takes to name what is on a stack, and what is left of that.

#![cfg(target_env = "gnu")]

#[path = "support/alone.rs"]
mod alone;

use std::{fs, time::Duration};

use async_container_diagnostics::{symbols::Symbols, threads::ThreadDump, unwind::Unwinder};

/// What names may take that were found.
const KEPT_LIMIT: u64 = 6 << 20;

/// What it may take to name a function of a library of the system, also where its debugging information is installed.
const LIBRARY_LIMIT: u64 = 4 << 20;

fn resident() -> u64 {
    let text = fs::read_to_string("/proc/self/status").unwrap();
    let kilobytes = |name| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim().trim_end_matches(" kB").trim().parse::<u64>().unwrap()
    };
    kilobytes("RssAnon:") * 1024
}

#[test]
fn what_was_read_for_names_is_given_back() {
    let _alone = alone::alone();
    let before = resident();

    // Other threads may be where they were not before, once or twice.
    for _ in 0..20 {
        let dump = ThreadDump::take().unwrap();
        assert!(dump.to_string().contains("what_was_read_for_names_is_given_back"), "{dump}");
        let meanwhile = resident().saturating_sub(before);
        Symbols::shared().release(Duration::ZERO);
        let kept = resident().saturating_sub(before);
        println!("{meanwhile} bytes meanwhile, {kept} kept");
        assert!(kept < KEPT_LIMIT, "{kept} bytes of {meanwhile} are still there");

        if meanwhile < KEPT_LIMIT {
            return;
        }
    }

    panic!("what was found is read again each time");
}

#[test]
fn a_function_of_a_library_is_named_without_reading_its_lines() {
    let _alone = alone::alone();
    let unwinder = Unwinder::of_this_process().unwrap();
    let before = resident();
    let symbols = Symbols::new();
    let address = libc::pthread_create as *const () as u64 + 4;
    let places = symbols.resolve(unwinder.modules(), &[address]);
    let taken = resident().saturating_sub(before);
    let name = &*places[0].frames.last().unwrap().function;
    assert!(name.contains("pthread_create"), "{name}");
    assert!(taken < LIBRARY_LIMIT, "{taken} bytes for one name");
}
