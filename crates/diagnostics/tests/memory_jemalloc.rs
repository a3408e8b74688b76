//! Around jemalloc, and what its own profiler tells. That one is switched on as a program begins, so each test runs this one again.

#[path = "support/decoded.rs"]
mod decoded;

use std::{env, process::Command};

use async_container_diagnostics::{
    memory::{self, Allocator, AllocatorProfile, Dump, Jemalloc, MemoryError, Mode, Options, Sampling},
    report::{Format, ReportError},
};
use decoded::Decoded;

#[global_allocator]
static ALLOCATOR: Allocator<Jemalloc> = Allocator::jemalloc();

/// What jemalloc is told as a program begins.
const OPTIONS: &str = "_RJEM_MALLOC_CONF";

const BLOCKS: usize = 5000;
const SIZE: usize = 8 << 10;

/// Runs a test of this file in a process of its own.
fn with(options: &str, test: &str) {
    let mut command = Command::new(env::current_exe().unwrap());
    let output = command.args(["--exact", test, "--ignored", "--nocapture"]).env(OPTIONS, options).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

fn dumped(dump: Result<Dump, MemoryError>, format: Format) -> Vec<u8> {
    dump.unwrap().chunks(format).unwrap().flat_map(|chunk| chunk.unwrap()).collect()
}

#[test]
fn its_own_profile_has_names_and_all_forms() {
    with("prof:true,lg_prof_sample:12", "with_its_profiler");
}

#[test]
#[ignore = "is run with a profiler"]
fn with_its_profiler() {
    if env::var_os(OPTIONS).is_none() {
        return;
    }

    hoard::keep(BLOCKS, SIZE);
    let whole = (BLOCKS * SIZE) as f64;
    let is_close = |bytes: u64| assert!((bytes as f64 / whole - 1.0).abs() < 0.1, "{bytes}");

    // Nothing is recorded here, so jemalloc is asked.
    is_close(Decoded::of(&dumped(Dump::begin(), Format::Pprof)).sum("inuse_space", "hoard::keep"));
    let text = String::from_utf8(dumped(Dump::begin(), Format::Json)).unwrap();
    assert!(text.contains("hoard/src/lib.rs") && text.contains("estimated by jemalloc: one byte in 4096"), "{text}");
    // What was read for the first one is large, and lives.
    assert!(!text.contains("gimli") && !text.contains("addr2line"), "reports do not report themselves: {text}");
    assert!(!text.contains("rjem") && !text.contains("__rust_alloc"), "the allocator itself is left out: {text}");

    // In its own form it is what jemalloc has written, in pieces or at once.
    let own = String::from_utf8(dumped(Dump::of_jemalloc(), Format::Heap)).unwrap();
    assert!(own.starts_with("heap_v2/4096\n") && own.contains("\nMAPPED_LIBRARIES:\n"), "{own}");
    let again = Dump::of_jemalloc().unwrap().write(Format::Heap, Vec::new()).unwrap();
    assert!(again.starts_with(b"heap_v2/4096\n"));

    // What is recorded here goes first, but it has another form.
    memory::record(Mode::Full).unwrap();
    let text = String::from_utf8(dumped(Dump::begin(), Format::Text)).unwrap();
    assert!(text.contains("all allocations since recording began"), "{text}");
    assert!(matches!(Dump::begin().unwrap().chunks(Format::Heap), Err(ReportError::Heap)));
    is_close(Decoded::of(&dumped(Dump::of_jemalloc(), Format::Pprof)).sum("inuse_space", "hoard::keep"));
    memory::stop();

    hoard::let_go();
    assert!(Decoded::of(&dumped(Dump::begin(), Format::Pprof)).sum("inuse_space", "hoard::keep") < 1 << 20);
}

#[test]
fn dumps_while_others_allocate_come_to_an_end() {
    with("prof:true,lg_prof_sample:12", "while_others_allocate");
}

#[test]
#[ignore = "is run with a profiler"]
fn while_others_allocate() {
    use std::sync::atomic::{AtomicBool, Ordering};

    if env::var_os(OPTIONS).is_none() {
        return;
    }

    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !ended.load(Ordering::Relaxed) {
                    std::hint::black_box((0..50).map(|size| vec![1_u8; size * 10]).collect::<Vec<_>>());
                }
            });
        }

        for _ in 0..10 {
            assert!(!dumped(Dump::of_jemalloc(), Format::Folded).is_empty());
        }

        ended.store(true, Ordering::Relaxed);
    });
}

#[test]
fn without_its_profiler_it_says_what_it_takes() {
    with("prof:false", "without_its_profiler");
}

#[test]
#[ignore = "is run without a profiler"]
fn without_its_profiler() {
    if env::var_os(OPTIONS).is_none() {
        return;
    }

    let error = Dump::of_jemalloc().unwrap_err();
    assert!(matches!(error, MemoryError::NotProfiled) && error.to_string().contains("_RJEM_MALLOC_CONF=prof:true"));
    assert!(matches!(Dump::begin(), Err(MemoryError::NotRecording)));

    // All else is as with any other allocator, and this one tells what it holds.
    let profile = AllocatorProfile::start().unwrap();

    for mode in [Mode::Full, Mode::SAMPLED] {
        let sampling = Sampling::start(&Options::new().mode(mode)).unwrap();
        hoard::keep(BLOCKS, SIZE);
        let sample = sampling.finish().unwrap();
        assert_eq!(sample.by_crate[0].name, "hoard", "{sample}");
        assert!(sample.by_location[0].name.ends_with(&format!("hoard/src/lib.rs:{}", hoard::LINE)), "{sample}");
    }

    let report = profile.stop().unwrap();
    let (before, after) = (report.before.totals.allocator.unwrap(), report.after.totals.allocator.unwrap());
    assert!(after.allocated - before.allocated >= 2 * (BLOCKS * SIZE) as u64, "{before:?} {after:?}");
    assert!(after.mapped >= after.allocated && after.free == after.mapped - after.allocated, "{after:?}");
}
