//! What to run: services and their settings.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;

use crate::backoff::Backoff;
use crate::command::Command;
use crate::error::{BoxError, StartError};
use crate::exit::ExitStatus;
use crate::instance::Instance;
use crate::lifecycle::Settings;
use crate::limits::Limits;
use crate::listener::Address;
use crate::policy::Statuses;
use crate::probe::Probes;

/// When a child that ended is started again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Restart {
    /// Whenever it ends.
    #[default]
    Always,
    /// When it ends with a failure.
    OnFailure,
    /// Not at all.
    Never,
}

/// What makes a child ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// It says so, through its notify pipe.
    Notify,
    /// It says so, as programs do that know systemd: by `READY=1` to the socket that `NOTIFY_SOCKET` names, see
    /// sd_notify(3). With a [health check time-out](Service::health_check_timeout) it finds `WATCHDOG_USEC` and
    /// `WATCHDOG_PID` as well, and has to send `WATCHDOG=1` within that time. What its descendants send counts, too, as
    /// long as they run until it was heard.
    NotifySocket,
    /// That it runs.
    Spawned,
}

/// What the failure of a child means for the others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Strategy {
    /// Nothing.
    #[default]
    OneForOne,
    /// All children are stopped, and started again in their order.
    OneForAll,
    /// Those that were started after it are: later instances of its service, and later services.
    RestForOne,
}

/// How a new generation of children takes the place of the old one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reload {
    /// All are started beside the old ones, which are stopped when all new ones are ready. When one of them fails first, the
    /// new ones are stopped, and the old ones go on.
    #[default]
    BlueGreen,
    /// A few at a time, in the order of the services: each is started beside the one that it replaces, which is stopped
    /// when the new one is ready and has been for a while. When one fails, at once or later while others are being replaced,
    /// those that were not confirmed yet are stopped, and nothing more is replaced. The next ones are started when those
    /// that were replaced have ended, so that it needs memory for a few more processes, not for twice as many.
    Rolling {
        /// How many at a time; at least 1.
        at_once: u32,
        /// How long they must have been ready.
        soak: Duration,
    },
}

/// The runtime that a service's code runs on in its process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Runtime {
    /// One thread.
    #[default]
    CurrentThread,
    /// This many threads.
    MultiThread(usize),
}

pub(crate) type Work =
    Arc<dyn Fn(Instance) -> Pin<Box<dyn Future<Output = Result<(), BoxError>> + Send>> + Send + Sync>;

/// What the process of a child runs.
#[derive(Clone)]
pub(crate) enum Start {
    /// This program again, which finds its way to the service's code.
    Entry(Work),
    /// Another program.
    Command(Box<Command>),
    /// Nothing: the code runs in a thread of the root.
    Thread(Work),
}

/// A kind of child, of which a container runs `count` instances.
///
/// ```
/// use std::time::Duration;
/// use async_container::{BoxError, Command, Instance, Restart, Service};
///
/// async fn work(instance: Instance) -> Result<(), BoxError> {
///     instance.ready()?;
///     instance.shutdown().await;
///     Ok(())
/// }
///
/// let worker = Service::new("worker", work).count(4).health_check_timeout(Duration::from_secs(30));
/// let tail = Service::command("tail", Command::new("tail").arguments(["-f", "log"])).restart(Restart::OnFailure);
/// # let _ = (worker, tail);
/// ```
#[derive(Clone)]
pub struct Service {
    pub(crate) name: String,
    pub(crate) start: Start,
    pub(crate) count: Option<u32>,
    pub(crate) restart: Restart,
    pub(crate) backoff: Backoff,
    pub(crate) readiness: Readiness,
    pub(crate) startup_timeout: Option<Duration>,
    pub(crate) health_check_timeout: Option<Duration>,
    pub(crate) graceful_stop: Option<Duration>,
    pub(crate) stop_signal: Signal,
    pub(crate) runtime: Runtime,
    pub(crate) threads: u32,
    pub(crate) listeners: Vec<(String, Address)>,
    pub(crate) probes: Probes,
    pub(crate) supervised: bool,
    pub(crate) linked: bool,
    pub(crate) essential: bool,
    pub(crate) statuses: Statuses,
    pub(crate) dependencies: Vec<String>,
    pub(crate) maximum_age: Option<Duration>,
    pub(crate) examination: Duration,
    pub(crate) key: Option<String>,
    pub(crate) kills_descendants: bool,
    pub(crate) recycle_at_once: usize,
    pub(crate) limits: Limits,
}

impl Service {
    const HEALTH_CHECK_TIMEOUT: Duration = Duration::from_secs(30);

    /// A service that is code of this program. Each instance is a process that runs `work`.
    ///
    /// The instance is ready when `work` says so with [`Instance::ready`]. It is asked to end by
    /// SIGINT, which completes [`Instance::shutdown`]; when `work` has never asked for that, it is
    /// dropped where it waits. Returning `Ok` ends the process with status 0, an error with 1.
    pub fn new<W, F>(name: impl Into<String>, work: W) -> Self
    where
        W: Fn(Instance) -> F + Send + Sync + 'static,
        F: Future<Output = Result<(), BoxError>> + Send + 'static,
    {
        let work: Work = Arc::new(move |instance| Box::pin(work(instance)));
        Service {
            name: name.into(),
            start: Start::Entry(work),
            count: None,
            restart: Restart::default(),
            backoff: Backoff::default(),
            readiness: Readiness::Notify,
            startup_timeout: None,
            health_check_timeout: Some(Self::HEALTH_CHECK_TIMEOUT),
            graceful_stop: None,
            stop_signal: Signal::INT,
            runtime: Runtime::default(),
            threads: 1,
            listeners: Vec::new(),
            probes: Probes::default(),
            supervised: false,
            linked: false,
            essential: false,
            statuses: Statuses::default(),
            dependencies: Vec::new(),
            maximum_age: None,
            examination: Duration::ZERO,
            key: None,
            kills_descendants: true,
            recycle_at_once: 1,
            limits: Limits::default(),
        }
    }

    /// A service that is code of this program, as [`new`](Self::new) has it, but each of whose instances is a thread of the
    /// root with a single-threaded runtime of its own, not a process.
    ///
    /// That costs no process, and shares memory with everything else in the root. In exchange, whatever it does to its
    /// process it does to the root: nothing protects that from a crash, from memory that runs out, or from an `abort`.
    /// A panic is a failure like others, unless the program is built to abort then. A thread cannot be killed: one that
    /// hangs, because its health check fails or it does not end within its grace period, is reported, and the root stops
    /// everything else and ends with [`THREAD_HUNG`](crate::exit_code::THREAD_HUNG). It must not start processes, since the
    /// root collects all that end below it. What is only for processes is refused: supervision, links, probes,
    /// [`threads`](Self::threads), limits, and a multi-threaded runtime.
    ///
    /// ```
    /// use async_container::{BoxError, Instance, Service};
    ///
    /// async fn tick(instance: Instance) -> Result<(), BoxError> {
    ///     instance.ready()?;
    ///     instance.shutdown().await;
    ///     Ok(())
    /// }
    ///
    /// let ticker = Service::thread("ticker", tick).count(1);
    /// # let _ = ticker;
    /// ```
    pub fn thread<W, F>(name: impl Into<String>, work: W) -> Self
    where
        W: Fn(Instance) -> F + Send + Sync + 'static,
        F: Future<Output = Result<(), BoxError>> + Send + 'static,
    {
        let work: Work = Arc::new(move |instance| Box::pin(work(instance)));
        Service { start: Start::Thread(work), ..Service::new(name, |_| async { Ok(()) }) }
    }

    /// A service that is another program. Each instance is a process of it.
    ///
    /// It counts as ready when it runs, and is asked to end by SIGTERM, unless told otherwise.
    pub fn command(name: impl Into<String>, command: Command) -> Self {
        Service {
            start: Start::Command(Box::new(command)),
            readiness: Readiness::Spawned,
            health_check_timeout: None,
            stop_signal: Signal::TERM,
            ..Service::new(name, |_| async { Ok(()) })
        }
    }

    /// How many instances run. Default is the number of processors that this process may use, or
    /// `ASYNC_CONTAINER_PROCESSOR_COUNT` from the environment.
    pub fn count(mut self, count: u32) -> Self {
        self.count = Some(count);
        self
    }

    /// When an instance that ended is started again. Default is [`Restart::Always`].
    pub fn restart(mut self, restart: Restart) -> Self {
        self.restart = restart;
        self
    }

    /// How long to wait before it is. Default is [`Backoff::default`].
    pub fn backoff(mut self, backoff: Backoff) -> Self {
        self.backoff = backoff;
        self
    }

    /// What makes an instance ready. Default is [`Readiness::Notify`] for code of this program, and
    /// [`Readiness::Spawned`] for commands.
    pub fn readiness(mut self, readiness: Readiness) -> Self {
        self.readiness = readiness;
        self
    }

    /// How long an instance may take to become ready before it is killed and counts as failed.
    /// Default is no limit.
    pub fn startup_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.startup_timeout = timeout.into();
        self
    }

    /// How long an instance that is ready may say nothing before it is killed and counts as failed.
    ///
    /// Code of this program beats by itself, twice in this time, from the runtime that does the work:
    /// a thread that is blocked does not beat. Default is 30 s for code of this program, and no limit
    /// for commands.
    pub fn health_check_timeout(mut self, timeout: impl Into<Option<Duration>>) -> Self {
        self.health_check_timeout = timeout.into();
        self
    }

    /// How long an instance may take to end before it is killed. Default is the controller's, see
    /// [`Controller::graceful_stop`](crate::Controller::graceful_stop).
    pub fn graceful_stop(mut self, grace: Duration) -> Self {
        self.graceful_stop = Some(grace);
        self
    }

    /// The signal that asks an instance to end. Default is SIGINT for code of this program, and
    /// SIGTERM for commands.
    pub fn stop_signal(mut self, signal: Signal) -> Self {
        self.stop_signal = signal;
        self
    }

    /// The runtime for code of this program. Default is [`Runtime::CurrentThread`].
    pub fn runtime(mut self, runtime: Runtime) -> Self {
        self.runtime = runtime;
        self
    }

    /// Runs code of this program in so many threads of each instance's process, each with a single-threaded runtime of its
    /// own and an [`Instance`] of its own. The process is ready when all of them are, and one signal ends them all. A
    /// thread that ends is started again within the process, as [`restart`](Self::restart) and [`backoff`](Self::backoff) say; one
    /// that hangs cannot be killed, so the whole process is replaced when its health check fails, at the latest after
    /// twice the time-out. Default is 1: no thread of its own.
    pub fn threads(mut self, threads: u32) -> Self {
        self.threads = threads;
        self
    }

    /// Has the root bind the address and gives the socket to every instance, which finds it by
    /// its name. It stays bound as long as the root runs, so that no restart refuses a connection.
    ///
    /// Other programs find it by the rules of sd_listen_fds(3).
    ///
    /// When the root was itself started with a socket of this name, by the same rules, that one is used in the place of one
    /// bound to the address: with systemd, that is a socket unit with `FileDescriptorName=` set to the name.
    pub fn listen(mut self, name: impl Into<String>, address: impl Into<Address>) -> Self {
        self.listeners.push((name.into(), address.into()));
        self
    }

    /// Marks the service as one whose instances report to the supervisor of the application that
    /// the container is part of. A container by itself has none, and only carries the mark.
    pub fn supervised(mut self) -> Self {
        self.supervised = true;
        self
    }

    /// Gives the instances a [`Link`](crate::Link) to the root: they are told the state of all children, and
    /// may ask for children to be replaced. They stop after all others.
    pub fn linked(mut self) -> Self {
        self.linked = true;
        self
    }

    /// Makes the end of any instance, by itself, the end of the application: everything else is stopped, and the root ends
    /// with the instance's exit status, or 128 and the number of the signal that ended it. Whether it would be restarted
    /// does not matter then.
    pub fn essential(mut self) -> Self {
        self.essential = true;
        self
    }

    /// Exit statuses that are no failure, beside status 0. An example are programs that end with 143 when they are asked to.
    pub fn success_statuses(mut self, statuses: impl IntoIterator<Item = ExitStatus>) -> Self {
        self.statuses.success.extend(statuses);
        self
    }

    /// Exit statuses after which an instance is not started again, whatever [`restart`](Self::restart) says.
    pub fn restart_never_after(mut self, statuses: impl IntoIterator<Item = ExitStatus>) -> Self {
        self.statuses.never.extend(statuses);
        self
    }

    /// Exit statuses after which an instance is started again, whatever [`restart`](Self::restart) says.
    pub fn restart_always_after(mut self, statuses: impl IntoIterator<Item = ExitStatus>) -> Self {
        self.statuses.always.extend(statuses);
        self
    }

    /// Starts the instances only when all instances of another service are ready, and stops that one only when these have
    /// ended. May be called for several services.
    pub fn after(mut self, service: impl Into<String>) -> Self {
        self.dependencies.push(service.into());
        self
    }

    /// Whether what an instance has started and detached, into a session of its own or from its parent, is killed when the
    /// instance ends. If not, it lives on until the root ends. What is left in the instance's process group is killed in any
    /// case. Default is true.
    pub fn kill_descendants(mut self, kill: bool) -> Self {
        self.kills_descendants = kill;
        self
    }

    /// What each instance may use of the machine, with all that it starts. Default is no limit.
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Tells what the service is like: at a reload, its instances are kept if the service of this name had the same key and
    /// the same count before. Default is none: instances are replaced at every reload.
    pub fn key(mut self, key: impl Into<String>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// Replaces an instance that has been ready for so long, give or take a tenth by chance, so that not all are replaced
    /// together. Default is never.
    pub fn maximum_age(mut self, age: Duration) -> Self {
        self.maximum_age = Some(age);
        self
    }

    /// Has a linked child told before a process is killed for what it did not do: for not being ready in time, for silence, or
    /// for a probe. It is killed when that child has said that it has [looked](crate::Link::examined), at the latest after
    /// this time, and at once if there is no linked child.
    ///
    /// One that does not end although it was asked to is looked at so long before its grace period is over, or when half of that
    /// is left, and killed at the end of it.
    ///
    /// Default is zero: nobody is told.
    pub fn examination(mut self, limit: Duration) -> Self {
        self.examination = limit;
        self
    }

    /// How many instances may be missing at a time because they were too old, or be replaced because they
    /// [asked](crate::Instance::recycle) for it: the next one waits until the last ones are ready again. Default is 1.
    pub fn recycle_at_once(mut self, count: usize) -> Self {
        self.recycle_at_once = count.max(1);
        self
    }

    /// The service's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// True if [`supervised`](Self::supervised) was asked for.
    pub fn is_supervised(&self) -> bool {
        self.supervised
    }

    /// Runs `wrap` around the service's code, in its process. Commands stay as they are.
    pub fn wrap<W, F>(mut self, wrap: W) -> Self
    where
        W: Fn(Instance, Pin<Box<dyn Future<Output = Result<(), BoxError>> + Send>>) -> F + Send + Sync + 'static,
        F: Future<Output = Result<(), BoxError>> + Send + 'static,
    {
        if let Start::Entry(work) = self.start {
            self.start = Start::Entry(Arc::new(move |instance| Box::pin(wrap(instance.clone(), work(instance)))));
        }
        self
    }

    pub(crate) fn settings(&self, grace: Duration) -> Settings {
        Settings {
            restart: self.restart,
            backoff: self.backoff,
            startup_timeout: self.startup_timeout,
            health_check_timeout: self.health_check_timeout,
            examination: self.examination,
            grace: self.graceful_stop.unwrap_or(grace),
            ready_when_spawned: self.readiness == Readiness::Spawned && !self.probes.decide_readiness(),
        }
    }

    /// True if an instance needs a pipe to talk to the root.
    pub(crate) fn notifies(&self) -> bool {
        let by_socket = self.readiness == Readiness::NotifySocket;
        self.readiness == Readiness::Notify || (self.health_check_timeout.is_some() && !by_socket) || self.linked
    }

    /// True if its processes may run as somebody else than the root.
    pub(crate) fn changes_user(&self) -> bool {
        matches!(&self.start, Start::Command(command) if command.changes_user())
    }

    /// A setting that has no meaning for a thread of the root, if there is one.
    fn setting_for_processes(&self) -> Option<&'static str> {
        let settings = [
            ("supervised", self.supervised),
            ("linked", self.linked),
            ("threads", self.threads > 1),
            ("probes", self.probes.each().next().is_some()),
            ("limits", !self.limits.files().is_empty()),
            ("a multi-threaded runtime", self.runtime != Runtime::CurrentThread),
            ("a readiness other than by Instance::ready", self.readiness != Readiness::Notify),
        ];
        settings.into_iter().find(|(_, is_set)| *is_set).map(|(setting, _)| setting)
    }

    pub(crate) fn validate(&self) -> Result<(), StartError> {
        let name = self.name.clone();
        if name.is_empty() {
            return Err(StartError::EmptyName);
        }
        let allowed = |character: &char| character.is_alphanumeric() || ".-_".contains(*character);
        if let Some(character) = name.chars().find(|character| !allowed(character)) {
            return Err(StartError::InvalidName { name, character });
        }
        if self.count == Some(0) {
            return Err(StartError::ZeroCount { name });
        }
        if self.threads == 0 {
            return Err(StartError::ZeroThreads { name });
        }
        if let (Start::Thread(_), Some(setting)) = (&self.start, self.setting_for_processes()) {
            return Err(StartError::NotForThreads { name, setting });
        }
        if let Start::Command(command) = &self.start {
            command.prepare(&[]).map_err(|source| StartError::Command { name, source })?;
        }
        self.probes.validate(&self.name)?;
        self.limits.validate(&self.name)?;
        Ok(())
    }
}

impl std::fmt::Debug for Service {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Service").field("name", &self.name).field("count", &self.count).finish_non_exhaustive()
    }
}

/// The variable that overrides [`processor_count`].
pub const PROCESSOR_COUNT: &str = "ASYNC_CONTAINER_PROCESSOR_COUNT";

/// How many processors this process may use: `ASYNC_CONTAINER_PROCESSOR_COUNT` if it is set, else what
/// the system allows it by affinity and cgroup quota.
///
/// # Errors
/// When the variable holds anything but a whole number of at least 1.
pub fn processor_count() -> Result<u32, StartError> {
    let Some(value) = std::env::var_os(PROCESSOR_COUNT) else {
        let count = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        return Ok(u32::try_from(count).unwrap_or(u32::MAX));
    };
    let value = value.to_string_lossy().into_owned();
    value.trim().parse().ok().filter(|count| *count >= 1).ok_or(StartError::ProcessorCount { value })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_said_of_a_service_is_as_documented() {
        let service = Service::new("worker", |_| async { Ok(()) });
        assert_eq!(service.count, None);
        assert_eq!(service.restart, Restart::Always);
        assert_eq!(service.startup_timeout, None);
        assert_eq!(service.health_check_timeout, Some(Duration::from_secs(30)));
        assert_eq!((service.threads, service.runtime), (1, Runtime::CurrentThread));
        let settings = service.settings(Duration::from_secs(7));
        assert_eq!(settings.grace, Duration::from_secs(7));
        assert!(!settings.ready_when_spawned);
        let command = Service::command("sleep", Command::new("sleep"));
        assert_eq!(command.restart, Restart::Always);
        assert_eq!((command.startup_timeout, command.health_check_timeout), (None, None));
        assert!(command.settings(Duration::ZERO).ready_when_spawned);
    }
}
