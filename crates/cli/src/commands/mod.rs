//! The commands, one file each.

mod call;
mod completions;
mod diagnostic;
mod man;
mod monitors;
mod ping;
mod ready;
mod reload;
mod replace;
mod restart;
mod status;
pub(crate) mod watch;
mod workers;

pub(crate) use workers::paint;

use crate::{arguments::Command, context::Context, error::Result};

pub(crate) async fn run(context: &Context, command: Command) -> Result {
    if let Some(asked) = command.diagnostic() {
        return diagnostic::run(context, asked).await;
    }

    match command {
        Command::Status => status::run(context).await,
        Command::Watch { events } => watch::run(context, &events).await,
        Command::Workers => workers::run(context).await,
        Command::Ping => ping::run(context).await,
        Command::Call(call) => call::run(context, &call).await,
        Command::Replace(replace) => replace::run(context, &replace).await,
        Command::Restart(wait) => restart::run(context, wait.wait).await,
        Command::Reload(wait) => reload::run(context, wait.wait).await,
        Command::Ready => ready::run(context).await,
        Command::Top { interval } => crate::top::run(context, interval).await,
        Command::Completions { shell } => completions::run(shell),
        Command::Man => man::run(),
        // Was asked for above.
        Command::MemorySample(_)
        | Command::MemoryDump(_)
        | Command::ThreadDump(_)
        | Command::SchedulerDump(_)
        | Command::AllocatorProfile(_)
        | Command::CpuProfile(_) => Ok(()),
    }
}
