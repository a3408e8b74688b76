//! Programs that are started as they are.

use std::collections::BTreeMap;
use std::ffi::{CString, OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::Access;

use crate::error::CommandError;

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
}

impl Command {
    /// The program, as a path if it contains a `/`, else to be found through `PATH`.
    pub fn new(program: impl Into<OsString>) -> Self {
        Command { program: program.into(), arguments: Vec::new(), environment: BTreeMap::new(), directory: None }
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

    /// What execve(2) wants, with `extra` laid over the environment.
    pub(crate) fn prepare(&self, extra: &[(&str, String)]) -> Result<Prepared, CommandError> {
        let program = self.resolve()?;
        let arguments = std::iter::once(&self.program).chain(&self.arguments);
        let mut environment: BTreeMap<OsString, OsString> = std::env::vars_os().collect();
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
        })
    }

    /// This very program with the arguments that it was started with, under a title as its zeroth argument.
    pub(crate) fn prepare_again(title: &str, extra: &[(&str, String)]) -> Result<Prepared, CommandError> {
        // The link leads to the file that runs now, even when another one has taken its place since.
        let command = Command::new("/proc/self/exe").arguments(std::env::args_os().skip(1));
        let mut prepared = command.prepare(extra)?;
        prepared.arguments[0] = c_string(OsStr::new(title))?;
        Ok(prepared)
    }
}

/// A command in the form that the kernel takes.
pub(crate) struct Prepared {
    pub program: CString,
    pub arguments: Vec<CString>,
    pub environment: Vec<CString>,
    pub directory: Option<CString>,
}

impl Prepared {
    /// Where the environment has this variable.
    pub(crate) fn position(&self, name: &str) -> Option<usize> {
        self.environment
            .iter()
            .position(|entry| entry.to_bytes().strip_prefix(name.as_bytes()).is_some_and(|rest| rest.starts_with(b"=")))
    }
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
