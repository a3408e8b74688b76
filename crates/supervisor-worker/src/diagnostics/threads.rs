//! `thread_dump`.

use async_container_diagnostics::threads::{Options, ThreadDumpError};
use async_container_protocol::{Failure, Request};

use super::{
    apart,
    delivery::{Answer, Delivery, Format, Report},
};

/// Sets which signal thread dumps use, for a program that has another use for the one that they would choose.
const SIGNAL: &str = "ACS_THREAD_SIGNAL";

pub(super) async fn dump(request: Request) -> Result<Answer, Failure> {
    let delivery = Delivery::of(&request, &[Format::Text, Format::Json])?;
    apart(move || {
        let dump = options()?.take().map_err(failed)?;
        let report = match delivery.format {
            Format::Json => delivery.structured(&dump)?,
            _ => Report::Text(dump.to_string()),
        };
        delivery.deliver(report)
    })
    .await
}

/// How the process is to be interrupted.
pub(super) fn options() -> Result<Options, Failure> {
    Ok(signal()?.map_or_else(Options::new, |signal| Options::new().signal(signal)))
}

/// The signal that is set, if one is.
pub(super) fn signal() -> Result<Option<i32>, Failure> {
    let Some(signal) = std::env::var_os(SIGNAL) else { return Ok(None) };
    let signal = signal.to_str().and_then(|signal| signal.parse().ok()).ok_or_else(|| {
        Failure::not_supported(format!("{SIGNAL} is {signal:?}, and has to be the number of a real-time signal"))
    })?;
    Ok(Some(signal))
}

fn failed(error: ThreadDumpError) -> Failure {
    match error {
        ThreadDumpError::Signal(source) => {
            Failure::not_supported(format!("no signal could be set up for the dump: {source}"))
        }
        error => Failure::from(error),
    }
}
