//! `acs replace`: a fresh process for one worker or child.

use async_container_supervisor_client::{Child, Supervisor};
use serde_json::json;

use crate::{
    arguments::Replace,
    context::{Context, explain_not_supported, unless_replaced},
    error::Result,
    target,
};

/// What is logged if nobody says why.
const REASON: &str = "asked for by acs";

pub(super) async fn run(context: &Context, arguments: &Replace) -> Result {
    let supervisor = context.connect().await?;
    let (process_id, title) = target::process(&supervisor, &arguments.worker).await?;
    let root = match arguments.wait.wait {
        true => Some(
            supervisor
                .root()
                .await
                .map_err(|error| explain_not_supported(error, "it can be replaced, but not with --wait"))?,
        ),
        false => None,
    };
    supervisor.replace(process_id, arguments.reason.as_deref().unwrap_or(REASON)).await?;

    let Some(child) = root.and_then(|root| root.children.into_iter().find(|it| it.process_id == Some(process_id)))
    else {
        let document = json!({"process_id": process_id});
        return context.output.print(&document, |_| format!("{title} (pid {process_id}) is being replaced"));
    };

    context.progress(format!("{title} was asked to end, and its successor is not ready; see acs status"));
    let successor = wait(context, supervisor, &child).await?;
    let document = json!({"process_id": successor, "previous_process_id": process_id});
    context
        .output
        .print(&document, |_| format!("replaced: {title} is ready as pid {successor}, in place of {process_id}"))
}

/// Waits until the child is ready with another process.
async fn wait(context: &Context, supervisor: Supervisor, old: &Child) -> Result<u32> {
    let mut current = Some(supervisor);

    loop {
        let supervisor = match current.take() {
            Some(supervisor) => supervisor,
            None => context.connect_again().await?,
        };

        // It may be the supervisor itself that is being replaced.
        if let Some(root) = unless_replaced(supervisor.root().await)? {
            let successor = root
                .children
                .iter()
                .find(|child| child.name == old.name && child.state == "ready" && child.process_id != old.process_id);

            if let Some(process_id) = successor.and_then(|child| child.process_id) {
                return Ok(process_id);
            }

            current = Some(supervisor);
        }

        context.pause().await;
    }
}
