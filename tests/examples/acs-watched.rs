//! What monitors cost, for `cargo xtask bench monitors`.
//!
//! `acs-watched sweep COUNT` prints one JSON object: the nanoseconds of processor time that a check of each monitor takes over
//! so many idle processes. `acs-watched serve COUNT` is an application of so many workers that do nothing, and of all
//! monitors, each of which checks once a second.

#![forbid(unsafe_code)]

use std::{
    process::{Child, Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use async_container_supervisor::{
    Application, BoxError, Instance, Service,
    monitors::{HealthMonitor, MemoryMonitor, Monitor, ProcessMonitor, UtilizationMonitor, Worker},
};
use rustix::time::{ClockId, clock_gettime};
use serde_json::json;

const CHECKS: usize = 21;
const SECOND: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let mode = arguments.next().unwrap_or_default();
    let count = arguments.next().and_then(|count| count.parse().ok()).unwrap_or(1000);
    match mode.as_str() {
        "sweep" => sweep(count),
        _ => serve(count),
    }
}

/// Every rule, and limits that nothing exceeds.
fn memory() -> MemoryMonitor {
    MemoryMonitor::new()
        .maximum_size_limit(1 << 30)
        .increase_limit(10)
        .total_size_limit(1 << 50)
        .free_size_minimum(1)
        .pressure_limit(1.0)
}

fn serve(count: u32) -> ExitCode {
    Application::new("watched")
        .service(Service::new("worker", work).count(count).supervised())
        .supervisor(|supervisor| {
            supervisor
                .monitor(memory().interval(SECOND))
                .monitor(ProcessMonitor::new().interval(SECOND))
                .monitor(HealthMonitor::new().interval(SECOND))
                .monitor(UtilizationMonitor::new().interval(SECOND))
        })
        .run()
}

async fn work(instance: Instance) -> Result<(), BoxError> {
    instance.ready()?;
    instance.shutdown().await;
    Ok(())
}

/// Ends what it has started.
struct Idle(Vec<Child>);

impl Drop for Idle {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
        }
        for child in &mut self.0 {
            let _ = child.wait();
        }
    }
}

fn sweep(count: u32) -> ExitCode {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let raised = rustix::process::Rlimit { current: limit.maximum, ..limit };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, raised).expect("the limit can be raised");
    let mut idle = Idle(Vec::new());
    for _ in 0..count {
        let child = Command::new("sleep").arg("1000000").stdin(Stdio::null()).spawn().expect("sleep can be started");
        idle.0.push(child);
    }
    // It says which process is whose only once the last has begun.
    std::thread::sleep(SECOND);
    let processes: Vec<u32> = idle.0.iter().map(Child::id).collect();
    let result = json!({
        "memory_default": check(&mut MemoryMonitor::new(), &processes),
        "memory_all_rules": check(&mut memory(), &processes),
        "process": check(&mut ProcessMonitor::new().emit(|_| {}).interval(SECOND), &processes),
    });
    println!("{result}");
    ExitCode::SUCCESS
}

/// The median of the processor time of checks.
fn check(monitor: &mut dyn Monitor, processes: &[u32]) -> u64 {
    for (number, process_id) in processes.iter().enumerate() {
        monitor.register(&Worker { id: number.to_string(), process_id: *process_id, name: "idle".into() });
    }
    let mut times: Vec<u64> = (0..CHECKS)
        .map(|_| {
            let before = processor_time();
            monitor.check(Instant::now());
            processor_time() - before
        })
        .collect();
    times.sort_unstable();
    times[CHECKS / 2]
}

/// Nanoseconds that this thread has had a processor.
fn processor_time() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
