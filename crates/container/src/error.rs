//! What can go wrong, by what was attempted.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use crate::command::Resource;
use crate::exit::exit_code;
use crate::probe::ProbeKind;
use crate::sys::spawn::Failed;

/// Any error of code that users wrote.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Why a command cannot be run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CommandError {
    /// The program's name has no characters.
    #[error("the name of the program is empty")]
    Empty,
    /// No file is at the path.
    #[error("program {} does not exist", path.display())]
    NotFound {
        /// Where it should have been.
        path: PathBuf,
    },
    /// `PATH` does not lead to the program.
    #[error("program {} was not found in any directory of PATH", program.display())]
    NotInPath {
        /// Its name.
        program: PathBuf,
    },
    /// Something is there, but cannot be executed.
    #[error("{} is not an executable file", path.display())]
    NotExecutable {
        /// What was found.
        path: PathBuf,
    },
    /// The directory to start in is missing.
    #[error("directory {} to start {} in does not exist", directory.display(), program.display())]
    Directory {
        /// The program.
        program: PathBuf,
        /// The directory.
        directory: PathBuf,
    },
    /// Standard input should come from the log.
    #[error("standard input cannot come from the log: use Stdio::Log for output only")]
    InputFromLog,
    /// There is no such user.
    #[error("there is no user {user:?}")]
    NoUser {
        /// The name or number.
        user: String,
    },
    /// There is no such group.
    #[error("there is no group {group:?}")]
    NoGroup {
        /// The name or number.
        group: String,
    },
    /// The soft limit on a resource is above the hard one.
    #[error("the soft limit on {resource:?} is above the hard one: the system takes no such limits")]
    Limit {
        /// What is limited.
        resource: Resource,
    },
    /// There is no such scheduling priority.
    #[error("there is no scheduling priority {nice}: use -20 to 19")]
    Nice {
        /// The priority.
        nice: i32,
    },
    /// An argument, a variable or a path contains a NUL character, which no program can be given.
    #[error("{text:?} contains a NUL character")]
    Nul {
        /// The text.
        text: String,
    },
}

/// Why a process could not be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SpawnError {
    /// The command is not one that can be run.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// A file for the program's output or input cannot be opened.
    #[error("cannot open {}: {source}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The limits of the service cannot be set.
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    /// The system refused.
    #[error("cannot {step}: {source}")]
    System {
        /// What was attempted.
        step: &'static str,
        /// Why it failed.
        source: io::Error,
    },
}

impl From<Failed> for SpawnError {
    fn from(Failed { step, error: source }: Failed) -> Self {
        SpawnError::System { step, source }
    }
}

impl SpawnError {
    /// True for what may pass by itself: too many processes or open files, or too little memory.
    pub fn is_transient(&self) -> bool {
        let source = match self {
            SpawnError::System { source, .. } | SpawnError::Open { source, .. } => source,
            SpawnError::Cgroup(CgroupError::System { source, .. }) => source,
            _ => return false,
        };
        matches!(
            source.raw_os_error(),
            Some(libc::EAGAIN | libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::ENOSPC | libc::ETXTBSY)
        )
    }
}

/// Why children cannot have cgroups, or limits, of their own.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CgroupError {
    /// They were switched off.
    #[error("cgroups are switched off: set neither Cgroups::None nor ASYNC_CONTAINER_CGROUP=none")]
    Unwanted,
    /// There is no cgroup file system of version 2, or this process is outside of what is mounted of it.
    #[error("no cgroup2 file system is mounted that has this process in it")]
    NotMounted,
    /// Somebody else manages the cgroup of this process.
    #[error(
        "cgroup {} is not delegated to this program: with systemd, set Delegate=yes in the unit; else name a directory of a \
         cgroup that it may use, in ASYNC_CONTAINER_CGROUP or Cgroups::Below",
        path.display()
    )]
    NotDelegated {
        /// Its directory.
        path: PathBuf,
    },
    /// A directory that was named is none of a cgroup.
    #[error("{} is no directory of a cgroup2 file system", path.display())]
    NotACgroup {
        /// The directory.
        path: PathBuf,
    },
    /// The cgroup does not have what a limit needs.
    #[error("cgroup {} does not have the controller {controller:?}: whoever delegated it has to hand that down", path.display())]
    NoController {
        /// The directory.
        path: PathBuf,
        /// The controller.
        controller: &'static str,
    },
    /// There are processes of others in the cgroup, so that it cannot hand controllers down.
    #[error("cgroup {} has processes beside this program, so it cannot hand controllers down: {processes}", path.display())]
    Occupied {
        /// The directory.
        path: PathBuf,
        /// Their ids.
        processes: String,
    },
    /// The system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    System {
        /// What was attempted.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// Why it failed.
        source: Arc<io::Error>,
    },
}

/// Why a probe cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProbeError {
    /// The command is not one that can be run.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// Its output should be logged.
    #[error("the output of a probe cannot be logged: use Stdio::Null or Stdio::File")]
    Output,
    /// The address is not understood.
    #[error("{address:?} is not an address to connect to: use HOST:PORT")]
    InvalidAddress {
        /// The address.
        address: String,
    },
    /// The host's name was not found.
    #[error("cannot look up {address:?}: {source}")]
    Unresolved {
        /// The address.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// The path is not one that can be asked for.
    #[error("{path:?} is not a path to ask for: it must begin with / and have no spaces")]
    InvalidPath {
        /// The path.
        path: String,
    },
    /// It would be asked all the time, or never have time to answer.
    #[error("its period and its time-out must be longer than 0")]
    ZeroTime,
}

/// Why a listening socket could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BindError {
    /// The path does not fit into a socket address.
    #[error("socket path {} has {length} bytes, but the limit is {limit}: use a shorter or a relative path", path.display())]
    PathTooLong {
        /// The path.
        path: PathBuf,
        /// Its length in bytes.
        length: usize,
        /// The longest that the platform takes, in bytes.
        limit: usize,
    },
    /// The directory is missing.
    #[error("directory {} for the socket does not exist: create it first", directory.display())]
    NoDirectory {
        /// The directory.
        directory: PathBuf,
    },
    /// Somebody listens there.
    #[error("{} already listens at {}: stop it first, or use another path", process(*process_id), path.display())]
    InUse {
        /// The path.
        path: PathBuf,
        /// The process that listens, if the kernel tells.
        process_id: Option<i32>,
    },
    /// Another socket is bound to the TCP or UDP address.
    #[error(
        "another program listens at {address}: stop it (`ss -lntup` tells which one it is), or choose another address"
    )]
    AddressInUse {
        /// The address.
        address: String,
    },
    /// The IP address is one of another machine, or none at all.
    #[error("{address} is no address of this machine: choose one that is, or 0.0.0.0 or [::] for all of them")]
    NotLocal {
        /// The address.
        address: String,
    },
    /// The name of the host leads to no IP address.
    #[error("the host of {address} cannot be found ({source}): correct its name, or use an IP address")]
    UnknownHost {
        /// The address.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// The port is for privileged programs.
    #[error("this program may not listen at {address}: choose a port from 1024 on, or give it CAP_NET_BIND_SERVICE")]
    Privileged {
        /// The address.
        address: String,
    },
    /// What is at the path is no socket, so it is not ours to replace.
    #[error("{} exists and is {kind}, not a socket: remove it, or use another path", path.display())]
    NotASocket {
        /// The path.
        path: PathBuf,
        /// What it is, such as "a directory".
        kind: &'static str,
    },
    /// The address cannot be understood.
    #[error("{address:?} is no address to listen at: use HOST:PORT, udp:HOST:PORT, unix:PATH, or unix-datagram:PATH")]
    InvalidAddress {
        /// What was given.
        address: String,
    },
    /// A socket that whoever started the root has bound is not what the listener of its name is to be.
    #[error("cannot use the socket {name:?} that this program was started with: {what}")]
    Inherited {
        /// The listener's name.
        name: String,
        /// What is wrong with it.
        what: String,
    },
    /// The system refused.
    #[error("cannot listen at {address}: {source}")]
    System {
        /// The address.
        address: String,
        /// Why.
        source: io::Error,
    },
}

/// Why a controller could not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// There is nothing to run.
    #[error("there is no service to run: add one with `service`")]
    NoServices,
    /// It was called from code that runs on an async runtime.
    #[error("called inside of an async runtime: call `run` first thing in a plain `fn main`, without `#[tokio::main]`")]
    InsideRuntime,
    /// The services could not be computed.
    #[error("cannot tell which services to run")]
    Services(#[source] BoxError),
    /// A service has no name.
    #[error("a service has an empty name: give every service a name")]
    EmptyName,
    /// Two services share a name.
    #[error("two services are named {name:?}: names must be unique")]
    DuplicateName {
        /// The name.
        name: String,
    },
    /// A name that could not be told from an instance's, or not be passed on.
    #[error("service name {name:?} contains {character:?}: use letters, digits, and any of . _ -")]
    InvalidName {
        /// The name.
        name: String,
        /// The offending character.
        character: char,
    },
    /// A service should have no instance at all.
    #[error("service {name:?} has a count of 0: it must be at least 1")]
    ZeroCount {
        /// The service.
        name: String,
    },
    /// A service should run in no thread at all.
    #[error("service {name:?} has 0 threads: it must be at least 1")]
    ZeroThreads {
        /// The service.
        name: String,
    },
    /// A thread of the root should do what only a process can.
    #[error(
        "service {name:?} is a thread of the root, which has no use for {setting}: make it a process with Service::new"
    )]
    NotForThreads {
        /// The service.
        name: String,
        /// What it was told.
        setting: &'static str,
    },
    /// A service depends on one that is not there.
    #[error("service {name:?} is to start after {dependency:?}, but there is no such service")]
    UnknownDependency {
        /// The service.
        name: String,
        /// What it depends on.
        dependency: String,
    },
    /// Services depend on each other, so that none could be the first.
    #[error("services depend on each other in a circle: {}", names.join(" -> "))]
    CircularDependency {
        /// The circle.
        names: Vec<String>,
    },
    /// The number of processors to assume makes no sense.
    #[error("ASYNC_CONTAINER_PROCESSOR_COUNT is {value:?}: it must be a whole number of at least 1")]
    ProcessorCount {
        /// The variable's value.
        value: String,
    },
    /// The grace period makes no sense.
    #[error("ASYNC_CONTAINER_GRACEFUL_STOP is {value:?}: it must be a number of seconds, true, or false")]
    GracefulStop {
        /// The variable's value.
        value: String,
    },
    /// A limit that lets nothing run.
    #[error("service {name:?} has a limit that lets nothing run: {limit}")]
    InvalidLimit {
        /// The service.
        name: String,
        /// Which limit.
        limit: &'static str,
    },
    /// The limits of a service cannot be had.
    #[error("cannot limit service {name:?}: {source}; or let it run without, with Limits::best_effort")]
    Limits {
        /// The service.
        name: String,
        /// Why.
        source: CgroupError,
    },
    /// The cgroup that was named cannot be used.
    #[error("cannot give children cgroups of their own: {0}")]
    Cgroup(CgroupError),
    /// The cgroup to use makes no sense.
    #[error("ASYNC_CONTAINER_CGROUP is {value:?}: it must be the directory of a cgroup, or none")]
    CgroupVariable {
        /// The variable's value.
        value: String,
    },
    /// A service's command cannot be run.
    #[error("service {name:?} cannot start: {source}")]
    Command {
        /// The service.
        name: String,
        /// Why.
        source: CommandError,
    },
    /// A service's probe cannot be used.
    #[error("{probe} of service {name:?}: {source}")]
    Probe {
        /// The service.
        name: String,
        /// Which of its probes.
        probe: ProbeKind,
        /// Why.
        source: ProbeError,
    },
    /// A socket could not be bound.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// Two services want different addresses under one name.
    #[error("listener {name:?} has two addresses, {first} and {second}: use one, or two names")]
    ListenerConflict {
        /// The listener's name.
        name: String,
        /// One address.
        first: String,
        /// The other.
        second: String,
    },
    /// What the process was started with cannot be taken over.
    #[error("cannot take over inherited sockets: {source}")]
    Inherited {
        /// Why.
        source: BoxError,
    },
    /// The system refused something that no controller can do without.
    #[error("cannot {action}: {source}")]
    System {
        /// What was attempted.
        action: &'static str,
        /// Why it failed.
        source: io::Error,
    },
}

impl StartError {
    /// The exit status that tells it apart, see [`exit_code`](crate::exit_code).
    pub fn exit_code(&self) -> u8 {
        match self {
            StartError::Bind(_) => exit_code::CANNOT_BIND,
            StartError::System { .. } | StartError::Limits { .. } | StartError::Cgroup(_) => exit_code::SYSTEM,
            _ => exit_code::CONFIGURATION,
        }
    }
}

/// What the code of a service fails with when its configuration is wrong, so that there is no use in trying again.
///
/// Its process ends with status 78, [`exit_code::CONFIGURATION`]. As long as not all children have been ready, that ends the
/// application with the same status. Later the instance is tried again as after any other failure, since what is running is
/// better than nothing; a new generation fails with it, and the old one goes on.
///
/// ```
/// use async_container::{BoxError, ConfigurationError, Instance};
///
/// async fn work(instance: Instance) -> Result<(), BoxError> {
///     let port: u16 = std::env::var("PORT")
///         .map_err(ConfigurationError::new)?
///         .parse()
///         .map_err(|error| ConfigurationError::new(format!("PORT is no port: {error}")))?;
///     instance.ready()?;
///     instance.shutdown().await;
///     Ok(drop(port))
/// }
/// # let _ = work;
/// ```
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
pub struct ConfigurationError(BoxError);

impl ConfigurationError {
    /// The error says what is wrong, and what would be right.
    pub fn new(error: impl Into<BoxError>) -> Self {
        ConfigurationError(error.into())
    }
}

/// Why an instance could not do what it was asked to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InstanceError {
    /// The service was not given such a socket.
    #[error("there is no listener named {name:?}: the service must be given one with `listen`{}", known(known_names))]
    NoListener {
        /// The name asked for.
        name: String,
        /// The names that there are.
        known_names: Vec<String>,
    },
    /// The socket is of another kind.
    #[error("listener {name:?} is {actual}, not {wanted}")]
    OtherKind {
        /// The name asked for.
        name: String,
        /// What it is.
        actual: String,
        /// What was asked for.
        wanted: String,
    },
    /// The root could not be told.
    #[error("cannot notify the root: {0}")]
    Notify(io::Error),
    /// The system refused.
    #[error(transparent)]
    System(#[from] io::Error),
}

fn process(process_id: Option<i32>) -> String {
    process_id.map_or_else(|| "another process".to_owned(), |process_id| format!("process {process_id}"))
}

fn known(names: &[String]) -> String {
    if names.is_empty() { String::new() } else { format!(" (it has {})", names.join(", ")) }
}
