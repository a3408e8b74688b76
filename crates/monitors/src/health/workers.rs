//! The workers, and when each of them is called.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use super::HealthEvent;
use crate::{Action, Event, Worker};

/// In so many parts of the interval workers are called, so that they do not all wake at once.
pub(super) const PARTS: u32 = 10;

/// What is known of one worker.
pub(super) struct Health {
    pub(super) worker: Worker,
    /// How many had registered before it, which says in which part of the interval it is called.
    pub(super) number: u64,
    /// When the oldest call was made that it did not answer.
    pub(super) silent_since: Option<Instant>,
    /// When the call was asked for that is on its way.
    pub(super) asked: Option<Instant>,
    pub(super) round_trip: Option<Duration>,
    pub(super) maximum_round_trip: Duration,
    pub(super) answers: u64,
    pub(super) is_slow: bool,
    pub(super) was_dumped: bool,
}

impl Health {
    fn new(worker: Worker, number: u64) -> Self {
        Self {
            worker,
            number,
            silent_since: None,
            asked: None,
            round_trip: None,
            maximum_round_trip: Duration::ZERO,
            answers: 0,
            is_slow: false,
            was_dumped: false,
        }
    }

    pub(super) fn event(&self, state: &'static str, round_trip: Duration) -> Action {
        Action::Event(Event::new(
            "health",
            HealthEvent {
                connection_id: self.worker.id.clone(),
                process_id: self.worker.process_id,
                name: self.worker.name.clone(),
                state,
                round_trip: round_trip.as_secs_f64(),
            },
        ))
    }
}

/// All workers. Each is found by its number, so that of a thousand that are called and answer in each interval none is looked for by
/// its id.
#[derive(Default)]
pub(super) struct Workers {
    /// Those that have their turn together, in the order of their numbers.
    parts: [Vec<Health>; PARTS as usize],
    /// The numbers by the ids.
    numbers: HashMap<String, u64>,
    /// How many have registered so far.
    registered: u64,
    /// Whose turn it is next, and when it was that of those before.
    next_part: usize,
    turned_at: Option<Instant>,
}

impl Workers {
    /// Adds one, or takes note of what it says of itself now.
    pub(super) fn register(&mut self, worker: &Worker) {
        if let Some(number) = self.numbers.get(&worker.id).copied() {
            if let Some(health) = self.get_mut(number) {
                health.worker = worker.clone();
            }
            return;
        }
        let number = self.registered;
        self.registered += 1;
        self.numbers.insert(worker.id.clone(), number);
        self.parts[part(number)].push(Health::new(worker.clone(), number));
    }

    pub(super) fn remove(&mut self, id: &str) {
        if let Some(number) = self.numbers.remove(id) {
            self.parts[part(number)].retain(|health| health.number != number);
        }
    }

    pub(super) fn get_mut(&mut self, number: u64) -> Option<&mut Health> {
        let part = &mut self.parts[part(number)];
        let place = part.binary_search_by_key(&number, |health| health.number).ok()?;
        part.get_mut(place)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Health> {
        self.parts.iter().flatten()
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Health> {
        self.parts.iter_mut().flatten()
    }

    /// How many have their turn next, if nothing is late.
    pub(super) fn next_turn(&self) -> usize {
        self.parts[self.next_part].len()
    }

    /// Gives those whose turn it is.
    pub(super) fn take_turns(&mut self, interval: Duration, now: Instant, mut take: impl FnMut(&mut Health)) {
        for _ in 0..self.count_turns(interval / PARTS, now) {
            self.parts[self.next_part].iter_mut().for_each(&mut take);
            self.next_part = (self.next_part + 1) % self.parts.len();
        }
    }

    /// How many parts have their turn now. Checks come a little early or late; whatever they do, each worker has one turn in an
    /// interval, and never more than one at a time.
    fn count_turns(&mut self, step: Duration, now: Instant) -> u32 {
        let Some(last) = self.turned_at.replace(now) else { return 1 };
        let turns = (now.saturating_duration_since(last) + step / 2).as_nanos() / step.as_nanos().max(1);
        match u32::try_from(turns) {
            Ok(turns) if turns < PARTS => {
                self.turned_at = Some(last + step * turns);
                turns
            }
            _ => PARTS,
        }
    }
}

fn part(number: u64) -> usize {
    (number % u64::from(PARTS)) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const COUNT: usize = 25;

    fn worker(number: usize) -> Worker {
        Worker { id: format!("w{number}"), process_id: 7, name: "web".into() }
    }

    fn workers() -> Workers {
        let mut workers = Workers::default();
        (0..COUNT).for_each(|number| workers.register(&worker(number)));
        workers
    }

    /// How many turns each had in these checks, which are given in milliseconds. In no check it has two.
    fn turns(workers: &mut Workers, start: Instant, checks: impl IntoIterator<Item = u64>) -> [u32; COUNT] {
        let mut turns = [0; COUNT];
        for check in checks {
            let before = turns;
            let now = start + Duration::from_millis(check);
            workers.take_turns(SECOND, now, |health| turns[health.number as usize] += 1);
            assert!(turns.iter().zip(before).all(|(turns, before)| turns - before <= 1));
        }
        turns
    }

    #[test]
    fn each_has_one_turn_in_an_interval_however_early_or_late_checks_come() {
        let (mut workers, start) = (workers(), Instant::now());
        let checks = (0..100).map(|tenth| tenth * 100 + [0, 40, 10, 45, 3][tenth as usize % 5]);
        assert_eq!(turns(&mut workers, start, checks), [10; COUNT]);
        // Instead of three checks, one; and instead of thirty, one.
        let turns = turns(&mut workers, start, [10_200, 13_200]);
        assert_eq!((turns.iter().min(), turns.iter().max()), (Some(&1), Some(&2)));
    }

    #[test]
    fn one_that_has_gone_has_no_turn_and_its_number_is_nobody_elses() {
        let (mut workers, start) = (workers(), Instant::now());
        workers.remove("w3");
        workers.remove("w3");
        workers.register(&worker(COUNT));
        assert!(workers.get_mut(3).is_none());
        assert_eq!(workers.get_mut(COUNT as u64).unwrap().worker.id, "w25");
        let mut numbers = Vec::new();
        for second in 0..2 {
            workers.take_turns(SECOND, start + second * SECOND, |health| numbers.push(health.number));
        }
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers, (0..=COUNT as u64).filter(|number| *number != 3).collect::<Vec<_>>());
    }

    #[test]
    fn one_that_says_something_else_of_itself_keeps_its_number() {
        let mut workers = workers();
        workers.register(&Worker { name: "mail".into(), ..worker(4) });
        assert_eq!(workers.get_mut(4).unwrap().worker.name, "mail");
        assert_eq!(workers.iter().count(), COUNT);
    }
}
