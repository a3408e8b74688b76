//! A Python with the libraries that some tests read the application's output with, in a folder below `target/`.
//!
//! Those tests say that they are skipped where it is missing, so a run that could have it must.

use std::{
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::workspace;

/// If this is set, those tests fail where they would be skipped.
const REQUIRED: &str = "ASYNC_CONTAINER_TESTS_PYTHON";

/// The libraries, with their versions.
const REQUIREMENTS: &str = "tests/requirements.txt";

/// What the folder was made with last.
const STAMP: &str = "requirements.txt";

/// Has a command find it first, and makes it, if it is not there as it should be. Says so, if that is not possible.
pub(crate) fn offer(command: &mut Command, target_directory: &Path, may_install: bool) {
    match prepare(&target_directory.join("python"), may_install) {
        Ok(bin) => {
            command.env("PATH", path(bin)).env(REQUIRED, "1");
        }
        Err(reason) => {
            eprintln!("Tests that need a Python with the libraries of {REQUIREMENTS} may be skipped: {reason}");
        }
    }
}

/// The folder of its programs.
fn prepare(folder: &Path, may_install: bool) -> Result<PathBuf, String> {
    let requirements = workspace::root().join(REQUIREMENTS);
    let wanted = fs::read(&requirements).map_err(|error| format!("{REQUIREMENTS} cannot be read: {error}"))?;
    let (bin, stamp) = (folder.join("bin"), folder.join(STAMP));
    // It may have been made by a Python that is gone.
    let runs = || quiet(Command::new(bin.join("python3")).args(["-c", ""]));

    if fs::read(&stamp).is_ok_and(|made| made == wanted) && runs() {
        return Ok(bin);
    }

    eprintln!("==> python: {REQUIREMENTS} into {}", folder.display());
    let make = || quiet(Command::new("python3").args(["-m", "venv", "--clear"]).arg(folder));
    let is_made = make() || may_install && workspace::install(&["python3", "python3-venv"]) && make();
    if !is_made {
        return Err("there is no python3 with the module venv (Debian: python3-venv)".to_owned());
    }

    let mut pip = Command::new(bin.join("python3"));
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--retries", "1", "--requirement"]);
    match pip.arg(&requirements).stdin(Stdio::null()).status() {
        Ok(status) if status.success() => {}
        _ => return Err("pip could not install them, see above".to_owned()),
    }

    fs::write(&stamp, wanted).map_err(|error| format!("{} cannot be written: {error}", stamp.display()))?;
    Ok(bin)
}

fn quiet(command: &mut Command) -> bool {
    command.stdin(Stdio::null()).output().is_ok_and(|output| output.status.success())
}

/// `PATH` with a folder before all others.
fn path(first: PathBuf) -> OsString {
    let rest = env::var_os("PATH").unwrap_or_default();
    // A folder with a colon in its name cannot be one of them.
    env::join_paths(std::iter::once(first).chain(env::split_paths(&rest))).unwrap_or(rest)
}
