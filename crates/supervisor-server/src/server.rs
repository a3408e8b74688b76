//! Putting a supervisor together, and accepting connections.

use std::{io, sync::Arc, time::Duration, time::Instant};

use async_container_monitors::Monitor;
use async_container_protocol::{Failure, Operations, Request, Settings};
use rustix::{
    io::Errno,
    process::{Resource, Rlimit, getrlimit, setrlimit},
};
use serde::Serialize;
use tokio::{
    net::{UnixListener, UnixStream},
    sync::{OwnedSemaphorePermit, Semaphore, mpsc},
    task::JoinSet,
};

use crate::{
    access::{Access, Role},
    complaints::Complaints,
    diagnosis::Outside,
    error::ServeError,
    events::Events,
    examine::{Examiner, Examiners},
    metrics::Metrics,
    monitor::{self, Make, Monitors},
    operation::Supervisor,
    registry::Registry,
    restart::{self, Means},
    root::{ParentProcess, Root},
    session::Session,
    statistics::Statistics,
    sys,
    workers::Workers,
};

/// How long to wait after an accept that failed for want of something, such as open files. Doubled each time.
const ACCEPT_DELAY: Duration = Duration::from_millis(10);
const ACCEPT_DELAY_LIMIT: Duration = Duration::from_secs(1);

/// How many connections may be new, that is, have what they sent at first still to be looked at. The others wait in the
/// backlog: when all workers come back at once, whoever is connected is not to wait until all of them have been served.
const NEWCOMERS: usize = 16;

/// How many restarts that monitors want may be under way at once.
const RESTARTS_AT_ONCE: usize = 8;

/// How long a supervisor that stops waits until its subscribers have heard of that.
const FAREWELL: Duration = Duration::from_millis(250);

/// How long after the end of a connection the memory that it took is given back to the system, with that of all others that
/// ended meanwhile.
const GIVE_BACK_DELAY: Duration = Duration::from_secs(3);

/// A supervisor, before it serves.
pub struct Server {
    monitors: Vec<(Box<dyn Monitor>, Option<Make>)>,
    restarts_at_once: usize,
    outside: Outside,
    operations: Operations,
    root: Arc<dyn Root>,
    access: Access,
    settings: Settings,
    examiner: Option<Arc<dyn Examiner>>,
    events: Arc<Events>,
    registry: Arc<Registry>,
    statistics: Statistics,
}

impl Server {
    /// A supervisor without monitors, for the user of this process and root, whose root controller is the parent process.
    pub fn new() -> Self {
        let events = Arc::new(Events::new());

        Self {
            monitors: Vec::new(),
            restarts_at_once: RESTARTS_AT_ONCE,
            outside: Outside::new(),
            operations: Operations::new(),
            root: Arc::new(ParentProcess::new()),
            access: Access::default(),
            settings: Settings::default(),
            examiner: None,
            registry: Arc::new(Registry::new(events.clone())),
            events,
            statistics: Statistics::default(),
        }
    }

    /// Adds a monitor. It runs on a thread of its own while the server serves.
    ///
    /// If it panics, it is told that all workers are gone, and begins anew with them after a pause.
    pub fn monitor(mut self, monitor: impl Monitor) -> Self {
        self.monitors.push((Box::new(monitor), None));
        self
    }

    /// Adds a monitor that another one takes the place of if it panics: `make` is called at once, and then again after each
    /// panic and a pause. It is for monitors that keep more than what they know of workers.
    pub fn monitor_with<M: Monitor>(mut self, mut make: impl FnMut() -> M + Send + 'static) -> Self {
        let monitor = Box::new(make());
        self.monitors.push((monitor, Some(Box::new(move || Box::new(make())))));
        self
    }

    /// Sets how to find out from outside what a worker does not say itself when a monitor wants to know it, because it hangs or
    /// knows no such operation. `look` is given its process id and gives text; it may block. What a worker is given of the time
    /// for a diagnostic is half of it then.
    pub fn outside<F>(mut self, operation: impl Into<String>, look: F) -> Self
    where
        F: Fn(u32) -> Result<String, Box<dyn std::error::Error + Send + Sync>> + Send + Sync + 'static,
    {
        self.outside.insert(operation.into(), Arc::new(look));
        self
    }

    /// Sets how many restarts that monitors want may be under way at once; at least one. More wait for their turn, unless
    /// they are [urgent](async_container_monitors::Restart::urgent). Where the root tells of its children, one is under way until
    /// another process is ready in the same place, for which it has 30 seconds once the old one has ended; or until that place is not
    /// to be filled soon, as the root waits before it tries again. It keeps a monitor that errs about all workers from
    /// taking all of them away.
    ///
    /// Default is 8.
    pub fn restarts_at_once(mut self, restarts: usize) -> Self {
        self.restarts_at_once = restarts.max(1);
        self
    }

    /// Adds an operation of the application's own. The names of the supervisor's operations are taken.
    pub fn operation<F, R, T>(mut self, name: impl Into<String>, operation: F) -> Self
    where
        F: Fn(Request) -> R + Send + Sync + 'static,
        R: Future<Output = Result<T, Failure>> + Send + 'static,
        T: Serialize + 'static,
    {
        self.operations = self.operations.operation(name, operation);
        self
    }

    /// Adds a table of operations, for those that stream, or whose parameters are a struct.
    pub fn operations(mut self, operations: Operations) -> Self {
        self.operations = operations.or(self.operations);
        self
    }

    /// Sets how the root controller is reached. Default is the [`ParentProcess`] at
    /// the time of [`new`](Self::new).
    pub fn root(mut self, root: impl Root) -> Self {
        self.root = Arc::new(root);
        self
    }

    /// Sets who looks at processes before they are ended: those that a monitor wants restarted, and those that the root is
    /// about to kill, if it [tells](crate::ChildState::condemned) of that. Default is nobody.
    pub fn examiner(mut self, examiner: impl Examiner) -> Self {
        self.examiner = Some(Arc::new(examiner));
        self
    }

    /// Lets another user in, by the number of the effective user. Called again with another role, both hold.
    ///
    /// The user of this process and root may do everything, whatever is said here.
    pub fn allow_user(mut self, user_id: u32, role: Role) -> Self {
        self.access.allow_user(user_id, role);
        self
    }

    /// Lets all in whose effective group this is, or one of whose supplementary groups.
    ///
    /// These are those that it had when it connected (Linux 4.13; before, those of its process, if that is visible from here).
    /// They are looked at only if groups are allowed at all, and for users who may not do everything.
    pub fn allow_group(mut self, group_id: u32, role: Role) -> Self {
        self.access.allow_group(group_id, role);
        self
    }

    /// Whether a user or a group is let in beside the user of this process and root. They need a socket that they may connect to, too:
    /// for that its file has to be theirs to write.
    pub fn allows_others(&self) -> bool {
        self.access.allows_others()
    }

    /// Sets the role that it takes to call an operation of the application, or to have one of a worker called. Default is
    /// [`Role::Diagnose`] for the diagnostics of workers and [`Role::Operate`] for others; what the supervisor does itself
    /// stays as it is.
    pub fn require(mut self, operation: impl Into<String>, role: Role) -> Self {
        self.access.require(operation.into(), role);
        self
    }

    /// Sets the bounds of each connection. Default is [`Settings::default`].
    pub fn settings(mut self, settings: Settings) -> Self {
        self.settings = settings;
        self
    }

    /// The workers that will be connected, for operations of the application that need them.
    pub fn workers(&self) -> Workers {
        Workers(self.registry.clone())
    }

    /// How often operations will have been called, how that ended, and how long it took.
    pub fn statistics(&self) -> Statistics {
        self.statistics.clone()
    }

    /// What the supervisor, its root and its monitors will know as numbers. To be called once the
    /// [`root`](Self::root) is set.
    pub fn metrics(&self) -> Metrics {
        Metrics::new(self.registry.clone(), self.root.clone(), self.statistics.clone())
    }

    /// Looks whether the monitors can work so, and together, as [`serve`](Self::serve) does before anything else. For those who
    /// want to know before they say that they are ready.
    ///
    /// # Errors
    /// What is wrong, and what would be right.
    pub fn validate(&self) -> Result<(), ServeError> {
        monitor::validate(self.monitors.iter().map(|(monitor, _)| &**monitor), &self.events)
    }

    /// Accepts connections and serves them until `shutdown`, then closes them all.
    ///
    /// The listener is bound by whoever outlives the supervisor, so that connects made while it is being restarted wait
    /// instead of being refused. Errors of single connections end those alone. The limit of open files of this process is
    /// raised as far as is permitted.
    pub async fn serve(self, listener: UnixListener, shutdown: impl Future) -> Result<(), ServeError> {
        self.validate()?;
        raise_file_limit();
        let (sender, actions) = mpsc::unbounded_channel();
        let (registry, events) = (self.registry, self.events);
        registry.set_monitors(Monitors::start(self.monitors, &sender, &events)?);
        let _monitors = StopMonitors(registry.clone());
        let root = self.root;
        self.statistics.begin(self.operations.names());
        let supervisor = Arc::new(Supervisor {
            registry: registry.clone(),
            actions: sender,
            root: root.clone(),
            custom: self.operations,
            access: self.access,
            events: events.clone(),
            statistics: self.statistics,
            complaints: Complaints::default(),
            started: Instant::now(),
        });

        // Dropped at the end of this function, and everything that runs in it with it.
        let mut tasks = JoinSet::new();
        let restarts = Semaphore::new(self.restarts_at_once);
        let examiners = Examiners::new(self.examiner, events.clone());
        tasks.spawn(examiners.clone().attend(root.clone()));
        let means = Means {
            registry,
            root,
            outside: self.outside,
            events: events.clone(),
            examiners: examiners.clone(),
            restarts,
            complaints: Complaints::default(),
        };
        tasks.spawn(restart::carry_out(actions, means));
        let newcomers = Arc::new(Semaphore::new(NEWCOMERS));
        let mut shutdown = std::pin::pin!(shutdown);
        let mut give_back_at = None;

        loop {
            let (newcomer, stream) = tokio::select! {
                accepted = admit(&listener, &newcomers) => accepted?,
                // Sessions that ended are let go of here; without that, they would be kept until the end.
                Some(result) = tasks.join_next() => {
                    if let Err(error) = result && error.is_panic() {
                        tracing::error!(%error, "a session panicked");
                    }
                    give_back_at.get_or_insert_with(|| tokio::time::Instant::now() + GIVE_BACK_DELAY);
                    continue;
                }
                () = wait_until(give_back_at) => {
                    give_back_at = None;
                    sys::give_back();
                    continue;
                }
                _ = &mut shutdown => {
                    // What is about to be killed may be killed by now, as the root is about to say.
                    let _ = tokio::time::timeout(FAREWELL, examiners.told()).await;
                    events.close();
                    events.drained(FAREWELL).await;
                    return Ok(());
                }
            };

            tasks.spawn(Session::serve(stream, newcomer, supervisor.clone(), self.settings.clone()));
        }
    }
}

impl Default for Server {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for Server {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let monitors: Vec<&str> = self.monitors.iter().map(|(monitor, _)| monitor.name()).collect();
        formatter
            .debug_struct("Server")
            .field("monitors", &monitors)
            .field("operations", &self.operations)
            .field("access", &self.access)
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

/// Ends the monitors however serving ends, be it that the future is dropped.
struct StopMonitors(Arc<Registry>);

impl Drop for StopMonitors {
    fn drop(&mut self) {
        self.0.stop_monitors();
    }
}

/// Waits for a time; for ever, and without a timer, if there is none.
async fn wait_until(time: Option<tokio::time::Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// Accepts a connection once there is room for another new one.
async fn admit(
    listener: &UnixListener,
    newcomers: &Arc<Semaphore>,
) -> Result<(Option<OwnedSemaphorePermit>, UnixStream), ServeError> {
    // It is never closed, so there is always a permit.
    let newcomer = newcomers.clone().acquire_owned().await.ok();
    Ok((newcomer, accept(listener).await?))
}

/// Lets as many files be open as this process may have: each connection is one, its socket, and each worker a second one, the
/// handle of its process; and the usual limit is 1024 for the sake of programs that are not this one.
fn raise_file_limit() {
    let limit = getrlimit(Resource::Nofile);

    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        tracing::debug!(%error, "could not raise the limit of open files");
    }
}

/// Accepts a connection. What passes is waited out: a supervisor that ends because too many files were open for a moment
/// takes the registrations of all workers with it.
async fn accept(listener: &UnixListener) -> Result<UnixStream, ServeError> {
    let mut delay = ACCEPT_DELAY;

    loop {
        let error = match listener.accept().await {
            Ok((stream, _)) => return Ok(stream),
            Err(error) => error,
        };

        if is_permanent(&error) {
            return Err(ServeError::Accept(error));
        }

        if delay == ACCEPT_DELAY {
            tracing::error!(%error, "could not accept a connection: trying again until it works");
        }

        tokio::time::sleep(delay).await;
        delay = (delay * 2).min(ACCEPT_DELAY_LIMIT);
    }
}

/// Whether a socket that answers like this will answer so for ever, because it is none that listens.
fn is_permanent(error: &io::Error) -> bool {
    let Some(errno) = Errno::from_io_error(error) else { return false };
    [Errno::BADF, Errno::INVAL, Errno::NOTSOCK, Errno::OPNOTSUPP, Errno::FAULT].contains(&errno)
}
