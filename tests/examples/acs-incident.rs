//! Workers that are ended for what they do, for the tests of the black box: `acs-incident SCENARIO`

#![forbid(unsafe_code)]

mod wrongs;

use std::{future::pending, hint::black_box, process::ExitCode, thread, time::Duration};

use async_container_supervisor::{
    Application, BlackBox, BoxError, Command, Instance, Probe, Service,
    diagnostics::{memory::Allocator, tasks},
    monitors::MemoryMonitor,
};

use wrongs::{block_the_executor, deadlock, spin_without_end};

/// So that what lives on the heap is known, if `ACS_MEMORY_SAMPLING` says so.
#[global_allocator]
static ALLOCATOR: Allocator = Allocator::system();

const LIMIT: Duration = Duration::from_millis(700);

fn main() -> ExitCode {
    let scenario = std::env::args().nth(1).unwrap_or_default();
    let application = Application::new("incident").supervisor(|server| {
        let monitor = MemoryMonitor::new().interval(Duration::from_millis(100)).maximum_size_limit(120 << 20);
        server.monitor(monitor)
    });
    let application = match scenario.as_str() {
        "without" => application.without_black_box(),
        // What lives on the heap is read with all debugging information, in a debug build, on a machine that tests others, too.
        "leak" => application.black_box(BlackBox::default().deadline(Duration::from_secs(20))),
        // So that there is time to end by itself while it is looked at, on a machine that tests others, too.
        "late" => application.black_box(BlackBox::default().deadline(Duration::from_secs(8))),
        "few" => application.black_box(BlackBox::new("kept").count_limit(2)),
        // A supervisor that looks for longer than it may.
        "slow" => application.supervisor(|server| server.examiner(Forever(Duration::from_secs(1000)))),
        // One that knows how long it may look, beside a monitor that waits for it.
        "slow leak" => application.supervisor(|server| {
            let monitor = MemoryMonitor::new().interval(Duration::from_millis(100)).maximum_size_limit(120 << 20);
            server.monitor(monitor).examiner(Forever(LIMIT))
        }),
        _ => application,
    };
    if scenario == "foreign" {
        let probe = Probe::exec(Command::new("false")).period(Duration::from_millis(100));
        let service =
            Service::command("foreign", Command::new("sleep").argument("1000000")).count(1).liveness_probe(probe);
        return application.service(service).run();
    }
    let work = move |instance: Instance| {
        let scenario = scenario.clone();
        async move {
            if scenario == "stuck" {
                tasks::spawn("load configuration", load_configuration()).await?;
            }
            let shutdown = instance.shutdown();
            instance.ready()?;
            // The worker is to have been registered when it goes wrong.
            tokio::time::sleep(Duration::from_millis(200)).await;
            match scenario.as_str() {
                "obstinate" => {
                    shutdown.await;
                    flush_for_ever()
                }
                "late" => {
                    shutdown.await;
                    while !std::path::Path::new("go").exists() {
                        tokio::time::sleep(Duration::from_millis(10)).await;
                    }
                    return Ok(());
                }
                "deadlock" => {
                    // The executor is one of the two.
                    let (one, other) = deadlock();
                    thread::spawn(one);
                    other();
                }
                "spin" => spin_without_end(),
                // Not so that its executor is blocked: it is to answer.
                "leak" | "slow leak" => tokio::task::spawn_blocking(leak).await?,
                _ => block_the_executor(),
            }
            shutdown.await;
            Ok::<(), BoxError>(())
        }
    };
    // It beats twice in each limit, and is to be looked at in between.
    let startup = LIMIT * 2 + LIMIT / 4;
    let service = Service::new("worker", work).count(1).health_check_timeout(LIMIT).startup_timeout(startup);
    application.service(service.supervised()).run()
}

/// Waits for what nobody sends.
async fn load_configuration() {
    pending::<()>().await
}

/// What is to be done before the end, and has none.
#[inline(never)]
fn flush_for_ever() -> ! {
    loop {
        thread::sleep(Duration::from_secs(1000));
    }
}

/// Keeps more than it may.
#[inline(never)]
fn leak() {
    for _ in 0..200 {
        std::mem::forget(black_box(vec![1_u8; 1 << 20]));
    }
}

/// Looks, and never comes to an end, although it may take only as long as that.
struct Forever(Duration);

impl async_container_supervisor::server::Examiner for Forever {
    fn limit(&self) -> Duration {
        self.0
    }

    fn examine(&self, _: async_container_supervisor::server::Case) -> async_container_supervisor::server::Examination {
        Box::pin(pending())
    }
}
