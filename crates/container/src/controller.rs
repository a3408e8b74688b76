//! The root: it owns every child and every socket, takes the signals, and replaces generations.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::container::{Child, Container, Event};
use crate::entry;
use crate::error::StartError;
use crate::guardian::{self, Guard, Watch};
use crate::lifecycle::{End, State};
use crate::listener::{Address, Listener};
use crate::notify::{Message, Notify};
use crate::spec::{Service, processor_count};
use crate::status::RootStatus;
use crate::sys::inherit;

/// The variable that decides how long children may take to end: a number of seconds, `true` for the
/// default, or `false` for no time at all.
pub const GRACEFUL_STOP: &str = "ASYNC_CONTAINER_GRACEFUL_STOP";

const GRACEFUL_STOP_DEFAULT: Duration = Duration::from_secs(10);

/// The root of an application, see the [crate's documentation](crate).
///
/// | signal | does |
/// | --- | --- |
/// | SIGINT, SIGTERM | asks all children to end, kills those that take too long, and ends with status 0; a second one kills at once |
/// | SIGHUP | starts a new generation of children; when all are ready the old one is stopped; when one fails the new generation is stopped and the old one goes on |
/// | SIGUSR1, SIGUSR2 | are logged and ignored |
///
/// It ends with status 0 when it was asked to or when all children ended successfully, with 1 when it
/// could not start or a child that is not to be restarted failed, and with 137 when its guardian was killed.
#[derive(Debug)]
pub struct Controller {
    name: String,
    services: Vec<Service>,
    graceful_stop: Option<Duration>,
    guardian: bool,
}

impl Controller {
    /// A root without services. The name is for people: it begins the title of every child.
    pub fn new(name: impl Into<String>) -> Self {
        Controller { name: name.into(), services: Vec::new(), graceful_stop: None, guardian: true }
    }

    /// Adds a service.
    pub fn service(mut self, service: Service) -> Self {
        self.services.push(service);
        self
    }

    /// How long children may take to end before they are killed. Default is
    /// `ASYNC_CONTAINER_GRACEFUL_STOP` from the environment, else 10 s.
    pub fn graceful_stop(mut self, grace: Duration) -> Self {
        self.graceful_stop = Some(grace);
        self
    }

    /// Whether the process that calls [`run`](Self::run) becomes a guardian above the root, which kills
    /// what the root leaves behind when it is killed. It costs 0.2 MB and never wakes up. Without it
    /// children still die with the root, but not those of their children that detached themselves.
    /// Default is true.
    pub fn guardian(mut self, guardian: bool) -> Self {
        self.guardian = guardian;
        self
    }

    /// Runs until told to end, or until all children have ended. In a process that was started as a
    /// child, runs the code of its service instead.
    ///
    /// To be called first thing in `main`, before there are threads or a runtime. What comes before it
    /// happens in every child as well.
    pub fn run(self) -> ExitCode {
        if let Some(code) = entry::run(&self.services) {
            return code;
        }
        let name = self.name.clone();
        self.run_root().unwrap_or_else(|error| {
            eprintln!("{name}: {}", entry::chain(&error));
            ExitCode::FAILURE
        })
    }

    fn run_root(self) -> Result<ExitCode, StartError> {
        let (plan, addresses) = self.validate()?;
        let grace = match self.graceful_stop {
            Some(grace) => grace,
            None => graceful_stop_from_environment()?,
        };
        // Before there is a thread, and before a child could inherit the variable that names the pipe.
        Notify::open();
        let guard = self.guardian.then(enter_guardian).flatten();

        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
            .map_err(|error| StartError::System { action: "become a subreaper", source: error.into() })?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|source| StartError::System { action: "build the runtime", source })?;
        let code = runtime.block_on(async {
            let signals = Signals::install()?;
            let children = install(SignalKind::child())?;
            let listeners = bind(addresses, guard.as_ref())?;
            let watch = guard
                .map(Guard::watch)
                .transpose()
                .map_err(|source| StartError::System { action: "watch the guardian", source })?;
            let container = Container::new(self.name, listeners)
                .map_err(|source| StartError::System { action: "create an epoll instance", source })?;
            let mut root = Root::new(container, plan, grace, watch);
            Ok(root.run(signals, children).await)
        });
        guardian::sweep();
        code
    }

    /// Finds what is wrong before anything is started; says what to start and where to listen.
    fn validate(&self) -> Result<(Vec<Planned>, BTreeMap<String, Address>), StartError> {
        if self.services.is_empty() {
            return Err(StartError::NoServices);
        }
        let mut plan: Vec<Planned> = Vec::new();
        let mut addresses: BTreeMap<String, Address> = BTreeMap::new();
        for service in &self.services {
            service.validate()?;
            if plan.iter().any(|planned| planned.service.name == service.name) {
                return Err(StartError::DuplicateName { name: service.name.clone() });
            }
            for (name, address) in &service.listeners {
                match addresses.get(name) {
                    Some(known) if known != address => {
                        return Err(StartError::ListenerConflict {
                            name: name.clone(),
                            first: known.to_string(),
                            second: address.to_string(),
                        });
                    }
                    _ => {
                        addresses.insert(name.clone(), address.clone());
                    }
                }
            }
            let count = match service.count {
                Some(count) => count,
                None => processor_count()?,
            };
            plan.push(Planned { service: Rc::new(service.clone()), count });
        }
        Ok((plan, addresses))
    }
}

/// A service and how many instances of it are wanted.
struct Planned {
    service: Rc<Service>,
    count: u32,
}

fn graceful_stop_from_environment() -> Result<Duration, StartError> {
    let Some(value) = std::env::var_os(GRACEFUL_STOP) else {
        return Ok(GRACEFUL_STOP_DEFAULT);
    };
    let value = value.to_string_lossy().into_owned();
    match value.trim() {
        "true" => Ok(GRACEFUL_STOP_DEFAULT),
        "false" => Ok(Duration::ZERO),
        number => number
            .parse()
            .ok()
            .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
            .ok_or(StartError::GracefulStop { value }),
    }
}

fn enter_guardian() -> Option<Guard> {
    if !inherit::single_threaded() {
        tracing::warn!(
            "this process has other threads already: going on without a guardian; call `run` first thing in `main`"
        );
        return None;
    }
    guardian::enter().inspect_err(|error| tracing::warn!(%error, "cannot start a guardian: going on without")).ok()
}

fn bind(addresses: BTreeMap<String, Address>, guard: Option<&Guard>) -> Result<BTreeMap<String, Listener>, StartError> {
    let mut listeners = BTreeMap::new();
    for (name, address) in addresses {
        let listener = address.bind()?;
        tracing::info!(listener = name, address = listener.address(), "listening");
        if let (Some(guard), Some(path)) = (guard, listener.path()) {
            guard.entrust(path);
        }
        listeners.insert(name, listener);
    }
    Ok(listeners)
}

/// The signals that the root takes.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
    user1: Signal,
    user2: Signal,
}

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    Stop,
    Reload,
    Ignore,
}

impl Signals {
    fn install() -> Result<Self, StartError> {
        Ok(Signals {
            interrupt: install(SignalKind::interrupt())?,
            terminate: install(SignalKind::terminate())?,
            hangup: install(SignalKind::hangup())?,
            user1: install(SignalKind::user_defined1())?,
            user2: install(SignalKind::user_defined2())?,
        })
    }

    async fn next(&mut self) -> Order {
        tokio::select! {
            _ = self.interrupt.recv() => Order::Stop,
            _ = self.terminate.recv() => Order::Stop,
            _ = self.hangup.recv() => Order::Reload,
            _ = self.user1.recv() => Order::Ignore,
            _ = self.user2.recv() => Order::Ignore,
        }
    }
}

fn install(kind: SignalKind) -> Result<Signal, StartError> {
    signal(kind).map_err(|source| StartError::System { action: "handle signals", source })
}

fn order(number: i32) -> Order {
    match number {
        libc::SIGINT | libc::SIGTERM => Order::Stop,
        libc::SIGHUP => Order::Reload,
        _ => Order::Ignore,
    }
}

/// Stop signals by the way that they came. A service manager may signal every process of a service, so one
/// wish to stop may reach the root twice: directly, and through the guardian.
#[derive(Default)]
struct Stops {
    direct: u32,
    forwarded: u32,
}

impl Stops {
    fn wishes(&self) -> u32 {
        self.direct.max(self.forwarded)
    }
}

/// The running root.
struct Root {
    container: Container,
    watch: Option<Watch>,
    manager: Manager,
    plan: Vec<Planned>,
    grace: Duration,
    started: Instant,
    status: RootStatus,
    /// The generation that is being started beside the active one.
    incoming: Option<Incoming>,
    latest_generation: u64,
    /// The generation that was last said to be ready.
    announced: u64,
    /// True if a reload was asked for while one was under way.
    reload_again: bool,
    stops: Stops,
    /// The grace of the stop that is under way.
    stopping: Option<Duration>,
}

struct Incoming {
    generation: u64,
    since: Instant,
}

impl Root {
    fn new(container: Container, plan: Vec<Planned>, grace: Duration, watch: Option<Watch>) -> Self {
        let status = RootStatus { process_id: std::process::id(), ..RootStatus::default() };
        Root {
            container,
            watch,
            manager: Manager::new(),
            plan,
            grace,
            started: Instant::now(),
            status,
            incoming: None,
            latest_generation: 0,
            announced: 0,
            reload_again: false,
            stops: Stops::default(),
            stopping: None,
        }
    }

    async fn run(&mut self, mut signals: Signals, mut children: Signal) -> ExitCode {
        self.tell(&Message { status: Some("Initializing controller...".to_owned()), ..Message::default() });
        self.status.generation = self.start_generation();
        self.container.set_root(self.status.clone());
        loop {
            tokio::select! {
                biased;
                order = signals.next() => self.handle_order(order, false),
                forwarded = next_forwarded(&mut self.watch) => match forwarded {
                    Some(number) => self.handle_order(order(number), true),
                    None => {
                        tracing::error!("the guardian was killed: ending everything");
                        return ExitCode::from(128 + libc::SIGKILL as u8);
                    }
                },
                event = self.container.next() => self.handle_event(event),
                () = self.manager.tick() => self.tell(&Message { healthy: Some(true), ..Message::default() }),
                // Last, so that no restart waits for it.
                _ = children.recv() => self.container.reap_orphans(),
            }
            if let Some(code) = self.outcome() {
                return code;
            }
        }
    }

    fn tell(&self, message: &Message) {
        self.manager.tell(self.watch.as_ref(), message);
    }

    fn start_generation(&mut self) -> u64 {
        self.latest_generation += 1;
        for planned in &self.plan {
            self.container.start(&planned.service, planned.count, self.latest_generation, self.grace);
        }
        self.latest_generation
    }

    fn handle_order(&mut self, order: Order, forwarded: bool) {
        match order {
            Order::Stop => {
                let earlier = self.stops.wishes();
                *(if forwarded { &mut self.stops.forwarded } else { &mut self.stops.direct }) += 1;
                match (earlier, self.stops.wishes()) {
                    (0, _) => {
                        tracing::info!(grace = ?self.grace, "stopping");
                        self.tell(&Message { stopping: Some(true), ..Message::default() });
                        self.stop(self.grace);
                    }
                    (earlier, now) if now > earlier => {
                        tracing::warn!("asked to stop again: killing what is left");
                        self.stop(Duration::ZERO);
                    }
                    _ => {}
                }
            }
            Order::Reload if self.stopping.is_some() => tracing::info!("not reloading: stopping"),
            Order::Reload => self.reload(),
            Order::Ignore => {
                tracing::info!("ignoring a signal: only SIGINT, SIGTERM and SIGHUP have a meaning")
            }
        }
    }

    fn stop(&mut self, grace: Duration) {
        self.stopping = Some(grace);
        if self.incoming.take().is_some() {
            self.status.reloading = false;
        }
        // Linked children may still be asked how the others are doing.
        self.container.stop(|child| grace.is_zero() || !child.is_linked(), grace);
        self.stop_linked();
    }

    fn stop_linked(&mut self) {
        if let Some(grace) = self.stopping
            && !self.container.any(|child| !child.is_linked() && !is_over(child))
        {
            self.container.stop(
                |child| matches!(child.state(), State::New | State::Starting | State::Ready | State::Waiting { .. }),
                grace,
            );
        }
    }

    fn reload(&mut self) {
        if let Some(incoming) = &self.incoming {
            tracing::info!(
                generation = incoming.generation,
                "a new generation is being started already: reloading again after it"
            );
            self.reload_again = true;
            return;
        }
        let generation = self.start_generation();
        tracing::info!(generation, "starting a new generation");
        self.tell(&Message {
            ready: Some(false),
            reloading: Some(true),
            status: Some("Restarting...".to_owned()),
            ..Message::default()
        });
        self.incoming = Some(Incoming { generation, since: Instant::now() });
        self.status.reloading = true;
        self.container.set_root(self.status.clone());
    }

    fn handle_event(&mut self, event: Event) {
        match event {
            Event::Failed { generation, reason } if self.is_incoming(generation) => {
                tracing::error!(generation, reason, "the new generation failed: stopping it, the old one goes on");
                self.container.stop(|child| child.generation() == generation, self.grace);
                self.reloaded(Some(reason));
            }
            Event::Ready { generation } | Event::Stopped { generation }
                if self.is_incoming(generation) && self.is_ready(generation) =>
            {
                self.swap(generation);
            }
            Event::Stopped { .. } => self.stop_linked(),
            Event::Ready { .. } | Event::Failed { .. } => {}
        }
        self.update_ready();
    }

    fn swap(&mut self, generation: u64) {
        let after = self.incoming.as_ref().map_or(Duration::ZERO, |incoming| incoming.since.elapsed());
        tracing::info!(generation, ?after, "the new generation is ready: stopping the old one");
        self.status.generation = generation;
        self.announced = generation;
        self.container.stop(|child| child.generation() < generation, self.grace);
        self.reloaded(None);
    }

    /// An attempt to start a new generation has ended.
    fn reloaded(&mut self, error: Option<String>) {
        self.incoming = None;
        self.status.reloads += 1;
        self.status.reloading = false;
        self.status.reload_error = error;
        // Whoever waits for the end of the attempt must not hear of it with an older `ready`.
        self.status.ready = self.is_ready(self.status.generation);
        self.container.set_root(self.status.clone());
        self.announce();
        if std::mem::take(&mut self.reload_again) && self.stopping.is_none() {
            self.reload();
        }
    }

    fn update_ready(&mut self) {
        let ready = self.stopping.is_none() && self.is_ready(self.status.generation);
        if ready != self.status.ready {
            self.status.ready = ready;
            self.container.set_root(self.status.clone());
            if ready {
                // Whenever a child was replaced they all are again; news is only the first time.
                if std::mem::replace(&mut self.announced, self.status.generation) != self.status.generation {
                    let children = self.container.count(|child| child.generation() == self.status.generation);
                    tracing::info!(children, generation = self.status.generation, after = ?self.started.elapsed(), "all children are ready");
                }
                self.announce();
            }
        }
    }

    /// Tells whoever started the root.
    fn announce(&self) {
        let children = self.container.count(|child| child.generation() == self.status.generation && !is_over(child));
        let status = match &self.status.reload_error {
            Some(error) => format!("Container failed to start: {error}"),
            None => format!("Running with {children} children."),
        };
        let errno = self.status.reload_error.as_ref().map(|_| -1);
        let ready = self.status.ready.then_some(true);
        self.tell(&Message { ready, status: Some(status), errno, ..Message::default() });
    }

    fn is_incoming(&self, generation: u64) -> bool {
        self.incoming.as_ref().is_some_and(|incoming| incoming.generation == generation)
    }

    fn is_ready(&self, generation: u64) -> bool {
        !self.container.any(|child| {
            child.generation() == generation && !matches!(child.state(), State::Ready | State::Stopped(End::Success))
        })
    }

    /// The exit status, once there is nothing left to do.
    fn outcome(&self) -> Option<ExitCode> {
        if self.container.any(|child| !is_over(child)) {
            return None;
        }
        if self.stopping.is_some() {
            tracing::info!("stopped");
            return Some(ExitCode::SUCCESS);
        }
        let failed = self.container.names(|child| child.state() == State::Stopped(End::Failure));
        if failed.is_empty() {
            tracing::info!("all children have ended");
            return Some(ExitCode::SUCCESS);
        }
        tracing::error!(failed = failed.join(", "), "all children have ended, some with a failure");
        Some(ExitCode::FAILURE)
    }
}

fn is_over(child: &Child<'_>) -> bool {
    matches!(child.state(), State::Stopped(_))
}

async fn next_forwarded(watch: &mut Option<Watch>) -> Option<i32> {
    match watch {
        Some(watch) => watch.next().await,
        None => std::future::pending().await,
    }
}

/// The way to whoever started the root.
struct Manager {
    /// Ticks twice in the time that a service manager allows between signs of life, if it wants any.
    watchdog: Option<tokio::time::Interval>,
}

impl Manager {
    fn new() -> Self {
        Manager { watchdog: watchdog_timeout().map(|timeout| tokio::time::interval(timeout / 2)) }
    }

    /// Tells, if anybody wants to know. The log has it all already.
    fn tell(&self, watch: Option<&Watch>, message: &Message) {
        let notify = Notify::open();
        if !notify.is_connected() {
            return;
        }
        let told = match (watch, notify.datagram(message)) {
            // A manager listens to the process that it started, and that is the guardian.
            (Some(watch), Ok(Some(datagram))) => {
                watch.notify(&datagram);
                Ok(())
            }
            (_, Err(error)) => Err(error),
            (_, Ok(_)) => notify.send(message),
        };
        if let Err(error) = told {
            tracing::warn!(%error, "cannot tell whoever started this program");
        }
    }

    async fn tick(&mut self) {
        match &mut self.watchdog {
            Some(interval) => {
                interval.tick().await;
            }
            None => std::future::pending().await,
        }
    }
}

/// What sd_watchdog_enabled(3) would say, for this process or its guardian.
fn watchdog_timeout() -> Option<Duration> {
    let timeout: u64 = std::env::var("WATCHDOG_USEC").ok()?.parse().ok()?;
    let ours = match std::env::var("WATCHDOG_PID") {
        Ok(process_id) => {
            let parent = rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get());
            process_id.parse().is_ok_and(|pid| pid == std::process::id().cast_signed() || Some(pid) == parent)
        }
        Err(_) => true,
    };
    (ours && timeout > 0).then(|| Duration::from_micros(timeout))
}
