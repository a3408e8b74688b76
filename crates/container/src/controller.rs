//! The root: it owns every child and every socket, takes the signals, and replaces generations.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::signal::unix::{Signal, SignalKind};

use crate::container::{Container, Event};
use crate::entry;
use crate::error::StartError;
use crate::exit::exit_code;
use crate::guardian::{self, Guard, Watch};
use crate::lifecycle::{End, State};
use crate::listener::{Address, Listener};
use crate::manager::Manager;
use crate::notify::server::Server;
use crate::notify::{Message, Notify};
use crate::orders::{Order, Signals, Stops, install, order};
use crate::policies::Policies;
use crate::policy::Policy;
use crate::slot::Child;
use crate::spec::{Readiness, Service, Strategy, processor_count};
use crate::statistics::Statistics;
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
/// It ends with one of the statuses of [`exit_code`], or that of an [essential](Service::essential) child.
pub struct Controller {
    name: String,
    services: Vec<Service>,
    graceful_stop: Option<Duration>,
    guardian: bool,
    policies: Vec<Box<dyn Policy>>,
    statistics_window: Duration,
    strategy: Strategy,
    maximum_draining: usize,
}

impl Controller {
    const MAXIMUM_DRAINING: usize = 2;

    /// A root without services. The name is for people: it begins the title of every child.
    pub fn new(name: impl Into<String>) -> Self {
        Controller {
            name: name.into(),
            services: Vec::new(),
            graceful_stop: None,
            guardian: true,
            policies: Vec::new(),
            statistics_window: Statistics::WINDOW,
            strategy: Strategy::default(),
            maximum_draining: Self::MAXIMUM_DRAINING,
        }
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

    /// Adds a policy. Default is none: it never gives up.
    pub fn policy(mut self, policy: impl Policy + 'static) -> Self {
        self.policies.push(Box::new(policy));
        self
    }

    /// Over what time the rates of the statistics that policies see are taken. Default is 60 s.
    pub fn statistics_window(mut self, window: Duration) -> Self {
        self.statistics_window = window;
        self
    }

    /// What the failure of a child means for the others. Default is [`Strategy::OneForOne`].
    pub fn strategy(mut self, strategy: Strategy) -> Self {
        self.strategy = strategy;
        self
    }

    /// How many old generations may take their time to end after a reload; when there are more, the oldest is killed.
    /// Default is 2.
    pub fn maximum_draining(mut self, generations: usize) -> Self {
        self.maximum_draining = generations;
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
            ExitCode::from(error.exit_code())
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
            let notices = bind_notify_socket(&plan, guard.as_ref())?;
            let watch = guard
                .map(Guard::watch)
                .transpose()
                .map_err(|source| StartError::System { action: "watch the guardian", source })?;
            let policies = Policies::new(self.policies, Statistics::new(self.statistics_window));
            let mut container = Container::new(self.name, listeners, policies, self.strategy)
                .map_err(|source| StartError::System { action: "create an epoll instance", source })?;
            if let Some(server) = notices {
                container
                    .listen_for_notices(server)
                    .map_err(|source| StartError::System { action: "watch the notify socket", source })?;
            }
            let mut root = Root::new(container, plan, grace, watch, self.maximum_draining);
            let code = root.run(signals, children).await;
            Ok((code, root.watch.is_some()))
        });
        // A guardian that lives does it, and only it gets everything.
        if !matches!(&code, Ok((_, true))) {
            guardian::sweep();
        }
        code.map(|(code, _)| code)
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
        check_dependencies(&self.services)?;
        Ok((plan, addresses))
    }
}

/// A service and how many instances of it are wanted.
struct Planned {
    service: Rc<Service>,
    count: u32,
}

/// Finds dependencies on nothing, and on each other.
fn check_dependencies(services: &[Service]) -> Result<(), StartError> {
    let find = |name: &String| services.iter().find(|service| service.name == *name);
    for service in services {
        for dependency in &service.dependencies {
            if find(dependency).is_none() {
                let (name, dependency) = (service.name.clone(), dependency.clone());
                return Err(StartError::UnknownDependency { name, dependency });
            }
        }
    }
    // Whoever follows dependencies for longer than there are services has come back to one.
    fn follow<'services>(
        service: &'services Service,
        path: &mut Vec<&'services str>,
        find: &impl Fn(&String) -> Option<&'services Service>,
    ) -> Result<(), StartError> {
        if let Some(start) = path.iter().position(|name| *name == service.name) {
            let names = path[start..].iter().chain([&service.name.as_str()]).map(|name| (*name).to_owned()).collect();
            return Err(StartError::CircularDependency { names });
        }
        path.push(&service.name);
        service.dependencies.iter().filter_map(find).try_for_each(|dependency| follow(dependency, path, find))?;
        path.pop();
        Ok(())
    }
    services.iter().try_for_each(|service| follow(service, &mut Vec::new(), &find))
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

/// Makes the socket that children find by `NOTIFY_SOCKET`, if there are any.
fn bind_notify_socket(plan: &[Planned], guard: Option<&Guard>) -> Result<Option<Server>, StartError> {
    let mut users = plan.iter().filter(|planned| planned.service.readiness == Readiness::NotifySocket).peekable();
    if users.peek().is_none() {
        return Ok(None);
    }
    let action = "make the notify socket in the directory for temporary files (set TMPDIR)";
    let server = Server::bind(users.any(|planned| planned.service.changes_user()))
        .map_err(|source| StartError::System { action, source })?;
    if let Some(guard) = guard {
        guard.entrust(server.address());
        guard.entrust_directory(server.directory());
    }
    Ok(Some(server))
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
    /// The exit status, if it is not for having been asked to stop.
    code: Option<u8>,
    maximum_draining: usize,
}

struct Incoming {
    generation: u64,
    since: Instant,
}

impl Root {
    fn new(
        container: Container,
        plan: Vec<Planned>,
        grace: Duration,
        watch: Option<Watch>,
        maximum_draining: usize,
    ) -> Self {
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
            code: None,
            maximum_draining,
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
                        self.watch = None;
                        return ExitCode::from(exit_code::GUARDIAN_KILLED);
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
            self.container.add(&planned.service, planned.count, self.latest_generation, self.grace);
        }
        self.container.start_unblocked();
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
        if grace.is_zero() {
            self.container.stop(|_| true, grace);
        } else {
            self.container.stop_in_order(|_| true, grace, true);
        }
    }

    /// Some have ended: others may be stopped now that nobody needs them any more.
    fn stop_more(&mut self) {
        if self.container.has_more_to_stop() {
            match self.stopping {
                Some(grace) => self.container.stop_in_order(|_| true, grace, true),
                None => self.stop_old_generations(),
            }
        }
    }

    fn stop_old_generations(&mut self) {
        let active = self.status.generation;
        self.container.stop_in_order(|child| child.generation() < active, self.grace, false);
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
            Event::Stopped { .. } => self.stop_more(),
            Event::EssentialLost { name, status } => {
                self.give_up(status.code(), &format!("essential child {name} {status}"))
            }
            Event::GiveUp { reason } => self.give_up(exit_code::GAVE_UP, &reason),
            Event::Ready { .. } | Event::Failed { .. } => {}
        }
        self.update_ready();
    }

    fn swap(&mut self, generation: u64) {
        let after = self.incoming.as_ref().map_or(Duration::ZERO, |incoming| incoming.since.elapsed());
        tracing::info!(generation, ?after, "the new generation is ready: stopping the old one");
        self.status.generation = generation;
        self.announced = generation;
        self.stop_old_generations();
        self.limit_draining();
        self.reloaded(None);
    }

    /// Kills what is left of generations that take too long to end, if there are too many of them.
    fn limit_draining(&mut self) {
        let active = self.status.generation;
        let mut draining = self.container.generations(|child| child.generation() < active && !is_over(child));
        while draining.len() > self.maximum_draining {
            let oldest = draining.remove(0);
            tracing::warn!(generation = oldest, "too many old generations are still ending: killing the oldest");
            self.container.stop(|child| child.generation() == oldest, Duration::ZERO);
        }
    }

    /// Stops everything, to end with this status.
    fn give_up(&mut self, code: u8, reason: &str) {
        if self.stopping.is_none() {
            tracing::error!(code, reason, grace = ?self.grace, "giving up: stopping everything");
            self.code = Some(code);
            self.tell(&Message { stopping: Some(true), status: Some(reason.to_owned()), ..Message::default() });
            self.stop(self.grace);
        }
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
    fn outcome(&mut self) -> Option<ExitCode> {
        if self.container.any(|child| !child.is_linked() && !is_over(child)) {
            return None;
        }
        // Linked children look after the others. If those have ended by themselves, they are not needed any more.
        if self.stopping.is_none() && self.plan.iter().any(|planned| !planned.service.linked) {
            let failed = self.container.names(|child| child.state() == State::Stopped(End::Failure));
            if failed.is_empty() {
                tracing::info!("all children have ended");
            } else {
                tracing::error!(failed = failed.join(", "), "all children have ended, some with a failure");
                self.code = Some(exit_code::CHILDREN_FAILED);
            }
            self.stop(self.grace);
        }
        if self.container.any(|child| !is_over(child)) {
            return None;
        }
        let code = self.code.unwrap_or(exit_code::SUCCESS);
        tracing::info!(code, "stopped");
        Some(ExitCode::from(code))
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

impl std::fmt::Debug for Controller {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Controller")
            .field("name", &self.name)
            .field("services", &self.services)
            .finish_non_exhaustive()
    }
}
