//! Hashing of ids, which are looked up several times a call, and of the names of operations.

use std::{
    collections::HashMap,
    hash::{BuildHasher, Hasher, RandomState},
};

/// A table by id, or by names that peers can ask for but not put there.
pub(crate) type Table<K, V> = HashMap<K, V, IdHash>;

/// Spreads ids over a table. A peer chooses its ids, so where they come to lie depends on a number that it does not know; and
/// there are never more of them than a connection may have calls.
#[derive(Clone)]
pub(crate) struct IdHash {
    seed: u64,
}

impl Default for IdHash {
    fn default() -> Self {
        Self { seed: RandomState::new().hash_one(0u64) }
    }
}

impl BuildHasher for IdHash {
    type Hasher = IdHasher;

    fn build_hasher(&self) -> IdHasher {
        IdHasher(self.seed)
    }
}

pub(crate) struct IdHasher(u64);

/// Odd, and without a pattern in its bits.
pub(crate) const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_ne_bytes(word));
        }
    }

    fn write_u64(&mut self, number: u64) {
        // Both halves of the product, so that every bit of the number reaches those that a table looks at.
        let product = u128::from(self.0 ^ number) * u128::from(FACTOR);
        self.0 = product as u64 ^ (product >> 64) as u64;
    }

    fn write_i128(&mut self, number: i128) {
        self.write_u64(number as u64 ^ (number >> 64) as u64);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn ids_spread() {
        let hash = IdHash::default();

        for step in [1, 2, 1 << 7, 1 << 32, 1 << 57] {
            let of = |index: u64| hash.hash_one(i128::from(index * step));
            // What a table of 4096 places looks at, and what it compares first.
            let places: HashSet<u64> = (0..64).map(|index| of(index) & 0xfff).collect();
            let marks: HashSet<u64> = (0..64).map(|index| of(index) >> 57).collect();
            assert!(places.len() > 48 && marks.len() > 24, "{step}: {} {}", places.len(), marks.len());
        }

        assert_ne!(hash.hash_one(-1i128), hash.hash_one(1i128));
    }
}
