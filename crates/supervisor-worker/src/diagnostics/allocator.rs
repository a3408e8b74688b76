//! `allocator_profile_start` and `allocator_profile_stop`.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use async_container_diagnostics::memory::AllocatorProfile;
use async_container_protocol::{Failure, Request};
use serde::Serialize;

use super::{
    apart,
    delivery::{Answer, Delivery, Format, Report},
    memory::failed,
};

/// A profile that nobody has stopped by then is given up, if whoever started it has not said when: they are gone. In seconds.
const LONGEST: f64 = 60.0 * 60.0;

/// The profile that is being taken in this worker, if one is.
#[derive(Clone, Default)]
pub(super) struct Profile(Arc<Mutex<Option<(AllocatorProfile, Instant)>>>);

#[derive(Serialize)]
pub(super) struct Started {
    started: bool,
}

impl Profile {
    /// There is one at a time, because it is not known whose a call is. It is given up after `limit`, in seconds.
    pub(super) async fn start(self, request: Request) -> Result<Started, Failure> {
        let limit = request.get::<f64>("limit")?.unwrap_or(LONGEST);

        if !(limit > 0.0 && limit <= LONGEST) {
            return Err(Failure::invalid_parameters(
                "'limit' has to be a number of seconds, more than 0 and up to an hour",
            ));
        }

        let begun = Instant::now();
        let profile = apart(|| AllocatorProfile::start().map_err(failed)).await?;
        let mut current = self.0.lock().unwrap_or_else(PoisonError::into_inner);

        if let Some((_, begun)) = &*current {
            let seconds = begun.elapsed().as_secs();
            return Err(Failure::invalid_parameters(format!(
                "a profile was started {seconds} s ago: stop it first, by allocator_profile_stop"
            )));
        }

        *current = Some((profile, begun));
        drop(current);
        let current = self.0.clone();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs_f64(limit)).await;
            let mut current = current.lock().unwrap_or_else(PoisonError::into_inner);

            if current.as_ref().is_some_and(|(_, other)| *other == begun) {
                tracing::warn!(limit, "the profile of the allocator was not stopped in time, and is given up");
                *current = None;
            }
        });
        Ok(Started { started: true })
    }

    pub(super) async fn stop(self, request: Request) -> Result<Answer, Failure> {
        let delivery = Delivery::of(&request, &[Format::Json, Format::Text])?;
        let profile = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some((profile, _)) = profile else {
            return Err(Failure::invalid_parameters(
                "no profile of the allocator was started: start one by allocator_profile_start",
            ));
        };
        apart(move || {
            let report = profile.stop().map_err(failed)?;
            let report = match delivery.format {
                Format::Json => delivery.structured(&report)?,
                _ => Report::Text(report.to_string()),
            };
            delivery.deliver(report)
        })
        .await
    }
}
