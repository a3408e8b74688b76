//! The project's own tasks, run as `cargo xtask COMMAND`: one file a command.
//!
//! Nothing is needed beyond a Rust toolchain. What a command starts, it also ends.
#![forbid(unsafe_code)]

mod bench;
mod ci;
mod demo;
mod pictures;
mod python;
mod test;
mod tidy;
mod workspace;

use std::{error::Error, process::ExitCode};

use clap::{Parser, Subcommand};

/// What a command gives. It fails with an error that says what to do; a command that has told everything itself,
/// or passes on the words of a tool that has, answers with an exit code instead.
type Result<T = ExitCode> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", about = "The project's own tasks")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show a real application survive everything that can happen to it
    Demo(demo::Arguments),
    /// Make the pictures of the guides, from the running program
    Pictures,
    /// Run all tests of the workspace; arguments are passed on to the test runner
    Test(test::Arguments),
    /// Check all that a change must satisfy, from formatting to tests
    Ci,
    /// Check the invariants of the architecture and of the text
    Tidy,
    /// Measure a release build against the cheapest program that could do the same
    Bench(bench::Arguments),
    /// The measuring itself, run by `bench` as a release build
    #[command(hide = true)]
    Measure(bench::Arguments),
    /// The floor of restarts: a loop that does nothing but restart
    #[command(hide = true)]
    BareLoop(bench::bare_loop::Arguments),
    /// The floor of calls: a server that sends as many bytes as a supervisor would
    #[command(hide = true)]
    Echo(bench::echo::Arguments),
    /// A server of calls, and the floor of it
    #[command(hide = true)]
    Calls(bench::flight::Arguments),
    /// The floor of forwards: a program that passes bytes on
    #[command(hide = true)]
    Relay(bench::hops::Arguments),
    /// A crowd of workers
    #[command(hide = true)]
    Crowd(bench::crowd::Arguments),
}

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Demo(arguments) => demo::run(&arguments),
        Command::Pictures => pictures::run(),
        Command::Test(arguments) => test::run(&arguments),
        Command::Ci => ci::run(),
        Command::Tidy => tidy::run(),
        Command::Bench(arguments) => bench::run(&arguments),
        Command::Measure(arguments) => bench::measure(&arguments),
        Command::BareLoop(arguments) => bench::bare_loop::run(&arguments),
        Command::Echo(arguments) => bench::echo::run(&arguments),
        Command::Calls(arguments) => bench::flight::run(&arguments),
        Command::Relay(arguments) => bench::hops::run(&arguments),
        Command::Crowd(arguments) => bench::crowd::run(&arguments),
    };
    done.unwrap_or_else(|error| {
        eprintln!("error: {error}");
        let mut cause = error.source();
        while let Some(error) = cause {
            eprintln!("  because {error}");
            cause = error.source();
        }
        ExitCode::FAILURE
    })
}
