//! `acs reload`: new children beside the old ones.

use async_container_supervisor_client::{Readiness, Signal};
use serde_json::json;

use crate::{
    context::{Context, explain_not_supported, root_process_id, unless_replaced},
    error::{Error, Result},
};

const SIGNAL: Signal = Signal::Hup;
const FAILED: &str = "ReloadFailed";

pub(super) async fn run(context: &Context, wait: bool) -> Result {
    let supervisor = context.connect().await?;

    if !wait {
        supervisor.signal(SIGNAL).await?;
        return context
            .output
            .print(&json!({"signal": SIGNAL.name()}), |_| "reload requested; --wait would see it through".to_owned());
    }

    let unsupported = |error: Error| explain_not_supported(error, "it can be reloaded, but not with --wait");
    let root = root_process_id(&supervisor).await.map_err(unsupported)?;
    let before = supervisor.readiness().await.map_err(Error::from).map_err(unsupported)?;
    supervisor.signal(SIGNAL).await?;
    context.progress("the reload goes on; acs status shows how far it is");

    // The supervisor is one of the children, and is replaced like them. Until then it is the old one that answers.
    let mut current = Some(supervisor);
    let after = loop {
        let supervisor = match current.take() {
            Some(supervisor) => supervisor,
            None => {
                let supervisor = context.connect_again().await?;
                let process_id = unless_replaced(root_process_id(&supervisor).await)?.flatten();

                // Another root counts its reloads from zero, and would never get beyond what is waited for.
                if let (Some(old), Some(new)) = (root, process_id)
                    && old != new
                {
                    let message = format!("the application was restarted meanwhile: its root was {old} and is {new}");
                    return Err(Error::failed(FAILED, message));
                }

                supervisor
            }
        };

        match unless_replaced(supervisor.wait_until_ready(Some(before.reloads)).await)? {
            Some(readiness) => break readiness,
            None => context.pause().await,
        }
    };

    check(&before, after).and_then(|after| {
        let document = json!({
            "signal": SIGNAL.name(),
            "generation": after.generation,
            "previous_generation": before.generation,
            "reloads": after.reloads,
            "ready": after.ready,
        });
        context.output.print(&document, |_| format!("reloaded: generation {} is ready", after.generation))
    })
}

/// Whether there is a new generation.
fn check(before: &Readiness, after: Readiness) -> Result<Readiness> {
    if after.generation > before.generation {
        return Ok(after);
    }

    let reason = after.reload_error.unwrap_or_else(|| "no reason was given".to_owned());
    Err(Error::failed(FAILED, format!("{reason}; generation {} goes on", after.generation)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_new_generation_is_a_success() {
        let readiness = |generation, reload_error: Option<&str>| {
            let mut readiness = Readiness::default();
            readiness.generation = generation;
            readiness.reload_error = reload_error.map(str::to_owned);
            readiness
        };
        let before = readiness(3, None);
        assert!(check(&before, readiness(4, None)).is_ok());
        // Another reload followed, and failed. The one that was asked for did not.
        assert!(check(&before, readiness(4, Some("late"))).is_ok());

        let error = check(&before, readiness(3, Some("worker#1 exited"))).unwrap_err();
        assert_eq!(error.status(), 1);
        assert_eq!(error.to_string(), "ReloadFailed: worker#1 exited; generation 3 goes on");
        assert!(check(&before, readiness(3, None)).is_err());
    }
}
