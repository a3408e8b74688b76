//! What was measured of processes, as numbers.

use super::ProcessMetrics;
use crate::metrics::{Family, Value};

/// What of a command line is shown: enough to know it, and no more, since every other one is another series.
const COMMAND: usize = 64;

/// The families of processes.
pub(super) fn families(processes: &[ProcessMetrics]) -> Vec<Family> {
    let bytes = |name: &str, help: &str| Family::gauge(name, help).unit("bytes");
    let mut families = [
        bytes("process_size", "The memory that a process accounts for, what is shared counted in part."),
        bytes("process_resident_size", "The resident memory of a process, what is shared counted whole."),
        bytes("process_virtual_size", "The address space of a process."),
        Family::gauge("process_utilization", "The processors that a process kept busy since the check before.")
            .unit("ratio"),
        Family::counter("process_cpu", "The processor time of a process, user and system.").unit("seconds"),
        Family::gauge("process_elapsed", "The time since a process was started.").unit("seconds"),
    ];

    for process in processes {
        let process_id = process.process_id.to_string();
        let command: String = process.command.chars().take(COMMAND).collect();
        let labels = [("process_id", process_id.as_str()), ("command", command.as_str())];
        let values = [
            Value::from(process.total_size),
            process.resident_size.into(),
            process.virtual_size.into(),
            process.processor_utilization.into(),
            process.processor_time.as_secs_f64().into(),
            process.elapsed_time.as_secs_f64().into(),
        ];

        for (family, value) in families.iter_mut().zip(values) {
            family.push(labels, value);
        }
    }

    families.into()
}
