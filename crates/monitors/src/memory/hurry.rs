//! Whether a worker that is about to be restarted grows so much that its restart must wait for nothing.

use std::time::{Duration, Instant};

use super::settings::Settings;

/// It has to grow by this part of its limit for that: one in four.
const PART: u64 = 4;

/// And by no more than that, whatever the limit.
const MOST: u64 = 64 << 20;

/// What looking into itself takes of a worker beside its debug information. Of a program of 65 MB with debug information a thread
/// dump takes 26 MiB while it is made, and 2 MiB afterwards.
const TO_LOOK: u64 = 16 << 20;

/// For so long a worker may be looked at besides its own diagnostic.
const EXAMINED: Duration = Duration::from_secs(5);

/// What a worker had when its restart was asked for, or when it had looked into itself for the sake of that.
pub(super) struct Hurry {
    size: u64,
    looking: Option<Looking>,
}

/// So that there is always a time at which it has ended.
const LONGEST: Duration = Duration::from_secs(60 * 60);

/// That it looks into itself, so that not all that it grows by is its own doing.
struct Looking {
    until: Instant,
    takes: u64,
}

impl Hurry {
    /// Notes that a restart is asked for of a worker of this size, whose program's file is so large.
    pub(super) fn new(size: u64, program_size: u64, settings: &Settings, now: Instant) -> Self {
        let diagnostic = settings.diagnostic.as_ref().map(|diagnostic| diagnostic.timeout).unwrap_or_default();
        let until = now + diagnostic.min(LONGEST) + EXAMINED;
        Self { size, looking: Some(Looking { until, takes: program_size.saturating_add(TO_LOOK) }) }
    }

    /// Whether a worker of this size now has grown by too much. Once it has looked into itself, what that took is not counted any more.
    pub(super) fn is_urgent(&mut self, size: u64, settings: &Settings, now: Instant) -> bool {
        if self.looking.take_if(|looking| looking.until <= now).is_some() {
            self.size = size;
        }

        let takes = self.looking.as_ref().map_or(0, |looking| looking.takes);
        let growth = settings.maximum_size_limit.map_or(MOST, |limit| (limit / PART).min(MOST));
        size.saturating_sub(self.size) > growth.max(takes)
    }
}

/// The size of the program that a process runs, which is more than its debug information takes when it is read.
pub(super) fn program_size(process_id: u32) -> u64 {
    std::fs::metadata(format!("/proc/{process_id}/exe")).map_or(MOST, |program| program.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Destination, MemoryMonitor};

    const MEBIBYTE: u64 = 1 << 20;
    const SECOND: Duration = Duration::from_secs(1);

    /// By how many MiB a worker may grow, of this many at first, at a time when nothing was asked before.
    fn may_grow_by(hurry: &mut Hurry, from: u64, settings: &Settings, now: Instant) -> u64 {
        (0..1000).take_while(|more| !hurry.is_urgent((from + more) * MEBIBYTE, settings, now)).last().unwrap()
    }

    #[test]
    fn what_it_takes_to_look_into_itself_is_no_hurry_and_afterwards_a_quarter_is() {
        for (limit, program, meanwhile, afterwards) in [
            (40, 5, 21, 10),
            (100, 5, 25, 25),
            (100, 65, 81, 25),
            (1000, 5, 64, 64),
            (1000, 500, 516, 64), // With debug information, of which there is much.
        ] {
            let monitor = MemoryMonitor::new().maximum_size_limit(limit * MEBIBYTE).diagnostic(
                "thread_dump",
                10 * SECOND,
                Destination::Log,
            );
            let (settings, now) = (&monitor.settings, Instant::now());
            let mut hurry = Hurry::new(limit * MEBIBYTE, program * MEBIBYTE, settings, now);
            let end = now + 15 * SECOND;
            assert_eq!(may_grow_by(&mut hurry, limit, settings, now), meanwhile, "{limit} MiB");
            assert_eq!(may_grow_by(&mut hurry, limit, settings, end - SECOND), meanwhile, "{limit} MiB");
            let size = limit + meanwhile;
            assert!(!hurry.is_urgent(size * MEBIBYTE, settings, end), "all that it took is not counted");
            assert_eq!(may_grow_by(&mut hurry, size, settings, end + SECOND), afterwards, "{limit} MiB");
        }
    }
}
