//! When to look for the processes that descend from workers.

use std::time::{Duration, Instant};

/// After this time they are looked for though no process seems to have been started: what the kernel says of that may come from
/// something between, such as lxcfs, and be old.
const AGE_LIMIT: Duration = Duration::from_secs(10);

/// How far the search has come: at each check as far as the time for it goes. Once all workers have had their turn, only what is
/// started is looked at.
#[derive(Default)]
pub(super) struct Search {
    /// The worker that had its turn last; 0 at the beginning.
    after: u32,
    /// When it began, and the process id that was given last by then, or by when it was last looked what was started.
    begun: Option<(Instant, Option<u32>)>,
    is_complete: bool,
}

/// Where there may be some that were not found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Where {
    /// With every worker.
    All,
    /// With the parents of these, which were started since.
    Started(Vec<u32>),
}

impl Search {
    /// Where there may be some that were not found. `last_id` is the process id that was given last, if that is known; `started` tells
    /// which processes were started after one and up to another, unless that were too many.
    pub(super) fn begin(
        &mut self,
        last_id: Option<u32>,
        now: Instant,
        started: impl FnOnce(u32, u32) -> Option<Vec<u32>>,
    ) -> Where {
        if self.is_complete
            && let Some((at, Some(known))) = self.begun
            && now.saturating_duration_since(at) < AGE_LIMIT
            && let Some(started) = last_id.and_then(|last| started(known, last))
        {
            self.begun = Some((at, last_id));
            return Where::Started(started);
        }
        if self.after == 0 {
            self.begun = Some((now, last_id));
            self.is_complete = false;
        }
        Where::All
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

    /// Every id is that of a process.
    fn begin(search: &mut Search, last_id: Option<u32>, now: Instant) -> Where {
        search.begin(last_id, now, |after, last| last.checked_sub(after).map(|_| (after + 1..=last).collect()))
    }

    #[test]
    fn once_it_is_complete_only_what_is_started_is_looked_at() {
        let (mut search, now) = (Search::default(), Instant::now());
        assert_eq!(begin(&mut search, Some(7), now), Where::All);
        search.came_to(Some(5));
        assert_eq!(begin(&mut search, Some(7), now), Where::All, "not all have had their turn");
        search.came_to(None);
        assert_eq!(begin(&mut search, Some(7), now), Where::Started(vec![]));
        assert_eq!(begin(&mut search, Some(9), now), Where::Started(vec![8, 9]));
        assert_eq!(begin(&mut search, Some(9), now), Where::Started(vec![]), "once");
        assert_eq!(begin(&mut search, Some(3), now), Where::All, "ids began anew");
        search.came_to(None);
        assert_eq!(begin(&mut search, Some(3), now), Where::Started(vec![]));
        search.begin_anew();
        assert_eq!(begin(&mut search, Some(3), now), Where::All);
    }

    #[test]
    fn who_started_one_after_its_turn_has_another() {
        let (mut search, now) = (Search::default(), Instant::now());
        begin(&mut search, Some(7), now);
        search.came_to(Some(5));
        assert_eq!(begin(&mut search, Some(8), now), Where::All);
        search.came_to(None);
        assert_eq!(begin(&mut search, Some(8), now), Where::Started(vec![8]), "what was started while it was on");
    }

    #[test]
    fn what_is_not_known_or_old_is_no_reason_to_rest() {
        let (mut search, now) = (Search::default(), Instant::now());
        for last_id in [None, None, Some(7)] {
            assert_eq!(begin(&mut search, last_id, now), Where::All);
            search.came_to(None);
        }
        assert_eq!(begin(&mut search, Some(7), now + AGE_LIMIT), Where::All);
    }
}
