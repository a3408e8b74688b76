//! Values by id, each in a place that is used again: what is large is not moved for every call.

use crate::hash::FACTOR;

/// How many places are kept while there are no values.
const KEPT: usize = 64;

/// A table of values that stay where they are, by the ids of calls of this side. A place that is free keeps what its value left
/// there.
pub(crate) struct Places<V> {
    index: Index,
    places: Vec<V>,
    free: Vec<u32>,
}

impl<V> Default for Places<V> {
    fn default() -> Self {
        Self { index: Index::default(), places: Vec::new(), free: Vec::new() }
    }
}

impl<V: Default> Places<V> {
    pub(crate) fn is_empty(&self) -> bool {
        self.index.length == 0
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
        let place = self.index.get(id)?;
        self.places.get_mut(place as usize)
    }

    /// Frees a place. What should not be kept has to be taken out of it before.
    pub(crate) fn remove(&mut self, id: u64) {
        let Some(place) = self.index.remove(id) else { return };

        if self.is_empty() && self.places.len() > KEPT {
            *self = Self::default();
        } else {
            self.free.push(place);
        }
    }

    pub(crate) fn ids(&self) -> impl Iterator<Item = u64> {
        self.index.entries().map(|(id, _)| id)
    }

    /// Does something with each value.
    pub(crate) fn for_each(&mut self, mut act: impl FnMut(u64, &mut V)) {
        for (id, place) in self.index.entries() {
            act(id, &mut self.places[place as usize]);
        }
    }
}

/// Which place an id has. It is asked several times a call, and ids that count up hardly ever meet in it.
#[derive(Default)]
struct Index {
    /// At least twice as many as there are entries, a power of two. An entry lies where its id belongs, or in the next slot that
    /// was free.
    slots: Vec<Slot>,
    length: usize,
}

#[derive(Clone, Copy, Default)]
struct Slot {
    /// [`FREE`] if there is no entry.
    id: u64,
    place: u32,
}

/// The id of no call.
const FREE: u64 = 0;

/// How many slots there are as soon as there is an entry.
const SLOTS: usize = 8;

impl Index {
    fn get(&self, id: u64) -> Option<u32> {
        let slot = self.slots.get(self.find(id)?)?;
        Some(slot.place)
    }

    /// Adds an id that is not there.
    fn insert(&mut self, id: u64, place: u32) {
        if self.slots.len() <= self.length * 2 {
            let slots = vec![Slot::default(); (self.slots.len() * 2).max(SLOTS)];
            let old = std::mem::replace(&mut self.slots, slots);
            old.into_iter().filter(|slot| slot.id != FREE).for_each(|slot| self.put(slot));
        }

        self.put(Slot { id, place });
        self.length += 1;
    }

    fn put(&mut self, slot: Slot) {
        let mut at = self.home(slot.id);

        while self.slots[at].id != FREE {
            at = self.next(at);
        }

        self.slots[at] = slot;
    }

    fn remove(&mut self, id: u64) -> Option<u32> {
        let mut hole = self.find(id)?;
        let place = self.slots[hole].place;
        let mut at = self.next(hole);

        // Whatever lies behind moves up, unless it would lie before where it belongs.
        while self.slots[at].id != FREE {
            let from_home = self.distance(self.home(self.slots[at].id), at);

            if from_home >= self.distance(hole, at) {
                self.slots[hole] = self.slots[at];
                hole = at;
            }

            at = self.next(at);
        }

        self.slots[hole] = Slot::default();
        self.length -= 1;
        Some(place)
    }

    fn find(&self, id: u64) -> Option<usize> {
        if self.length == 0 || id == FREE {
            return None;
        }

        let mut at = self.home(id);

        // It ends, as half of them are free.
        loop {
            match self.slots[at].id {
                found if found == id => return Some(at),
                FREE => return None,
                _ => at = self.next(at),
            }
        }
    }

    fn home(&self, id: u64) -> usize {
        // The upper bits of the product, in which neighbours lie far apart.
        (id.wrapping_mul(FACTOR) >> (u64::BITS - self.slots.len().trailing_zeros())) as usize
    }

    fn next(&self, at: usize) -> usize {
        (at + 1) & (self.slots.len() - 1)
    }

    fn distance(&self, from: usize, to: usize) -> usize {
        to.wrapping_sub(from) & (self.slots.len() - 1)
    }

    fn entries(&self) -> impl Iterator<Item = (u64, u32)> {
        self.slots.iter().filter(|slot| slot.id != FREE).map(|slot| (slot.id, slot.place))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// What [`FACTOR`] times is 1.
    const INVERSE: u64 = 0xf1de_83e1_9937_733d;

    #[test]
    fn places_are_used_again_and_given_back() {
        let mut places = Places::<u64>::default();

        for round in 1..4 {
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
        for id in 1..10_000 {
            places.insert(id);
            places.remove(id);
        }

        assert_eq!(places.places.len(), 1);
    }

    #[test]
    fn places_are_found_among_those_that_come_and_go() {
        let mut places = Places::<u64>::default();
        let mut known = BTreeMap::new();
        let mut random = 7u64;

        for round in 1..200_000u64 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            // Neighbours, and ids that all belong into the same slot of a table of any size that occurs.
            let id = match random >> 62 {
                0 => round * 2,
                _ => (((random >> 40) % 300) << 44).wrapping_mul(INVERSE),
            };

            match known.len() < 200 && id != FREE && !known.contains_key(&id) {
                true => {
                    known.insert(id, round);
                    *places.insert(id) = round;
                }
                false => {
                    let found = known.range(id..).next().or(known.first_key_value()).map(|(id, _)| *id);
                    let Some(id) = found else { continue };
                    known.remove(&id);
                    places.remove(id);
                    assert_eq!(places.get_mut(id), None);
                }
            }

            if round % 64 == 0 {
                known.iter().for_each(|(id, value)| assert_eq!(places.get_mut(*id).as_deref(), Some(value)));
                let mut ids: Vec<u64> = places.ids().collect();
                ids.sort();
                assert!(ids.iter().eq(known.keys()));
            }
        }
    }
}
