//! `acs ready`: a probe.

use std::{future::Future, time::Duration};

use async_container_supervisor_client::Readiness;
use serde_json::json;
use tokio::time::{Instant, timeout, timeout_at};

use crate::{
    context::{Context, explain_not_supported, unless_replaced},
    error::{Error, Result},
};

/// However little time there is, one look is taken, and given as long as this.
const LOOK: Duration = Duration::from_secs(1);

/// How long it may take to find out who was not ready in time.
const FAREWELL: Duration = Duration::from_millis(500);

/// What is known when the time is up.
#[derive(Default)]
struct Seen {
    /// Whether there was a supervisor.
    supervisor: bool,
    /// Why there was none, when it was last looked for.
    absence: Option<Error>,
    waiting_for: Option<String>,
}

pub(super) async fn run(context: &Context) -> Result {
    let start = Instant::now();
    // A time that cannot be represented is as good as no limit.
    let deadline = context.timeout.and_then(|limit| start.checked_add(limit));
    let limit = deadline.map(|deadline| deadline.max(start + LOOK));

    let mut seen = Seen::default();
    let readiness = until(limit, watch(context, deadline, &mut seen))
        .await
        .unwrap_or(Ok(None))
        .map_err(|error| explain_not_supported(error, "it cannot be told whether everything is ready"))?;

    match readiness {
        Some(readiness) => context.output.print(&json!(readiness), |_| "ready".to_owned()),
        None => Err(too_late(context, seen).await),
    }
}

/// Looks until everything is ready, or it is too late for another look.
async fn watch(context: &Context, deadline: Option<Instant>, seen: &mut Seen) -> Result<Option<Readiness>> {
    let is_over = || deadline.is_some_and(|deadline| Instant::now() >= deadline);

    loop {
        match context.connect().await {
            Ok(supervisor) => {
                seen.supervisor = true;
                let mut readiness = unless_replaced(supervisor.readiness().await)?;

                if let Some(now) = readiness.as_ref().filter(|readiness| !readiness.ready) {
                    seen.waiting_for = now.waiting_for();
                    let wait = until(deadline, supervisor.wait_until_ready(None)).await;
                    readiness = wait.map(unless_replaced).transpose()?.flatten();
                }

                if let Some(readiness) = readiness.filter(|readiness| readiness.ready) {
                    return Ok(Some(readiness));
                }
            }
            Err(error) if error.is_no_supervisor() => seen.absence = Some(error),
            Err(error) if error.is_connection_closed() => {}
            Err(error) => return Err(error),
        }

        if is_over() {
            return Ok(None);
        }

        context.pause().await;
    }
}

async fn too_late(context: &Context, seen: Seen) -> Error {
    if let Seen { supervisor: false, absence: Some(absence), .. } = seen {
        return absence;
    }

    if let Some(progress) = context.take_progress() {
        return Error::timed_out(context.timeout, Some(progress));
    }

    // Others may have become ready since who was not was last heard.
    let look = async { Ok::<_, Error>(context.connect().await?.readiness().await?) };
    let waiting_for = match timeout(FAREWELL, look).await {
        Ok(Ok(readiness)) => readiness.waiting_for(),
        _ => seen.waiting_for,
    };
    let details = waiting_for.map_or_else(String::new, |waiting_for| format!(", {waiting_for}"));
    Error::timed_out(context.timeout, Some(format!("not everything is ready{details}")))
}

async fn until<F: Future>(deadline: Option<Instant>, future: F) -> Option<F::Output> {
    match deadline {
        Some(deadline) => timeout_at(deadline, future).await.ok(),
        None => Some(future.await),
    }
}
