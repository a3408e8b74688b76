//! Dumps of threads that do what threads do when something is wrong.

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    sync::{
        Arc, Barrier, Mutex,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use async_container_diagnostics::threads::{Options, Thread, ThreadDump};

/// Takes dumps until a thread is as it should be: it needs a moment to come to where it is to be seen.
fn wait_for(name: &str, wanted: impl Fn(&Thread) -> bool) -> (ThreadDump, Thread) {
    let start = Instant::now();

    loop {
        let dump = ThreadDump::take().unwrap();
        let found = dump.threads.iter().find(|thread| thread.name == name);

        if let Some(found) = found.filter(|thread| wanted(thread)).cloned() {
            return (dump, found);
        }

        assert!(start.elapsed() < Duration::from_secs(20), "{found:#?} in\n{dump}");
        thread::yield_now();
    }
}

/// Waits until so many threads have their name, which they give themselves.
fn wait_for_all(name: &str, count: usize) {
    while ThreadDump::take().unwrap().threads.iter().filter(|thread| thread.name == name).count() < count {
        thread::yield_now();
    }
}

fn has(thread: &Thread, function: &str) -> bool {
    thread.frames.iter().any(|frame| frame.function.contains(function))
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> thread::JoinHandle<()> {
    thread::Builder::new().name(name.to_owned()).spawn(work).unwrap()
}

#[inline(never)]
fn lock_second_after_first(first: &Mutex<()>, second: &Mutex<()>, both: &Barrier) {
    let _first = first.lock();
    both.wait();
    drop(second.lock());
}

#[test]
fn a_deadlock_of_two_mutexes_is_named() {
    let (one, other) = (Arc::new(Mutex::new(())), Arc::new(Mutex::new(())));
    let both = Arc::new(Barrier::new(2));

    for (name, first, second) in [("deadlock-1", &one, &other), ("deadlock-2", &other, &one)] {
        let (first, second, both) = (first.clone(), second.clone(), both.clone());
        spawn(name, move || lock_second_after_first(&first, &second, &both));
    }

    for name in ["deadlock-1", "deadlock-2"] {
        let (dump, thread) = wait_for(name, |thread| {
            has(thread, "lock_second_after_first")
                && thread.waits_for.as_deref().is_some_and(|what| what.starts_with("a mutex"))
        });
        assert_eq!(thread.state, "sleeping");
        let frame = thread.frames.iter().find(|frame| frame.function.contains("lock_second_after_first")).unwrap();
        assert!(frame.file.as_deref().unwrap().ends_with("tests/threads.rs"), "{frame:?}");
        assert!(!thread.cut_off, "{dump}");
    }
}

#[inline(never)]
fn spin_until(end: &AtomicBool) {
    while !end.load(Ordering::Relaxed) {
        std::hint::spin_loop();
    }
}

#[test]
fn a_spin_is_named() {
    let end = Arc::new(AtomicBool::new(false));
    let its = end.clone();
    let spinning = spawn("spinning", move || spin_until(&its));

    let (_, thread) =
        wait_for("spinning", |thread| has(thread, "spin_until") && thread.state == "running" && thread.cpu_time > 0.01);
    assert_eq!(thread.waits_for, None);
    assert_eq!(thread.note, None);
    end.store(true, Ordering::Relaxed);
    spinning.join().unwrap();
}

#[test]
fn a_read_that_is_interrupted_goes_on_and_is_named_with_its_file() {
    let (mut one, mut other) = UnixStream::pair().unwrap();
    let reading = spawn("reading", move || {
        let mut buffer = [0; 4];
        // The standard library would hide an interruption from `read_exact`, so this is one call.
        assert_eq!(one.read(&mut buffer).unwrap(), 4);
    });

    for _ in 0..20 {
        let (_, thread) = wait_for("reading", |thread| {
            thread.waits_for.as_deref().is_some_and(|what| what.contains("data from descriptor"))
        });
        let what = thread.waits_for.as_deref().unwrap();
        assert!(what.contains("socket"), "{what}");
        assert!(has(&thread, "UnixStream"), "{thread:#?}");
    }

    other.write_all(b"done").unwrap();
    reading.join().unwrap();
}

#[test]
fn a_sleep_is_as_long_as_it_was_to_be() {
    let slept = Arc::new(Mutex::new(Duration::ZERO));
    let its = slept.clone();
    let sleeping = spawn("napping", move || {
        let start = Instant::now();
        thread::sleep(Duration::from_millis(200));
        *its.lock().unwrap() = start.elapsed();
    });

    while !sleeping.is_finished() {
        ThreadDump::take().unwrap();
    }

    sleeping.join().unwrap();
    assert!(*slept.lock().unwrap() >= Duration::from_millis(200));
}

#[test]
fn a_thread_that_blocks_the_signal_is_told_of_by_proc() {
    let (end, ended) = mpsc::channel::<()>();
    let (ready, is_ready) = mpsc::channel();
    let deaf = spawn("deaf", move || {
        nix::sys::signal::SigSet::all().thread_block().unwrap();
        ready.send(()).unwrap();
        let _ = ended.recv();
    });
    is_ready.recv().unwrap();

    let (_, thread) = wait_for("deaf", |thread| thread.state == "sleeping" && thread.system_call.is_some());
    assert!(thread.note.as_deref().unwrap().contains("blocks the signal"));
    assert!(!thread.frames.is_empty(), "{thread:#?}");
    drop(end);
    deaf.join().unwrap();
}

#[test]
fn five_hundred_threads_are_all_there() {
    let barrier = Arc::new(Barrier::new(501));
    let threads: Vec<_> = (0..500)
        .map(|_| {
            let barrier = barrier.clone();
            spawn("crowd", move || {
                barrier.wait();
            })
        })
        .collect();

    wait_for_all("crowd", 500);
    let dump = ThreadDump::take().unwrap();
    let crowd: Vec<_> = dump.threads.iter().filter(|thread| thread.name == "crowd").collect();
    assert_eq!(crowd.len(), 500);
    assert!(crowd.iter().all(|thread| !thread.frames.is_empty()), "{dump}");
    assert!(dump.to_string().lines().count() < 2000, "threads that do the same are shown once");
    barrier.wait();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

#[test]
fn dumps_under_allocation_pressure_end() {
    let end = Arc::new(AtomicBool::new(false));
    let threads: Vec<_> = (0..8)
        .map(|_| {
            let end = end.clone();
            spawn("allocating", move || {
                let mut kept: Vec<Vec<u8>> = Vec::new();

                while !end.load(Ordering::Relaxed) {
                    kept.push(vec![1; kept.len() * 97 % 4096 + 1]);
                    if kept.len() == 100 {
                        kept.clear();
                        // Eight of them on two processors: the next one is to have its turn soon.
                        thread::yield_now();
                    }
                }
            })
        })
        .collect();

    wait_for_all("allocating", 8);

    for _ in 0..300 {
        let dump = Options::new().deadline(Duration::from_secs(5)).take().unwrap();
        assert!(dump.threads.iter().filter(|thread| thread.name == "allocating").count() == 8);
    }

    end.store(true, Ordering::Relaxed);
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

#[test]
fn dumps_at_the_same_time_come_one_after_the_other() {
    let threads: Vec<_> = (0..4).map(|_| thread::spawn(|| ThreadDump::take().unwrap())).collect();

    for dump in threads.into_iter().map(|thread| thread.join().unwrap()) {
        assert!(dump.threads.iter().filter(|thread| thread.note.as_deref() == Some("took this dump")).count() == 1);
    }
}
