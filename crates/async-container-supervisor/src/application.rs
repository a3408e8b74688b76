//! The composition: a root, a supervisor with monitors, and supervised services.

use std::panic::Location;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use async_container::{Address, Controller, Instance, Link, Service};
#[cfg(feature = "otlp")]
use async_container_metrics::Otlp;
use async_container_supervisor_server::Server;
use async_container_supervisor_worker::Worker;

#[cfg(feature = "diagnostics")]
use crate::black_box::BlackBox;
use crate::{supervision, tasks};

/// As [`ConfigureServer`], with the line to the root, if there is one.
pub(crate) type ConfigureLinked = Arc<dyn Fn(Server, Option<Link>) -> Server + Send + Sync>;
pub(crate) type ConfigureServer = Arc<dyn Fn(Server) -> Server + Send + Sync>;
type ConfigureWorker = Arc<dyn Fn(&Instance, Worker) -> Worker + Send + Sync>;

/// A program that runs services in processes of their own, under a root and a supervisor.
///
/// ```no_run
/// use std::process::ExitCode;
/// use async_container_supervisor::{Application, BoxError, Instance, Service, monitors::MemoryMonitor};
///
/// fn main() -> ExitCode {
///     Application::new("my-app")
///         .service(Service::new("worker", work).count(4).supervised())
///         .supervisor(|supervisor| supervisor.monitor(MemoryMonitor::new().maximum_size_limit(500 << 20)))
///         .run()
/// }
///
/// async fn work(instance: Instance) -> Result<(), BoxError> {
///     instance.ready()?;
///     instance.shutdown().await;
///     Ok(())
/// }
/// ```
pub struct Application {
    controller: Controller,
    services: Vec<Service>,
    supervisor: Option<ConfigureServer>,
    supervisor_health_check_timeout: Duration,
    worker: ConfigureWorker,
    socket: PathBuf,
    socket_mode: u32,
    #[cfg(feature = "diagnostics")]
    black_box: Option<BlackBox>,
    #[cfg(feature = "metrics")]
    metrics: Option<Address>,
    #[cfg(feature = "otlp")]
    otlp: Option<Otlp>,
    #[cfg(feature = "metrics")]
    name: String,
}

impl Application {
    const SUPERVISOR: &str = "supervisor";
    const SUPERVISOR_HEALTH_CHECK_TIMEOUT: Duration = Duration::from_secs(30);
    const SOCKET_MODE: u32 = 0o600;

    /// An application without services. The name begins the title of every process.
    pub fn new(name: impl Into<String>) -> Self {
        let name = name.into();
        Application {
            #[cfg(feature = "metrics")]
            name: name.clone(),
            controller: Controller::new(name),
            services: Vec::new(),
            supervisor: None,
            supervisor_health_check_timeout: Application::SUPERVISOR_HEALTH_CHECK_TIMEOUT,
            worker: Arc::new(|_, worker| worker),
            socket: PathBuf::from(async_container_protocol::endpoint::DEFAULT_SOCKET),
            socket_mode: Application::SOCKET_MODE,
            #[cfg(feature = "diagnostics")]
            black_box: Some(BlackBox::default()),
            #[cfg(feature = "metrics")]
            metrics: None,
            #[cfg(feature = "otlp")]
            otlp: None,
        }
    }

    /// Adds a service. Those that are [`supervised`](Service::supervised) connect to the supervisor, if there is one.
    ///
    /// With the feature `diagnostics`, the work of each instance is a registered task of its process, named after the instance,
    /// and dumps of tasks show this place as where it was made.
    #[track_caller]
    pub fn service(mut self, service: Service) -> Self {
        self.services.push(tasks::named(service, Location::caller()));
        self
    }

    /// Runs a supervisor, in a process of its own. `configure` is called there, to add monitors and operations.
    ///
    /// Default is none: the application is then its root and its services.
    pub fn supervisor(mut self, configure: impl Fn(Server) -> Server + Send + Sync + 'static) -> Self {
        self.supervisor = Some(Arc::new(configure));
        self
    }

    /// How long the supervisor may be silent before the root takes it for hung, kills it and starts another one. Its workers
    /// go on meanwhile and register again, as when it ends by itself.
    ///
    /// Default is 30 s.
    pub fn supervisor_health_check_timeout(mut self, timeout: Duration) -> Self {
        self.supervisor_health_check_timeout = timeout;
        self
    }

    /// Configures what supervised instances offer to the supervisor. `configure` is called in each of them, to add
    /// operations and state.
    pub fn worker(mut self, configure: impl Fn(&Instance, Worker) -> Worker + Send + Sync + 'static) -> Self {
        self.worker = Arc::new(configure);
        self
    }

    /// Where the supervisor listens. Default is `supervisor.ipc` in the working directory.
    pub fn socket(mut self, path: impl Into<PathBuf>) -> Self {
        self.socket = path.into();
        self
    }

    /// The permissions of the file of that socket: who may not write to it cannot connect (unix(7)). Default is 0600, so that only
    /// the user of the application and root can.
    ///
    /// Whom [`Server::allow_user`] or [`Server::allow_group`] lets in needs a wider one, such as 0666. That opens nothing to anybody
    /// else: the supervisor asks the kernel who connected, and refuses those who have no role.
    pub fn socket_mode(mut self, mode: u32) -> Self {
        self.socket_mode = mode;
        self
    }

    /// Where the supervisor answers `GET /metrics` with all that it, the root and the monitors know as numbers, for
    /// Prometheus and others who read its format: `unix:metrics.ipc`, or `127.0.0.1:9464`. Without a
    /// [`supervisor`](Self::supervisor), one without monitors is run.
    ///
    /// Like other sockets it is bound by the root, so that it stays when the supervisor is restarted. A Unix socket has mode
    /// 0600. Everybody who reaches a TCP address can read.
    ///
    /// Default is nowhere.
    #[cfg(feature = "metrics")]
    pub fn metrics(mut self, address: impl Into<Address>) -> Self {
        self.metrics = Some(address.into());
        self
    }

    /// Where the supervisor pushes all that it, the root and the monitors know as numbers, by OTLP over HTTP, as to an
    /// OpenTelemetry Collector. Without a [`supervisor`](Self::supervisor), one without monitors is run.
    ///
    /// The name of the application is its `service.name`. A push that fails loses nothing but its point in time, and holds up
    /// nothing; the log tells of the first one, and when they succeed again. An endpoint that is none ends the application before
    /// it has begun, with status 78.
    ///
    /// ```no_run
    /// use std::time::Duration;
    /// use async_container_supervisor::{Application, metrics::Otlp};
    ///
    /// Application::new("my-app").otlp(Otlp::new("http://127.0.0.1:4318").interval(Duration::from_secs(10))).run();
    /// ```
    ///
    /// Default is nowhere. The variables of OpenTelemetry alone do not turn it on; [`Otlp::from_environment`] is where they say.
    #[cfg(feature = "otlp")]
    pub fn otlp(mut self, otlp: Otlp) -> Self {
        self.otlp = Some(otlp);
        self
    }

    /// Sets what is found out about processes before they are ended for what they did, or did not do, and where it is kept.
    /// Default is [`BlackBox::default`], if there is a supervisor, which is the one that does it.
    #[cfg(feature = "diagnostics")]
    pub fn black_box(mut self, black_box: BlackBox) -> Self {
        self.black_box = Some(black_box);
        self
    }

    /// Has processes ended at once, and nothing found out about them before.
    #[cfg(feature = "diagnostics")]
    pub fn without_black_box(mut self) -> Self {
        self.black_box = None;
        self
    }

    /// How long children may take to end before they are killed, see [`Controller::graceful_stop`].
    pub fn graceful_stop(mut self, grace: Duration) -> Self {
        self.controller = self.controller.graceful_stop(grace);
        self
    }

    /// Configures the root: policies, strategy, and what else a [`Controller`] can be told.
    pub fn controller(mut self, configure: impl FnOnce(Controller) -> Controller) -> Self {
        self.controller = configure(self.controller);
        self
    }

    /// Runs until told to end, see [`Controller::run`]. In a child, runs its service.
    ///
    /// If the program has not set up a subscriber for `tracing` events by then, they are written to standard
    /// error: those of level `info` and above, or what `RUST_LOG` says. A standard error that nobody reads holds up nothing:
    /// events that there is no room for are dropped and counted.
    pub fn run(self) -> ExitCode {
        crate::log::init();
        let mut controller = self.controller;
        #[cfg(feature = "metrics")]
        let metrics = self.metrics;
        #[cfg(not(feature = "metrics"))]
        let metrics: Option<Address> = None;
        #[cfg(feature = "metrics")]
        if let Some(address) = metrics.as_ref().filter(|address| !address.takes_connections()) {
            eprintln!("{}: nobody can ask for metrics at {address}: use HOST:PORT or unix:PATH", self.name);
            return ExitCode::from(async_container::exit_code::CONFIGURATION);
        }
        let has_numbers = metrics.is_some();
        #[cfg(feature = "otlp")]
        if let Some(Err(error)) = self.otlp.clone().map(|otlp| otlp.exporter(&self.name)) {
            eprintln!("{}: {error}", self.name);
            return ExitCode::from(async_container::exit_code::CONFIGURATION);
        }
        #[cfg(feature = "otlp")]
        let has_numbers = has_numbers || self.otlp.is_some();
        let numbers = supervision::Numbers {
            #[cfg(feature = "metrics")]
            has_listener: metrics.is_some(),
            #[cfg(feature = "otlp")]
            otlp: self.otlp.map(|otlp| (otlp, self.name)),
        };
        let configure = self.supervisor.or_else(|| has_numbers.then(|| Arc::new(|server| server) as ConfigureServer));
        let supervised = configure.is_some();
        #[cfg(feature = "diagnostics")]
        let black_box = self.black_box.filter(|_| supervised);
        #[cfg(feature = "diagnostics")]
        let examination = black_box.as_ref().map(BlackBox::limit).unwrap_or_default();
        #[cfg(not(feature = "diagnostics"))]
        let examination = Duration::ZERO;
        if let Some(configure) = configure {
            // First, so that it is there when the others want to connect; in its absence they would only wait.
            #[cfg(feature = "diagnostics")]
            let configure = crate::external::with_diagnostics(configure, black_box);
            #[cfg(not(feature = "diagnostics"))]
            let configure: ConfigureLinked = Arc::new(move |server, _| configure(server));
            let socket = Address::unix(&self.socket).mode(self.socket_mode);
            let supervisor = supervisor(socket, configure, metrics, numbers)
                .health_check_timeout(self.supervisor_health_check_timeout);
            controller = controller.service(tasks::named(supervisor, Location::caller()));
        }
        for service in self.services {
            let service = if supervised && service.is_supervised() {
                supervise(service, self.socket.clone(), Arc::clone(&self.worker))
            } else {
                service
            };
            controller = controller.service(service.examination(examination));
        }
        let code = controller.run();
        crate::log::flush();
        code
    }
}

/// The supervisor as a service.
fn supervisor(
    socket: Address,
    configure: ConfigureLinked,
    metrics: Option<Address>,
    numbers: supervision::Numbers,
) -> Service {
    let work = move |instance: Instance| {
        let configure = Arc::clone(&configure);
        let link = instance.link().cloned();
        let configure = move |server| configure(server, link);
        let numbers = numbers.clone();
        async move { supervision::serve(instance, Application::SUPERVISOR, numbers, configure).await }
    };
    let service = Service::new(Application::SUPERVISOR, work).count(1).listen(Application::SUPERVISOR, socket).linked();
    match metrics {
        #[cfg(feature = "metrics")]
        Some(address) => service.listen(crate::exposition::LISTENER, address),
        _ => service,
    }
}

/// The service with a connection to the supervisor beside its work.
fn supervise(service: Service, socket: PathBuf, configure: ConfigureWorker) -> Service {
    service.wrap(move |instance, work| {
        let state = supervision::WorkerState { instance: instance.index(), thread: instance.thread() };
        let worker = Worker::new(&socket).name(instance.service());
        #[cfg(feature = "diagnostics")]
        let worker = crate::external::of_worker(worker);
        let worker = worker.state(&state).map(|worker| configure(&instance, worker));
        async move { supervision::work(worker?, work).await }
    })
}

impl std::fmt::Debug for Application {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Application")
            .field("services", &self.services)
            .field("supervisor", &self.supervisor.is_some())
            .field("socket", &self.socket)
            .finish_non_exhaustive()
    }
}
