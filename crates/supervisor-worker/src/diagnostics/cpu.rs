//! `cpu_profile`.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_container_diagnostics::cpu::{CpuProfile, CpuProfileError};
use async_container_protocol::{Failure, Request};

use super::{
    apart,
    delivery::{Answer, Delivery, Format, Report},
    threads,
};

/// The longest profile, in seconds: a day.
const LONGEST: f64 = 24.0 * 60.0 * 60.0;

/// Takes `duration`, in seconds, and `frequency`, in Hz. If the call is cancelled, sampling ends within a tenth of a second.
pub(super) async fn profile(request: Request) -> Result<Answer, Failure> {
    let formats = [Format::Folded, Format::Pprof, Format::Svg, Format::Json, Format::Text];
    let delivery = Delivery::of(&request, &formats)?;
    let duration = request.require::<f64>("duration")?;

    if !(duration > 0.0 && duration <= LONGEST) {
        return Err(Failure::invalid_parameters(
            "'duration' has to be a number of seconds, more than 0 and up to a day",
        ));
    }

    let mut profile = CpuProfile::new(Duration::from_secs_f64(duration));

    if let Some(frequency) = request.get("frequency")? {
        profile = profile.frequency(frequency);
    }

    if let Some(signal) = threads::signal()? {
        profile = profile.signal(signal);
    }

    // Dropped with the call when nobody wants the answer any more.
    let cancel = Cancel(Arc::new(AtomicBool::new(false)));
    let cancelled = cancel.0.clone();
    apart(move || {
        let samples = profile.take_unless(&cancelled).map_err(failed)?;

        if cancelled.load(Ordering::Relaxed) {
            return Err(Failure::new(async_container_protocol::class::CANCELLED, "nobody wants the profile any more"));
        }

        let profile = samples.profile();
        let report = match delivery.format {
            Format::Json => delivery.structured(&profile)?,
            format => {
                let bytes = profile.to_bytes(format)?;
                if format.is_text() { Report::Text(String::from_utf8(bytes)?) } else { Report::Bytes(bytes) }
            }
        };
        let mut answer = delivery.deliver(report)?;
        answer.samples = Some(samples.count());
        Ok(answer)
    })
    .await
}

/// Ends the profile when it is dropped.
struct Cancel(Arc<AtomicBool>);

impl Drop for Cancel {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn failed(error: CpuProfileError) -> Failure {
    match error {
        CpuProfileError::Frequency { .. } => Failure::invalid_parameters(error.to_string()),
        CpuProfileError::Busy | CpuProfileError::Signal(_) | CpuProfileError::Timers(_) => {
            Failure::not_supported(error.to_string())
        }
        error => Failure::from(error),
    }
}
