//! Which workers go when all of them together take too much.

/// A worker that may be restarted, and what that would free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Candidate {
    pub process_id: u32,
    /// What only it has.
    pub private: u64,
    /// What it has in common with others.
    pub shared: u64,
    /// It was asked to be restarted, and has not ended yet.
    pub is_going: bool,
}

/// What all take: what they share counts once, as that of the one that has most of it, and what is private adds up.
pub(super) fn total(candidates: &[Candidate]) -> u64 {
    let shared = candidates.iter().map(|candidate| candidate.shared).max().unwrap_or(0);
    candidates.iter().map(|candidate| candidate.private).fold(shared, u64::saturating_add)
}

/// The workers to restart so that so much is freed, largest private size first. What those will free that go already counts.
pub(super) fn to_free(excess: u64, candidates: &[Candidate]) -> Vec<Candidate> {
    let going = candidates.iter().filter(|candidate| candidate.is_going);
    let mut freed = going.map(|candidate| candidate.private).fold(0, u64::saturating_add);
    let mut others: Vec<Candidate> = candidates.iter().filter(|candidate| !candidate.is_going).copied().collect();
    others.sort_by_key(|candidate| (std::cmp::Reverse(candidate.private), candidate.process_id));
    let needed = others.into_iter().take_while(|candidate| {
        let is_needed = freed < excess && candidate.private > 0;
        freed = freed.saturating_add(candidate.private);
        is_needed
    });
    needed.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(process_id: u32, private: u64, shared: u64) -> Candidate {
        Candidate { process_id, private, shared, is_going: false }
    }

    fn ids(candidates: Vec<Candidate>) -> Vec<u32> {
        candidates.iter().map(|candidate| candidate.process_id).collect()
    }

    #[test]
    fn shared_memory_counts_once() {
        let candidates = [candidate(1, 100, 1000), candidate(2, 200, 1000), candidate(3, 50, 900)];
        assert_eq!(total(&candidates), 1350);
        assert_eq!(total(&[]), 0);
    }

    #[test]
    fn the_largest_go_first_and_no_more_than_needed() {
        let candidates = [candidate(1, 100, 0), candidate(2, 300, 0), candidate(3, 200, 0), candidate(4, 200, 0)];
        assert_eq!(ids(to_free(1, &candidates)), [2]);
        assert_eq!(ids(to_free(300, &candidates)), [2]);
        assert_eq!(ids(to_free(301, &candidates)), [2, 3]);
        assert_eq!(ids(to_free(10_000, &candidates)), [2, 3, 4, 1]);
        assert!(to_free(0, &candidates).is_empty());
    }

    /// TRAP-19: more were killed at each check, before the first had ended.
    #[test]
    fn those_that_go_already_count_as_gone() {
        let going = Candidate { is_going: true, ..candidate(2, 300, 0) };
        let candidates = [candidate(1, 100, 0), going, candidate(3, 200, 0)];
        assert!(to_free(300, &candidates).is_empty());
        assert_eq!(ids(to_free(301, &candidates)), [3]);
    }

    #[test]
    fn what_frees_nothing_is_left_alone() {
        assert!(to_free(100, &[candidate(1, 0, 500)]).is_empty());
    }
}
