//! A dump of a process that is large.

#[path = "support/decoded.rs"]
mod decoded;

use std::fs;

use async_container_diagnostics::{
    memory::{Allocator, Dump, Mode},
    report::Format,
};
use decoded::Decoded;

#[global_allocator]
static ALLOCATOR: Allocator = Allocator::system().record_from_start(Mode::SAMPLED);

const BLOCK: usize = 64 << 10;
const SIZE: usize = 2 << 30;
const WHAT_A_DUMP_MAY_TAKE: u64 = 64 << 20;

fn field(file: &str, name: &str) -> u64 {
    let text = fs::read_to_string(file).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.trim().trim_end_matches(" kB").trim().parse::<u64>().unwrap() * 1024
}

#[test]
fn a_dump_takes_no_memory_that_grows_with_the_program() {
    if field("/proc/meminfo", "MemAvailable:") < 2 * SIZE as u64 {
        println!("skipped: there is not enough memory for a process of 2 GiB");
        return;
    }

    hoard::keep(SIZE / BLOCK, BLOCK);
    // What is mapped of files, such as the debugging information of this program, goes when somebody needs the memory.
    let resident = || field("/proc/self/status", "RssAnon:");
    let before = resident();
    assert!(before > SIZE as u64);
    let dump = |format| {
        let mut largest = 0;
        let mut dump = Vec::new();

        for chunk in Dump::begin().unwrap().chunks(format).unwrap() {
            let chunk = chunk.unwrap();
            assert!(chunk.len() <= Dump::CHUNK);
            dump.extend_from_slice(&chunk);
            largest = largest.max(resident());
        }

        println!("{format}: {} bytes, {} more resident", dump.len(), largest.saturating_sub(before));
        assert!(largest < before + WHAT_A_DUMP_MAY_TAKE, "{before} {largest}");
        dump
    };
    // What this one begins with is found out before.
    assert!(String::from_utf8(dump(Format::Json)).unwrap().contains("\"by_location\""));
    let dump = dump(Format::Pprof);
    let kept = Decoded::of(&dump).sum("inuse_space", "hoard::keep") as f64;
    assert!((kept / SIZE as f64 - 1.0).abs() < 0.1, "{kept}");
}
