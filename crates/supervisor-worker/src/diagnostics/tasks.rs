//! `scheduler_dump`.

use async_container_diagnostics::tasks::Options;
use async_container_protocol::{Failure, Request};

use super::{
    apart,
    delivery::{Answer, Delivery, Format, Report},
    threads,
};

/// Of so many tasks it is shown where they wait, those that have been idle for longest.
const STACKS: usize = 256;

/// Takes `stacks`, beside where the dump is to go: whether to show where tasks wait, for which they are polled once more, and
/// where those are that block their executor, for which their threads are interrupted.
/// Default is true. And `unregistered`: whether to show tasks that nobody registered, too, by tokio's own dump, which may be the
/// end of the program. Default is false.
pub(super) async fn dump(request: Request) -> Result<Answer, Failure> {
    let delivery = Delivery::of(&request, &[Format::Text, Format::Json])?;
    let stacks = request.get::<bool>("stacks")?.unwrap_or(true);
    let unregistered = request.get::<bool>("unregistered")?.unwrap_or(false);
    apart(move || {
        let mut options = Options::new();

        if stacks {
            options = options.stacks(STACKS).threads(threads::options()?);
        }

        if unregistered {
            options = with_unregistered(options)?;
        }

        let dump = options.take();
        let report = match delivery.format {
            Format::Json => delivery.structured(&dump)?,
            _ => Report::Text(dump.to_string()),
        };
        delivery.deliver(report)
    })
    .await
}

#[cfg(feature = "tokio-taskdump")]
fn with_unregistered(options: Options) -> Result<Options, Failure> {
    Ok(options.unregistered())
}

#[cfg(not(feature = "tokio-taskdump"))]
fn with_unregistered(_options: Options) -> Result<Options, Failure> {
    let message = "the worker was built without the feature tokio-taskdump, which shows tasks that are not registered";
    Err(Failure::new(async_container_protocol::class::NOT_SUPPORTED, message))
}
