//! What it takes to name what is on a stack, and what is left of that.

#![cfg(target_env = "gnu")]

use std::{fs, time::Duration};

use async_container_diagnostics::{symbols::Symbols, threads::ThreadDump};

/// What names may take that were found.
const KEPT_LIMIT: u64 = 6 << 20;

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
