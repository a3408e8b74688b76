//! Probes: how the root finds out how a command is that does not say so itself.

pub(crate) mod attempt;
pub(crate) mod checker;

use std::fmt;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::command::Command;
use crate::error::{ProbeError, StartError};
use crate::exit::ExitStatus;
use crate::spec::Service;

/// A question that the root asks again and again while a child runs, and which either succeeds or fails.
///
/// ```
/// use std::time::Duration;
/// use async_container::{Command, Probe, Service};
///
/// let database = Service::command("database", Command::new("postgres"))
///     .startup_probe(Probe::exec(Command::new("pg_isready")))
///     .liveness_probe(Probe::tcp("127.0.0.1:5432").period(Duration::from_secs(5)));
/// let web = Service::command("web", Command::new("httpd")).readiness_probe(Probe::http("127.0.0.1:80", "/health"));
/// # let _ = (database, web);
/// ```
#[derive(Clone, Debug)]
pub struct Probe {
    pub(crate) check: Check,
    pub(crate) period: Duration,
    pub(crate) timeout: Duration,
    pub(crate) success_threshold: u32,
    pub(crate) failure_threshold: u32,
}

/// What is done.
#[derive(Clone, Debug)]
pub(crate) enum Check {
    Exec(Box<Command>),
    Tcp(Target),
    Http { target: Target, path: String },
}

/// Where to connect to. A name is looked up once, when the root starts: it would take a thread, and may take any time.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub address: String,
    resolved: Arc<OnceLock<Vec<SocketAddr>>>,
}

impl Probe {
    const PERIOD: Duration = Duration::from_secs(1);
    const TIMEOUT: Duration = Duration::from_secs(1);
    const SUCCESS_THRESHOLD: u32 = 1;
    const FAILURE_THRESHOLD: u32 = 3;

    /// Succeeds when the program ends with status 0. It finds the child's process id in `MAINPID`. Standard streams lead
    /// nowhere unless the command says otherwise. Whatever it leaves behind is killed with it.
    pub fn exec(command: Command) -> Self {
        Probe::new(Check::Exec(Box::new(command.detached())))
    }

    /// Succeeds when `HOST:PORT` takes a TCP connection. A host name is looked up once, when the root starts.
    pub fn tcp(address: impl Into<String>) -> Self {
        Probe::new(Check::Tcp(Target::new(address.into())))
    }

    /// Succeeds when `HOST:PORT` answers an HTTP/1.1 GET of the path with a status from 200 to 399. A host name is looked up
    /// once, when the root starts. Redirections are not followed.
    pub fn http(address: impl Into<String>, path: impl Into<String>) -> Self {
        Probe::new(Check::Http { target: Target::new(address.into()), path: path.into() })
    }

    fn new(check: Check) -> Self {
        Probe {
            check,
            period: Self::PERIOD,
            timeout: Self::TIMEOUT,
            success_threshold: Self::SUCCESS_THRESHOLD,
            failure_threshold: Self::FAILURE_THRESHOLD,
        }
    }

    /// From one attempt to the next. The first one is made at once. Default is 1 s.
    pub fn period(mut self, period: Duration) -> Self {
        self.period = period;
        self
    }

    /// How long an attempt may take before it has failed. Default is 1 s.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// How many attempts in a row must succeed for the answer to be yes. Default is 1.
    pub fn success_threshold(mut self, count: u32) -> Self {
        self.success_threshold = count.max(1);
        self
    }

    /// How many attempts in a row must fail for the answer to be no. Default is 3.
    pub fn failure_threshold(mut self, count: u32) -> Self {
        self.failure_threshold = count.max(1);
        self
    }

    /// Finds out what is wrong with it, and looks up names.
    pub(crate) fn validate(&self) -> Result<(), ProbeError> {
        if self.period.is_zero() || self.timeout.is_zero() {
            return Err(ProbeError::ZeroTime);
        }
        match &self.check {
            Check::Exec(command) if command.captured().next().is_some() => Err(ProbeError::Output),
            Check::Exec(command) => Ok(command.prepare(&[]).map(drop)?),
            Check::Tcp(target) => target.resolve(),
            Check::Http { target, path } => {
                if !path.starts_with('/')
                    || path.chars().any(|character| character.is_whitespace() || character.is_control())
                {
                    return Err(ProbeError::InvalidPath { path: path.clone() });
                }
                target.resolve()
            }
        }
    }
}

impl Target {
    fn new(address: String) -> Self {
        Target { address, resolved: Arc::default() }
    }

    fn resolve(&self) -> Result<(), ProbeError> {
        let address = || self.address.clone();
        match self.address.to_socket_addrs().map(|addresses| addresses.collect::<Vec<_>>()) {
            Ok(addresses) if !addresses.is_empty() => {
                self.resolved.get_or_init(|| addresses);
                Ok(())
            }
            Err(error) if error.kind() != io::ErrorKind::InvalidInput => {
                Err(ProbeError::Unresolved { address: address(), source: error })
            }
            _ => Err(ProbeError::InvalidAddress { address: address() }),
        }
    }

    pub(crate) fn resolved(&self) -> &[SocketAddr] {
        self.resolved.get().map_or(&[], Vec::as_slice)
    }
}

/// What a probe is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProbeKind {
    /// Whether the child has started.
    Startup,
    /// Whether it can be given work.
    Readiness,
    /// Whether it has to be replaced.
    Liveness,
}

impl fmt::Display for ProbeKind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            ProbeKind::Startup => "start-up probe",
            ProbeKind::Readiness => "readiness probe",
            ProbeKind::Liveness => "liveness probe",
        })
    }
}

/// Why an attempt failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ProbeFailure {
    /// It took too long.
    TimedOut {
        /// The limit.
        timeout: Duration,
    },
    /// The program ended like this.
    Ended(ExitStatus),
    /// The program could not be started.
    NotStarted(io::ErrorKind),
    /// Nobody took the connection, or it broke.
    Connection(io::ErrorKind),
    /// The answer had this HTTP status.
    Status(u16),
    /// The answer was no HTTP.
    NotHttp,
}

impl fmt::Display for ProbeFailure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ProbeFailure::TimedOut { timeout } => write!(formatter, "no answer within {timeout:?}"),
            ProbeFailure::Ended(status) => write!(formatter, "{status}"),
            ProbeFailure::NotStarted(error) => write!(formatter, "cannot be started: {error}"),
            ProbeFailure::Connection(error) => write!(formatter, "{error}"),
            ProbeFailure::Status(status) => write!(formatter, "HTTP status {status}"),
            ProbeFailure::NotHttp => formatter.write_str("the answer is no HTTP"),
        }
    }
}

/// The probes of a service.
#[derive(Clone, Debug, Default)]
pub(crate) struct Probes {
    pub startup: Option<Probe>,
    pub readiness: Option<Probe>,
    pub liveness: Option<Probe>,
}

impl Probes {
    pub(crate) fn each(&self) -> impl Iterator<Item = (ProbeKind, &Probe)> {
        [ProbeKind::Startup, ProbeKind::Readiness, ProbeKind::Liveness]
            .into_iter()
            .filter_map(|kind| Some((kind, self.get(kind)?)))
    }

    pub(crate) fn get(&self, kind: ProbeKind) -> Option<&Probe> {
        match kind {
            ProbeKind::Startup => self.startup.as_ref(),
            ProbeKind::Readiness => self.readiness.as_ref(),
            ProbeKind::Liveness => self.liveness.as_ref(),
        }
    }

    /// Finds out what is wrong with them.
    pub(crate) fn validate(&self, service: &str) -> Result<(), StartError> {
        self.each().try_for_each(|(probe, it)| {
            it.validate().map_err(|source| StartError::Probe { name: service.to_owned(), probe, source })
        })
    }

    /// True if a child is not ready before one of them says so.
    pub(crate) fn decide_readiness(&self) -> bool {
        self.startup.is_some() || self.readiness.is_some()
    }
}

impl Service {
    /// Has an instance count as not ready before the probe has succeeded; it ends then. How long that may take is for
    /// [`startup_timeout`](Self::startup_timeout) to say. Other probes wait for it. What [`readiness`](Self::readiness)
    /// asks for is needed as well. Default is none.
    pub fn startup_probe(mut self, probe: Probe) -> Self {
        self.probes.startup = Some(probe);
        self
    }

    /// Has an instance count as ready only as long as the probe succeeds. When it fails for as often as its threshold
    /// says, the instance is shown as `unready`; it is not killed. What [`readiness`](Self::readiness) asks for is
    /// needed as well. Default is none.
    pub fn readiness_probe(mut self, probe: Probe) -> Self {
        self.probes.readiness = Some(probe);
        self
    }

    /// Has an instance that was ready killed when the probe fails for as often as its threshold says; it counts as failed.
    /// Default is none.
    pub fn liveness_probe(mut self, probe: Probe) -> Self {
        self.probes.liveness = Some(probe);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_that_makes_no_sense_is_refused() {
        let complaint = |probe: Probe| probe.validate().unwrap_err().to_string();
        assert_eq!(complaint(Probe::tcp("nonsense")), "\"nonsense\" is not an address to connect to: use HOST:PORT");
        assert_eq!(
            complaint(Probe::http("127.0.0.1:80", "health")),
            "\"health\" is not a path to ask for: it must begin with / and have no spaces"
        );
        assert!(complaint(Probe::http("127.0.0.1:80", "/a\r\nb")).contains("not a path"));
        assert_eq!(
            complaint(Probe::tcp("127.0.0.1:80").period(Duration::ZERO)),
            "its period and its time-out must be longer than 0"
        );
        assert!(complaint(Probe::exec(Command::new("no-such-program"))).contains("was not found"));
        let captured = Command::new("true").stdout(crate::command::Stdio::Log);
        assert!(complaint(Probe::exec(captured)).contains("cannot be logged"));
        assert!(Probe::exec(Command::new("true")).validate().is_ok());
        let probe = Probe::http("localhost:80", "/");
        assert!(probe.validate().is_ok());
        assert!(matches!(probe.check, Check::Http { target, .. } if !target.resolved().is_empty()));
    }
}
