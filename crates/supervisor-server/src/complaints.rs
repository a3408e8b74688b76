//! How often the log tells of what peers and monitors do wrong.
//!
//! Someone who connects in a loop to say half of something could otherwise fill the disk, and bury what matters.

use std::{
    collections::HashMap,
    hash::Hash,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// How many of a kind, and about one user or monitor, are told of at once, and how soon another one is.
const AT_ONCE: u32 = 10;
const EVERY: Duration = Duration::from_secs(5);

/// How many of them, and kinds, are kept apart. Beyond that, all others count as one.
const KEPT: usize = 256;

/// What somebody did wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Complaint {
    /// It broke the protocol, or left in the middle of something.
    Broken,
    /// It is not let in.
    NotLetIn,
    /// It made a call that it has no role for.
    NotPermitted,
    /// It wants something done to a process that is none of ours.
    Stranger,
    /// It wants more to be found out than anybody could read.
    Diagnoses,
}

/// A user, or whoever else, if it is one that is kept apart.
type About<W> = (Complaint, Option<W>);

/// How many complaints there may still be, about whom: users by their numbers, or monitors by their names.
pub(crate) struct Complaints<W = u32>(Mutex<HashMap<About<W>, Bucket>>);

impl<W> Default for Complaints<W> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

/// It fills with time, which is looked at only when there is something to complain of.
struct Bucket {
    left: u32,
    filled_at: Instant,
    suppressed: u64,
}

/// Has a complaint told of, together with how many of that kind were not told of since the last one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Told {
    /// `None` in place of zero, so that the log does not mention it.
    pub(crate) suppressed: Option<u64>,
}

impl<W: Eq + Hash> Complaints<W> {
    /// Whether there may be another one about this one; if not, it is counted.
    pub(crate) fn admit(&self, complaint: Complaint, whom: W, now: Instant) -> Option<Told> {
        let mut buckets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut about = (complaint, Some(whom));

        if !buckets.contains_key(&about) && buckets.len() >= KEPT {
            // Those who have nothing to be told of are as those who are not known.
            buckets.retain(|_, bucket| !bucket.is_as_new(now));

            if buckets.len() >= KEPT {
                about.1 = None;
            }
        }

        buckets.entry(about).or_insert_with(|| Bucket::new(now)).take(now)
    }
}

impl Bucket {
    fn new(now: Instant) -> Self {
        Self { left: AT_ONCE, filled_at: now, suppressed: 0 }
    }

    fn fill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.filled_at);
        let more = (passed.as_nanos() / EVERY.as_nanos()).min(AT_ONCE.into()) as u32;
        self.left = (self.left + more).min(AT_ONCE);
        // The rest of the time counts for the next one.
        self.filled_at = if self.left == AT_ONCE { now } else { self.filled_at + EVERY * more };
    }

    fn take(&mut self, now: Instant) -> Option<Told> {
        self.fill(now);

        if self.left == 0 {
            self.suppressed += 1;
            return None;
        }

        self.left -= 1;
        let suppressed = std::mem::take(&mut self.suppressed);
        Some(Told { suppressed: (suppressed > 0).then_some(suppressed) })
    }

    fn is_as_new(&mut self, now: Instant) -> bool {
        self.fill(now);
        self.left == AT_ONCE && self.suppressed == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(complaints: &Complaints, user_id: u32, now: Instant) -> Vec<Option<u64>> {
        let told = (0..1000).filter_map(|_| complaints.admit(Complaint::Broken, user_id, now));
        told.map(|told| told.suppressed).collect()
    }

    #[test]
    fn what_is_not_told_is_counted() {
        let (complaints, begin) = (Complaints::default(), Instant::now());
        assert_eq!(told(&complaints, 1, begin), [None; 10]);
        assert_eq!(told(&complaints, 1, begin + EVERY / 2), []);
        assert_eq!(told(&complaints, 1, begin + EVERY), [Some(990 + 1000)]);
        assert_eq!(
            told(&complaints, 1, begin + EVERY * 3 - Duration::from_millis(1)),
            [Some(999)],
            "one in each while"
        );
        assert_eq!(
            told(&complaints, 1, begin + EVERY * 3),
            [Some(999)],
            "and the while begins when the last one ended"
        );
        assert_eq!(told(&complaints, 1, begin + EVERY * 1000).len(), 10);
    }

    #[test]
    fn users_and_kinds_are_kept_apart() {
        let (complaints, now) = (Complaints::default(), Instant::now());
        told(&complaints, 1, now);
        assert_eq!(told(&complaints, 2, now).len(), 10);
        assert!(complaints.admit(Complaint::NotLetIn, 1, now).is_some());
        assert!(complaints.admit(Complaint::Broken, 1, now).is_none());
    }

    #[test]
    fn any_number_of_users_takes_bounded_memory_and_a_bounded_log() {
        let (complaints, now) = (Complaints::default(), Instant::now());
        let count = |now| (0..10_000).filter(|user| complaints.admit(Complaint::Broken, *user, now).is_some()).count();
        assert_eq!(count(now), KEPT + AT_ONCE as usize);
        assert_eq!(complaints.0.lock().unwrap().len(), KEPT + 1);
        // Afterwards others have their turn.
        assert_eq!(count(now + EVERY * AT_ONCE), KEPT + AT_ONCE as usize);
        assert!(complaints.0.lock().unwrap().len() <= KEPT + 1);
    }
}
