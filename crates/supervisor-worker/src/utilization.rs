//! Where the metrics of this process are, for a supervisor that reads them.

use std::{sync::OnceLock, time::Instant};

use async_container_protocol::{Failure, Operations};
use async_container_utilization::{Registry, VERSION};
use serde::Serialize;

/// The answer of `utilization`.
#[derive(Serialize)]
struct Segment {
    process_id: u32,
    descriptor: i32,
    path: String,
    size: usize,
    version: u32,
    /// How long ago that was asked for first, in seconds: what was counted before, another supervisor may have told of already.
    first_asked: f64,
    /// Name, type and offset of each metric that there is by now.
    schema: Vec<(String, &'static str, usize)>,
}

/// When somebody asked first, through whichever connection of this process.
static FIRST_ASKED: OnceLock<Instant> = OnceLock::new();

/// The operations of a worker that shows the metrics of `registry`.
pub(crate) fn operations(registry: Registry) -> Operations {
    Operations::new()
        .immediate("utilization", move |_| segment(&registry))
        // As those who know the original would ask. There, the asker provides the memory.
        .immediate("setup_utilization_observer", |_| {
            Err::<(), _>(Failure::not_supported(
                "this worker keeps its metrics in memory of its own, which nobody can cut: call 'utilization', and read \
                 what it names",
            ))
        })
}

fn segment(registry: &Registry) -> Result<Segment, Failure> {
    let shared = registry.share().map_err(|error| Failure::not_supported(error.to_string()))?;
    let (process_id, descriptor) = (shared.process_id(), shared.descriptor());
    let schema = registry.schema();
    let fields = schema.fields().map(|field| (field.name().to_owned(), field.kind().name(), field.offset()));
    Ok(Segment {
        process_id,
        descriptor,
        path: format!("/proc/{process_id}/fd/{descriptor}"),
        size: shared.size(),
        version: VERSION,
        first_asked: FIRST_ASKED.get_or_init(Instant::now).elapsed().as_secs_f64(),
        schema: fields.collect(),
    })
}
