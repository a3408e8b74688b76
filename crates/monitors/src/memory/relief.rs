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
    /// Until when it is not known whether those that went helped.
    waits: Option<Instant>,
}

/// Restarts that were asked for together.
struct Tried {
    rule: &'static str,
    at: Instant,
    /// How much was too much.
    excess: u64,
    /// The least that was too much since they have gone.
    least: u64,
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
        self.waits = None;
        if let Some(mut tried) = self.tried.take().filter(|tried| tried.rule == rule) {
            let needed = (tried.private / FREED_PART).max(LEAST);
            let helped = tried.excess.saturating_sub(excess) >= needed;
            // The turn would be that of one that was just started. What it has it needs, and those that took the place of others may
            // yet take what was freed: if it stays free, it helped. But what grows meanwhile is a leak.
            if helped && age < EARLY {
                tried.least = tried.least.min(excess);
                if is_growth(tried.least, excess) {
                    return Advice::Restart;
                }
                self.tried = Some(tried);
                self.waits = Some(now + (EARLY - age));
                return Advice::LeaveAlone { news: None };
            }
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
        self.pause.map(|(until, _)| until).max(self.waits)
    }

    /// A process was asked to go.
    pub(super) fn asked(&mut self, rule: &'static str, excess: u64, private: u64, process: (u32, u64), now: Instant) {
        let tried = self.tried.get_or_insert_with(|| Tried {
            rule,
            at: now,
            excess,
            least: excess,
            private: 0,
            processes: Vec::new(),
        });
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

    /// Those for whose turn it is were all started at the beginning, as after a reload.
    fn restarts_of_new_ones(excess: impl Fn(u64) -> u64, seconds: u64) -> (Vec<u64>, Relief) {
        let (mut relief, start) = (Relief::default(), Instant::now());
        let mut restarts = Vec::new();
        for second in 0..seconds {
            let (age, excess) = (Duration::from_secs(second), excess(second));
            let now = start + age;
            if relief.exceeded("total_size", excess, age, now, |_| false) == Advice::Restart {
                relief.asked("total_size", excess, 50 * MEBIBYTE, (7, second), now);
                restarts.push(second);
            }
        }
        (restarts, relief)
    }

    #[test]
    fn what_helps_is_not_in_vain_because_all_are_new() {
        let excess = |second| if second == 0 { 1000 } else { 940 - second } * MEBIBYTE;
        let (restarts, relief) = restarts_of_new_ones(excess, 31);
        assert_eq!(restarts, [0, 30], "it stayed free until they were new no more");
        assert_eq!((relief.in_vain, relief.pause), (0, None));
    }

    #[test]
    fn what_new_ones_take_again_was_in_vain() {
        let excess = |second| if (1..20).contains(&second) { 50 } else { 100 } * MEBIBYTE;
        let (restarts, relief) = restarts_of_new_ones(excess, 50);
        assert_eq!(restarts, [0, 20], "once more, and that did not help either");
        assert!(relief.in_vain > 1 && relief.until().is_some());
    }

    #[test]
    fn a_leak_of_a_new_one_is_not_waited_for() {
        let excess = |second| match second {
            0 => 1000,
            1..10 => 500,
            _ => 700,
        };
        let (restarts, _) = restarts_of_new_ones(|second| excess(second) * MEBIBYTE, 11);
        assert_eq!(restarts, [0, 10]);
    }

    #[test]
    fn until_it_is_known_what_helped_is_told_how_long_that_takes() {
        let (_, relief) = restarts_of_new_ones(|second| if second == 0 { 1000 } else { 900 } * MEBIBYTE, 10);
        assert!(relief.until().is_some() && relief.in_vain == 0);
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
