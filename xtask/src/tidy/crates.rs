//! What every crate says at its beginning.

use super::{File, Violation, names};

/// Documentation of a crate that is no longer than this says what it is called, but not how it is used.
const SHORT_DOCUMENTATION: usize = 3;

pub(super) fn check(files: &[File]) -> Vec<Violation> {
    let denied_by_workspace = files.iter().find(|file| file.path == "Cargo.toml").is_some_and(|manifest| {
        has_setting(&manifest.text, "[workspace.lints.rust]", &["missing_docs = \"deny\"", "missing_docs = \"forbid\""])
    });

    let mut violations = Vec::new();
    for file in files {
        let Some(folder) = file.path.strip_suffix("/src/lib.rs").or_else(|| file.path.strip_suffix("/src/main.rs"))
        else {
            continue;
        };
        let manifest = format!("{folder}/Cargo.toml");
        let Some(manifest) = files.iter().find(|file| file.path == manifest) else {
            continue;
        };
        let denied = file.text.contains("#![deny(missing_docs)]")
            || denied_by_workspace && has_setting(&manifest.text, "[lints]", &["workspace = true"]);
        if !denied {
            violations.push(file.violation(
                1,
                "missing documentation is not denied",
                "every crate takes the lints of the workspace, or begins with #![deny(missing_docs)]",
            ));
        }
        if !folder.starts_with("crates/") {
            continue;
        }
        let documentation = file.text.lines().filter(|line| line.trim_start().starts_with("//!")).count();
        if file.path.ends_with("/lib.rs") && documentation <= SHORT_DOCUMENTATION {
            violations.push(file.violation(
                1,
                format!("the documentation of the crate is not longer than {SHORT_DOCUMENTATION} lines"),
                "it must tell the main types, how they relate, and what is left out, with an example",
            ));
        }
        let may_be_unsafe = names::UNSAFE.iter().any(|place| place.starts_with(&format!("{folder}/")));
        if !may_be_unsafe && !file.text.contains("#![forbid(unsafe_code)]") {
            violations.push(file.violation(
                1,
                "unsafe code is not forbidden",
                "crates without a place for it begin with #![forbid(unsafe_code)]",
            ));
        }
    }
    violations
}

/// Whether one of `settings` stands in that table of a manifest.
fn has_setting(manifest: &str, table: &str, settings: &[&str]) -> bool {
    let mut lines = manifest.lines().map(str::trim).skip_while(|line| *line != table).skip(1);
    lines.by_ref().take_while(|line| !line.starts_with('[')).any(|line| settings.contains(&line))
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORKSPACE: &str = "[workspace.lints.rust]\nmissing_docs = \"deny\"\n";
    const LIBRARY: &str = "//! One\n//!\n//! three\n//! four\n#![forbid(unsafe_code)]\n";

    fn found(manifest: &str, library: &str, folder: &str) -> Vec<String> {
        let file = |path: String, text: &str| File { path, text: text.to_owned() };
        let files = [
            file("Cargo.toml".to_owned(), WORKSPACE),
            file(format!("{folder}/Cargo.toml"), manifest),
            file(format!("{folder}/src/lib.rs"), library),
        ];
        check(&files).iter().map(Violation::to_string).collect()
    }

    #[test]
    fn missing_documentation_is_denied_one_way_or_the_other() {
        assert!(found("[lints]\nworkspace = true\n", LIBRARY, "crates/a").is_empty());
        assert!(found("", &format!("{LIBRARY}#![deny(missing_docs)]"), "crates/a").is_empty());
        assert_eq!(found("[package]\nworkspace = true\n", LIBRARY, "crates/a").len(), 1);
        assert_eq!(found("", "", "tests").len(), 1);
    }

    #[test]
    fn a_crate_tells_what_it_is() {
        let found = found("[lints]\nworkspace = true\n", "//! .\n#![forbid(unsafe_code)]\n", "crates/a");
        assert_eq!(found.len(), 1);
        assert!(found[0].starts_with("crates/a/src/lib.rs:1: the documentation of the crate is not longer"));
    }

    #[test]
    fn unsafe_code_is_forbidden_where_it_has_no_place() {
        let library = "//! 1\n//! 2\n//! 3\n//! 4\n";
        assert_eq!(found("[lints]\nworkspace = true\n", library, "crates/monitors").len(), 1);
        assert!(found("[lints]\nworkspace = true\n", library, "crates/container").is_empty());
    }
}
