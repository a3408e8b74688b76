//! `cargo xtask demo`: a real application, and everything that can happen to it, seen from outside.

mod client;
mod scene;
mod serve;
mod steps;
mod timeline;

use std::process::ExitCode;

use crate::{
    Result,
    workspace::{self, succeeds},
};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Print the steps as one JSON document instead of a timeline
    #[arg(long, conflicts_with = "serve")]
    json: bool,
    /// Leave the application running, to play with, until interrupted
    #[arg(long)]
    serve: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result {
    eprintln!("building the demo application and acs");
    let mut build = workspace::cargo();
    build.args(["build", "--quiet", "--package", "async-container-supervisor-examples", "--example", "demo"]);
    build.args(["--package", "async-container-supervisor-cli", "--bin", "acs"]);
    if !succeeds(&mut build)? {
        return Ok(ExitCode::FAILURE);
    }
    if arguments.serve { serve::run() } else { steps::run(arguments.json) }
}
