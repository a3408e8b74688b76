//! Samples and dumps of the memory of this very program.

#[path = "support/alone.rs"]
mod alone;
#[path = "support/decoded.rs"]
mod decoded;

use std::{
    hint::black_box,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use alone::alone;
use async_container_diagnostics::{
    memory::{self, Allocator, AllocatorProfile, Dump, MemoryError, Mode, Options, Sampling},
    report::Format,
    threads::ThreadDump,
};
use decoded::Decoded;

#[global_allocator]
static ALLOCATOR: Allocator = Allocator::system();

/// Allocates and frees, and keeps little, until it is told to end.
fn churn(ended: &AtomicBool) {
    let mut kept = Vec::new();

    for round in 0_usize.. {
        if ended.load(Ordering::Relaxed) {
            break;
        }

        let mut block = Vec::with_capacity(16 + round % 5000);
        block.push(round);
        block.resize(round % 9000, 1);
        black_box(&block);

        if round % 1000 == 0 && kept.len() < 100 {
            kept.push(block);
        }

        // Others are to get on, too, where there are fewer processors than threads.
        thread::yield_now();
    }
}

fn with_churn<T>(threads: usize, work: impl FnOnce() -> T) -> T {
    struct End<'a>(&'a AtomicBool);

    impl Drop for End<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    let ended = AtomicBool::new(false);
    thread::scope(|scope| {
        let _end = End(&ended);
        for _ in 0..threads {
            scope.spawn(|| churn(&ended));
        }
        work()
    })
}

#[test]
fn a_leak_in_a_dependency_comes_first() {
    let _alone = alone();
    let line = format!("hoard/src/lib.rs:{}", hoard::LINE);
    let options = |mode| Options::new().mode(mode);

    with_churn(1, || {
        for run in 0..20 {
            for mode in [Mode::SAMPLED, Mode::Full] {
                let sampling = Sampling::start(&options(mode)).unwrap();
                hoard::keep(5000, 8 << 10);
                let sample = sampling.finish().unwrap();
                hoard::let_go();

                assert_eq!(sample.mode, mode);
                assert_eq!(sample.by_crate[0].name, "hoard", "run {run}: {sample}");
                assert!(sample.by_location[0].name.ends_with(&line), "run {run}: {sample}");
                assert!(sample.by_file[0].name.ends_with("hoard/src/lib.rs"), "run {run}: {sample}");
                assert!(sample.by_type[0].name.starts_with("Vec"), "run {run}: {sample}");

                let retained = sample.by_location[0].retained;
                let truth = 5000.0 * 8192.0;

                if mode == Mode::Full {
                    assert_eq!((retained.bytes, retained.count, retained.error), (truth as u64, 5000, None));
                } else {
                    let error = retained.error.expect("an estimate says how far it is off");
                    assert!((0.05..0.3).contains(&error), "{error}");
                    // Once in a billion runs further off than that.
                    assert!((retained.bytes as f64 - truth).abs() < 6.5 * error * truth, "{sample}");
                }
            }
        }
    });
}

#[test]
fn what_a_crate_of_a_registry_keeps_is_its_own() {
    let _alone = alone();
    let text = format!("[{}0]", "{\"name\": \"value that is long enough\", \"list\": [1, 2, 3]},".repeat(2000));
    let sampling = Sampling::start(&Options::new().mode(Mode::Full)).unwrap();
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    let sample = sampling.finish().unwrap();
    assert!(sample.by_crate[0].name.starts_with("serde_json-1."), "{sample}");
    assert!(sample.by_location[0].name.starts_with("serde_json-1."), "{sample}");
    assert!(sample.by_location[0].name.contains(".rs:"), "{sample}");
    assert!(sample.by_type.iter().any(|row| row.name.starts_with("BTreeMap")), "{sample}");
    drop(value);
}

#[test]
fn what_was_freed_is_allocated_and_not_retained() {
    let _alone = alone();
    let sampling = Sampling::start(&Options::new().mode(Mode::Full)).unwrap();
    let before = black_box(vec![1_u8; 100_001]);
    let mut grown = black_box(vec![1_u8; 10]);
    grown.reserve_exact(70_000);
    let zeroed = black_box(vec![0_u8; 50_003]);
    drop(before);
    let sample = sampling.finish().unwrap();
    let own: Vec<_> = sample.by_location.iter().filter(|row| row.name.contains("tests/memory.rs")).collect();
    let allocated = |bytes| own.iter().find(|row| row.allocated.bytes == bytes).unwrap_or_else(|| panic!("{sample}"));
    assert_eq!(allocated(100_001).retained.bytes, 0);
    assert_eq!(allocated(10).retained.count, 0, "it is another block now");
    assert_eq!(allocated(70_010).retained.bytes, 70_010);
    assert_eq!(allocated(50_003).retained.count, 1);
    drop((grown, zeroed));

    for row in &sample.by_location {
        assert!(row.retained.bytes <= row.allocated.bytes, "{row:?}");
    }
}

#[test]
fn what_was_there_before_is_not_in_a_sample() {
    let _alone = alone();
    memory::record(Mode::Full).unwrap();
    let before = black_box(vec![1_u8; 1_000_000]);
    let sampling = Sampling::start(&Options::new()).unwrap();
    let within = black_box(vec![1_u8; 1_000]);
    drop(before);
    let sample = sampling.finish().unwrap();
    assert!(sample.total_allocated.bytes < 500_000, "{sample}");
    assert!(sample.notes.iter().any(|note| note.contains("took part")), "{sample}");
    assert_eq!(memory::recording(), Some(Mode::Full), "it was there before, and goes on");
    assert!(matches!(memory::record(Mode::SAMPLED), Err(MemoryError::Recording { .. })));
    memory::stop();
    assert_eq!(memory::recording(), None);
    drop(within);
}

#[test]
fn several_samples_share_and_the_last_one_ends_it() {
    let _alone = alone();
    let options = Options::new().mode(Mode::Full);
    let first = Sampling::start(&options).unwrap();
    let one = black_box(vec![1_u8; 30_001]);
    let second = Sampling::start(&options).unwrap();
    let two = black_box(vec![1_u8; 20_001]);
    let has = |sample: &memory::MemorySample, bytes| sample.by_location.iter().any(|row| row.retained.bytes == bytes);
    let first = first.finish().unwrap();
    assert!(has(&first, 30_001) && has(&first, 20_001), "{first}");
    assert_eq!(memory::recording(), Some(Mode::Full));
    // Who asked for another mode is told; who asked for none has got what there is.
    let another = Sampling::start(&Options::new().mode(Mode::SAMPLED)).unwrap().finish().unwrap();
    assert!(another.notes.iter().any(|note| note.contains("not in the mode that was asked for")), "{another}");
    let any = Sampling::start(&Options::new()).unwrap().finish().unwrap();
    assert_eq!(any.mode, Mode::Full);
    assert!(any.notes.iter().all(|note| !note.contains("asked for")), "{any}");
    let second = second.finish().unwrap();
    assert!(!has(&second, 30_001) && has(&second, 20_001), "{second}");
    assert_eq!(memory::recording(), None);
    drop((one, two));
}

#[test]
fn a_sample_of_nothing_says_what_would_show_more() {
    let _alone = alone();
    // One in so many bytes that whatever a test allocates beside is not among them.
    let mode = Mode::Sampled { rate: Mode::LARGEST_RATE };
    let sample = Sampling::start(&Options::new().mode(mode)).unwrap().finish().unwrap();
    let text = sample.to_string();
    assert!(text.contains("note: nothing of what was allocated was sampled") && text.contains("mode=full"), "{text}");
    assert!(!text.contains("by crate"), "lists without a row are left out: {text}");
}

#[test]
fn a_sample_that_is_given_up_leaves_nothing() {
    let _alone = alone();
    let held = || memory::Totals::now().unwrap().allocator.map(|totals| totals.allocated);
    // What is set up once, and stays.
    drop(Sampling::start(&Options::new().mode(Mode::Full)).unwrap());
    let before = held();
    let sampling = Sampling::start(&Options::new().mode(Mode::Full)).unwrap();
    let blocks: Vec<Vec<u8>> = (0..50_000).map(|_| vec![1; 10]).collect();
    drop(blocks);
    let meanwhile = held();
    drop(sampling);
    assert_eq!(memory::recording(), None);

    if let (Some(before), Some(meanwhile), Some(after)) = (before, meanwhile, held()) {
        assert!(meanwhile > before + 1_000_000, "the recorder has its tables: {before} {meanwhile}");
        assert!(after < before + 300_000, "and gives them back: {before} {meanwhile} {after}");
    }
}

#[test]
fn dumps_are_what_lives_in_every_format() {
    let _alone = alone();
    assert!(matches!(Dump::begin(), Err(MemoryError::NotRecording)));
    memory::record(Mode::Full).unwrap();
    hoard::keep(1000, 4000);
    let write = |format| Dump::begin().unwrap().write(format, Vec::new()).unwrap();
    let decoded = Decoded::of(&write(Format::Pprof));
    let json: serde_json::Value = serde_json::from_slice(&write(Format::Json)).unwrap();
    let folded = String::from_utf8(write(Format::Folded)).unwrap();
    let text = String::from_utf8(write(Format::Text)).unwrap();
    let svg = String::from_utf8(write(Format::Svg)).unwrap();
    hoard::let_go();
    let after = Decoded::of(&write(Format::Pprof));
    memory::stop();

    assert_eq!(decoded.strings[0], "");
    assert_eq!(decoded.sum("inuse_objects", "hoard::keep"), 1001);
    assert_eq!(decoded.sum("inuse_space", "hoard::keep"), 4_000_000 + 24_000);
    assert_eq!(after.sum("inuse_space", "hoard::keep"), 0);
    assert!(json["totals"]["resident"].as_u64().unwrap() > 4_000_000, "{json}");
    assert!(json["totals"]["allocator_allocated"].as_u64().is_none_or(|bytes| bytes > 4_000_000), "{json}");
    let stacks = json["stacks"].as_array().unwrap();
    let own = stacks.iter().filter(|stack| stack["frames"].to_string().contains("hoard::keep"));
    assert_eq!(own.map(|stack| stack["values"][1].as_u64().unwrap()).sum::<u64>(), 4_024_000);
    assert!(folded.lines().any(|line| line.contains("hoard::keep") && line.ends_with(" 4000000")), "{folded}");
    assert!(text.contains("hoard::keep") && text.contains("resident"), "{text}");
    assert!(svg.contains("hoard::keep"));
}

#[test]
fn samples_are_in_every_format() {
    let _alone = alone();
    let sampling = Sampling::start(&Options::new().mode(Mode::Full)).unwrap();
    hoard::keep(10, 10_000);
    let sample = sampling.finish().unwrap();
    hoard::let_go();
    let write = |format| sample.write(format, Vec::new()).unwrap();
    let json: serde_json::Value = serde_json::from_slice(&write(Format::Json)).unwrap();
    assert_eq!(json["mode"], "full");
    assert_eq!(json["by_crate"][0]["name"], "hoard");
    assert_eq!(json["by_location"][0]["retained"]["bytes"], 100_000);
    assert_eq!(json["by_location"][0]["retained"].get("error"), None);
    assert!(json["duration"].as_f64().unwrap() > 0.0);
    assert!(json["notes"].is_array());
    assert_eq!(Decoded::of(&write(Format::Pprof)).sum("inuse_space", "hoard::keep"), 100_240);
    let folded = String::from_utf8(write(Format::Folded)).unwrap();
    assert!(folded.lines().any(|line| line.contains("hoard::keep") && line.ends_with(" 100000")), "{folded}");
    assert!(String::from_utf8(write(Format::Svg)).unwrap().contains("<svg"));
    let text = sample.to_string();
    assert!(text.contains("by crate") && text.contains("100 kB"), "{text}");
}

#[test]
fn dumps_under_pressure_never_hang_or_crash() {
    let _alone = alone();
    memory::record(Mode::Full).unwrap();
    with_churn(8, || {
        for number in 0..300 {
            let dump = Dump::begin().unwrap();

            match number % 3 {
                0 => dump.chunks(Format::Pprof).unwrap().for_each(|chunk| assert!(chunk.unwrap().len() <= Dump::CHUNK)),
                1 => drop(dump.write(Format::Folded, std::io::sink()).unwrap()),
                // One that nobody waits for any more.
                _ => drop(dump.chunks(Format::Json).unwrap().next()),
            }

            if number % 50 == 0 {
                drop(Sampling::start(&Options::new()).unwrap().finish().unwrap());
            }
        }
    });
    memory::stop();
    assert_eq!(memory::recording(), None);
}

#[test]
fn recording_may_begin_and_end_at_any_time() {
    let _alone = alone();
    with_churn(4, || {
        for number in 0..200 {
            let mode = if number % 2 == 0 { Mode::Full } else { Mode::Sampled { rate: 1000 } };
            let sampling = Sampling::start(&Options::new().mode(mode)).unwrap();
            black_box(vec![1_u8; 5000]);
            drop(sampling);
            assert_eq!(memory::recording(), None);
        }
    });
}

#[test]
fn what_threads_leave_is_counted_after_their_end() {
    let _alone = alone();
    let sampling = Sampling::start(&Options::new().mode(Mode::Full)).unwrap();
    let blocks: Vec<_> = (0..20).map(|_| thread::spawn(|| black_box(vec![7_u8; 12_345])).join().unwrap()).collect();
    // Destructors of what belongs to a thread allocate, too.
    struct AtEnd(Vec<u8>);
    impl Drop for AtEnd {
        fn drop(&mut self) {
            self.0 = black_box(vec![1; 54_321]);
        }
    }
    thread_local!(static AT_END: std::cell::RefCell<AtEnd> = const { std::cell::RefCell::new(AtEnd(Vec::new())) });
    thread::spawn(|| AT_END.with_borrow_mut(|at_end| at_end.0.push(1))).join().unwrap();
    let sample = sampling.finish().unwrap();
    let blocks_of_threads = sample.by_location[0].retained.bytes;
    assert!((20 * 12_345..20 * 12_345 + 10_000).contains(&blocks_of_threads), "{sample}");
    assert!(sample.by_location.iter().any(|row| row.allocated.bytes == 54_321), "{sample}");
    drop(blocks);
}

#[test]
fn the_allocator_is_profiled() {
    let _alone = alone();
    let profile = AllocatorProfile::start().unwrap();
    let second = AllocatorProfile::start().unwrap();
    let kept: Vec<Vec<u8>> = (0..1000).map(|_| black_box(vec![1; 5000])).collect();
    (0..1000).for_each(|_| drop(black_box(vec![1_u8; 100])));
    let report = profile.stop().unwrap();
    let counts = report.counts.unwrap();
    assert!((2000..5000).contains(&counts.allocations), "{report}");
    assert!((1000..4000).contains(&counts.frees), "{report}");
    assert!((5_000_000..6_000_000).contains(&report.growth.unwrap()), "{report}");
    assert!(report.resident_change > 3_000_000, "{report}");
    assert!(report.minor_faults > 500, "{report}");
    assert!(report.after.fragmentation.is_none_or(|part| (0.0..=1.0).contains(&part)), "{report}");
    let json = serde_json::to_value(&report).unwrap();
    assert!(json["after"]["process"]["resident"].as_u64().unwrap() > 5_000_000, "{json}");
    assert!(second.stop().unwrap().counts.unwrap().allocations >= 2000);
    drop(kept);
}

#[test]
fn reports_do_not_report_themselves() {
    let _alone = alone();
    let sampling = Sampling::start(&Options::new().mode(Mode::Full)).unwrap();
    memory::record(Mode::Full).unwrap();
    // Of whatever they are: when a process is about to be killed, several are made at once.
    drop(ThreadDump::take().unwrap());
    drop(Dump::begin().unwrap().write(Format::Pprof, Vec::new()).unwrap());
    let sample = sampling.finish().unwrap();
    memory::stop();
    let of_reports =
        |name: &str| ["symbols", "report", "addr2line", "gimli", "prost"].iter().any(|part| name.contains(part));
    assert!(!sample.by_location.iter().any(|row| of_reports(&row.name)), "{sample}");
}
