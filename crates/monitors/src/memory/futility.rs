//! Restarts that do not help: a limit below what a worker needs from its start on.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

/// A process that exceeds its limit at a younger age did so from its start on.
pub(super) const EARLY: Duration = Duration::from_secs(30);

/// The first pause, doubled with each further restart that did not help.
const FIRST_PAUSE: Duration = Duration::from_secs(30);
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);

/// What grew by so much beyond what it had when it was first seen to exceed its limit is a leak, and not what it needs.
const GROWTH: f64 = 1.25;

/// Less than this is no leak, however small the process: what it shares counts for more when others that shared it have ended.
const SIGNIFICANT: u64 = 10 << 20;

/// How long nobody is restarted, after so many restarts in a row that did not help: from the second on.
pub(super) fn pause(in_vain: u32) -> Duration {
    FIRST_PAUSE.saturating_mul(1 << in_vain.saturating_sub(2).min(16)).min(LONGEST_PAUSE)
}

/// Whether it grew by so much that it is a leak.
pub(super) fn is_growth(from: u64, to: u64) -> bool {
    to as f64 > from as f64 * GROWTH && to.saturating_sub(from) > SIGNIFICANT
}

/// What is known of the workers of each name.
#[derive(Default)]
pub(super) struct Futility(HashMap<String, Record>);

#[derive(Default)]
struct Record {
    /// How many processes in a row exceeded the limit from their start on, but for those that did while others were left alone.
    early: u32,
    /// When the last of them was started.
    last_start: u64,
    /// Its process id and start time.
    last: Option<(u32, u64)>,
    /// When the first of them exceeded it.
    tried: Option<Instant>,
    until: Option<Instant>,
    /// How long the pause is, until that is said: as long as what exceeds the limit grows, it may be a leak.
    untold: Option<Duration>,
}

impl Record {
    fn is_left_alone(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| now < until)
    }
}

/// A process that exceeds its limit.
pub(super) struct Excess<'a> {
    pub name: &'a str,
    pub process_id: u32,
    pub start_time: u64,
    pub age: Duration,
    pub size: u64,
    /// Whether it grows so fast that it will soon be seen to be a leak.
    pub is_growing: bool,
    /// The size with which it was first seen to exceed it. To be kept with the process.
    pub first_size: &'a mut Option<u64>,
}

/// What to do about it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Advice {
    Restart,
    /// A restart would not help.
    LeaveAlone {
        /// For so long, if that is news.
        news: Option<Duration>,
    },
}

impl Futility {
    /// A process exceeds its limit.
    pub(super) fn exceeded(&mut self, excess: Excess<'_>, now: Instant) -> Advice {
        let record = self.0.entry(excess.name.to_owned()).or_default();
        // It was there before the first restart, and grows like that one: that says nothing of what the restart comes to.
        let is_beside = excess.is_growing
            && record.early == 1
            && record.tried.is_some_and(|tried| now.saturating_duration_since(tried) < excess.age);
        let first_size = *excess.first_size.get_or_insert_with(|| {
            // The same one may have connected anew.
            let identity = (excess.process_id, excess.start_time);
            if excess.age < EARLY && record.last.replace(identity) != Some(identity) {
                record.last_start = record.last_start.max(excess.start_time);
                // Those beside it say the same, and nothing of what a further restart would come to.
                if !is_beside && !record.is_left_alone(now) {
                    record.early = record.early.saturating_add(1);
                    record.tried.get_or_insert(now);
                    if record.early > 1 {
                        let pause = pause(record.early);
                        (record.until, record.untold) = (Some(now + pause), Some(pause));
                    }
                }
            }
            excess.size
        });
        if !record.is_left_alone(now) {
            (record.until, record.untold) = (None, None);
            return Advice::Restart;
        }
        match is_growth(first_size, excess.size) {
            true => Advice::Restart,
            false if excess.is_growing => Advice::LeaveAlone { news: None },
            false => Advice::LeaveAlone { news: record.untold.take() },
        }
    }

    /// Until when processes of this name are left alone, if that was said.
    pub(super) fn until(&self, name: &str) -> Option<Instant> {
        self.0.get(name).filter(|record| record.untold.is_none())?.until
    }

    /// A process is within its limit. If it was started after those that were not, and is no longer young, all is well.
    pub(super) fn kept_within(&mut self, name: &str, start_time: u64, age: impl FnOnce() -> Duration) {
        if self.0.get(name).is_some_and(|record| start_time > record.last_start) && age() >= EARLY {
            self.0.remove(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Process {
        start_time: u64,
        born: Instant,
        first_size: Option<u64>,
    }

    impl Process {
        fn exceeds(&mut self, futility: &mut Futility, size: u64, now: Instant) -> Advice {
            self.is_seen(futility, size, now, false)
        }

        fn exceeds_and_grows(&mut self, futility: &mut Futility, size: u64, now: Instant) -> Advice {
            self.is_seen(futility, size, now, true)
        }

        fn is_seen(&mut self, futility: &mut Futility, size: u64, now: Instant, is_growing: bool) -> Advice {
            let age = now - self.born;
            let excess = Excess {
                name: "web",
                process_id: 7,
                start_time: self.start_time,
                age,
                size: size << 20,
                is_growing,
                first_size: &mut self.first_size,
            };
            futility.exceeded(excess, now)
        }
    }

    fn born(start_time: u64, born: Instant) -> Process {
        Process { start_time, born, first_size: None }
    }

    #[test]
    fn restarts_that_do_not_help_become_rare() {
        let start = Instant::now();
        let mut futility = Futility::default();
        let mut restarts = Vec::new();
        let mut process = born(1, start);
        // Looked at each second for an hour, and always too large.
        for second in 0..3600 {
            let now = start + Duration::from_secs(second);
            if process.exceeds(&mut futility, 600, now) == Advice::Restart {
                restarts.push(second);
                process = born(second + 2, now);
            }
        }
        assert_eq!(restarts, [0, 31, 92, 213, 454, 935, 1896], "{restarts:?}");
    }

    #[test]
    fn workers_beside_each_other_are_left_alone_for_one_pause() {
        let start = Instant::now();
        let mut futility = Futility::default();
        let mut all: Vec<Process> = (0..10).map(|number| born(number, start)).collect();
        let advice: Vec<Advice> = all.iter_mut().map(|process| process.exceeds(&mut futility, 600, start)).collect();
        assert_eq!(advice[0], Advice::Restart);
        assert_eq!(advice[1], Advice::LeaveAlone { news: Some(FIRST_PAUSE) });
        assert!(advice[2..].iter().all(|advice| *advice == Advice::LeaveAlone { news: None }), "{advice:?}");
        // The one in place of the first.
        let soon = start + Duration::from_secs(1);
        assert_eq!(born(10, soon).exceeds(&mut futility, 600, soon), Advice::LeaveAlone { news: None });
        assert_eq!(all[2].exceeds(&mut futility, 760, soon), Advice::Restart, "it leaks");
        assert_eq!(all[3].exceeds(&mut futility, 600, soon), Advice::LeaveAlone { news: None }, "others do not");
        let then = start + FIRST_PAUSE;
        assert_eq!(all[1].exceeds(&mut futility, 600, then), Advice::Restart);
        assert_eq!(
            born(11, then).exceeds(&mut futility, 600, then),
            Advice::LeaveAlone { news: Some(2 * FIRST_PAUSE) }
        );
    }

    #[test]
    fn what_leaks_is_restarted_although_it_leaks_from_its_start_on() {
        let start = Instant::now();
        let mut futility = Futility::default();
        assert_eq!(born(1, start).exceeds(&mut futility, 600, start), Advice::Restart);
        let mut second = born(2, start);
        assert!(matches!(second.exceeds(&mut futility, 600, start), Advice::LeaveAlone { news: Some(_) }));
        assert_eq!(second.exceeds(&mut futility, 740, start), Advice::LeaveAlone { news: None });
        assert_eq!(second.exceeds(&mut futility, 760, start), Advice::Restart);
    }

    #[test]
    fn who_leaks_beside_another_that_does_is_restarted_like_that_one() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let mut futility = Futility::default();
        let (mut first, mut beside) = (born(1, start), born(2, start));
        assert_eq!(first.exceeds_and_grows(&mut futility, 600, start + 5 * second), Advice::Restart);
        assert_eq!(beside.exceeds_and_grows(&mut futility, 600, start + 7 * second), Advice::Restart);
        // The one in place of the first says what that came to.
        let mut third = born(3, start + 6 * second);
        assert!(matches!(third.exceeds(&mut futility, 600, start + 12 * second), Advice::LeaveAlone { news: Some(_) }));
    }

    #[test]
    fn that_restarts_do_not_help_is_said_once_it_is_seen_not_to_grow() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let mut futility = Futility::default();
        assert_eq!(born(1, start).exceeds_and_grows(&mut futility, 600, start + second), Advice::Restart);
        let mut next = born(2, start + 2 * second);
        for later in 7..9 {
            let advice = next.exceeds_and_grows(&mut futility, 610, start + later * second);
            assert_eq!(advice, Advice::LeaveAlone { news: None });
            assert_eq!(futility.until("web"), None, "nor is it shown");
        }
        let advice = next.exceeds(&mut futility, 650, start + 9 * second);
        assert_eq!(advice, Advice::LeaveAlone { news: Some(FIRST_PAUSE) });
        assert!(futility.until("web").is_some());
        assert_eq!(next.exceeds(&mut futility, 650, start + 10 * second), Advice::LeaveAlone { news: None }, "once");
    }

    #[test]
    fn a_little_more_is_no_leak() {
        let start = Instant::now();
        let mut futility = Futility::default();
        assert_eq!(born(1, start).exceeds(&mut futility, 2, start), Advice::Restart);
        let mut second = born(2, start);
        assert!(matches!(second.exceeds(&mut futility, 2, start), Advice::LeaveAlone { news: Some(_) }));
        assert_eq!(second.exceeds(&mut futility, 12, start), Advice::LeaveAlone { news: None });
        assert_eq!(second.exceeds(&mut futility, 13, start), Advice::Restart);
    }

    #[test]
    fn what_was_well_for_long_makes_good() {
        let start = Instant::now();
        let mut futility = Futility::default();
        assert_eq!(born(10, start).exceeds(&mut futility, 600, start), Advice::Restart);
        // An older one says nothing about what becomes of new ones.
        futility.kept_within("web", 5, || EARLY);
        assert!(matches!(born(11, start).exceeds(&mut futility, 600, start), Advice::LeaveAlone { .. }));
        futility.kept_within("web", 12, || EARLY / 2);
        assert_eq!(futility.0["web"].early, 2);
        futility.kept_within("web", 12, || EARLY);
        assert!(futility.0.is_empty());
    }

    #[test]
    fn growing_late_is_no_matter_of_the_start() {
        let start = Instant::now();
        let mut futility = Futility::default();
        for number in 0..5 {
            let mut process = born(number, start);
            assert_eq!(process.exceeds(&mut futility, 600, start + EARLY), Advice::Restart);
        }
    }
}
