//! The workspace: where it lies, what is in it, and cargo to work on it.

use std::{
    collections::BTreeMap,
    env,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use serde::Deserialize;

use crate::Result;

/// The part of `cargo metadata` that the tasks need.
#[derive(Debug, Deserialize)]
pub(crate) struct Metadata {
    pub(crate) packages: Vec<Package>,
    pub(crate) target_directory: PathBuf,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) manifest_path: PathBuf,
    pub(crate) dependencies: Vec<Dependency>,
    pub(crate) targets: Vec<Target>,
    pub(crate) features: BTreeMap<String, Vec<String>>,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Dependency {
    pub(crate) name: String,
    /// `dev` or `build`; none for what the crate itself depends on.
    pub(crate) kind: Option<String>,
    pub(crate) optional: bool,
    pub(crate) uses_default_features: bool,
    pub(crate) features: Vec<String>,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Target {
    pub(crate) kind: Vec<String>,
}

impl Package {
    pub(crate) fn library(&self) -> Option<&Target> {
        self.targets.iter().find(|target| target.kind.iter().any(|kind| kind == "lib"))
    }
}

/// The folder of the workspace.
pub(crate) fn root() -> PathBuf {
    // Cargo sets it when it runs this program; without cargo, the folder that it was built in is the best guess.
    let manifest = env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| env!("CARGO_MANIFEST_DIR").into(), PathBuf::from);
    manifest.parent().map_or(manifest.clone(), Path::to_owned)
}

/// The cargo that runs this program, in the folder of the workspace.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

/// Whether cargo has that subcommand.
pub(crate) fn has(subcommand: &str) -> bool {
    let version = cargo().args([subcommand, "--version"]).stdin(Stdio::null()).output();
    version.is_ok_and(|output| output.status.success())
}

/// Installs packages of the system, where this program may do so.
pub(crate) fn install(packages: &[&str]) -> bool {
    let script = "apt-get update --quiet && apt-get install --yes --quiet --no-install-recommends \"$@\"";
    let status = Command::new("sh").args(["-c", script, "sh"]).args(packages).stdin(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

/// Runs a command whose output is for the user. `false` means that it failed and has said why.
pub(crate) fn succeeds(command: &mut Command) -> Result<bool> {
    match command.status() {
        Ok(status) => Ok(status.success()),
        Err(error) => Err(format!("could not start {}: {error}", command.get_program().display()).into()),
    }
}

/// What cargo knows of the workspace, without its dependencies.
pub(crate) fn metadata() -> Result<Metadata> {
    let output = cargo()
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()?;
    if !output.status.success() {
        return Err("`cargo metadata` failed: mend the manifest that it names above".into());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}
