//! When calls end without an answer.

use std::{collections::BTreeSet, time::Instant};

/// The deadlines of calls, by the time and the id.
///
/// Most connections have one call under way at a time, whose deadline takes no memory of its own.
#[derive(Default)]
pub(crate) struct Deadlines {
    /// The only one, if there is only one.
    only: Option<(Instant, u64)>,
    /// All of them, if there are more.
    many: BTreeSet<(Instant, u64)>,
}

impl Deadlines {
    pub(crate) fn insert(&mut self, deadline: (Instant, u64)) {
        match self.only.take() {
            None if self.many.is_empty() => self.only = Some(deadline),
            only => self.many.extend(only.into_iter().chain([deadline])),
        }
    }

    pub(crate) fn remove(&mut self, deadline: (Instant, u64)) {
        match self.only {
            Some(only) if only == deadline => self.only = None,
            Some(_) => {}
            None => drop(self.many.remove(&deadline)),
        }
    }

    /// The first that is over.
    pub(crate) fn first(&self) -> Option<(Instant, u64)> {
        self.only.or_else(|| self.many.first().copied())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Whatever is put in and taken out, in whatever order: the same as a sorted list has.
    #[test]
    fn the_first_is_the_first_of_all() {
        let start = Instant::now();
        let deadline = |number: u64| (start + Duration::from_secs(number * 7 % 5), number);
        for seed in 0..200u64 {
            let (mut deadlines, mut list) = (Deadlines::default(), Vec::new());
            for step in 0..20 {
                let number = (seed * 31 + step * step * 17) % 6;
                let one = deadline(number);
                match list.iter().position(|other| *other == one) {
                    Some(place) => {
                        list.remove(place);
                        deadlines.remove(one);
                    }
                    None => {
                        list.push(one);
                        deadlines.insert(one);
                    }
                }
                deadlines.remove(deadline(99));
                assert_eq!(deadlines.first(), list.iter().min().copied(), "{seed} {step}");
            }
        }
    }
}
