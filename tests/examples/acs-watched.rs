//! What monitors cost, for `cargo xtask bench monitors`.
//!
//! `acs-watched sweep COUNT` prints one JSON object: the nanoseconds of processor time that a check of each monitor takes over
//! so many idle processes. `acs-watched serve COUNT [MILLISECONDS]` is an application of so many workers that do nothing, and of all
//! monitors, each of which checks as often, once a second by default; all workers are asked for a `ping` once a second, whatever the
//! others do. `acs-watched floor COUNT` is a bare loop that looks at as many processes, and
//! has each of them answer, as often; it prints the nanoseconds of processor time that a second of each takes.

#![forbid(unsafe_code)]

use std::{
    fs::File,
    io::{Read as _, Write as _},
    os::{
        fd::OwnedFd,
        unix::{fs::FileExt as _, net::UnixStream},
    },
    process::{Child, Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use async_container_supervisor::{
    Application, BoxError, Instance, Service,
    monitors::{HealthMonitor, MemoryMonitor, Monitor, ProcessMonitor, UtilizationMonitor, Worker},
};
use rustix::{
    event::epoll,
    time::{ClockId, clock_gettime},
};
use serde_json::json;

const CHECKS: usize = 21;

/// How long the bare loop runs, in seconds.
const ROUNDS: u32 = 10;

/// In so many parts of a second it asks, as `HealthMonitor` does.
const PARTS: u32 = 10;

/// As long as a `ping` is, and its answer.
const QUESTION: [u8; 20] = [0; 20];
const ANSWER: usize = 64;
const SECOND: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let mode = arguments.next().unwrap_or_default();
    let mut number = || arguments.next().and_then(|number| number.parse().ok());
    let count = number().unwrap_or(1000);
    match mode.as_str() {
        "sweep" => sweep(count),
        "floor" => floor(count),
        "answer" => answer(),
        _ => serve(count, number().map_or(SECOND, |time| Duration::from_millis(time.into()))),
    }
}

/// Every rule, and limits that nothing exceeds.
fn memory() -> MemoryMonitor {
    MemoryMonitor::new()
        .maximum_size_limit(1 << 30)
        .increase_limit(10)
        .total_size_limit(1 << 50)
        .free_size_minimum(1)
        .pressure_limit(0.999)
}

fn serve(count: u32, interval: Duration) -> ExitCode {
    Application::new("watched")
        .service(Service::new("worker", work).count(count).supervised())
        .supervisor(move |supervisor| {
            supervisor
                .monitor(memory().interval(interval))
                .monitor(ProcessMonitor::new().interval(interval))
                .monitor(HealthMonitor::new().interval(SECOND))
                .monitor(UtilizationMonitor::new().interval(interval))
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

fn raise_limit() {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    let raised = rustix::process::Rlimit { current: limit.maximum, ..limit };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, raised).expect("the limit can be raised");
}

/// Answers whatever comes, until nothing does.
fn answer() -> ExitCode {
    let (mut input, mut output) = (std::io::stdin(), std::io::stdout());
    let mut question = [0; QUESTION.len()];
    while input.read_exact(&mut question).is_ok() && output.write_all(&[0; ANSWER]).is_ok() && output.flush().is_ok() {}
    ExitCode::SUCCESS
}

/// A process that answers, and what is known of it.
struct Answering {
    socket: UnixStream,
    statm: File,
    stat: File,
}

fn floor(count: u32) -> ExitCode {
    raise_limit();
    let program = std::env::current_exe().expect("this program has a path");
    let (mut idle, mut answering) = (Idle(Vec::new()), Vec::new());
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).expect("there is epoll");
    for number in 0..count {
        let (socket, other) = UnixStream::pair().expect("sockets can be made");
        let input: OwnedFd = other.try_clone().expect("sockets can be duplicated").into();
        let mut command = Command::new(&program);
        let command = command.arg("answer").stdin(Stdio::from(input)).stdout(Stdio::from(OwnedFd::from(other)));
        let child = command.spawn().expect("this program can be started");
        let open = |name: &str| File::open(format!("/proc/{}/{name}", child.id())).expect("there is /proc");
        let (statm, stat) = (open("statm"), open("stat"));
        let data = epoll::EventData::new_u64(number.into());
        epoll::add(&epoll, &socket, data, epoll::EventFlags::IN | epoll::EventFlags::ET)
            .expect("sockets can be watched");
        answering.push(Answering { socket, statm, stat });
        idle.0.push(child);
    }
    std::thread::sleep(SECOND);
    let (mut asking, mut reading) = (0, 0);
    let start = Instant::now();
    for part in 0..ROUNDS * PARTS {
        std::thread::sleep((start + SECOND * part / PARTS).saturating_duration_since(Instant::now()));
        let begin = processor_time();
        if part % PARTS == 0 {
            let mut buffer = [0; 1024];
            for process in &answering {
                process.statm.read_at(&mut buffer, 0).expect("statm can be read");
                process.stat.read_at(&mut buffer, 0).expect("stat can be read");
            }
        }
        let read = processor_time();
        reading += read - begin;
        ask(&epoll, &answering, (part % PARTS) as usize);
        asking += processor_time() - read;
    }
    let result = json!({ "asking": asking / u64::from(ROUNDS), "reading": reading / u64::from(ROUNDS) });
    println!("{result}");
    ExitCode::SUCCESS
}

/// Asks one part of them, and waits for all answers.
fn ask(epoll: &OwnedFd, answering: &[Answering], part: usize) {
    let mut missing = 0;
    for process in answering.iter().skip(part).step_by(PARTS as usize) {
        (&process.socket).write_all(&QUESTION).expect("there is room");
        missing += 1;
    }
    let mut events = Vec::with_capacity(1024);
    while missing > 0 {
        events.clear();
        epoll::wait(epoll, rustix::buffer::spare_capacity(&mut events), None).expect("epoll waits");
        for event in &events {
            let socket = &answering[event.data.u64() as usize].socket;
            let mut answer = [0; ANSWER];
            (&mut &*socket).read_exact(&mut answer).expect("it answers");
            missing -= 1;
        }
    }
}

fn sweep(count: u32) -> ExitCode {
    raise_limit();
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
