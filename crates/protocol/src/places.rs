//! Values by id, each in a place that is used again: what is large is not moved for every call.

use crate::hash::Table;

/// How many places are kept while there are no values.
const KEPT: usize = 64;

/// A table of values that stay where they are. A place that is free keeps what its value left there.
pub(crate) struct Places<V> {
    index: Table<u64, u32>,
    places: Vec<V>,
    free: Vec<u32>,
}

impl<V> Default for Places<V> {
    fn default() -> Self {
        Self { index: Table::default(), places: Vec::new(), free: Vec::new() }
    }
}

impl<V: Default> Places<V> {
    pub(crate) fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// A place for a value of that id, which has none yet, as the last one left it.
    pub(crate) fn insert(&mut self, id: u64) -> &mut V {
        let place = self.free.pop().unwrap_or_else(|| {
            self.places.push(V::default());
            // As many of them as would not fit take more memory than there is.
            (self.places.len() - 1) as u32
        });

        self.index.insert(id, place);
        &mut self.places[place as usize]
    }

    pub(crate) fn get_mut(&mut self, id: u64) -> Option<&mut V> {
        let place = *self.index.get(&id)?;
        self.places.get_mut(place as usize)
    }

    /// Frees a place. What should not be kept has to be taken out of it before.
    pub(crate) fn remove(&mut self, id: u64) {
        let Some(place) = self.index.remove(&id) else { return };

        if self.index.is_empty() && self.places.len() > KEPT {
            *self = Self::default();
        } else {
            self.free.push(place);
        }
    }

    pub(crate) fn ids(&self) -> impl Iterator<Item = u64> {
        self.index.keys().copied()
    }

    /// Does something with each value.
    pub(crate) fn for_each(&mut self, mut act: impl FnMut(u64, &mut V)) {
        for (id, place) in &self.index {
            act(*id, &mut self.places[*place as usize]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_used_again_and_given_back() {
        let mut places = Places::<u64>::default();

        for round in 0..3 {
            for id in 0..1000 {
                *places.insert(round + id) = id;
            }

            assert_eq!(places.places.len(), 1000);
            (0..1000).for_each(|id| assert_eq!(places.get_mut(round + id).copied(), Some(id)));
            (0..999).for_each(|id| places.remove(round + id));
            assert_eq!((places.ids().collect::<Vec<_>>(), places.get_mut(round)), (vec![round + 999], None));
            assert_eq!(places.places.len(), 1000);
            places.remove(round + 999);
            assert!(places.is_empty() && places.places.is_empty());
        }

        // A few stay.
        for id in 0..10_000 {
            places.insert(id);
            places.remove(id);
        }

        assert_eq!(places.places.len(), 1);
    }
}
