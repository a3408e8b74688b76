//! What an instance may use of the machine, as a whole.

use crate::error::StartError;

/// How long a period of `cpu.max` is, in microseconds. It is the kernel's default.
const CPU_PERIOD: u64 = 100_000;
/// The smallest quota of `cpu.max` that the kernel takes, in microseconds.
const CPU_QUOTA_MINIMUM: u64 = 1_000;

/// What an instance, with all that it starts, may use of the machine: limits of its cgroup, see cgroups(7).
///
/// They need a cgroup that is [delegated](crate::Cgroups) to the root, and the controllers `memory`, `cpu` and `pids` in it.
/// Where they cannot be had, the root does not start, or does not reload, because whoever set a limit relies on it; with
/// [`best_effort`](Self::best_effort), it says so in the log and goes on without.
///
/// ```
/// use async_container::{Command, Limits, Service};
///
/// let limits = Limits::new().memory_max(512 << 20).cpu_max(1.5).pids_max(100);
/// let service = Service::command("builder", Command::new("make")).limits(limits);
/// # let _ = service;
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Limits {
    pub(crate) memory_max: Option<u64>,
    pub(crate) memory_high: Option<u64>,
    pub(crate) memory_swap_max: Option<u64>,
    pub(crate) cpu_max: Option<f64>,
    pub(crate) pids_max: Option<u64>,
    pub(crate) best_effort: bool,
}

impl Limits {
    /// No limits.
    pub fn new() -> Self {
        Limits::default()
    }

    /// How much memory may be used, in bytes (`memory.max`). When there is no more to be had, the kernel kills the whole
    /// instance, which is then restarted as after any failure; its last exit says why it ended. Where the host has swap space, there
    /// is more to be had as long as that lasts: see [`memory_swap_max`](Self::memory_swap_max). Default is no limit.
    pub fn memory_max(mut self, bytes: u64) -> Self {
        self.memory_max = Some(bytes);
        self
    }

    /// From how much memory on, in bytes, the instance is slowed down and its memory taken back (`memory.high`). Default is
    /// no limit.
    pub fn memory_high(mut self, bytes: u64) -> Self {
        self.memory_high = Some(bytes);
        self
    }

    /// How much swap space may be used beside, in bytes (`memory.swap.max`): with 0, `memory_max` is all that there is. Default is no
    /// limit.
    pub fn memory_swap_max(mut self, bytes: u64) -> Self {
        self.memory_swap_max = Some(bytes);
        self
    }

    /// How much processor time may be used, in processors (`cpu.max`): 0.5 is half of one, 2 are two. At least 0.01.
    /// Default is no limit.
    pub fn cpu_max(mut self, processors: f64) -> Self {
        self.cpu_max = Some(processors);
        self
    }

    /// How many processes and threads there may be (`pids.max`). Where an instance fails that wanted more than that, its last exit says
    /// so (Linux 6.1). Default is no limit.
    pub fn pids_max(mut self, count: u64) -> Self {
        self.pids_max = Some(count);
        self
    }

    /// Has instances run without those limits that cannot be had, which is logged as a warning. Default is false: it is an
    /// error.
    pub fn best_effort(mut self, best_effort: bool) -> Self {
        self.best_effort = best_effort;
        self
    }

    /// What is to be written to which file of a cgroup, with the controller that has it.
    pub(crate) fn files(&self) -> Vec<(&'static str, &'static str, String)> {
        let mut files = Vec::new();
        if let Some(bytes) = self.memory_high {
            files.push(("memory", "memory.high", bytes.to_string()));
        }
        if let Some(bytes) = self.memory_max {
            files.push(("memory", "memory.max", bytes.to_string()));
            // Half of an instance is worth nothing, and nobody else would restart the other half.
            files.push(("memory", "memory.oom.group", "1".to_owned()));
        }
        if let Some(bytes) = self.memory_swap_max {
            files.push(("memory", "memory.swap.max", bytes.to_string()));
        }
        if let Some(processors) = self.cpu_max {
            files.push(("cpu", "cpu.max", format!("{} {CPU_PERIOD}", cpu_quota(processors))));
        }
        if let Some(count) = self.pids_max {
            files.push(("pids", "pids.max", count.to_string()));
        }
        files
    }

    /// The controllers that they need.
    pub(crate) fn controllers(&self) -> Vec<&'static str> {
        let mut controllers: Vec<_> = self.files().into_iter().map(|(controller, ..)| controller).collect();
        controllers.dedup();
        controllers
    }

    pub(crate) fn validate(&self, service: &str) -> Result<(), StartError> {
        let wrong = |limit| Err(StartError::InvalidLimit { name: service.to_owned(), limit });
        if self.memory_max == Some(0) {
            return wrong("memory_max");
        }
        if self.pids_max == Some(0) {
            return wrong("pids_max");
        }
        match self.cpu_max {
            Some(processors) if !processors.is_finite() || cpu_quota(processors) < CPU_QUOTA_MINIMUM => {
                wrong("cpu_max")
            }
            _ => Ok(()),
        }
    }
}

/// In microseconds of each period. What is no number becomes 0.
fn cpu_quota(processors: f64) -> u64 {
    (processors * CPU_PERIOD as f64).round() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_files_of_a_cgroup() {
        let limits = Limits::new().memory_max(1 << 20).memory_high(1000).memory_swap_max(0).cpu_max(1.5).pids_max(7);
        let files: Vec<(&str, String)> = limits.files().into_iter().map(|(_, file, text)| (file, text)).collect();
        let expected = [
            ("memory.high", "1000"),
            ("memory.max", "1048576"),
            ("memory.oom.group", "1"),
            ("memory.swap.max", "0"),
            ("cpu.max", "150000 100000"),
            ("pids.max", "7"),
        ];
        assert_eq!(files, expected.map(|(file, text)| (file, text.to_owned())));
        assert_eq!(limits.controllers(), ["memory", "cpu", "pids"]);
        assert!(Limits::new().files().is_empty());
    }

    #[test]
    fn limits_that_let_nothing_run_are_refused() {
        let refused = |limits: Limits| limits.validate("worker").unwrap_err().to_string();
        assert!(refused(Limits::new().memory_max(0)).contains("memory_max"));
        assert!(refused(Limits::new().pids_max(0)).contains("pids_max"));
        for processors in [0.0, -1.0, 0.001, f64::NAN, f64::INFINITY] {
            assert!(refused(Limits::new().cpu_max(processors)).contains("cpu_max"), "{processors}");
        }
        assert!(Limits::new().cpu_max(0.01).memory_max(1).pids_max(1).validate("worker").is_ok());
    }
}
