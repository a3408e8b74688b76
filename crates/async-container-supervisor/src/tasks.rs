//! Tasks by their names, for dumps of them.

use std::panic::Location;

use async_container::Service;
use tokio::task::JoinHandle;

/// The service with each of its instances as a registered task, named after it.
pub(crate) fn named(service: Service, place: &'static Location<'static>) -> Service {
    #[cfg(feature = "diagnostics")]
    let service = service
        .wrap(move |instance, work| async_container_diagnostics::tasks::instrument_at(instance.name(), place, work));
    #[cfg(not(feature = "diagnostics"))]
    let _ = place;
    service
}

/// Spawns a task of our own.
#[track_caller]
pub(crate) fn spawn<F>(name: &'static str, future: F) -> JoinHandle<F::Output>
where
    F: Future<Output: Send> + Send + 'static,
{
    #[cfg(feature = "diagnostics")]
    return async_container_diagnostics::tasks::spawn(name, future);
    #[cfg(not(feature = "diagnostics"))]
    {
        let _ = name;
        tokio::spawn(future)
    }
}
