//! The root: it owns every child and every socket, takes the signals, and replaces generations.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use tokio::signal::unix::SignalKind;

use crate::cgroup::{CGROUP, Cgroups, Home, Tree};
use crate::container::{Container, require_limits};
use crate::entry;
use crate::error::{BoxError, CgroupError, StartError};
use crate::guardian::{self, Guard};
use crate::listener::inherited::Inherited;
use crate::listener::{Address, Listener};
use crate::notify::Notify;
use crate::notify::server::Server;
use crate::orders::{Signals, install};
use crate::plan::{Plan, Planned};
use crate::policies::Policies;
use crate::policy::Policy;
use crate::root::{Options, Root};
use crate::spec::{Readiness, Reload, Service, Strategy};
use crate::statistics::Statistics;
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
/// It ends with one of the statuses of [`exit_code`](crate::exit_code), or that of an [essential](Service::essential) child.
pub struct Controller {
    name: String,
    services: Vec<Service>,
    graceful_stop: Option<Duration>,
    guardian: bool,
    policies: Vec<Box<dyn Policy>>,
    statistics_window: Duration,
    strategy: Strategy,
    maximum_draining: usize,
    reload: Reload,
    reload_timeout: Duration,
    computed: Option<Box<Compute>>,
    cgroups: Option<Cgroups>,
}

impl Controller {
    const MAXIMUM_DRAINING: usize = 2;
    const RELOAD_TIMEOUT: Duration = Duration::from_secs(300);

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
            reload: Reload::default(),
            reload_timeout: Self::RELOAD_TIMEOUT,
            computed: None,
            cgroups: None,
        }
    }

    /// Adds a service.
    pub fn service(mut self, service: Service) -> Self {
        self.services.push(service);
        self
    }

    /// How long the children that are started by a reload may take to be ready, whatever their own limits are. If they are
    /// not, they are stopped, it is said which, and the old ones go on. Of a rolling reload it holds for those that are
    /// started together. Default is 5 minutes.
    pub fn reload_timeout(mut self, timeout: Duration) -> Self {
        self.reload_timeout = timeout;
        self
    }

    /// Computes services, beside those that were added, at the start and anew at each reload: from a configuration file, say.
    ///
    /// What was changed is replaced, what is new is started, and what is not there any more is stopped, all of it when the
    /// reload succeeds. Services with the same [`key`](Service::key) as before are kept as they are. An error, or services
    /// that make no sense, fail the reload, and nothing changes.
    ///
    /// It is called in children as well, which run code of this program: it should not depend on more than they can see.
    pub fn services_from(mut self, services: impl Fn() -> Result<Vec<Service>, BoxError> + 'static) -> Self {
        self.computed = Some(Box::new(services));
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

    /// Where children get cgroups of their own. Default is what `ASYNC_CONTAINER_CGROUP` says, the directory of a cgroup or
    /// `none`, else [`Cgroups::Delegated`].
    pub fn cgroups(mut self, cgroups: Cgroups) -> Self {
        self.cgroups = Some(cgroups);
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

    /// What SIGHUP does. Default is [`Reload::BlueGreen`].
    pub fn reload(mut self, reload: Reload) -> Self {
        self.reload = reload;
        self
    }

    /// Runs until told to end, or until all children have ended. In a process that was started as a
    /// child, runs the code of its service instead.
    ///
    /// To be called first thing in `main`, before there are threads or a runtime. What comes before it
    /// happens in every child as well.
    pub fn run(self) -> ExitCode {
        if let Some(code) = entry::run(&self.name, &self.services) {
            return code;
        }
        let name = self.name.clone();
        self.run_root().unwrap_or_else(|error| {
            eprintln!("{name}: {}", entry::chain(&error));
            ExitCode::from(error.exit_code())
        })
    }

    fn run_root(self) -> Result<ExitCode, StartError> {
        if tokio::runtime::Handle::try_current().is_ok() {
            return Err(StartError::InsideRuntime);
        }
        // They are meant for this process, which is not the root yet.
        let mut inherited = Inherited::take().map_err(|source| StartError::Inherited { source })?;
        let source = Source { fixed: self.services, computed: self.computed };
        let Plan { services: plan, addresses } = Plan::new(&source.services()?, |name| inherited.has(name))?;
        let grace = match self.graceful_stop {
            Some(grace) => grace,
            None => graceful_stop_from_environment()?,
        };
        let which = match self.cgroups {
            Some(cgroups) => cgroups,
            None => cgroups_from_environment()?,
        };
        let mut cgroups = make_cgroups(&which, &self.name, &plan)?;
        // Before there is a thread, and before a child could inherit the variable that names the pipe.
        Notify::open();
        let home = cgroups.as_ref().ok().map(|tree| tree.home().clone());
        let guard = self.guardian.then(|| enter_guardian(&mut inherited, home.as_ref())).flatten();
        if let (Ok(tree), Some(_)) = (&mut cgroups, &guard) {
            let guardian = rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get().unsigned_abs());
            tree.set_processes([Some(std::process::id()), guardian].into_iter().flatten().collect());
        }

        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
            .map_err(|error| StartError::System { action: "become a subreaper", source: error.into() })?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|source| StartError::System { action: "build the runtime", source })?;
        let code = runtime.block_on(async {
            let signals = Signals::install()?;
            let children = install(SignalKind::child())?;
            let listeners = bind(addresses, inherited, guard.as_ref())?;
            let notices = bind_notify_socket(&plan, guard.as_ref())?;
            let watch = guard
                .map(Guard::watch)
                .transpose()
                .map_err(|source| StartError::System { action: "watch the guardian", source })?;
            let policies = Policies::new(self.policies, Statistics::new(self.statistics_window));
            let mut container = Container::new(self.name, listeners, policies, self.strategy, cgroups)
                .map_err(|source| StartError::System { action: "create an epoll instance", source })?;
            if let Some(server) = notices {
                container
                    .listen_for_notices(server)
                    .map_err(|source| StartError::System { action: "watch the notify socket", source })?;
            }
            let options = Options {
                grace,
                maximum_draining: self.maximum_draining,
                reload: self.reload,
                reload_timeout: self.reload_timeout,
            };
            let mut root = Root::new(container, plan, source, options, watch);
            let code = root.run(signals, children).await;
            Ok((code, root.is_guarded()))
        });
        // A guardian that lives does it, and only it gets everything.
        if !matches!(&code, Ok((_, true))) {
            guardian::sweep(home.as_ref());
        }
        code.map(|(code, _)| code)
    }
}

/// What computes services.
pub(crate) type Compute = dyn Fn() -> Result<Vec<Service>, BoxError>;

/// Where services come from.
pub(crate) struct Source {
    fixed: Vec<Service>,
    computed: Option<Box<Compute>>,
}

impl Source {
    fn compute(fixed: &[Service], computed: Option<&Compute>) -> Result<Vec<Service>, StartError> {
        let mut services = fixed.to_vec();
        if let Some(compute) = computed {
            services.extend(compute().map_err(StartError::Services)?);
        }
        Ok(services)
    }

    /// The services of now.
    pub(crate) fn services(&self) -> Result<Vec<Service>, StartError> {
        Self::compute(&self.fixed, self.computed.as_deref())
    }
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

fn cgroups_from_environment() -> Result<Cgroups, StartError> {
    let Some(value) = std::env::var_os(CGROUP) else {
        return Ok(Cgroups::Delegated);
    };
    if value == "none" {
        return Ok(Cgroups::None);
    }
    let path = PathBuf::from(&value);
    if path.is_absolute() {
        Ok(Cgroups::Below(path))
    } else {
        Err(StartError::CgroupVariable { value: value.to_string_lossy().into_owned() })
    }
}

/// Makes the cgroup in which those of children are to be, with all that their limits need.
fn make_cgroups(which: &Cgroups, application: &str, plan: &[Planned]) -> Result<Result<Tree, CgroupError>, StartError> {
    let mut cgroups = Home::make(which, application).map(Tree::new);
    match (&cgroups, which) {
        (Ok(tree), _) => tracing::info!(cgroup = %tree.path().display(), "children have cgroups of their own"),
        (Err(error), Cgroups::Below(_)) => return Err(StartError::Cgroup(error.clone())),
        (Err(reason), Cgroups::Delegated) => tracing::info!(%reason, "children have no cgroups of their own"),
        (Err(_), Cgroups::None) => {}
    }
    if let Err(error) = require_limits(&mut cgroups, plan) {
        let _ = cgroups.map(|tree| tree.home().remove());
        return Err(error);
    }
    Ok(cgroups)
}

fn enter_guardian(inherited: &mut Inherited, cgroups: Option<&Home>) -> Option<Guard> {
    if !inherit::single_threaded() {
        tracing::warn!(
            "this process has other threads already: going on without a guardian; call `run` first thing in `main`"
        );
        return None;
    }
    guardian::enter(inherited, cgroups)
        .inspect_err(|error| tracing::warn!(%error, "cannot start a guardian: going on without"))
        .ok()
}

fn bind(
    addresses: BTreeMap<String, Address>,
    mut inherited: Inherited,
    guard: Option<&Guard>,
) -> Result<BTreeMap<String, Listener>, StartError> {
    let mut listeners = BTreeMap::new();
    for (name, address) in addresses {
        let (listener, is_inherited) = match inherited.claim(&name, &address)? {
            Some(listener) => (listener, true),
            None => (address.bind()?, false),
        };
        tracing::info!(listener = name, address = listener.address(), inherited = is_inherited, "listening");
        if let (Some(guard), Some(path)) = (guard, listener.path()) {
            guard.entrust(path);
        }
        listeners.insert(name, listener);
    }
    for name in inherited.unclaimed() {
        let known = listeners.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
        tracing::warn!(
            name,
            known,
            "started with a socket that no service listens on: closing it; its name, FileDescriptorName= in a socket unit, must be that of a listener"
        );
    }
    Ok(listeners)
}

/// Makes the socket that children find by `NOTIFY_SOCKET`, if there are any.
pub(crate) fn bind_notify_socket(plan: &[Planned], guard: Option<&Guard>) -> Result<Option<Server>, StartError> {
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

impl std::fmt::Debug for Controller {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Controller")
            .field("name", &self.name)
            .field("services", &self.services)
            .finish_non_exhaustive()
    }
}
