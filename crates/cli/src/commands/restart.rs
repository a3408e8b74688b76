//! `acs restart`: stops the application, so that what started it starts it again.

use async_container_supervisor_client::{Readiness, Signal};
use serde_json::json;

use crate::{
    context::{Context, explain_not_supported, root_process_id, unless_replaced},
    error::Result,
};

const SIGNAL: Signal = Signal::Int;

pub(super) async fn run(context: &Context, wait: bool) -> Result {
    let supervisor = context.connect().await?;

    if !wait {
        supervisor.signal(SIGNAL).await?;
        return context.output.print(&json!({"signal": SIGNAL.name()}), |_| {
            "restart requested: the application stops, and is started again by what started it".to_owned()
        });
    }

    let unsupported = |error| explain_not_supported(error, "it can be restarted, but not with --wait");
    let old = root_process_id(&supervisor).await.map_err(unsupported)?;
    supervisor.signal(SIGNAL).await?;
    drop(supervisor);
    context.progress("the application was asked to stop, and is still running");

    let (new, readiness) = loop {
        if let Some(result) = look(context, old).await? {
            break result;
        }

        context.pause().await;
    };

    let document = json!({
        "signal": SIGNAL.name(),
        "process_id": new,
        "previous_process_id": old,
        "generation": readiness.generation,
        "ready": readiness.ready,
    });
    context.output.print(&document, |_| match old {
        Some(old) => format!("restarted: root {new} is ready, in place of {old}"),
        None => format!("restarted: root {new} is ready"),
    })
}

/// Looks for another root and waits for it to be ready; `None` if there is none yet.
async fn look(context: &Context, old: Option<u32>) -> Result<Option<(u32, Readiness)>> {
    let supervisor = match context.connect().await {
        Ok(supervisor) => supervisor,
        Err(error) if error.is_no_supervisor() => {
            context.progress("the application stopped, and nothing has started it again: is there a service manager?");
            return Ok(None);
        }
        Err(error) if error.is_connection_closed() => return Ok(None),
        Err(error) => return Err(error),
    };

    let Some(new) = unless_replaced(root_process_id(&supervisor).await)?.flatten() else {
        return Ok(None);
    };

    if Some(new) == old {
        return Ok(None);
    }

    context.progress(format!("the application was started again as process {new}, and is not ready"));
    let readiness = unless_replaced(supervisor.wait_until_ready(None).await)?;
    Ok(readiness.map(|readiness| (new, readiness)))
}
