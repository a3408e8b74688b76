//! Profiles of programs of which it is known where their time goes.

#[path = "support/decoded.rs"]
mod decoded;

use std::{
    fs,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use async_container_diagnostics::{
    cpu::{CpuProfile, CpuProfileError, CpuSamples},
    report::Format,
    symbols::Symbols,
};
use decoded::Decoded;
use nix::{
    sys::signal::SigSet,
    time::{ClockId, clock_gettime},
};
use object::{Object, ObjectSegment, ObjectSymbol};

/// One profile at a time is all that there can be.
fn turn() -> MutexGuard<'static, ()> {
    static TURNS: Mutex<()> = Mutex::new(());
    TURNS.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// What a thread does until it is told to end.
type Work = fn(&AtomicBool);

/// Threads that run until this is dropped.
struct Threads {
    end: Arc<AtomicBool>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Threads {
    fn start(works: &[(&str, Work)]) -> Self {
        let end = Arc::new(AtomicBool::new(false));
        let threads = works.iter().map(|&(name, work)| {
            let end = end.clone();
            thread::Builder::new().name(name.to_owned()).spawn(move || work(&end)).unwrap()
        });
        Self { threads: threads.collect(), end }
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|thread| thread.join().unwrap());
    }
}

#[inline(never)]
fn burn(end: &AtomicBool) {
    while !end.load(Ordering::Relaxed) {
        std::hint::spin_loop();
    }
}

#[inline(never)]
fn idle(end: &AtomicBool) {
    while !end.load(Ordering::Relaxed) {
        thread::sleep(Duration::from_millis(5));
    }
}

/// How many samples have a function in their stack.
fn with(samples: &CpuSamples, function: &str) -> u64 {
    let has = |addresses: &[u64]| {
        let places = Symbols::shared().resolve(samples.unwinder().modules(), addresses);
        places.iter().any(|place| place.frames.iter().any(|frame| frame.function.contains(function)))
    };
    samples.stacks().filter(|(_, addresses, _)| has(addresses)).map(|(_, _, count)| count).sum()
}

#[test]
fn what_runs_is_seen_and_what_waits_is_not() {
    let _turn = turn();
    let _threads = Threads::start(&[("burning", burn), ("idling", idle)]);
    // Until it was seen often enough: on a machine that is busy with other tests, it gets little of the time.
    let start = Instant::now();

    loop {
        let samples = CpuProfile::new(Duration::from_millis(500)).frequency(200).take().unwrap();
        let burning = with(&samples, "cpu::burn");

        // A thread blocks all signals while it is being made, as those of other tests may be.
        if burning >= 10 && samples.notes().is_empty() {
            assert!(with(&samples, "cpu::idle") <= samples.count() / 10);
            assert!(samples.stacks().any(|(thread, ..)| thread == "burning"));
            let profile = samples.profile();
            let folded = String::from_utf8(profile.to_bytes(Format::Folded).unwrap()).unwrap();
            assert!(
                folded.lines().any(|line| line.starts_with("thread burning;") && line.contains("cpu::burn")),
                "{folded}"
            );
            return;
        }

        assert!(start.elapsed() < Duration::from_secs(20), "{samples:?}");
    }
}

/// What another program does that looks functions up itself.
#[test]
fn others_can_find_the_functions_by_what_a_profile_says_of_files() {
    let _turn = turn();
    let _threads = Threads::start(&[("burner", burn)]);
    let samples = CpuProfile::new(Duration::from_millis(300)).frequency(1000).take().unwrap();
    let decoded = Decoded::of(&samples.profile().to_bytes(Format::Pprof).unwrap());
    let string = |index: u64| decoded.strings[index as usize].as_str();
    let program = std::env::current_exe().unwrap();
    let contents = fs::read(&program).unwrap();
    let file = object::File::parse(&contents[..]).unwrap();

    assert_eq!(decoded.sum("samples", "cpu::burn"), with(&samples, "cpu::burn"));
    let first = &decoded.mappings[0];
    assert_eq!(string(first.file), program.to_str().unwrap());
    let build_id: Vec<u8> = (0..string(first.build_id).len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&string(first.build_id)[at..at + 2], 16).unwrap())
        .collect();
    assert_eq!(file.build_id().unwrap().unwrap_or_default(), build_id);

    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    for mapping in &decoded.mappings {
        let begin = format!("{:x}-{:x} r-xp {:08x} ", mapping.start, mapping.limit, mapping.offset);
        let line = maps.lines().find(|line| line.starts_with(&begin)).unwrap_or_else(|| panic!("{begin}: {maps}"));
        assert!(line.ends_with(string(mapping.file)), "{line}");
    }

    let burning = file.symbols().find(|symbol| symbol.name().is_ok_and(|name| name.contains("3cpu4burn"))).unwrap();
    let code = burning.address()..burning.address() + burning.size();
    let in_file = |&(mapping, address): &(u64, u64)| {
        let mapping = decoded.mappings.iter().find(|known| known.id == mapping)?;
        assert!((mapping.start..mapping.limit).contains(&address));
        let offset = address - mapping.start + mapping.offset;
        let segment = file.segments().find(|segment| {
            let (start, size) = segment.file_range();
            (start..start + size).contains(&offset)
        })?;
        (mapping.id == first.id).then(|| offset - segment.file_range().0 + segment.address())
    };
    assert!(decoded.addresses.iter().filter_map(in_file).any(|address| code.contains(&address)), "{decoded:?}");
}

#[test]
fn threads_that_begin_meanwhile_are_seen() {
    let _turn = turn();
    let profiling = thread::spawn(|| CpuProfile::new(Duration::from_secs(2)).take().unwrap());
    // That it has begun is not to be seen from outside. Were it late, the thread would be there from its beginning, and the
    // test would pass all the same.
    thread::sleep(Duration::from_millis(300));
    let threads = Threads::start(&[("late", burn)]);
    let samples = profiling.join().unwrap();
    drop(threads);
    assert!(with(&samples, "cpu::burn") > 0, "{samples:?}");
}

/// Blocks all signals until a profile has begun, as every thread does while it is being made; then burns a second.
#[inline(never)]
fn burn_once_made() {
    let all = SigSet::all();
    all.thread_block().unwrap();
    BLOCKED.store(true, Ordering::SeqCst);

    while !matches!(CpuProfile::new(Duration::ZERO).take(), Err(CpuProfileError::Busy)) {
        thread::sleep(Duration::from_millis(1));
    }

    // The profile has had its first look.
    thread::sleep(Duration::from_millis(150));
    all.thread_unblock().unwrap();
    let used = || Duration::from(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap());
    let end = used() + Duration::from_secs(1);

    while used() < end {
        std::hint::spin_loop();
    }
}

static BLOCKED: AtomicBool = AtomicBool::new(false);

#[test]
fn threads_that_block_the_signal_at_first_are_seen_later() {
    let _turn = turn();
    let burning = thread::Builder::new().name("made".to_owned()).spawn(burn_once_made).unwrap();

    while !BLOCKED.load(Ordering::SeqCst) {
        thread::yield_now();
    }

    let over = Arc::new(AtomicBool::new(false));
    let its = over.clone();
    let profiling = thread::spawn(move || {
        // The other one is in its way until it has begun.
        loop {
            match CpuProfile::new(Duration::from_secs(1000)).take_unless(&its) {
                Err(CpuProfileError::Busy) => thread::yield_now(),
                result => return result.unwrap(),
            }
        }
    });
    burning.join().unwrap();
    over.store(true, Ordering::SeqCst);
    let samples = profiling.join().unwrap();
    assert!(with(&samples, "burn_once_made") > 0, "{samples:?}");
    assert!(samples.stacks().any(|(thread, ..)| thread == "made"), "{samples:?}");
}

#[test]
fn one_that_is_cancelled_ends_and_leaves_no_timers() {
    let _turn = turn();
    let cancelled = Arc::new(AtomicBool::new(false));
    let its = cancelled.clone();
    let profiling = thread::spawn(move || {
        // Those below are in its way until it has begun.
        loop {
            match CpuProfile::new(Duration::from_secs(1000)).take_unless(&its) {
                Err(CpuProfileError::Busy) => thread::yield_now(),
                result => return result.unwrap(),
            }
        }
    });

    while CpuProfile::new(Duration::ZERO).take().is_ok() {
        assert!(!profiling.is_finished());
        thread::yield_now();
    }

    assert!(matches!(CpuProfile::new(Duration::ZERO).take(), Err(CpuProfileError::Busy)));
    cancelled.store(true, Ordering::Relaxed);
    assert!(profiling.join().unwrap().duration < Duration::from_secs(100));
    // Where the kernel lists them.
    if let Ok(timers) = std::fs::read_to_string("/proc/self/timers") {
        assert_eq!(timers, "");
    }
}

#[test]
fn one_that_follows_a_cancelled_one_is_not_refused() {
    let _turn = turn();

    for _ in 0..5 {
        let cancelled = Arc::new(AtomicBool::new(false));
        let its = cancelled.clone();
        let first = thread::spawn(move || {
            // Those below are in its way until it has begun.
            while let Err(CpuProfileError::Busy) = CpuProfile::new(Duration::from_secs(1000)).take_unless(&its) {}
        });

        while CpuProfile::new(Duration::ZERO).take().is_ok() {
            assert!(!first.is_finished());
        }

        cancelled.store(true, Ordering::Relaxed);
        CpuProfile::new(Duration::from_millis(1)).take().expect("the other one is about to end");
        first.join().unwrap();
    }
}

#[test]
fn a_frequency_that_cannot_be_had_is_refused() {
    let _turn = turn();

    for frequency in [0, 1001] {
        let result = CpuProfile::new(Duration::ZERO).frequency(frequency).take();
        assert!(matches!(result, Err(CpuProfileError::Frequency { .. })));
    }
}
