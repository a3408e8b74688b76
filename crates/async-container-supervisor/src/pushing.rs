//! Metrics of the supervisor, pushed by OTLP.

use std::convert::Infallible;

use async_container::BoxError;
use async_container_metrics::{Exporter, Family, Otlp};
use async_container_supervisor_server::Metrics;

/// What pushes, and the numbers.
pub(crate) struct Pushing {
    exporter: Exporter,
    metrics: Metrics,
    /// What is pushed last.
    last: Option<Vec<Family>>,
}

impl Pushing {
    /// None, if the environment says that there is to be none.
    pub(crate) fn new(otlp: Otlp, service: &str, metrics: Metrics) -> Result<Option<Self>, BoxError> {
        let exporter = otlp.exporter(service)?;
        Ok(exporter.map(|exporter| Pushing { exporter, metrics, last: None }))
    }

    /// Pushes until it is time to end, and takes note of all numbers while monitors are still there to tell theirs.
    pub(crate) async fn until(&mut self, shutdown: impl Future<Output = ()>) {
        let metrics = self.metrics.clone();
        let run = self.exporter.run(|| metrics.gather());
        let _: Result<(), Infallible> = tokio::select! {
            biased;
            () = shutdown => Ok(()),
            never = run => match never {},
        };
        self.last = Some(self.metrics.gather().await);
    }

    /// Pushes a last time.
    pub(crate) async fn end(self) {
        if let Some(families) = self.last {
            self.exporter.last(families).await;
        }
    }
}
