//! Measures dumps of two hundred threads, from within and from outside, and prints what it took in nanoseconds as JSON, for
//! `cargo xtask bench diagnostics`.

#![deny(unsafe_code)]

mod empty_handler;

use std::{
    collections::HashMap,
    fs,
    io::{BufRead, BufReader},
    process::{Command, ExitCode, Stdio},
    sync::{
        Arc, Barrier,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use async_container_supervisor::diagnostics::{
    external::ExternalDump,
    threads::{Options, Thread, ThreadDump},
};

const THREADS: usize = 200;
const ROUNDS: usize = 25;
const DEPTHS: usize = 40;

/// Threads that run all the time, and copy their stacks themselves. With more, each would wait long for a processor.
const RUNNING: &str = "running";
const COUNT_RUNNING: usize = 2;

/// Dumps whose handlers measure themselves: so many that one in a hundred of all their handlers are two hundred.
const MEASURED: usize = 100;

type Error = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    let result = match std::env::args().nth(1).as_deref() {
        Some("child") => child(),
        _ => measure(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Does something at the end of stacks of different depths.
#[inline(never)]
fn descend(depth: usize, work: &dyn Fn()) {
    let local = std::hint::black_box([depth; 32]);
    if depth == 0 {
        work();
    } else {
        descend(depth - 1, work);
    }
    std::hint::black_box(local);
}

fn crowd() -> Arc<Barrier> {
    let barrier = Arc::new(Barrier::new(THREADS + 1));
    for number in 0..THREADS {
        let barrier = barrier.clone();
        thread::spawn(move || {
            descend(number % DEPTHS, &|| {
                barrier.wait();
            })
        });
    }
    barrier
}

fn child() -> Result<(), Error> {
    let _barrier = crowd();
    settle(|| Ok(ThreadDump::take()?))?;
    println!("ready");
    thread::sleep(Duration::from_secs(1000));
    Ok(())
}

/// Takes dumps until all threads are where they are to be.
fn settle(take: impl Fn() -> Result<ThreadDump, Error>) -> Result<ThreadDump, Error> {
    loop {
        let dump = take()?;
        let waits = |thread: &Thread| {
            thread.state == "sleeping" && thread.frames.iter().any(|frame| frame.function.contains("wait"))
        };
        if dump.threads.iter().filter(|thread| waits(thread)).count() >= THREADS {
            return Ok(dump);
        }
        thread::sleep(Duration::from_millis(20));
    }
}

fn measure() -> Result<(), Error> {
    let start = Instant::now();
    ThreadDump::take()?;
    let first = start.elapsed();

    let _barrier = crowd();
    let settled = settle(|| Ok(ThreadDump::take()?))?;
    let (mut whole, mut copying) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let start = Instant::now();
        let dump = ThreadDump::take()?;
        whole.push(start.elapsed().as_secs_f64());
        copying.push(dump.duration);
    }

    let (mut cpu, mut wall, mut all) = (Vec::new(), Vec::new(), Vec::new());
    let mut floor = Vec::new();
    let signal = empty_handler::install()?;
    let crowd: Vec<i32> = settled.threads.iter().skip(1).map(|thread| thread.id.cast_signed()).collect();
    for _ in 0..MEASURED {
        // In between, so that whatever else the machine does meets both alike.
        cpu_times()?;
        floor.append(&mut empty_handler::run(signal, &crowd)?);
        let before = cpu_times()?;
        let dump = Options::new().measure_stops().take()?;
        let after = cpu_times()?;
        for thread in &dump.threads {
            let Some(stop) = thread.stop else { continue };
            // To ask for the processor time takes two system calls, in which the thread may lose the processor and which count what
            // others do to it there. What happens between them was not longer than it took on the wall.
            cpu.push(stop.cpu_time.min(stop.duration));
            wall.push(stop.duration);
            if let (Some(before), Some(after)) = (before.get(&thread.id), after.get(&thread.id)) {
                all.push(after - before);
            }
        }
    }
    if cpu.len() < MEASURED * THREADS {
        return Err(format!("only {} handlers measured themselves", cpu.len()).into());
    }

    let running = measure_running()?;

    let mut child = Command::new(std::env::current_exe()?).arg("child").stdout(Stdio::piped()).spawn()?;
    let mut line = String::new();
    BufReader::new(child.stdout.take().ok_or("the child has no output")?).read_line(&mut line)?;
    let (mut outside, mut stopped) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let start = Instant::now();
        let dump = ExternalDump::new(child.id()).take()?;
        outside.push(start.elapsed().as_secs_f64());
        stopped.push(dump.duration);
    }
    child.kill()?;
    child.wait()?;

    println!(
        r#"{{"first": {}, "whole": {}, "copying": {}, "cpu": {}, "floor": {}, "running": {}, "wall": {}, "all": {}, "outside": {}, "stopped": {}}}"#,
        first.as_secs_f64() * 1e9,
        median(whole),
        median(copying),
        spread(cpu),
        spread(floor),
        spread(running),
        spread(wall),
        spread(all),
        median(outside),
        median(stopped),
    );
    Ok(())
}

/// What the handler takes of a thread that runs, at the end of the deepest of the stacks, in seconds.
fn measure_running() -> Result<Vec<f64>, Error> {
    let end = Arc::new(AtomicBool::new(false));
    let threads: Vec<_> = (0..COUNT_RUNNING)
        .map(|_| {
            let end = end.clone();
            let work = move || {
                descend(DEPTHS - 1, &|| {
                    while !end.load(Ordering::Relaxed) {
                        std::hint::spin_loop();
                    }
                });
            };
            thread::Builder::new().name(RUNNING.to_owned()).spawn(work)
        })
        .collect::<Result<_, _>>()?;
    let mut taken = Vec::new();

    while taken.len() < 3 * MEASURED * COUNT_RUNNING {
        let dump = Options::new().measure_stops().take()?;
        let stops = dump.threads.iter().filter(|thread| thread.name == RUNNING).filter_map(|thread| thread.stop);
        taken.extend(stops.map(|stop| stop.cpu_time.min(stop.duration)));
    }

    end.store(true, Ordering::Relaxed);
    for thread in threads {
        thread.join().map_err(|_| "a thread that runs has panicked")?;
    }
    Ok(taken)
}

/// The processor time of each thread, in seconds, as the kernel counts it.
fn cpu_times() -> Result<HashMap<u32, f64>, Error> {
    let mut times = HashMap::new();
    for task in fs::read_dir("/proc/self/task")? {
        let task = task?;
        let id = task.file_name().to_string_lossy().parse()?;
        let text = fs::read_to_string(task.path().join("schedstat"))?;
        let nanoseconds: f64 = text.split(' ').next().unwrap_or_default().parse()?;
        times.insert(id, nanoseconds / 1e9);
    }
    Ok(times)
}

/// The median, what one in a hundred exceeds, and the most, in nanoseconds, as JSON.
fn spread(mut seconds: Vec<f64>) -> String {
    seconds.sort_by(f64::total_cmp);
    let at = |place: usize| seconds[place.min(seconds.len() - 1)] * 1e9;
    format!("[{}, {}, {}]", at(seconds.len() / 2), at(seconds.len() * 99 / 100), at(seconds.len()))
}

/// In nanoseconds.
fn median(mut seconds: Vec<f64>) -> f64 {
    seconds.sort_by(f64::total_cmp);
    seconds[seconds.len() / 2] * 1e9
}
