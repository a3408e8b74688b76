//! `cargo xtask tidy`: the invariants of the architecture, as far as a test can keep them. It is one, too.
//!
//! What may depend on what, and which files may do what others may not, is written in `layers.rs` and `names.rs` as
//! tables; a change to them is a change of the architecture.

mod crates;
mod layers;
mod names;
mod parity;
mod source;
mod text;

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    process::ExitCode,
};

use crate::{Result, workspace};

pub(crate) fn run() -> Result {
    Ok(if succeeds()? { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Whether all is tidy. What is not has been printed.
pub(crate) fn succeeds() -> Result<bool> {
    let violations = check()?;
    for violation in &violations {
        eprintln!("{violation}");
    }
    match violations.len() {
        0 => {}
        1 => eprintln!("error: 1 violation"),
        count => eprintln!("error: {count} violations"),
    }
    Ok(violations.is_empty())
}

fn check() -> Result<Vec<Violation>> {
    let root = workspace::root();
    let metadata = workspace::metadata()?;
    let files = files(&root)?;

    let mut violations = layers::check(&metadata.packages, &root);
    violations.extend(names::check(&files));
    violations.extend(crates::check(&files));
    violations.extend(parity::check(&files));
    violations.extend(text::check(&files, &text::workplaces(&root)));
    violations.sort();
    Ok(violations)
}

/// Something in a file that should not be so.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Violation {
    path: String,
    line: usize,
    what: String,
    why: &'static str,
}

impl fmt::Display for Violation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}: {} ({})", self.path, self.line, self.what, self.why)
    }
}

/// A text file of the workspace.
#[derive(Debug)]
struct File {
    /// Where it lies in the workspace, the parts divided by `/`.
    path: String,
    text: String,
}

impl File {
    fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    fn violation(&self, line: usize, what: impl Into<String>, why: &'static str) -> Violation {
        Violation { path: self.path.clone(), line, what: what.into(), why }
    }
}

/// All text files of the workspace that people write, in order.
fn files(root: &Path) -> Result<Vec<File>> {
    let mut files = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            // A folder, or in a working tree beside another one a file that tells where that is.
            if entry.file_name() == ".git" {
                continue;
            }
            let (path, kind) = (entry.path(), entry.file_type()?);
            if kind.is_dir() && is_ours(&path) {
                folders.push(path);
            } else if kind.is_file()
                && entry.file_name() != "Cargo.lock"
                && let Ok(text) = String::from_utf8(fs::read(&path)?)
            {
                files.push(File { path: within(root, &path), text });
            }
        }
    }
    files.sort_by(|one, other| one.path.cmp(&other.path));
    Ok(files)
}

/// Cargo tags the folders that it fills, wherever they lie and whatever they are called.
fn is_ours(folder: &Path) -> bool {
    !folder.join("CACHEDIR.TAG").exists()
}

fn within(root: &Path, path: &Path) -> String {
    let relative: PathBuf = path.strip_prefix(root).unwrap_or(path).components().collect();
    relative.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_workspace_is_tidy() {
        let violations: Vec<String> = check().unwrap().iter().map(Violation::to_string).collect();
        assert!(violations.is_empty(), "\n{}", violations.join("\n"));
    }

    #[test]
    fn a_violation_says_where_what_and_why() {
        let file = File { path: "src/lib.rs".to_owned(), text: String::new() };
        let violation = file.violation(3, "`x` is named", "y may not");
        assert_eq!(violation.to_string(), "src/lib.rs:3: `x` is named (y may not)");
    }
}
