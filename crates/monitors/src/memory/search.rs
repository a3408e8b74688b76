//! When to look for the processes that descend from workers.

use std::time::{Duration, Instant};

/// After this time they are looked for though no process seems to have been started: what the kernel says of that may come from
/// something between, such as lxcfs, and be old.
const AGE_LIMIT: Duration = Duration::from_secs(10);

/// How far the search has come: at each check as far as the time for it goes, and once all workers have had their turn not any more
/// until a process is started.
#[derive(Default)]
pub(super) struct Search {
    /// The worker that had its turn last; 0 at the beginning.
    after: u32,
    /// When it began, and the process id that was given last by then.
    begun: Option<(Instant, Option<u32>)>,
    is_complete: bool,
}

impl Search {
    /// Whether there may be some that were not found. `last_id` is the process id that was given last, if that is known.
    pub(super) fn begin(&mut self, last_id: Option<u32>, now: Instant) -> bool {
        if self.is_complete
            && let Some((at, known)) = self.begun
            && known.is_some()
            && known == last_id
            && now.saturating_duration_since(at) < AGE_LIMIT
        {
            return false;
        }
        if self.after == 0 {
            self.begun = Some((now, last_id));
            self.is_complete = false;
        }
        true
    }

    /// There is somebody new, who may have some since long.
    pub(super) fn begin_anew(&mut self) {
        *self = Self::default();
    }

    pub(super) fn after(&self) -> u32 {
        self.after
    }

    /// It came to this worker, or to its end.
    pub(super) fn came_to(&mut self, worker: Option<u32>) {
        self.after = worker.unwrap_or(0);
        self.is_complete = worker.is_none();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_rests_once_it_is_complete_until_a_process_is_started() {
        let (mut search, now) = (Search::default(), Instant::now());
        assert!(search.begin(Some(7), now));
        search.came_to(Some(5));
        assert!(search.begin(Some(7), now), "not all have had their turn");
        search.came_to(None);
        assert!(!search.begin(Some(7), now));
        assert!(search.begin(Some(8), now));
        search.came_to(None);
        assert!(!search.begin(Some(8), now));
        search.begin_anew();
        assert!(search.begin(Some(8), now));
    }

    #[test]
    fn who_started_one_after_its_turn_has_another() {
        let (mut search, now) = (Search::default(), Instant::now());
        assert!(search.begin(Some(7), now));
        search.came_to(Some(5));
        assert!(search.begin(Some(8), now));
        search.came_to(None);
        assert!(search.begin(Some(8), now), "what was started while it was on");
        search.came_to(None);
        assert!(!search.begin(Some(8), now));
    }

    #[test]
    fn what_is_not_known_or_old_is_no_reason_to_rest() {
        let (mut search, now) = (Search::default(), Instant::now());
        assert!(search.begin(None, now));
        search.came_to(None);
        assert!(search.begin(None, now));
        search.came_to(None);
        assert!(search.begin(Some(7), now));
        search.came_to(None);
        assert!(search.begin(Some(7), now + AGE_LIMIT));
    }
}
