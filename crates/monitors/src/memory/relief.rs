//! Restarts that do not help all of them: the limit is below what everybody needs, or somebody else takes the memory.

use std::time::{Duration, Instant};

use super::futility::{Advice, EARLY, is_growth, pause};

/// A restart helped if what is too much became less by this part of what its process had.
const FREED_PART: u64 = 2;

/// Less than this helps nobody: it is the coming and going of pages.
const LEAST: u64 = 1 << 20;

/// What is known of the restarts that were asked for because all together take too much.
#[derive(Default)]
pub(super) struct Relief {
    tried: Option<Tried>,
    /// How many in a row did not help.
    in_vain: u32,
    /// Until when nobody is restarted, and what was too much when that began.
    pause: Option<(Instant, u64)>,
}

/// Restarts that were asked for together.
struct Tried {
    rule: &'static str,
    at: Instant,
    /// How much was too much.
    excess: u64,
    /// What those processes had, which were asked to go.
    private: u64,
    processes: Vec<(u32, u64)>,
}

impl Relief {
    /// So much is too much, and the one that would go first is so old. `is_going` says of a process, by its id and start time, that
    /// it was asked to go and has not ended.
    pub(super) fn exceeded(
        &mut self,
        rule: &'static str,
        excess: u64,
        age: Duration,
        now: Instant,
        is_going: impl Fn(&(u32, u64)) -> bool,
    ) -> Advice {
        // What comes of it is not known yet.
        if self.tried.as_ref().is_some_and(|tried| tried.processes.iter().any(is_going)) {
            return Advice::Restart;
        }
        if let Some(tried) = self.tried.take().filter(|tried| tried.rule == rule) {
            let needed = (tried.private / FREED_PART).max(LEAST);
            // One that was just started has what it needs. If it is the largest, there is none whose end would help for long.
            let helped = tried.excess.saturating_sub(excess) >= needed && age >= EARLY;
            self.in_vain = if helped { 0 } else { self.in_vain.saturating_add(1) };
            if self.in_vain > 1 {
                let pause = pause(self.in_vain);
                self.pause = Some((now + pause, excess));
                return Advice::LeaveAlone { news: Some(pause) };
            }
        }
        match self.pause {
            Some((until, then)) if now < until && !is_growth(then, excess) => Advice::LeaveAlone { news: None },
            _ => {
                self.pause = None;
                Advice::Restart
            }
        }
    }

    /// Until when nobody is restarted for the sake of all.
    pub(super) fn until(&self) -> Option<Instant> {
        self.pause.map(|(until, _)| until)
    }

    /// A process was asked to go.
    pub(super) fn asked(&mut self, rule: &'static str, excess: u64, private: u64, process: (u32, u64), now: Instant) {
        let tried =
            self.tried.get_or_insert_with(|| Tried { rule, at: now, excess, private: 0, processes: Vec::new() });
        tried.at = now;
        tried.private = tried.private.saturating_add(private);
        tried.processes.push(process);
    }

    /// Nothing is too much. If that lasts, all is well.
    pub(super) fn kept_within(&mut self, now: Instant) {
        if self.tried.as_ref().is_none_or(|tried| now.saturating_duration_since(tried.at) >= EARLY) {
            *self = Self::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEBIBYTE: u64 = 1 << 20;
    const OLD: Duration = Duration::from_secs(3600);

    /// What comes of a rule that is exceeded by so much at each of so many seconds: the seconds at which somebody had to go, each of
    /// whom had so much.
    fn restarts(excess: impl Fn(u64) -> u64, age: Duration, private: u64, seconds: u64) -> Vec<u64> {
        let (mut relief, start) = (Relief::default(), Instant::now());
        let mut restarts = Vec::new();
        for second in 0..seconds {
            let (now, excess) = (start + Duration::from_secs(second), excess(second));
            if relief.exceeded("total_size", excess, age, now, |_| false) == Advice::Restart {
                relief.asked("total_size", excess, private, (7, second), now);
                restarts.push(second);
            }
        }
        restarts
    }

    #[test]
    fn what_does_not_help_becomes_rare() {
        let restarts = restarts(|_| 100 * MEBIBYTE, OLD, 50 * MEBIBYTE, 3600);
        assert_eq!(restarts[..4], [0, 1, 32, 93], "{restarts:?}");
        assert!(restarts.len() < 10, "{restarts:?}");
    }

    #[test]
    fn what_helps_goes_on() {
        // Each that goes frees what it had; there are many.
        let restarts = restarts(|second| (1000 - 50 * second) * MEBIBYTE, OLD, 50 * MEBIBYTE, 19);
        assert_eq!(restarts.len(), 19);
    }

    #[test]
    fn those_that_were_just_started_are_not_what_is_wrong() {
        let restarts = restarts(|second| (1000 - 50 * second) * MEBIBYTE, EARLY / 2, 50 * MEBIBYTE, 19);
        assert_eq!(restarts, [0, 1]);
    }

    #[test]
    fn a_leak_ends_the_pause() {
        let restarts = restarts(|second| if second < 10 { 100 } else { 200 } * MEBIBYTE, OLD, MEBIBYTE, 20);
        assert_eq!(restarts, [0, 1, 10]);
    }

    #[test]
    fn nothing_is_judged_before_it_has_ended() {
        let (mut relief, now) = (Relief::default(), Instant::now());
        for number in 0..5 {
            assert_eq!(relief.exceeded("pressure", 1, OLD, now, |_| true), Advice::Restart);
            relief.asked("pressure", 1, MEBIBYTE, (7, number), now);
        }
        assert_eq!(relief.in_vain, 0);
    }

    #[test]
    fn all_is_well_once_nothing_was_too_much_for_a_while() {
        let (mut relief, start) = (Relief::default(), Instant::now());
        let exceed = |relief: &mut Relief, now| {
            let advice = relief.exceeded("free_size", MEBIBYTE, OLD, now, |_| false);
            if advice == Advice::Restart {
                relief.asked("free_size", MEBIBYTE, MEBIBYTE, (7, 7), now);
            }
            advice
        };
        exceed(&mut relief, start);
        relief.kept_within(start + EARLY / 2);
        exceed(&mut relief, start + EARLY / 2);
        assert_eq!(relief.in_vain, 1, "it was too short");
        relief.kept_within(start + 2 * EARLY);
        exceed(&mut relief, start + 2 * EARLY);
        assert_eq!(relief.in_vain, 0);
    }
}
