//! Measures dumps of two hundred threads, from within and from outside, and prints what it took in nanoseconds as JSON, for
//! `cargo xtask bench diagnostics`.

#![forbid(unsafe_code)]

use std::{
    io::{BufRead, BufReader},
    process::{Command, ExitCode, Stdio},
    sync::{Arc, Barrier},
    thread,
    time::{Duration, Instant},
};

use async_container_supervisor::diagnostics::{
    external::ExternalDump,
    threads::{Thread, ThreadDump},
};

const THREADS: usize = 200;
const ROUNDS: usize = 25;

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

/// Waits in stacks of different depths.
#[inline(never)]
fn wait(depth: usize, barrier: &Barrier) {
    let local = std::hint::black_box([depth; 32]);
    if depth == 0 {
        barrier.wait();
    } else {
        wait(depth - 1, barrier);
    }
    std::hint::black_box(local);
}

fn crowd() -> Arc<Barrier> {
    let barrier = Arc::new(Barrier::new(THREADS + 1));
    for number in 0..THREADS {
        let barrier = barrier.clone();
        thread::spawn(move || wait(number % 40, &barrier));
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
fn settle(take: impl Fn() -> Result<ThreadDump, Error>) -> Result<(), Error> {
    loop {
        let dump = take()?;
        let waits = |thread: &Thread| {
            thread.state == "sleeping" && thread.frames.iter().any(|frame| frame.function.contains("wait"))
        };
        if dump.threads.iter().filter(|thread| waits(thread)).count() >= THREADS {
            return Ok(());
        }
        thread::sleep(Duration::from_millis(20));
    }
}

fn measure() -> Result<(), Error> {
    let start = Instant::now();
    ThreadDump::take()?;
    let first = start.elapsed();

    let _barrier = crowd();
    settle(|| Ok(ThreadDump::take()?))?;
    let (mut whole, mut copying, mut stops) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let start = Instant::now();
        let dump = ThreadDump::take()?;
        whole.push(start.elapsed().as_secs_f64());
        copying.push(dump.duration);
        stops.push(dump.longest_stop);
    }

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
        r#"{{"first": {}, "whole": {}, "copying": {}, "stop": {}, "outside": {}, "stopped": {}}}"#,
        first.as_secs_f64() * 1e9,
        median(whole),
        median(copying),
        median(stops),
        median(outside),
        median(stopped),
    );
    Ok(())
}

/// In nanoseconds.
fn median(mut seconds: Vec<f64>) -> f64 {
    seconds.sort_by(f64::total_cmp);
    seconds[seconds.len() / 2] * 1e9
}
