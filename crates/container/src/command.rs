//! Programs that are started as they are.

use std::collections::BTreeMap;
use std::ffi::{CString, OsStr, OsString};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::Access;
pub use rustix::process::Resource;
use rustix::process::Rlimit;

use crate::cgroup::CGROUP;
use crate::error::{CommandError, SpawnError};
use crate::identity::Identity;
use crate::listener::inherited::{LISTEN_FDNAMES, LISTEN_FDS, LISTEN_PID};
use crate::output::Stream;
use crate::process::{WATCHDOG_PID, WATCHDOG_USEC};
use crate::sys::spawn::Credentials;
use crate::title;

/// A program with its arguments, environment and directory.
///
/// ```
/// use async_container::Command;
///
/// let command = Command::new("sleep").argument("1000").environment("LANG", "C").directory("/tmp");
/// assert!(command.resolve().is_ok());
/// ```
#[derive(Clone, Debug)]
pub struct Command {
    program: OsString,
    arguments: Vec<OsString>,
    environment: BTreeMap<OsString, OsString>,
    directory: Option<PathBuf>,
    stdio: [Stdio; 3],
    user: Option<String>,
    group: Option<String>,
    umask: Option<u32>,
    nice: Option<i32>,
    limits: Vec<(Resource, Rlimit)>,
}

/// Where a standard stream of a command leads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Stdio {
    /// Where the root's does.
    #[default]
    Inherit,
    /// Nowhere.
    Null,
    /// To a file: input is read from its beginning, output is appended; the file is created with mode 0600 if it is
    /// missing.
    File(PathBuf),
    /// Output only: to the log of the root, an event of level `info` and target `async_container::output` for each line, with
    /// the fields `child`, `stream` and `line`.
    ///
    /// Lines of more than 16 KiB come in pieces, of which all but the last have the field `continued`. A command that writes
    /// more than 1,000 lines or 256 KiB in a tenth of a second waits for the next one. What it wrote before it ended is
    /// logged before its end is: up to 10,000 lines, and the rest is counted.
    Log,
}

impl Command {
    /// The program, as a path if it contains a `/`, else to be found through `PATH`.
    pub fn new(program: impl Into<OsString>) -> Self {
        Command {
            program: program.into(),
            arguments: Vec::new(),
            environment: BTreeMap::new(),
            directory: None,
            stdio: Default::default(),
            user: None,
            group: None,
            umask: None,
            nice: None,
            limits: Vec::new(),
        }
    }

    /// Appends an argument.
    pub fn argument(mut self, argument: impl Into<OsString>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// Appends arguments.
    pub fn arguments<A: Into<OsString>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// Sets a variable of the environment, which is otherwise the root's.
    pub fn environment(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Self {
        self.environment.insert(name.into(), value.into());
        self
    }

    /// The directory to start in. Default is the root's.
    pub fn directory(mut self, directory: impl Into<PathBuf>) -> Self {
        self.directory = Some(directory.into());
        self
    }

    /// Where standard input comes from. Default is [`Stdio::Inherit`].
    pub fn stdin(mut self, stdin: Stdio) -> Self {
        self.stdio[0] = stdin;
        self
    }

    /// Where standard output goes. Default is [`Stdio::Inherit`].
    pub fn stdout(mut self, stdout: Stdio) -> Self {
        self.stdio[1] = stdout;
        self
    }

    /// Where standard error goes. Default is [`Stdio::Inherit`].
    pub fn stderr(mut self, stderr: Stdio) -> Self {
        self.stdio[2] = stderr;
        self
    }

    /// The user to run as, by name or number, with the groups that the system's user database has for it; `HOME`,
    /// `USER`, `LOGNAME` and `SHELL` are set accordingly. A number without an entry there has no further groups.
    /// Default is the root's.
    pub fn user(mut self, user: impl Into<String>) -> Self {
        self.user = Some(user.into());
        self
    }

    /// The primary group, by name or number. Default is that of [`user`](Self::user).
    pub fn group(mut self, group: impl Into<String>) -> Self {
        self.group = Some(group.into());
        self
    }

    /// The file mode creation mask. Default is the root's.
    pub fn umask(mut self, umask: u32) -> Self {
        self.umask = Some(umask & 0o777);
        self
    }

    /// The scheduling priority, from -20, the most favourable, to 19; see setpriority(2). Default is the root's.
    pub fn nice(mut self, nice: i32) -> Self {
        self.nice = Some(nice);
        self
    }

    /// A limit on a resource, soft and hard, see setrlimit(2); `None` is no limit. Default are the root's.
    pub fn limit(mut self, resource: Resource, soft: Option<u64>, hard: Option<u64>) -> Self {
        self.limits.push((resource, Rlimit { current: soft, maximum: hard }));
        self
    }

    /// The file that would be executed, or why there is none.
    ///
    /// # Errors
    /// See [`CommandError`].
    pub fn resolve(&self) -> Result<PathBuf, CommandError> {
        if self.program.is_empty() {
            return Err(CommandError::Empty);
        }
        let program = || Path::new(&self.program).to_path_buf();
        if let Some(directory) = self.directory.as_deref().filter(|directory| !directory.is_dir()) {
            return Err(CommandError::Directory { program: program(), directory: directory.to_path_buf() });
        }
        if self.program.as_bytes().contains(&b'/') {
            let path = program();
            // A relative path counts from the directory that the program is started in.
            let path = self.directory.as_ref().map_or(path.clone(), |directory| directory.join(&path));
            return match candidate(&path) {
                Candidate::Executable => Ok(path),
                Candidate::NotExecutable => Err(CommandError::NotExecutable { path }),
                Candidate::Missing => Err(CommandError::NotFound { path }),
            };
        }
        let search = self.environment.get(OsStr::new("PATH")).cloned().or_else(|| std::env::var_os("PATH"));
        let mut refused = None;
        for directory in search.iter().flat_map(std::env::split_paths) {
            let path = directory.join(&self.program);
            match candidate(&path) {
                Candidate::Executable => return Ok(path),
                Candidate::NotExecutable => refused = refused.or(Some(path)),
                Candidate::Missing => {}
            }
        }
        match refused {
            Some(path) => Err(CommandError::NotExecutable { path }),
            None => Err(CommandError::NotInPath { program: program() }),
        }
    }

    /// True if it may run as somebody else than the root.
    pub(crate) fn changes_user(&self) -> bool {
        self.user.is_some() || self.group.is_some()
    }

    /// The streams that lead to the log, with their descriptors.
    pub(crate) fn captured(&self) -> impl Iterator<Item = (usize, Stream)> {
        let streams = [(1, Stream::Stdout), (2, Stream::Stderr)];
        streams.into_iter().filter(|(number, _)| self.stdio[*number] == Stdio::Log)
    }

    /// With standard streams that lead nowhere, unless they lead somewhere else than the root's.
    pub(crate) fn detached(mut self) -> Self {
        self.stdio.iter_mut().filter(|stream| **stream == Stdio::Inherit).for_each(|stream| *stream = Stdio::Null);
        self
    }

    /// What execve(2) wants, with `extra` laid over the environment.
    pub(crate) fn prepare(&self, extra: &[(&str, String)]) -> Result<Prepared, CommandError> {
        let program = self.resolve()?;
        if self.stdio[0] == Stdio::Log {
            return Err(CommandError::InputFromLog);
        }
        if let Some(nice) = self.nice.filter(|nice| !(-20..=19).contains(nice)) {
            return Err(CommandError::Nice { nice });
        }
        let infinite = |limit: Option<u64>| limit.unwrap_or(u64::MAX);
        if let Some((resource, _)) =
            self.limits.iter().find(|(_, limit)| infinite(limit.current) > infinite(limit.maximum))
        {
            return Err(CommandError::Limit { resource: *resource });
        }
        let identity = Identity::find(self.user.as_deref(), self.group.as_deref())?;
        let arguments = std::iter::once(&self.program).chain(&self.arguments);
        let mut environment: BTreeMap<OsString, OsString> = std::env::vars_os().collect();
        // They are about the root and whoever started it.
        [WATCHDOG_USEC, WATCHDOG_PID, LISTEN_FDS, LISTEN_FDNAMES, LISTEN_PID, CGROUP]
            .iter()
            .for_each(|name| drop(environment.remove(OsStr::new(name))));
        environment.extend(identity.environment.iter().cloned());
        environment.extend(self.environment.iter().map(|(name, value)| (name.clone(), value.clone())));
        environment.extend(extra.iter().map(|(name, value)| (OsString::from(name), OsString::from(value))));
        Ok(Prepared {
            program: c_string(program.as_os_str())?,
            arguments: arguments.map(|argument| c_string(argument)).collect::<Result<_, _>>()?,
            environment: environment
                .iter()
                .map(|(name, value)| {
                    let mut entry = name.clone();
                    entry.push("=");
                    entry.push(value);
                    c_string(&entry)
                })
                .collect::<Result<_, _>>()?,
            directory: self.directory.as_ref().map(|directory| c_string(directory.as_os_str())).transpose()?,
            limits: self.limits.iter().map(|(resource, limit)| (*resource as i32, rlimit(limit))).collect(),
            nice: self.nice,
            umask: self.umask,
            credentials: identity.credentials,
        })
    }

    /// Opens the files that standard streams lead to.
    pub(crate) fn open_stdio(&self) -> Result<[Option<OwnedFd>; 3], SpawnError> {
        let [stdin, stdout, stderr] = &self.stdio;
        Ok([stdin.open(false)?, stdout.open(true)?, stderr.open(true)?])
    }

    /// This very program with the arguments that it was started with, under a title as its zeroth argument.
    pub(crate) fn prepare_again(title: &str, extra: &[(&str, String)]) -> Result<Prepared, CommandError> {
        // The link leads to the file that runs now, even when another one has taken its place since.
        let command = Command::new("/proc/self/exe").arguments(std::env::args_os().skip(1));
        let mut prepared = command.prepare(extra)?;
        prepared.arguments[0] = c_string(OsStr::new(&title::padded(title)))?;
        Ok(prepared)
    }
}

/// A command in the form that the kernel takes.
pub(crate) struct Prepared {
    pub program: CString,
    pub arguments: Vec<CString>,
    pub environment: Vec<CString>,
    pub directory: Option<CString>,
    pub limits: Vec<(i32, libc::rlimit)>,
    pub nice: Option<i32>,
    pub umask: Option<u32>,
    pub credentials: Option<Credentials>,
}

impl Prepared {
    /// Where the environment has this variable.
    pub(crate) fn position(&self, name: &str) -> Option<usize> {
        self.environment
            .iter()
            .position(|entry| entry.to_bytes().strip_prefix(name.as_bytes()).is_some_and(|rest| rest.starts_with(b"=")))
    }
}

impl Stdio {
    fn open(&self, write: bool) -> Result<Option<OwnedFd>, SpawnError> {
        let path = match self {
            // The other end of a stream to the log is for the one who reads it.
            Stdio::Inherit | Stdio::Log => return Ok(None),
            Stdio::Null => Path::new("/dev/null"),
            Stdio::File(path) => path,
        };
        let mut options = std::fs::OpenOptions::new();
        if write {
            options.append(true).create(true).mode(0o600)
        } else {
            options.read(true)
        };
        let file = options.open(path).map_err(|source| SpawnError::Open { path: path.to_path_buf(), source })?;
        Ok(Some(file.into()))
    }
}

fn rlimit(limit: &Rlimit) -> libc::rlimit {
    let number = |limit: Option<u64>| limit.unwrap_or(libc::RLIM_INFINITY);
    libc::rlimit { rlim_cur: number(limit.current), rlim_max: number(limit.maximum) }
}

enum Candidate {
    Executable,
    NotExecutable,
    Missing,
}

fn candidate(path: &Path) -> Candidate {
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_file() && rustix::fs::access(path, Access::EXEC_OK).is_ok() => {
            Candidate::Executable
        }
        Ok(_) => Candidate::NotExecutable,
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => Candidate::NotExecutable,
        Err(_) => Candidate::Missing,
    }
}

fn c_string(string: &OsStr) -> Result<CString, CommandError> {
    CString::new(string.as_bytes()).map_err(|_| CommandError::Nul { text: string.to_string_lossy().into_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_found_through_path() {
        assert!(Command::new("sh").resolve().is_ok_and(|path| path.ends_with("sh")));
        let error = Command::new("no-such-program-anywhere").resolve().unwrap_err();
        assert_eq!(error.to_string(), "program no-such-program-anywhere was not found in any directory of PATH");
    }

    #[test]
    fn a_path_must_lead_to_an_executable_file() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("plain");
        std::fs::write(&file, "text").unwrap();
        assert!(matches!(Command::new(&file).resolve(), Err(CommandError::NotExecutable { .. })));
        assert!(matches!(Command::new(directory.path()).resolve(), Err(CommandError::NotExecutable { .. })));
        let missing = directory.path().join("missing");
        assert!(matches!(Command::new(missing).resolve(), Err(CommandError::NotFound { .. })));
        assert!(matches!(Command::new("").resolve(), Err(CommandError::Empty)));
    }

    #[test]
    fn a_missing_directory_is_named() {
        let error = Command::new("sh").directory("/no/such/directory").resolve().unwrap_err();
        assert_eq!(error.to_string(), "directory /no/such/directory to start sh in does not exist");
    }

    #[test]
    fn settings_that_the_system_does_not_take_are_refused() {
        let refused = |command: Command| command.prepare(&[]).err().map(|error| error.to_string());
        let sh = || Command::new("sh");
        let complaint = "the soft limit on Nofile is above the hard one: the system takes no such limits";
        assert_eq!(refused(sh().limit(Resource::Nofile, Some(9), Some(8))).as_deref(), Some(complaint));
        assert_eq!(refused(sh().limit(Resource::Nofile, None, Some(8))).as_deref(), Some(complaint));
        assert_eq!(refused(sh().limit(Resource::Nofile, Some(8), Some(8)).limit(Resource::Core, Some(0), None)), None);
        let complaint = "there is no scheduling priority 20: use -20 to 19";
        assert_eq!(refused(sh().nice(20)).as_deref(), Some(complaint));
        assert!(refused(sh().nice(-21)).is_some());
        assert_eq!((refused(sh().nice(-20)), refused(sh().nice(19))), (None, None));
    }

    #[test]
    fn the_environment_is_the_own_with_changes() {
        let command = Command::new("sh").environment("A_NAME", "a");
        let prepared = command.prepare(&[("B_NAME", "b".into())]).unwrap();
        assert!(prepared.position("A_NAME").is_some());
        assert!(prepared.position("B_NAME").is_some());
        assert!(prepared.position("A_NAM").is_none());
        assert!(prepared.position("PATH").is_some());
        assert!(Command::new("sh").argument("a\0b").prepare(&[]).is_err());
    }
}
