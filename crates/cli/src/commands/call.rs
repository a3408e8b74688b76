//! `acs call`: any operation of a worker or of the supervisor.

use serde_json::Value;

use crate::{
    arguments,
    context::Context,
    error::{Error, Result},
    render::render,
    target,
};

/// The target that is not a worker.
const SUPERVISOR: &str = "supervisor";

pub(super) async fn run(context: &Context, arguments: &arguments::Call) -> Result {
    let parameters = arguments.parameters().map_err(Error::Usage)?;
    let supervisor = context.connect().await?;

    let mut call = if arguments.target == SUPERVISOR {
        supervisor.call(&arguments.operation, &parameters)
    } else {
        let worker = target::named(&supervisor, &arguments.target).await?;
        supervisor.forward(&worker, &arguments.operation, &parameters)
    };

    let mut printed = false;
    while let Some(response) = call.next().await? {
        print(context, &response.to_json())?;
        printed = true;
    }

    let last = call.finish().await?;
    // The end of a stream often says nothing more than that.
    if printed && last.is_empty() { Ok(()) } else { print(context, &last.to_json()) }
}

fn print(context: &Context, response: &Value) -> Result {
    context.output.print(response, |_| render(response))
}
