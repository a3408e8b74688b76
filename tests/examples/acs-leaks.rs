//! Workers that can be asked to misbehave, and monitors that watch them: `acs-leaks SCENARIO`

#![forbid(unsafe_code)]

use std::{
    convert::Infallible,
    io::Read as _,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{Mutex, MutexGuard},
    time::Duration,
};

use async_container_supervisor::{
    Application, BoxError, Command, Instance, Service,
    monitors::{Destination, HealthMonitor, MemoryMonitor},
    protocol::{Failure, Operations},
};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep_until};

const MEBIBYTE: u64 = 1 << 20;

/// Where a worker ends by itself: what would be the limit of its container.
const HARD_LIMIT: usize = 1 << 30;
const HARD_LIMIT_STATUS: i32 = 99;

/// What was leaked.
static LEAKED: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());

fn main() -> ExitCode {
    let scenario = std::env::args().nth(1).unwrap_or_default();
    let is_stubborn = scenario == "stubborn";
    let watches_health = scenario == "health";
    if scenario == "cramped" {
        // What each process needs, before anybody can look at it.
        leaked().push(vec![1; 64 << 20]);
    }
    let count = if scenario == "pressed" { 2 } else { 1 };
    let service = match scenario.as_str() {
        // The worker is what a program starts that is none itself.
        "wrapped" => {
            let script = "python3 worker.py large & python3 worker.py & wait";
            Service::command("worker", Command::new("sh").arguments(["-c", script])).count(1)
        }
        _ => Service::new("worker", move |instance| work(instance, is_stubborn)).count(count).supervised(),
    };
    Application::new("leaks")
        .graceful_stop(Duration::from_secs(1))
        .service(service)
        .worker(|_, worker| worker.operations(operations()))
        .supervisor(move |supervisor| match watches_health {
            true => supervisor.monitor(health()),
            false => supervisor.monitor(memory(&scenario)),
        })
        .run()
}

fn memory(scenario: &str) -> MemoryMonitor {
    let memory = MemoryMonitor::new().interval(Duration::from_millis(500));
    match scenario {
        "large" | "stubborn" => memory.maximum_size_limit(300 * MEBIBYTE),
        "mapped" => {
            let memory = memory.interval(Duration::from_millis(100)).maximum_size_limit(300 * MEBIBYTE);
            // Nor does reading it count as growth.
            memory.threshold_size(100 * MEBIBYTE).increase_limit(4).total_size_limit(500 * MEBIBYTE)
        }
        "seldom" => memory.interval(Duration::from_secs(4)).maximum_size_limit(320 * MEBIBYTE),
        "growing" => memory.threshold_size(8 * MEBIBYTE).increase_limit(3),
        "together" => memory.interval(Duration::from_millis(100)).total_size_limit(1400 * MEBIBYTE),
        // No host has so much.
        "cramped" => memory.interval(Duration::from_millis(100)).free_size_minimum(1 << 60),
        "free" => memory.interval(Duration::from_millis(100)).free_size_minimum(100 * MEBIBYTE),
        "pressed" => memory.interval(Duration::from_secs(1)).pressure_limit(0.3),
        // Percent, where a part is wanted.
        "changing" if Path::new("nonsense").exists() => memory.pressure_limit(20.0),
        "impossible" => memory.interval(Duration::from_millis(50)).maximum_size_limit(MEBIBYTE / 4),
        // What a dump of a program with debug information takes must not make it urgent to end it.
        "diagnosed" => memory.maximum_size_limit(600 * MEBIBYTE).diagnostic(
            "thread_dump",
            Duration::from_secs(60),
            Destination::Directory(".".into()),
        ),
        _ => memory,
    }
}

fn health() -> HealthMonitor {
    HealthMonitor::new()
        .interval(Duration::from_millis(100))
        .warn_after(Duration::from_millis(400))
        .dump_after(Duration::from_millis(600), Destination::Directory(".".into()))
        .restart_after(Duration::from_secs(2))
}

async fn work(instance: Instance, is_stubborn: bool) -> Result<(), BoxError> {
    instance.ready()?;
    // One that never asks whether it is to end is ended; this one is told, and does not care.
    instance.shutdown().await;
    if is_stubborn {
        std::future::pending::<()>().await;
    }
    Ok(())
}

#[derive(Serialize)]
struct Accepted {
    accepted: bool,
}

#[derive(Deserialize)]
struct Leak {
    /// Bytes a second.
    rate: usize,
    /// Bytes.
    #[serde(default)]
    until: Option<usize>,
}

/// For how long nothing else is done.
#[derive(Deserialize)]
struct Block {
    milliseconds: u64,
}

#[derive(Deserialize)]
struct ReadFile {
    path: PathBuf,
}

fn operations() -> Operations {
    Operations::new()
        .typed("leak", |leak: Leak| async move {
            tokio::spawn(leak_on(leak));
            Ok::<_, Failure>(Accepted { accepted: true })
        })
        .typed("read", |file: ReadFile| async move {
            let mut buffer = vec![0; 1 << 20];
            let mut file = std::fs::File::open(file.path)?;
            while file.read(&mut buffer)? > 0 {}
            Ok::<_, Failure>(Accepted { accepted: true })
        })
        .operation("daemon", |_| async {
            // What started it has ended a moment later, and it has a session of its own.
            let script = "setsid sh -c 'head -c 67108864 /dev/zero | tail | sleep 1000060' &";
            std::process::Command::new("sh").args(["-c", script]).status()?;
            Ok::<_, Failure>(Accepted { accepted: true })
        })
        .typed("block", |block: Block| async move {
            tokio::spawn(async move { std::thread::sleep(Duration::from_millis(block.milliseconds)) });
            Ok::<_, Failure>(Accepted { accepted: true })
        })
        .operation("hang", |_| async {
            tokio::spawn(async { hang_for_ever() });
            Ok::<_, Failure>(Accepted { accepted: true })
        })
}

#[inline(never)]
fn hang_for_ever() -> Infallible {
    loop {
        std::thread::sleep(Duration::from_secs(1000));
    }
}

fn leaked() -> MutexGuard<'static, Vec<Vec<u8>>> {
    LEAKED.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Leaks at that rate, in steps of a fiftieth of a second, and ends the process where it would be ended.
async fn leak_on(leak: Leak) {
    let start = Instant::now();
    let step = leak.rate / 50;
    for number in 1.. {
        sleep_until(start + Duration::from_millis(20) * number).await;
        let mut leaked = leaked();
        // Not zeros, for which the kernel would give no memory.
        leaked.push(vec![1; step]);
        let total = leaked.len() * step;
        if total >= HARD_LIMIT {
            std::process::exit(HARD_LIMIT_STATUS);
        }
        if leak.until.is_some_and(|until| total >= until) {
            return;
        }
    }
}
