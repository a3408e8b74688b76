//! Keeps copies of any program running: `cargo run --example commands -- --count 3 -- sleep 1000`
//!
//! Whenever a copy ends, for whatever reason, it is started again: at once after a run of a second or more, else
//! after a delay that grows. Kill one and see. Interrupt this program with Ctrl-C, and all of them end.
//! What it does is logged to standard error; standard output belongs to the copies.

use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Duration;

use async_container_supervisor::{Application, Backoff, Command, Service};
use clap::Parser;

#[derive(Parser)]
struct Arguments {
    /// How many copies to run; as many as there are processors if not given.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    count: Option<u32>,

    /// The program, and its arguments.
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<OsString>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let mut words = arguments.command.into_iter();
    let command = Command::new(words.next().unwrap_or_default()).arguments(words);
    let service = Service::command("command", command).backoff(Backoff::new().healthy_after(Duration::from_secs(1)));
    let service = match arguments.count {
        Some(count) => service.count(count),
        None => service,
    };
    Application::new("commands").service(service).run()
}
