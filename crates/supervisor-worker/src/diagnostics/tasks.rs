//! `scheduler_dump`.

use async_container_diagnostics::tasks::Options;
use async_container_protocol::{Failure, Request};

use super::{
    apart,
    delivery::{Answer, Delivery, Format, Report},
};

/// Of so many tasks it is shown where they wait, those that have been idle for longest.
const STACKS: usize = 256;

/// Takes `stacks`, beside where the dump is to go: whether to show where tasks wait, for which they are polled once more.
/// Default is true.
pub(super) async fn dump(request: Request) -> Result<Answer, Failure> {
    let delivery = Delivery::of(&request, &[Format::Text, Format::Json])?;
    let stacks = request.get::<bool>("stacks")?.unwrap_or(true);
    apart(move || {
        let dump = Options::new().stacks(if stacks { STACKS } else { 0 }).take();
        let report = match delivery.format {
            Format::Json => delivery.structured(&dump)?,
            _ => Report::Text(dump.to_string()),
        };
        delivery.deliver(report)
    })
    .await
}
