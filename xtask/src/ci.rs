//! `cargo xtask ci`: what a change must satisfy. Stops at the first step that fails, and names it.

use std::{
    path::Path,
    process::{Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use crate::{
    Result, test, tidy,
    workspace::{self, Package},
};

pub(crate) fn run() -> Result {
    let begin = Instant::now();
    let metadata = workspace::metadata()?;
    let mut steps = Steps { has_make: has_make(), ..Steps::default() };

    let done = steps.cargo("fmt", &["fmt", "--all", "--check"])?
        && steps.cargo("clippy", &["clippy", "--workspace", "--all-targets", "--", "--deny", "warnings"])?
        && steps.documentation()?
        && steps.run("tidy", "cargo xtask tidy", tidy::succeeds)?
        && steps.cargo("build", &["build", "--workspace", "--examples", "--benches"])?
        && steps.features(&metadata.packages)?
        && steps.fuzz(&metadata.target_directory)?
        && steps.run("test", "cargo xtask test", || test::succeeds(&[], true))?
        && steps.jemalloc()?
        && steps.task_dumps(&metadata.target_directory)?;

    steps.summarise(begin.elapsed(), done);
    Ok(if done { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The steps that were run, with their times; only the last one can have failed.
#[derive(Debug, Default)]
struct Steps {
    done: Vec<(String, Duration)>,
    /// Whether jemalloc can be built.
    has_make: bool,
}

impl Steps {
    fn run(&mut self, name: &str, what: &str, step: impl FnOnce() -> Result<bool>) -> Result<bool> {
        eprintln!("==> {name}: {what}");
        let begin = Instant::now();
        let passed = step()?;
        let time = begin.elapsed();
        eprintln!("    {name} {} in {:.1} s", if passed { "passed" } else { "failed" }, time.as_secs_f64());
        self.done.push((name.to_owned(), time));
        Ok(passed)
    }

    fn cargo(&mut self, name: &str, arguments: &[&str]) -> Result<bool> {
        self.command(name, workspace::cargo().args(arguments))
    }

    fn documentation(&mut self) -> Result<bool> {
        let mut command = workspace::cargo();
        command.args(["doc", "--workspace", "--no-deps"]).env("RUSTDOCFLAGS", "--deny warnings");
        self.command("doc", &mut command)
    }

    fn command(&mut self, name: &str, command: &mut Command) -> Result<bool> {
        // The two that a minimal toolchain comes without.
        let component = match name {
            "fmt" => Some("rustfmt"),
            "clippy" => Some("clippy"),
            _ => None,
        };
        let what = describe(command);
        self.run(name, &what, || {
            let passed = workspace::succeeds(command)?;
            if let Some(component) = component.filter(|_| !passed && !workspace::has(name)) {
                eprintln!("`cargo {name}` is not installed: run `rustup component add {component}`");
            }
            Ok(passed)
        })
    }

    /// Each feature of each crate must compile alone, and so must the crate without any.
    fn features(&mut self, packages: &[Package]) -> Result<bool> {
        for package in packages {
            let features = package.features.keys().filter(|feature| *feature != "default");
            let features = features.filter(|feature| self.has_make || *feature != "jemalloc");
            let mut alone: Vec<Option<&String>> = features.map(Some).collect();
            if alone.is_empty() {
                continue;
            }
            alone.insert(0, None);
            for feature in alone {
                let mut command = workspace::cargo();
                command.args(["check", "--package", &package.name, "--no-default-features"]);
                let mut name = format!("features of {}: none", package.name);
                if let Some(feature) = feature {
                    command.args(["--features", feature]);
                    name = format!("features of {}: {feature}", package.name);
                }
                if !self.command(&name, &mut command)? {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// What only programs with jemalloc have. It takes a minute to build, which others are spared.
    fn jemalloc(&mut self) -> Result<bool> {
        const PACKAGES: [&str; 6] = [
            "--package",
            "async-container-diagnostics",
            "--package",
            "async-container-supervisor-tests",
            "--features",
            "async-container-diagnostics/jemalloc,async-container-supervisor-tests/jemalloc",
        ];
        let calls: [(&str, &[&str]); 3] = [
            ("clippy", &["--all-targets", "--", "--deny", "warnings"]),
            ("build", &["--example", "acs-jemalloc"]),
            ("test", &["--test", "memory_jemalloc", "--test", "jemalloc"]),
        ];

        if !self.has_make {
            eprintln!(
                "==> jemalloc: left out, since it is built by `make`, which is neither there nor can be installed"
            );
            return Ok(true);
        }

        for (call, arguments) in calls {
            let mut command = workspace::cargo();
            command.arg(call).args(PACKAGES).args(arguments);
            if !self.command(&format!("jemalloc: {call}"), &mut command)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Dumps of tasks with what others know: async-backtrace, and tokio, which tells it only in programs that were compiled
    /// for that as a whole. So they have their own directory, or everything would be compiled again each time.
    fn task_dumps(&mut self, target_directory: &Path) -> Result<bool> {
        const PACKAGE: [&str; 4] =
            ["--package", "async-container-diagnostics", "--features", "async-backtrace,tokio-taskdump"];
        let calls: [(&str, &[&str], &str); 3] = [
            ("test", &["--test", "task_backtraces", "--test", "task_unregistered"], ""),
            ("clippy", &["--all-targets", "--", "--deny", "warnings"], "--cfg tokio_unstable"),
            (
                "test",
                &["--lib", "--test", "task_unregistered", "--", "tasks::", "built_for_it"],
                "--cfg tokio_unstable",
            ),
        ];

        for (call, arguments, flags) in calls {
            let mut command = workspace::cargo();
            command.arg(call).args(PACKAGE).args(arguments);
            if !flags.is_empty() {
                command.env("RUSTFLAGS", flags).env("CARGO_TARGET_DIR", target_directory.join("tokio-unstable"));
            }
            if !self.command(&format!("task dumps: {call} {flags}"), &mut command)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The targets of the fuzzer, which are a workspace of their own, as far as any compiler can build them.
    fn fuzz(&mut self, target_directory: &Path) -> Result<bool> {
        let mut command = workspace::cargo();
        command.args(["check", "--manifest-path", "fuzz/Cargo.toml", "--no-default-features", "--locked"]);
        command.arg("--target-dir").arg(target_directory);
        self.command("fuzz", &mut command)
    }

    fn summarise(&self, total: Duration, passed: bool) {
        eprintln!();
        let last = self.done.len().saturating_sub(1);
        for (index, (name, time)) in self.done.iter().enumerate() {
            let mark = if passed || index < last { "passed" } else { "FAILED" };
            eprintln!("{mark} {:8.1} s  {name}", time.as_secs_f64());
        }
        match self.done.last() {
            Some((name, _)) if !passed => {
                eprintln!("error: ci failed at the step `{name}`, see above")
            }
            _ => eprintln!("ci passed in {:.1} s", total.as_secs_f64()),
        }
    }
}

/// Whether there is `make`, which comes without a Rust toolchain; it is installed where that is possible.
fn has_make() -> bool {
    let is_there = || Command::new("make").arg("--version").stdout(Stdio::null()).status().is_ok_and(|it| it.success());
    is_there() || workspace::install(&["make"]) && is_there()
}

fn describe(command: &Command) -> String {
    let arguments: Vec<_> = command.get_args().map(|argument| argument.to_string_lossy()).collect();
    format!("cargo {}", arguments.join(" "))
}
