//! Whether a process has done anything.

use std::{io, time::Duration};

use super::{at_one_moment, clock::ProcessorClock};

/// After this time a process counts as one that did something: others can change something of it, too.
const LOOKED_AT_ANEW: Duration = Duration::from_secs(10);

/// Those that count so for that reason alone have their turns in so many parts of that time.
const PARTS: u32 = 16;

/// What a process did since it was said last that it did something, by the time that it had the processor.
///
/// It is of whoever has the process's id. What is read because of it has to be of the right one.
pub(crate) struct Activity {
    process_id: u32,
    /// Nothing where the system has no such clocks.
    clock: Option<ProcessorClock>,
    /// Less than this is nothing.
    quiet: Duration,
    /// What the clock showed when it was said last that it did something.
    busy: Duration,
    /// When that is said whatever the clock shows; at once if it never was.
    due: Option<Duration>,
}

/// What the clock shows.
#[derive(Clone, Copy, Debug)]
#[cfg_attr(not(feature = "process"), expect(dead_code, reason = "only whether it did something matters then"))]
pub(crate) struct Look {
    /// When: the uptime of the host.
    pub(crate) at: Duration,
    /// The processor time so far.
    pub(crate) processor_time: Duration,
    /// Whether it did next to nothing.
    pub(crate) is_quiet: bool,
}

impl Activity {
    /// Of the process that has this id now. To have had the processor for less than `quiet` is to have done nothing.
    pub(crate) fn of(process_id: u32, quiet: Duration) -> Self {
        Self { process_id, clock: ProcessorClock::of(process_id).ok(), quiet, busy: Duration::ZERO, due: None }
    }

    /// Looks at the clock, if there is one.
    ///
    /// # Errors
    /// Where the process has ended.
    pub(crate) fn look(&mut self) -> io::Result<Option<Look>> {
        let Some(clock) = &self.clock else { return Ok(None) };
        let (at, processor_time) = at_one_moment(|| clock.read())?;
        // A clock that goes back is that of another process.
        let did_nothing = processor_time.checked_sub(self.busy).is_some_and(|used| used < self.quiet);
        let is_quiet = did_nothing && self.due.is_some_and(|due| at < due);

        if !is_quiet {
            // Of many that begin together, few are due at a time.
            let wait = self.due.map_or(LOOKED_AT_ANEW * (self.process_id % PARTS + 1) / PARTS, |_| LOOKED_AT_ANEW);
            (self.busy, self.due) = (processor_time, Some(at + wait));
        }

        Ok(Some(Look { at, processor_time, is_quiet }))
    }

    /// Has it count as one that did something at the next look.
    #[cfg(feature = "process")]
    pub(crate) fn expire(&mut self) {
        self.due = self.due.map(|_| Duration::ZERO);
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};

    use super::*;

    const QUIET: Duration = Duration::from_millis(1);

    struct Process(Child);

    impl Drop for Process {
        fn drop(&mut self) {
            self.0.kill().unwrap();
            self.0.wait().unwrap();
        }
    }

    /// One that waits for a line.
    fn waiting() -> Process {
        let child = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut process = Process(child);
        // Whoever has answered once has started, and waits again soon.
        std::io::Write::write_all(process.0.stdin.as_mut().unwrap(), b"a").unwrap();
        std::io::Read::read_exact(process.0.stdout.as_mut().unwrap(), &mut [0]).unwrap();
        process
    }

    /// Looks until it is quiet.
    fn until_quiet(activity: &mut Activity) -> Look {
        loop {
            let look = activity.look().unwrap().unwrap();
            if look.is_quiet {
                return look;
            }
            activity.due = Some(Duration::MAX);
        }
    }

    #[test]
    fn one_that_did_nothing_is_quiet_until_that_was_long_ago() {
        let process = waiting();
        let mut activity = Activity::of(process.0.id(), QUIET);
        assert!(!activity.look().unwrap().unwrap().is_quiet, "nothing was read of it");
        let before = until_quiet(&mut activity);
        activity.due = Some(crate::sample::uptime());
        let after = activity.look().unwrap().unwrap();
        assert!(!after.is_quiet && after.at > before.at && after.processor_time >= before.processor_time);
        assert_eq!(activity.due, Some(after.at + LOOKED_AT_ANEW));
    }

    #[test]
    fn many_that_begin_together_are_not_due_together() {
        let process = waiting();
        let mut activity = Activity::of(process.0.id(), QUIET);
        let look = activity.look().unwrap().unwrap();
        let wait = activity.due.unwrap() - look.at;
        assert_eq!(wait, LOOKED_AT_ANEW / PARTS * (process.0.id() % PARTS + 1));
    }

    #[test]
    fn one_that_did_something_is_not_quiet() {
        let own = std::process::id();
        let mut activity = Activity::of(own, QUIET);
        activity.look().unwrap();
        activity.due = Some(Duration::MAX);
        let (before, clock) = (activity.busy, ProcessorClock::of(own).unwrap());
        while clock.read().unwrap() < before + QUIET {
            std::hint::spin_loop();
        }
        let look = activity.look().unwrap().unwrap();
        assert!(!look.is_quiet && look.processor_time >= before + QUIET);
    }

    #[test]
    fn a_clock_that_goes_back_is_not_believed() {
        let process = waiting();
        let mut activity = Activity::of(process.0.id(), QUIET);
        until_quiet(&mut activity);
        activity.busy = Duration::MAX;
        assert!(!activity.look().unwrap().unwrap().is_quiet);
    }

    #[test]
    fn one_that_ended_cannot_be_looked_at() {
        let process = waiting();
        let mut activity = Activity::of(process.0.id(), QUIET);
        drop(process);
        assert!(activity.look().is_err());
    }
}
