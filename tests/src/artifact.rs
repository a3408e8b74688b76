//! Where cargo put the programs that tests run.

use std::{
    env, io,
    path::{Path, PathBuf},
};

/// The path of an example of the workspace, built with the same profile as the running program.
pub fn example(name: &str) -> io::Result<PathBuf> {
    existing(profile_directory()?.join("examples").join(name), "--examples")
}

/// The path of a binary of the workspace, such as `acs`, built with the same profile as the running program.
pub fn binary(name: &str) -> io::Result<PathBuf> {
    existing(profile_directory()?.join(name), "--bins")
}

/// Cargo sets no variable for the artifacts of other packages, but it puts all of one profile side by side: tests
/// in `deps`, examples in `examples`, binaries in the folder above them.
fn profile_directory() -> io::Result<PathBuf> {
    let executable = env::current_exe()?;
    let folder = executable.parent().unwrap_or(Path::new("/"));
    match folder.file_name() {
        Some(name) if name == "deps" || name == "examples" => Ok(folder.parent().unwrap_or(folder).to_owned()),
        _ => Ok(folder.to_owned()),
    }
}

fn existing(path: PathBuf, flag: &str) -> io::Result<PathBuf> {
    if path.is_file() {
        return Ok(path);
    }
    Err(io::Error::new(
        io::ErrorKind::NotFound,
        format!("{} is not built: run `cargo xtask test`, or `cargo build --workspace {flag}` first", path.display()),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_artifact_says_how_to_build_it() {
        let error = example("no-such-example").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert!(error.to_string().contains("cargo build --workspace --examples"), "{error}");
    }
}
