//! A temporary directory that owns the processes started in it.

use std::{
    ffi::OsStr,
    fs, io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use rustix::process::Signal;
use tempfile::TempDir;

use crate::{
    Launch, artifact,
    proc::{self, Process},
    wait_for,
};

/// The variable in whose value a process carries the program and the directory that it belongs to.
pub(crate) const MARK: &str = "ACS_TEST_PROGRAM";

/// How long a sweep goes on. A process in an uninterruptible call, such as a dump to a slow disk, may take a while.
const SWEEP_LIMIT: Duration = Duration::from_secs(10);

/// The longest path of a directory in which the socket, `supervisor.ipc`, and others with longer names can be
/// bound: an address holds 108 bytes on Linux.
const LONGEST_PATH: usize = 70;

/// A temporary directory that owns the processes started in it. When it is dropped, and with it the last
/// [`Program`](crate::Program) that was started in it, whatever still runs there is killed, and the directory removed.
#[derive(Debug, Clone)]
pub struct Dir {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    directory: TempDir,
    programs: AtomicU32,
}

impl Dir {
    /// Creates an empty directory: where temporary files go, unless the path is too long to bind a socket there, and
    /// then in `/tmp`.
    pub fn new() -> io::Result<Dir> {
        let mut builder = tempfile::Builder::new();
        builder.prefix("acs-");
        let mut directory = builder.tempdir()?;
        if directory.path().as_os_str().len() > LONGEST_PATH {
            directory = builder.tempdir_in("/tmp")?;
        }
        Ok(Dir { shared: Arc::new(Shared { directory, programs: AtomicU32::new(1) }) })
    }

    /// The path of the directory.
    pub fn path(&self) -> &Path {
        self.shared.directory.path()
    }

    /// The path of a file in the directory.
    pub fn file(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path().join(name)
    }

    /// The path of the socket that a supervisor in this directory listens on by default.
    pub fn socket(&self) -> PathBuf {
        self.file("supervisor.ipc")
    }

    /// Prepares to start a program in the directory.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Launch {
        let number = self.shared.programs.fetch_add(1, Ordering::Relaxed);
        Launch::new(self.clone(), program.as_ref(), number)
    }

    /// Prepares to start an example of the workspace in the directory.
    pub fn example(&self, name: &str) -> io::Result<Launch> {
        Ok(self.command(artifact::example(name)?))
    }

    /// Prepares to start a binary of the workspace, such as `acs`, in the directory.
    pub fn binary(&self, name: &str) -> io::Result<Launch> {
        Ok(self.command(artifact::binary(name)?))
    }

    /// Runs `acs` in the directory, and gives its exit status, what it printed, and what it complained of.
    pub fn acs(&self, arguments: &[&str], limit: Duration) -> io::Result<(Option<i32>, String, String)> {
        let mut program = self.binary("acs")?.args(arguments).start()?;
        let status = program.wait(limit)?;
        Ok((status.code(), program.stdout(), program.stderr()))
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let path = self.directory.path();
        let mark = [path.as_os_str().as_bytes(), b"/"].concat();
        let swept = sweep(|process| {
            process.variable(MARK).is_some_and(|value| value.starts_with(&mark)) || process.works_in(path)
        });
        if let Err(error) = swept {
            eprintln!("processes of {} could not all be ended: {error}", path.display());
        }
    }
}

/// Kills every process that is one of ours, again and again until none is left: what is killed may have started
/// another one meanwhile.
pub(crate) fn sweep(ours: impl Fn(&Process) -> bool) -> io::Result<()> {
    let this = std::process::id();
    wait_for("the last process to end", SWEEP_LIMIT, || {
        let mut left = false;
        for process in proc::processes()? {
            if process.pid != this && process.is_alive() && ours(&process) {
                left = true;
                process.signal(Signal::KILL)?;
            }
        }
        Ok((!left).then_some(()))
    })
}

/// Reads a file that may not exist yet.
pub(crate) fn read(path: &Path) -> String {
    fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}
