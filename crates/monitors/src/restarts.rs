//! Restarts that a monitor has asked for: one is under way until another process is ready in the place of the old one, so that at
//! most so many are missing at once.

use std::time::{Duration, Instant};

/// So long after the end of a process its restart counts as over if nobody has said so: a supervisor says it by then, unless the monitor
/// was begun anew meanwhile.
const PATIENCE: Duration = Duration::from_secs(30);

/// Those that are not over, each with what a monitor keeps of it.
pub(crate) struct Restarts<T>(Vec<Asked<T>>);

pub(crate) struct Asked<T> {
    process_id: u32,
    /// When it was asked for last.
    pub(crate) at: Instant,
    pub(crate) state: T,
    has_ended: bool,
    /// When that was seen.
    ended_at: Option<Instant>,
    /// Whether the supervisor has come to its end with it.
    is_over: bool,
}

impl<T> Default for Restarts<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> Restarts<T> {
    /// How many are under way.
    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    /// That of a process which has not ended. Who has the id of one that has is another one.
    pub(crate) fn get(&self, process_id: u32) -> Option<&Asked<T>> {
        self.0.iter().find(|asked| asked.process_id == process_id && !asked.has_ended)
    }

    pub(crate) fn get_mut(&mut self, process_id: u32) -> Option<&mut Asked<T>> {
        self.0.iter_mut().find(|asked| asked.process_id == process_id && !asked.has_ended)
    }

    /// Notes that one is asked for, be it once more.
    pub(crate) fn insert(&mut self, process_id: u32, at: Instant, state: T) {
        self.0.retain(|asked| asked.process_id != process_id || asked.has_ended);
        self.0.push(Asked { process_id, at, state, has_ended: false, ended_at: None, is_over: false });
    }

    /// Notes that the process has ended.
    pub(crate) fn ended(&mut self, process_id: u32) {
        self.0.iter_mut().filter(|asked| asked.process_id == process_id).for_each(|asked| asked.has_ended = true);
    }

    /// Notes that the supervisor says that it is over, which it does once for each process.
    pub(crate) fn over(&mut self, process_id: u32) {
        if let Some(asked) = self.0.iter_mut().find(|asked| asked.process_id == process_id && !asked.is_over) {
            asked.is_over = true;
        }
    }

    /// Forgets those that are over, and those of processes that are there still though they were asked for so long ago.
    pub(crate) fn forget(&mut self, now: Instant, limit: Duration, has_ended: impl Fn(&T) -> bool) {
        let since = |then| now.saturating_duration_since(then);
        self.0.retain_mut(|asked| {
            asked.has_ended = asked.has_ended || has_ended(&asked.state);
            if !asked.has_ended {
                return since(asked.at) < limit;
            }
            let ended_at = *asked.ended_at.get_or_insert(now);
            !asked.is_over && since(ended_at) < PATIENCE
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const LIMIT: Duration = Duration::from_secs(60);

    fn asked(now: Instant) -> Restarts<()> {
        let mut restarts = Restarts::default();
        restarts.insert(7, now, ());
        restarts
    }

    /// How many are under way after that.
    fn count(restarts: &mut Restarts<()>, now: Instant) -> usize {
        restarts.forget(now, LIMIT, |()| false);
        restarts.count()
    }

    #[test]
    fn one_is_under_way_until_its_process_has_ended_and_the_supervisor_says_that_it_is_over() {
        let now = Instant::now();
        let mut restarts = asked(now);
        restarts.ended(7);
        assert_eq!(count(&mut restarts, now), 1, "nobody is in its place");
        restarts.over(7);
        assert_eq!(count(&mut restarts, now), 0);
        // In whichever order it hears of that.
        let mut restarts = asked(now);
        restarts.over(7);
        assert_eq!(count(&mut restarts, now), 1, "the process is there still");
        restarts.ended(7);
        assert_eq!(count(&mut restarts, now), 0);
    }

    #[test]
    fn of_what_nobody_tells_it_is_not_waited_for_without_end() {
        let now = Instant::now();
        let mut restarts = asked(now);
        assert_eq!([59, 60].map(|second| count(&mut restarts, now + second * SECOND)), [1, 0], "it has not ended");
        let mut restarts = asked(now);
        restarts.ended(7);
        assert_eq!([50, 79, 80].map(|second| count(&mut restarts, now + second * SECOND)), [1, 1, 0]);
    }

    #[test]
    fn who_has_the_id_of_one_that_has_ended_is_another_one() {
        let now = Instant::now();
        let mut restarts = asked(now);
        restarts.ended(7);
        assert!(restarts.get(7).is_none());
        restarts.insert(7, now, ());
        assert_eq!((restarts.get(7).is_some(), restarts.count()), (true, 2));
        restarts.over(7);
        assert_eq!(count(&mut restarts, now), 1, "that of the first one");
        assert!(restarts.get(7).is_some());
    }

    #[test]
    fn one_that_is_asked_for_again_is_the_same_one() {
        let now = Instant::now();
        let mut restarts = asked(now);
        restarts.over(7);
        restarts.insert(7, now + SECOND, ());
        assert_eq!(restarts.count(), 1);
        restarts.ended(7);
        assert_eq!(count(&mut restarts, now), 1, "that time it is not over");
    }
}
