//! What the log says of children.

use std::time::Instant;

use crate::lifecycle::State;
use crate::process::Process;
use crate::slot::Slot;

pub(super) fn pid_of(process: &Process) -> i32 {
    process.pid.as_raw_nonzero().get()
}

/// When a child will be started again, for people.
pub(super) fn next_try(state: State, now: Instant) -> String {
    match state {
        State::New => "at once".to_owned(),
        State::Waiting { until } => format!("in {:.1?}", until.saturating_duration_since(now)),
        _ => "never".to_owned(),
    }
}

/// So many bytes, for people.
pub(super) fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut size = bytes as f64 / 1024.0;
    let mut units = UNITS.into_iter();
    let mut unit = units.next().unwrap_or_default();
    while size >= 1024.0
        && let Some(larger) = units.next()
    {
        (size, unit) = (size / 1024.0, larger);
    }
    format!("{size:.1} {unit}")
}

pub(super) fn log_kill(slot: &Slot, process: &Process) {
    let pid = pid_of(process);
    match slot.lifecycle.failure() {
        Some(failure) => {
            tracing::error!(child = slot.name, pid, reason = failure.to_string(), "killing child")
        }
        None => tracing::warn!(
            child = slot.name,
            pid,
            doing = process.activity(),
            "killing child: it did not end within its grace period"
        ),
    }
}
