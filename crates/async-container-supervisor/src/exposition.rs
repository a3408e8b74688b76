//! Metrics of the supervisor, on a socket that the root has bound.

use async_container::{BoxError, Instance};
use async_container_metrics::{Family, serve};
use async_container_supervisor_server::Metrics;
use tokio::task::JoinSet;

/// The name of the socket.
pub(crate) const LISTENER: &str = "metrics";

/// Answers whoever asks for metrics, until this is dropped.
#[derive(Default)]
pub(crate) struct Serving {
    /// Its task ends with it.
    _task: JoinSet<()>,
}

/// Begins to answer.
pub(crate) fn begin(instance: &Instance, metrics: Metrics) -> Result<Serving, BoxError> {
    let gather = move || {
        let metrics = metrics.clone();
        async move { metrics.gather().await }
    };
    let mut task = JoinSet::new();
    // Of which kind it is, whoever gave the address knows.
    match instance.listener(LISTENER) {
        Ok(listener) => task.spawn(answer(listener, gather)),
        Err(_) => task.spawn(answer(instance.unix_listener(LISTENER)?, gather)),
    };
    Ok(Serving { _task: task })
}

async fn answer<L, G, F>(listener: L, gather: G)
where
    L: async_container_metrics::Listener,
    G: Fn() -> F + Send + Sync + 'static,
    F: Future<Output = Vec<Family>> + Send + 'static,
{
    if let Err(error) = serve(listener, gather).await {
        tracing::error!(%error, "metrics are not served any more");
    }
}
