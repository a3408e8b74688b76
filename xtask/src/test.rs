//! `cargo xtask test`: all tests of the workspace.
//!
//! The programs that end-to-end tests start are built first. Documentation tests come before the others, so that
//! the output closes with the summary of the runner: `cargo nextest` where it is installed, else `cargo test`.

use std::process::ExitCode;

use crate::{
    Result, python,
    workspace::{self, Metadata},
};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Passed on to the runner, such as `-p PACKAGE` or a part of the names of tests
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGS")]
    rest: Vec<String>,
}

pub(crate) fn run(arguments: &Arguments) -> Result {
    let succeeded = succeeds(&arguments.rest, false)?;
    Ok(if succeeded { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Whether all tests passed. Those that did not have been printed. What they need of the system is installed, if it may be.
pub(crate) fn succeeds(arguments: &[String], may_install: bool) -> Result<bool> {
    let metadata = workspace::metadata()?;
    let plan = Plan::new(arguments, workspace::has("nextest"), &metadata);
    if !workspace::succeeds(workspace::cargo().args(&plan.build))? {
        return Ok(false);
    }
    let documentation = match &plan.documentation {
        Documentation::Run(arguments) => workspace::succeeds(workspace::cargo().args(arguments))?,
        Documentation::InRunner => true,
        Documentation::LeftOut(why) => {
            eprintln!("Documentation tests are left out: {why}.");
            true
        }
    };
    let mut runner = workspace::cargo();
    python::offer(&mut runner, &metadata.target_directory, may_install);
    let others = workspace::succeeds(runner.args(&plan.runner))?;
    if !documentation {
        eprintln!("error: documentation tests failed, see above");
    }
    Ok(documentation && others)
}

/// The arguments of the calls of cargo.
#[derive(Debug, PartialEq)]
struct Plan {
    build: Vec<String>,
    documentation: Documentation,
    runner: Vec<String>,
}

#[derive(Debug, PartialEq)]
enum Documentation {
    /// By a call of its own, since nextest runs none.
    Run(Vec<String>),
    /// `cargo test` runs them after the others.
    InRunner,
    LeftOut(String),
}

/// Options that both runners know and that say what to compile and how; the first ones take a value.
const WITH_VALUE: &[&str] = &["-p", "--package", "--exclude", "-F", "--features", "--target"];
const WITHOUT_VALUE: &[&str] = &[
    "--workspace",
    "--all-features",
    "--no-default-features",
    "-r",
    "--release",
    "--locked",
    "--offline",
    "--frozen",
    "--no-fail-fast",
];
/// Those of them that the programs of end-to-end tests must be built with as well.
const FOR_BUILD: &[&str] = &["-r", "--release", "--target", "--locked", "--offline", "--frozen"];

impl Plan {
    fn new(arguments: &[String], nextest: bool, metadata: &Metadata) -> Plan {
        let selection = Selection::new(arguments);
        let given = |option: &str| arguments.iter().any(|argument| argument == option);
        let whole = if selection.packages.is_empty() && !given("--workspace") { &["--workspace"][..] } else { &[] };

        let build = strings(&["build", "--workspace", "--bins", "--examples"], &[], &selection.build);
        let decided = ["--no-fail-fast", "--nff", "--fail-fast", "--ff"].into_iter().any(given)
            || arguments.iter().any(|argument| argument.starts_with("--max-fail"));
        let fail_late = if decided { &[][..] } else { &["--no-fail-fast"] };
        if !nextest {
            let runner = strings(&["test"], &[whole, fail_late].concat(), arguments);
            return Plan { build, documentation: Documentation::InRunner, runner };
        }

        let documentation = match &selection.only_runner {
            Some(option) => Documentation::LeftOut(format!("`{option}` is for the other tests")),
            None if !selection.has_library(metadata) => Documentation::LeftOut("no library was chosen".to_owned()),
            None => {
                let mut call = strings(&["test", "--doc"], whole, &selection.shared);
                if !given("--no-fail-fast") {
                    call.push("--no-fail-fast".to_owned());
                }
                if !selection.tests.is_empty() {
                    call.push("--".to_owned());
                    call.extend(selection.tests.clone());
                }
                Documentation::Run(call)
            }
        };
        // What was chosen may have documentation tests only, which is no reason to fail.
        let chosen = !selection.packages.is_empty() || !selection.tests.is_empty();
        let none =
            if chosen && matches!(documentation, Documentation::Run(_)) { &["--no-tests=warn"][..] } else { &[] };
        let runner = strings(&["nextest", "run"], &[whole, fail_late, none].concat(), arguments);
        Plan { build, documentation, runner }
    }
}

fn strings(start: &[&str], middle: &[&str], end: &[String]) -> Vec<String> {
    start.iter().chain(middle).map(|&argument| argument.to_owned()).chain(end.iter().cloned()).collect()
}

/// What the arguments choose, as far as the calls beside the runner's must know it.
#[derive(Debug, Default)]
struct Selection {
    packages: Vec<String>,
    /// Arguments that are for `cargo build` too.
    build: Vec<String>,
    /// Arguments that both runners understand.
    shared: Vec<String>,
    /// Names of tests, and what follows `--`.
    tests: Vec<String>,
    /// The first option that only the runner understands, or that chooses tests of another kind.
    only_runner: Option<String>,
}

impl Selection {
    fn new(arguments: &[String]) -> Selection {
        let mut selection = Selection::default();
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            if argument == "--" {
                selection.tests.extend(arguments.by_ref().cloned());
                break;
            }
            let (name, value) = match argument.split_once('=') {
                Some((name, value)) if name.starts_with("--") => (name, Some(value.to_owned())),
                _ if !argument.starts_with("--") && argument.len() > 2 && argument.is_char_boundary(2) => {
                    // As in `-pname`.
                    let (name, value) = argument.split_at(2);
                    if WITH_VALUE.contains(&name) { (name, Some(value.to_owned())) } else { (argument.as_str(), None) }
                }
                _ => (argument.as_str(), None),
            };
            let mut given = vec![argument.clone()];
            if WITH_VALUE.contains(&name) {
                let value = value.or_else(|| {
                    let value = arguments.next().cloned();
                    given.extend(value.clone());
                    value
                });
                if matches!(name, "-p" | "--package") {
                    selection.packages.extend(value);
                }
            } else if !WITHOUT_VALUE.contains(&name) {
                if name.starts_with('-') {
                    // If a value follows, it is taken for the name of a test. That does no harm: documentation
                    // tests, the only ones that would be called with it, are left out from here on.
                    selection.only_runner.get_or_insert_with(|| name.to_owned());
                } else {
                    selection.tests.extend(given);
                }
                continue;
            }
            if FOR_BUILD.contains(&name) {
                selection.build.extend(given.clone());
            }
            selection.shared.extend(given);
        }
        selection
    }

    /// Whether a library is among the chosen packages; cargo takes a choice without one for an error.
    fn has_library(&self, metadata: &Metadata) -> bool {
        self.packages.is_empty()
            || metadata
                .packages
                .iter()
                .any(|package| self.packages.contains(&package.name) && package.library().is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(arguments: &[&str], nextest: bool) -> Plan {
        let metadata = r#"{"target_directory": "target", "packages": [
            {"name": "library", "manifest_path": "", "dependencies": [], "features": {},
                "targets": [{"kind": ["lib"]}]},
            {"name": "program", "manifest_path": "", "dependencies": [], "features": {},
                "targets": [{"kind": ["bin"]}]}]}"#;
        Plan::new(&strings(arguments, &[], &[]), nextest, &serde_json::from_str(metadata).unwrap())
    }

    fn documentation(arguments: &[&str]) -> String {
        match plan(arguments, true).documentation {
            Documentation::Run(call) => call.join(" "),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn everything_is_tested_by_default() {
        let plan = plan(&[], true);
        assert_eq!(plan.build.join(" "), "build --workspace --bins --examples");
        assert_eq!(plan.runner.join(" "), "nextest run --workspace --no-fail-fast");
        assert_eq!(documentation(&[]), "test --doc --workspace --no-fail-fast");
    }

    #[test]
    fn cargo_alone_is_enough() {
        let plan = plan(&["name"], false);
        assert_eq!(plan.runner.join(" "), "test --workspace --no-fail-fast name");
        assert_eq!(plan.documentation, Documentation::InRunner);
    }

    #[test]
    fn arguments_reach_all_calls_that_understand_them() {
        let plan = plan(&["--release", "-p", "library", "--features=x", "name", "--", "--ignored"], true);
        assert_eq!(plan.build.join(" "), "build --workspace --bins --examples --release");
        assert_eq!(
            plan.runner.join(" "),
            "nextest run --no-fail-fast --no-tests=warn --release -p library --features=x name -- --ignored"
        );
        assert_eq!(
            plan.documentation,
            Documentation::Run(strings(
                &["test", "--doc", "--release", "-p", "library", "--features=x", "--no-fail-fast"],
                &["--", "name", "--ignored"],
                &[],
            ))
        );
    }

    #[test]
    fn documentation_tests_are_left_out_where_they_cannot_be_meant() {
        assert!(documentation(&["-E", "test(name)"]).contains("`-E`"));
        assert!(documentation(&["--test", "restart"]).contains("`--test`"));
        assert!(documentation(&["--package", "program"]).contains("no library"));
        assert_eq!(documentation(&["--package=library"]), "test --doc --package=library --no-fail-fast");
        assert_eq!(documentation(&["-plibrary"]), "test --doc -plibrary --no-fail-fast");
    }

    #[test]
    fn a_choice_of_when_to_stop_is_kept() {
        assert_eq!(plan(&["--fail-fast"], true).runner.join(" "), "nextest run --workspace --fail-fast");
        assert_eq!(plan(&["--workspace", "--ff"], true).runner.join(" "), "nextest run --workspace --ff");
        assert_eq!(plan(&["--no-fail-fast"], false).runner.join(" "), "test --workspace --no-fail-fast");
    }
}
