//! What a memory monitor can be told.

use std::time::Duration;

use serde::Serialize;

use super::{MemoryMonitor, report::mebibytes};
use crate::{
    action::{Destination, Diagnosis},
    monitor::validate_interval,
};

const DEFAULT_INTERVAL: Duration = Duration::from_secs(10);
const DEFAULT_COOLDOWN: Duration = Duration::from_secs(30);
const DEFAULT_THRESHOLD_SIZE: u64 = 10 << 20;
const DEFAULT_START_FIRST: Duration = Duration::from_secs(60);

#[derive(Clone)]
pub(super) struct Settings {
    pub interval: Duration,
    pub cooldown: Duration,
    pub maximum_size_limit: Option<u64>,
    pub threshold_size: u64,
    pub increase_limit: Option<u64>,
    pub total_size_limit: Option<u64>,
    pub free_size_minimum: Option<u64>,
    pub pressure_limit: Option<f64>,
    pub restarts_at_once: usize,
    pub start_first: Option<Duration>,
    pub diagnostic: Option<Diagnostic>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            interval: DEFAULT_INTERVAL,
            cooldown: DEFAULT_COOLDOWN,
            maximum_size_limit: None,
            threshold_size: DEFAULT_THRESHOLD_SIZE,
            increase_limit: None,
            total_size_limit: None,
            free_size_minimum: None,
            pressure_limit: None,
            restarts_at_once: 1,
            start_first: Some(DEFAULT_START_FIRST),
            diagnostic: None,
        }
    }
}

/// What is found out about a worker before it is restarted.
#[derive(Clone)]
pub(super) struct Diagnostic {
    operation: String,
    duration: Option<f64>,
    pub timeout: Duration,
    destination: Destination,
}

#[derive(Serialize)]
struct Parameters {
    #[serde(skip_serializing_if = "Option::is_none")]
    duration: Option<f64>,
}

impl Diagnostic {
    pub(super) fn of(&self, process_id: u32) -> Diagnosis {
        Diagnosis::new(process_id, &self.operation)
            .parameters(Parameters { duration: self.duration })
            .timeout(self.timeout)
            .to(self.destination.clone())
    }
}

impl Settings {
    /// What cannot be, or cannot have been meant.
    pub(super) fn validate(&self) -> Result<(), String> {
        let zero = |name: &str, value: Option<u64>, instead: &str| match value {
            Some(0) => Err(format!("{name} is 0: {instead}")),
            _ => Ok(()),
        };
        let no_limit = "every worker would exceed it; leave it out for no limit";

        validate_interval(self.interval)?;
        zero("maximum_size_limit", self.maximum_size_limit, no_limit)?;
        zero("total_size_limit", self.total_size_limit, no_limit)?;
        zero("free_size_minimum", self.free_size_minimum, "there is always so much; leave it out for no minimum")?;
        zero(
            "increase_limit",
            self.increase_limit,
            "no worker would have to grow for that; 1 restarts at the first increase",
        )?;
        zero("threshold_size", Some(self.threshold_size), "any page would be an increase; the default is 10 MiB")?;
        zero("restarts_at_once", Some(self.restarts_at_once as u64), "no worker could be restarted; the default is 1")?;

        if let Some(part) = self.pressure_limit.filter(|part| !(*part > 0.0 && *part < 1.0)) {
            let example = match part > 1.0 && part < 100.0 {
                true => format!("for {part} % it is {}", part / 100.0),
                false => "for a fifth it is 0.2".to_owned(),
            };
            return Err(format!(
                "pressure_limit is {part}, and has to be a part of the time, between 0 and 1: {example}"
            ));
        }

        if self.cooldown.is_zero() {
            return Err(
                "cooldown is zero: a restart would be asked for again at each check; the default is 30 seconds".into(),
            );
        }

        match self.maximum_size_limit {
            Some(limit) if self.increase_limit.is_some() && self.threshold_size >= limit => Err(format!(
                "threshold_size is {}, and maximum_size_limit {}: a worker would be too large before its first increase \
                 counts; choose a smaller threshold_size",
                mebibytes(self.threshold_size),
                mebibytes(limit)
            )),
            _ => Ok(()),
        }
    }
}

/// Settings.
impl MemoryMonitor {
    /// The time between two checks; it has to be one millisecond at least. It bounds how far a worker can grow beyond its limit.
    ///
    /// While workers grow so fast that one would reach its limit, or all together theirs, before the next check but one, checks come
    /// more often, down to a twentieth of this time, and not below 50 ms.
    ///
    /// Default is 10 seconds.
    pub fn interval(mut self, interval: Duration) -> Self {
        self.settings.interval = interval;
        self
    }

    /// The size in bytes above which a worker is to be restarted.
    ///
    /// Default is no limit.
    pub fn maximum_size_limit(mut self, bytes: u64) -> Self {
        self.settings.maximum_size_limit = Some(bytes);
        self
    }

    /// By how much a worker must have grown beyond its mark for that to count as an increase. Its size at the first check
    /// is the first mark; with each increase, the mark is set to its size then.
    ///
    /// Default is 10 MiB.
    pub fn threshold_size(mut self, bytes: u64) -> Self {
        self.settings.threshold_size = bytes;
        self
    }

    /// The number of increases at which a worker is to be restarted.
    ///
    /// Default is no limit.
    pub fn increase_limit(mut self, increases: u64) -> Self {
        self.settings.increase_limit = Some(increases);
        self
    }

    /// The size in bytes above which all workers together may not grow: the largest shared size of one, and the private
    /// sizes of all. Those with the largest private size are to be restarted until it is kept.
    ///
    /// Default is no limit.
    pub fn total_size_limit(mut self, bytes: u64) -> Self {
        self.settings.total_size_limit = Some(bytes);
        self
    }

    /// How much memory the host, or the cgroup, is to have available, in bytes; the page cache counts as available. Below that,
    /// the workers with the largest private size are to be restarted until there would be enough.
    ///
    /// Default is no minimum.
    pub fn free_size_minimum(mut self, bytes: u64) -> Self {
        self.settings.free_size_minimum = Some(bytes);
        self
    }

    /// The part of the last ten seconds, 0 to 1, in which nothing was done because everything waited for memory (`full` of
    /// the kernel's pressure stall information, of the cgroup or else of the host), above which the worker with the
    /// largest private size is to be restarted. It is the sign of a host that is about to hang, whatever the figures say.
    ///
    /// It has to be more than that of the time since the last check as well, so that nobody is restarted for what is over.
    /// While the restart of one is under way, and in the check after that, no other is asked for.
    ///
    /// Default is no limit.
    pub fn pressure_limit(mut self, part: f64) -> Self {
        self.settings.pressure_limit = Some(part);
        self
    }

    /// The time after which a restart that was asked for, of a process that is still there and
    /// still too large, is asked for again, urgently. It should exceed the grace period of a stop.
    ///
    /// Default is 30 seconds.
    pub fn cooldown(mut self, cooldown: Duration) -> Self {
        self.settings.cooldown = cooldown;
        self
    }

    /// How many workers may be about to be restarted at once; it has to be one at least. Such a restart lasts until another worker is
    /// ready in the place of the old one, as [`restarted`](crate::Monitor::restarted) says. Further ones wait, but for those that exceed
    /// their own limit by a quarter.
    ///
    /// Default is 1.
    pub fn restarts_at_once(mut self, workers: usize) -> Self {
        self.settings.restarts_at_once = workers;
        self
    }

    /// How long the worker goes on at most while another one is started to take its place. It is done so if memory allows:
    /// if there is room for another one of its size at its start, and a twentieth of all memory, or
    /// [`free_size_minimum`](Self::free_size_minimum), is left then; for workers that exceed their own limit by less than a
    /// quarter, or grow. Where the root cannot do it, the worker is stopped first.
    ///
    /// Default is 60 seconds.
    pub fn start_first(mut self, limit: Duration) -> Self {
        self.settings.start_first = Some(limit);
        self
    }

    /// Has each worker stopped before another one is started in its place, also if there is memory for both.
    pub fn stop_first(mut self) -> Self {
        self.settings.start_first = None;
        self
    }

    /// Has a worker take a sample of its allocations for this long before it is restarted, for which it has as long again as
    /// its time-out. See [`diagnostic`](Self::diagnostic).
    ///
    /// Default is that no sample is taken.
    pub fn memory_sample(mut self, duration: Duration, destination: Destination) -> Self {
        let (operation, timeout) =
            ("memory_sample".to_owned(), duration.saturating_mul(2).saturating_add(Duration::from_secs(1)));
        let duration = Some(duration.as_secs_f64());
        self.settings.diagnostic = Some(Diagnostic { operation, duration, timeout, destination });
        self
    }

    /// Has an operation of a worker called before it is restarted, such as `thread_dump`, and keeps what it answers. The restart
    /// waits for that no longer than `timeout`, and not at all once the worker exceeds its limit by a quarter and has grown by more
    /// meanwhile than what looking into itself may take: the size of its program, and 16 MiB. Nothing else waits.
    ///
    /// Default is none.
    pub fn diagnostic(mut self, operation: impl Into<String>, timeout: Duration, destination: Destination) -> Self {
        let operation = operation.into();
        self.settings.diagnostic = Some(Diagnostic { operation, duration: None, timeout, destination });
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Monitor as _;

    #[test]
    fn what_cannot_be_meant_is_said_with_what_would_be_right() {
        let new = MemoryMonitor::new;
        for good in [
            new(),
            new().interval(Duration::MAX).cooldown(Duration::MAX).start_first(Duration::MAX),
            new().maximum_size_limit(2).total_size_limit(1).pressure_limit(0.5).threshold_size(1).increase_limit(1),
            new().maximum_size_limit(1), // Without a limit of increases, their size says nothing.
        ] {
            assert_eq!(good.validate(), Ok(()));
        }
        for (bad, expected) in [
            (new().interval(Duration::ZERO), "interval is 0ns, and has to be 1ms at least"),
            (new().maximum_size_limit(0), "maximum_size_limit is 0: every worker would exceed it; leave it out"),
            (new().total_size_limit(0), "total_size_limit is 0: every worker would exceed it; leave it out"),
            (new().free_size_minimum(0), "free_size_minimum is 0: there is always so much"),
            (new().increase_limit(0), "increase_limit is 0: no worker would have to grow for that; 1 restarts"),
            (new().threshold_size(0), "threshold_size is 0: any page would be an increase"),
            (new().restarts_at_once(0), "restarts_at_once is 0: no worker could be restarted; the default is 1"),
            (new().cooldown(Duration::ZERO), "cooldown is zero"),
            (
                new().pressure_limit(20.0),
                "pressure_limit is 20, and has to be a part of the time, between 0 and 1: for 20 % it is 0.2",
            ),
            (new().pressure_limit(0.0), "pressure_limit is 0, and has"),
            (new().pressure_limit(-1.0), "pressure_limit is -1, and has"),
            (new().pressure_limit(f64::NAN), "pressure_limit is NaN, and has"),
            (
                new().maximum_size_limit(10 << 20).increase_limit(2),
                "threshold_size is 10.0 MiB, and maximum_size_limit 10.0 MiB: a worker would be too large",
            ),
        ] {
            let problem = bad.validate().unwrap_err();
            assert!(problem.starts_with(expected), "{problem}");
        }
    }

    #[test]
    fn never_is_a_time() {
        let mut monitor = MemoryMonitor::new().interval(Duration::MAX).cooldown(Duration::MAX).maximum_size_limit(1);
        monitor.register(&crate::Worker { id: "a".into(), process_id: std::process::id(), name: "a".into() });
        let now = std::time::Instant::now();
        let restarts = |monitor: &mut MemoryMonitor, later| {
            let actions = monitor.check(now + Duration::from_secs(later));
            actions.iter().filter(|action| matches!(action, crate::Action::Restart(_))).count()
        };
        assert_eq!([0, 3600, 7200].map(|later| restarts(&mut monitor, later)), [1, 0, 0]);
        let _ = MemoryMonitor::new().memory_sample(Duration::MAX, Destination::Log);
    }
}
