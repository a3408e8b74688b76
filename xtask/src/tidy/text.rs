//! What holds for all text.

use std::{env, path::Path};

use super::{File, Violation};

/// The longest source file, in lines, unless it is listed.
const LONGEST: usize = 700;

/// Files that may be longer, because one thing in them is large.
const LONG: &[&str] = &[];

/// Folders that a machine has anyway; a path in them says nothing about where someone works.
const COMMON: &[&str] =
    &["/", "/app", "/builds", "/home", "/mnt", "/opt", "/root", "/src", "/srv", "/tmp", "/usr", "/var"];

pub(super) fn check(files: &[File], workplaces: &[String]) -> Vec<Violation> {
    let mut violations = Vec::new();
    for file in files {
        for (index, text) in file.text.lines().enumerate() {
            let line = index + 1;
            if text.ends_with([' ', '\t', '\r']) {
                violations.push(file.violation(
                    line,
                    "the line ends with white space",
                    "editors would change it with every touch",
                ));
            }
            if let Some(path) = workplaces.iter().find(|path| names_folder(text, path)) {
                violations.push(file.violation(
                    line,
                    format!("`{path}` is a path of this machine"),
                    "it means nothing elsewhere",
                ));
            }
        }
        let length = file.text.lines().count();
        let source = file.is_rust() && (file.path.starts_with("src/") || file.path.contains("/src/"));
        if source && length > LONGEST && !LONG.contains(&file.path.as_str()) {
            violations.push(file.violation(
                LONGEST + 1,
                format!("the file has {length} lines"),
                "a file is large only where one thing is: divide it, or list it in xtask/src/tidy/text.rs",
            ));
        }
    }
    violations.extend(change_log(files));
    violations
}

/// The folders whose names must not stand in any text: where the workspace, and the one who works on it, are at home.
pub(super) fn workplaces(root: &Path) -> Vec<String> {
    let home = env::var_os("HOME");
    let folders = [Some(root), root.parent(), home.as_ref().map(Path::new)];
    let mut paths: Vec<String> = folders
        .into_iter()
        .flatten()
        .map(|folder| folder.to_string_lossy().trim_end_matches('/').to_owned())
        .filter(|folder| !folder.is_empty() && !COMMON.contains(&folder.as_str()))
        .collect();
    paths.extend(["home", "Users"].map(|folder| format!("/{folder}/")));
    paths
}

/// Whether that folder, and not only one whose name begins alike or that lies in another, stands in the text.
fn names_folder(text: &str, folder: &str) -> bool {
    text.match_indices(folder).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        let after = text[at + folder.len()..].chars().next();
        let part = |character: char| character.is_alphanumeric() || matches!(character, '_' | '-' | '.' | '}' | '$');
        let ends = folder.ends_with('/') || !after.is_some_and(part);
        !before.is_some_and(part) && ends
    })
}

fn change_log(files: &[File]) -> Option<Violation> {
    const WHY: &str = "what users will notice is written down when it is done, under a heading Unreleased";
    let Some(file) = files.iter().find(|file| file.path == "CHANGELOG.md") else {
        return Some(Violation {
            path: "CHANGELOG.md".to_owned(),
            line: 1,
            what: "there is no change log".to_owned(),
            why: WHY,
        });
    };
    let unreleased = |line: &str| line.starts_with('#') && line.to_lowercase().contains("unreleased");
    (!file.text.lines().any(unreleased)).then(|| file.violation(1, "there is no section Unreleased", WHY))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str, text: &str) -> Vec<String> {
        let files = [
            File { path: path.to_owned(), text: text.to_owned() },
            File { path: "CHANGELOG.md".to_owned(), text: "# Changes\n\n## Unreleased\n".to_owned() },
        ];
        let workplaces = ["/srv/builds/here".to_owned()];
        check(&files, &workplaces).iter().map(Violation::to_string).collect()
    }

    #[test]
    fn white_space_at_the_end_is_found() {
        assert!(found("README.md", "a\nb ")[0].starts_with("README.md:2: the line ends with white space"));
        assert!(found("README.md", "a\n\nb\n").is_empty());
    }

    #[test]
    fn places_of_work_are_found() {
        assert_eq!(found("README.md", "see `/srv/builds/here/README.md`").len(), 1);
        assert_eq!(found("README.md", "cd /srv/builds/here").len(), 1);
        assert!(found("README.md", "cd /srv/builds/hereafter or /another/srv/builds/here").len() <= 1);
        assert!(found("README.md", "cd /srv/builds/hereafter").is_empty());
        assert!(found("README.md", "$ROOT/srv/builds/here").is_empty());
    }

    #[test]
    fn the_home_of_anyone_is_a_place_of_work() {
        let home = ["", "home", "somebody"].join("/");
        assert!(workplaces(Path::new("/x/y")).iter().any(|path| home.starts_with(path)));
        assert!(!workplaces(Path::new("/tmp/y")).contains(&"/tmp".to_owned()));
    }

    #[test]
    fn long_source_files_are_found() {
        let text = "\n".repeat(LONGEST + 1);
        assert!(found("xtask/src/main.rs", &text)[0].contains("the file has 701 lines"));
        assert!(found("README.md", &text).is_empty());
    }

    #[test]
    fn a_change_log_has_a_section_for_what_is_to_come() {
        let file = File { path: "CHANGELOG.md".to_owned(), text: "## 1.0.0\n".to_owned() };
        assert!(change_log(&[file]).is_some());
        assert!(change_log(&[]).is_some());
    }
}
