//! `acs`, the command line of async-container-supervisor.
//!
//! It connects to a running supervisor's socket as any client does, with `async_container_supervisor_client`, so all that it
//! can do can be done in code as well. The commands are in one file
//! each; [`main`] parses the arguments, runs one of them within its time, and turns what came of it into an exit status.
//!
//! ```no_run
//! // The whole of a binary that is called otherwise than `acs`:
//! fn main() -> std::process::ExitCode {
//!     acs::main()
//! }
//! ```
//!
//! # Exit status
//!
//! | status | means |
//! | --- | --- |
//! | 0 | done |
//! | 1 | the operation failed; standard error has its `class: message` |
//! | 2 | the command line makes no sense |
//! | 3 | no supervisor listens at the socket |
//! | 124 | it took longer than `--timeout` |
//! | 130 | interrupted; what was going on at the other end was cancelled. 143 and 129 by SIGTERM and SIGHUP |
//!
//! A reader that closes standard output early, such as `head`, is no failure.
//!
//! # Time
//!
//! `--timeout` bounds a command as a whole, from connecting on. Without it, 30 seconds are given, 5 minutes with
//! `--wait`, 60 seconds beyond their duration to diagnostics, and any time to `call`, for an operation may have to take
//! long, to `watch` and to `top`. `none` bounds nothing.
//!
//! # What it leaves out
//!
//! It starts nothing and reads no configuration. Figures of processes come from the supervisor's monitors or, where it
//! runs in the same pid namespace as `acs`, from `/proc`.

#![forbid(unsafe_code)]

mod arguments;
mod commands;
mod context;
mod destination;
mod error;
mod output;
mod overview;
mod process;
mod progress;
mod render;
mod table;
mod target;
mod top;
mod units;

use std::{io::Write, process::ExitCode, time::Duration};

use async_container_protocol::describe;
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    arguments::{Arguments, Command},
    context::Context,
    error::{Error, Result},
};

/// How long a cancellation may take to leave: the supervisor may be the reason why it had to be cancelled.
const FLUSH: Duration = Duration::from_millis(250);

/// Does what the process's arguments say, and returns its exit status.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();

    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return finish(Err(Error::Io(error))),
    };

    let result = runtime.block_on(run(arguments));
    // Does not wait for blocking work, of which there is none that matters by now.
    runtime.shutdown_background();
    finish(result)
}

async fn run(arguments: Arguments) -> Result {
    let context = Context::new(&arguments);
    // What "in time" means to a probe is more than one clock can tell; see there.
    let timeout = context.timeout.filter(|_| !matches!(arguments.command, Command::Ready));

    let result = tokio::select! {
        biased;
        result = interrupted() => result,
        result = commands::run(&context, arguments.command) => result,
        () = sleep(timeout) => Err(Error::timed_out(timeout, context.take_progress())),
    };

    // The command's calls were dropped with it, which cancels them. That has yet to be written.
    context.close(FLUSH).await;
    result
}

/// Completes when somebody wants this to end. What is under way is cancelled then, and nothing is left behind.
async fn interrupted() -> Result {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    // Whoever was started by nohup(1) is not to hear of the end of the terminal.
    let mut hangup = (!process::ignores(SignalKind::hangup().as_raw_value())).then(|| signal(SignalKind::hangup()));
    let hung_up = async {
        match &mut hangup {
            Some(Ok(hangup)) => drop(hangup.recv().await),
            _ => std::future::pending().await,
        }
    };

    let number = tokio::select! {
        _ = interrupt.recv() => SignalKind::interrupt(),
        _ = terminate.recv() => SignalKind::terminate(),
        () = hung_up => SignalKind::hangup(),
    };
    Err(Error::Interrupted { signal: number.as_raw_value() })
}

async fn sleep(timeout: Option<Duration>) {
    match timeout {
        Some(timeout) => tokio::time::sleep(timeout).await,
        None => std::future::pending().await,
    }
}

fn finish(result: Result) -> ExitCode {
    let Err(error) = result else {
        return ExitCode::SUCCESS;
    };

    if !error.is_silent() {
        // If standard error is closed, there is nobody to tell.
        let _ = writeln!(std::io::stderr(), "{}", output::clean(&describe(&error)));
    }

    ExitCode::from(error.status())
}
