//! What was measured of processes, as numbers.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::ProcessMetrics;
use crate::metrics::{Family, Value};

/// What of a command line is shown: enough to know it.
const COMMAND: usize = 64;

/// What of a process stays as it is.
#[derive(Clone, Default)]
pub(super) struct Identity {
    pub(super) name: Arc<str>,
    pub(super) began: Option<SystemTime>,
}

impl Identity {
    /// In seconds since 1970.
    fn began(&self) -> Option<f64> {
        let began = self.began?.duration_since(SystemTime::UNIX_EPOCH);
        began.as_ref().map(Duration::as_secs_f64).ok()
    }
}

/// What a process with this command line is called from now on. It is kept, since every other name would be another series, and a
/// title may tell how many requests there are.
pub(super) fn name(command: &str) -> Arc<str> {
    let end = command.char_indices().nth(COMMAND).map_or(command.len(), |(end, _)| end);
    command[..end].into()
}

/// A metric, and what it is of a process. What is not known of one is left out.
type Column = (Family, fn(&ProcessMetrics) -> Option<Value>);

/// The families of processes, of which each has one of the identities.
pub(super) fn families(processes: &[ProcessMetrics], identities: &[Identity]) -> Vec<Family> {
    let mut starts = Family::gauge("process_start_timestamp", "When a process was started.").unit("seconds");
    let mut switches =
        Family::gauge("process_context_switches", "How often the threads of a process gave way to others.");
    let mut faults = Family::counter("process_page_faults", "How often a process used memory that was not mapped yet.");
    let mut columns = columns();

    for (process, identity) in processes.iter().zip(identities) {
        let process_id = process.process_id.to_string();
        let labels = [("process_id", process_id.as_str()), ("command", &*identity.name)];
        let with_kind = |kind| labels.into_iter().chain([("kind", kind)]);

        for (family, value) in &mut columns {
            if let Some(value) = value(process) {
                family.push(labels, value);
            }
        }

        if let Some(began) = identity.began() {
            starts.push(labels, began);
        }

        switches.push(with_kind("voluntary"), process.voluntary_switches);
        switches.push(with_kind("involuntary"), process.involuntary_switches);
        faults.push(with_kind("minor"), process.minor_faults);
        faults.push(with_kind("major"), process.major_faults);
    }

    columns.into_iter().map(|(family, _)| family).chain([starts, switches, faults]).collect()
}

fn columns() -> [Column; 21] {
    let bytes = |name: &str, help: &str| Family::gauge(name, help).unit("bytes");
    [
        (bytes("process_size", "The memory that a process accounts for, what is shared counted in part."), |process| {
            Some(process.total_size.into())
        }),
        (
            bytes("process_resident_size", "The resident memory of a process, what is shared counted whole."),
            |process| Some(process.resident_size.into()),
        ),
        (bytes("process_virtual_size", "The address space of a process."), |process| Some(process.virtual_size.into())),
        (bytes("process_private_size", "The memory of a process that it shares with nobody."), |process| {
            Some(process.memory?.sizes.private_size.into())
        }),
        (bytes("process_shared_size", "The memory of a process that others have, too."), |process| {
            Some(process.memory?.sizes.shared_size.into())
        }),
        (bytes("process_anonymous_size", "The memory of a process that belongs to no file."), |process| {
            Some(process.memory?.sizes.anonymous_size.into())
        }),
        (
            bytes(
                "process_proportional_file_size",
                "The memory of a process that is page cache, what is shared counted in part.",
            ),
            |process| Some(process.memory?.sizes.proportional_file_size.into()),
        ),
        (bytes("process_swap_size", "The memory of a process that is in swap space."), |process| {
            Some(process.memory?.sizes.swap_size.into())
        }),
        (
            bytes("process_private_clean_size", "The private memory of a process that can be read again from a file."),
            |process| Some(process.memory?.sizes.private_clean_size.into()),
        ),
        (bytes("process_private_dirty_size", "The private memory of a process that it has written to."), |process| {
            Some(process.memory?.sizes.private_dirty_size.into())
        }),
        (
            bytes("process_shared_clean_size", "The shared memory of a process that can be read again from a file."),
            |process| Some(process.memory?.sizes.shared_clean_size.into()),
        ),
        (bytes("process_shared_dirty_size", "The shared memory of a process that was written to."), |process| {
            Some(process.memory?.sizes.shared_dirty_size.into())
        }),
        (bytes("process_referenced_size", "The memory of a process that it used lately."), |process| {
            Some(process.memory?.sizes.referenced_size.into())
        }),
        (
            bytes("process_proportional_swap_size", "The swap space of a process, what is shared counted in part."),
            |process| Some(process.memory?.sizes.proportional_swap_size.into()),
        ),
        (Family::gauge("process_mappings", "How many mappings the address space of a process has."), |process| {
            Some(process.memory?.map_count.into())
        }),
        (
            Family::gauge("process_utilization", "The processors that a process kept busy since the check before.")
                .unit("ratio"),
            |process| Some(process.processor_utilization.into()),
        ),
        (
            Family::counter("process_cpu", "The processor time of a process, user and system.").unit("seconds"),
            |process| Some(process.processor_time.as_secs_f64().into()),
        ),
        (
            Family::counter("process_children_cpu", "The processor time of children that ended and were waited for.")
                .unit("seconds"),
            |process| Some(process.children_processor_time.as_secs_f64().into()),
        ),
        (Family::gauge("process_elapsed", "The time since a process was started.").unit("seconds"), |process| {
            Some(process.elapsed_time.as_secs_f64().into())
        }),
        (Family::gauge("process_threads", "How many threads a process has."), |process| Some(process.threads.into())),
        (Family::gauge("process_open_files", "How many descriptors a process has open."), |process| {
            Some(process.open_files?.into())
        }),
    ]
}
