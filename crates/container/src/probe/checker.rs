//! One probe of one child as a state machine: no process, no socket, no clock.

use std::time::Instant;

use super::{Probe, ProbeFailure};

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Make an attempt, and tell how it ended.
    Start,
    /// Give up the attempt that is under way.
    Abandon,
}

/// What is known after an attempt, where it was not known before.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Up,
    Down { attempts: u32, failure: ProbeFailure },
}

#[derive(Debug, PartialEq, Eq)]
enum State {
    /// The next attempt is to be made at this time.
    Waiting { until: Instant },
    /// One is under way, since then.
    Trying { since: Instant },
}

/// Decides when attempts are made, and what they mean together.
#[derive(Debug)]
pub(crate) struct Checker {
    state: State,
    successes: u32,
    failures: u32,
    up: bool,
    /// Tells the answer to an attempt from the one to an earlier one.
    attempt: u64,
    pub last_failure: Option<ProbeFailure>,
}

impl Checker {
    /// The first attempt is due at once.
    pub(crate) fn new(now: Instant) -> Self {
        Checker {
            state: State::Waiting { until: now },
            successes: 0,
            failures: 0,
            up: false,
            attempt: 0,
            last_failure: None,
        }
    }

    pub(crate) fn is_up(&self) -> bool {
        self.up
    }

    /// The number of the attempt that is, or was last, under way.
    pub(crate) fn attempt(&self) -> u64 {
        self.attempt
    }

    /// When to call [`handle_timeout`](Self::handle_timeout).
    pub(crate) fn poll_timeout(&self, probe: &Probe) -> Option<Instant> {
        match self.state {
            State::Waiting { until } => Some(until),
            State::Trying { since } => since.checked_add(probe.timeout),
        }
    }

    /// Time has passed. An attempt that is to be abandoned is to be followed by
    /// [`handle_failure`](Self::handle_failure).
    pub(crate) fn handle_timeout(&mut self, probe: &Probe, now: Instant) -> Option<Step> {
        if self.poll_timeout(probe).is_none_or(|at| at > now) {
            return None;
        }
        Some(match self.state {
            State::Waiting { .. } => {
                self.state = State::Trying { since: now };
                self.attempt += 1;
                Step::Start
            }
            State::Trying { .. } => Step::Abandon,
        })
    }

    pub(crate) fn handle_success(&mut self, probe: &Probe, now: Instant) -> Option<Verdict> {
        self.wait(probe, now)?;
        self.failures = 0;
        self.successes = self.successes.saturating_add(1);
        (self.successes >= probe.success_threshold && !std::mem::replace(&mut self.up, true)).then_some(Verdict::Up)
    }

    /// A probe that never was up is down at its threshold all the same, and again after as many further failures.
    pub(crate) fn handle_failure(&mut self, probe: &Probe, now: Instant, failure: ProbeFailure) -> Option<Verdict> {
        self.wait(probe, now)?;
        self.successes = 0;
        self.failures += 1;
        self.last_failure = Some(failure);
        if self.failures < probe.failure_threshold {
            return None;
        }
        self.up = false;
        Some(Verdict::Down { attempts: std::mem::take(&mut self.failures), failure })
    }

    /// The attempt could not be made, which says nothing about the child.
    pub(crate) fn handle_unknown(&mut self, probe: &Probe, now: Instant) {
        self.wait(probe, now);
    }

    /// Until the next attempt, which comes a period after the last one began. `None` if none is under way.
    fn wait(&mut self, probe: &Probe, now: Instant) -> Option<()> {
        let State::Trying { since } = self.state else {
            return None;
        };
        let until = since.checked_add(probe.period).unwrap_or(since).max(now);
        self.state = State::Waiting { until };
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    const SECOND: Duration = Duration::from_secs(1);
    const FAILURE: ProbeFailure = ProbeFailure::Status(500);

    /// Makes the next attempt, which ends at once.
    fn attempt(checker: &mut Checker, probe: &Probe, now: &mut Instant, succeeds: bool) -> Option<Verdict> {
        *now = (*now).max(checker.poll_timeout(probe).unwrap());
        assert_eq!(checker.handle_timeout(probe, *now), Some(Step::Start));
        assert_eq!(checker.handle_timeout(probe, *now), None);
        match succeeds {
            true => checker.handle_success(probe, *now),
            false => checker.handle_failure(probe, *now, FAILURE),
        }
    }

    #[test]
    fn thresholds_count_attempts_in_a_row() {
        let probe = Probe::tcp("127.0.0.1:1").success_threshold(2).failure_threshold(3);
        let start = Instant::now();
        let mut now = start;
        let mut checker = Checker::new(now);
        let verdicts: String = "-+-++++--+---+--+++---++---"
            .chars()
            .map(|result| match attempt(&mut checker, &probe, &mut now, result == '+') {
                None => ' ',
                Some(Verdict::Up) => 'U',
                Some(Verdict::Down { attempts: 3, failure: FAILURE }) => 'D',
                Some(other) => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(verdicts, "    U       D    U   D U  D");
        assert_eq!(now - start, SECOND * 26);
    }

    #[test]
    fn what_stays_down_is_down_again_and_again() {
        let probe = Probe::tcp("127.0.0.1:1").failure_threshold(2);
        let mut now = Instant::now();
        let mut checker = Checker::new(now);
        let downs = (0..10).filter(|_| attempt(&mut checker, &probe, &mut now, false).is_some()).count();
        assert_eq!(downs, 5);
    }

    #[test]
    fn an_attempt_that_takes_too_long_is_abandoned_and_its_answer_ignored() {
        let probe = Probe::tcp("127.0.0.1:1").timeout(SECOND * 3).failure_threshold(1);
        let now = Instant::now();
        let mut checker = Checker::new(now);
        assert_eq!(checker.handle_timeout(&probe, now), Some(Step::Start));
        assert_eq!(checker.poll_timeout(&probe), Some(now + SECOND * 3));
        assert_eq!(checker.handle_timeout(&probe, now + SECOND * 2), None);
        let now = now + SECOND * 3;
        assert_eq!(checker.handle_timeout(&probe, now), Some(Step::Abandon));
        assert!(matches!(checker.handle_failure(&probe, now, FAILURE), Some(Verdict::Down { attempts: 1, .. })));
        assert_eq!(checker.handle_success(&probe, now), None);
        assert!(!checker.is_up());
        // It took longer than the period.
        assert_eq!(checker.poll_timeout(&probe), Some(now));
        assert_eq!(checker.handle_timeout(&probe, now), Some(Step::Start));
        checker.handle_unknown(&probe, now);
        assert_eq!(checker.poll_timeout(&probe), Some(now + SECOND));
    }
}
