//! The layout of a segment, word by word. `docs/utilization.md` is for those who read one in another language.
//!
//! Everything here works on words that are atomic and knows nothing of where they are, so that a test can have them in a
//! model checker.

use std::sync::atomic::Ordering;

use crate::{number::Type, schema, word::Word};

/// The version of the layout.
pub const VERSION: u32 = 1;

/// How many metrics a segment can have. Further ones count, but are seen by nobody else.
pub const CAPACITY: usize = (SIZE_LIMIT - HEADER_SIZE) / RECORD_SIZE;

/// How long the name of a metric can be, in bytes.
pub const NAME_LIMIT: usize = RECORD_SIZE - NAME;

/// The most that a segment grows to, in bytes. Address space for so much is taken at the beginning, so that growing moves
/// nothing.
pub(crate) const SIZE_LIMIT: usize = 1 << 20;

const MAGIC: u64 = u64::from_le_bytes(*b"acs-util");
const WORD: usize = size_of::<u64>();

/// Words of the header: magic; version and the header's size; the size of a record and of a cache line; how many records
/// there are.
const HEADER_SIZE: usize = 64;
const MAGIC_WORD: usize = 0;
const VERSION_WORD: usize = 1;
const RECORD_WORD: usize = 2;
const COUNT_WORD: usize = 3;

/// A record begins with the line of its value, on which there is nothing else: metrics of which one is counted by one thread
/// and the next by another do not slow each other down. Then come its type, the length of its name, and the name.
const RECORD_SIZE: usize = 256;
const LINE: usize = 64;
const DESCRIPTION: usize = LINE;
const NAME: usize = DESCRIPTION + WORD;

/// Where the value of a record is, in bytes from the beginning.
pub(crate) const fn value_offset(index: usize) -> usize {
    HEADER_SIZE + index * RECORD_SIZE
}

/// Which word that is.
pub(crate) const fn value_word(index: usize) -> usize {
    value_offset(index) / WORD
}

/// How many records fit into that many bytes.
pub(crate) const fn capacity(size: usize) -> usize {
    let size = if size < SIZE_LIMIT { size } else { SIZE_LIMIT };
    size.saturating_sub(HEADER_SIZE) / RECORD_SIZE
}

/// How many bytes so many words are.
pub(crate) fn size<W>(words: &[W]) -> usize {
    words.len() * WORD
}

/// Adds to the number in a word.
#[inline]
pub(crate) fn add<W: Word>(word: &W, kind: Type, addend: u64) {
    match kind {
        Type::U32 | Type::U64 | Type::I32 | Type::I64 => word.add(addend),
        Type::F32 => {
            replace(word, |value| u64::from((f32::from_bits(value as u32) + f32::from_bits(addend as u32)).to_bits()))
        }
        Type::F64 => replace(word, |value| (f64::from_bits(value) + f64::from_bits(addend)).to_bits()),
    }
}

/// Replaces a word by what is made of it, once nobody else has written between.
#[inline]
fn replace<W: Word>(word: &W, change: impl Fn(u64) -> u64) {
    let mut current = word.load(Ordering::Relaxed);

    while let Err(actual) = word.compare_exchange(current, change(current)) {
        current = actual;
    }
}

/// Makes an empty segment of words that are zero.
pub(crate) fn initialize<W: Word>(words: &[W]) {
    words[VERSION_WORD].store(pair(VERSION, HEADER_SIZE as u32), Ordering::Relaxed);
    words[RECORD_WORD].store(pair(RECORD_SIZE as u32, LINE as u32), Ordering::Relaxed);
    words[COUNT_WORD].store(0, Ordering::Relaxed);
    // Last, for whoever finds the segment before it is complete.
    words[MAGIC_WORD].store(MAGIC, Ordering::Release);
}

/// Adds a record; there must be room for it. One thread at a time does this, while others read.
pub(crate) fn publish<W: Word>(words: &[W], index: usize, name: &str, kind: Type) {
    let base = value_word(index);
    let description = u64::from_le_bytes([code(kind), name.len() as u8, 0, 0, 0, 0, 0, 0]);
    words[base + DESCRIPTION / WORD].store(description, Ordering::Relaxed);

    for (place, chunk) in name.as_bytes().chunks(WORD).enumerate() {
        let mut bytes = [0; WORD];
        bytes[..chunk.len()].copy_from_slice(chunk);
        words[base + NAME / WORD + place].store(u64::from_le_bytes(bytes), Ordering::Relaxed);
    }

    // Whoever sees this sees all of the above.
    words[COUNT_WORD].store(index as u64 + 1, Ordering::Release);
}

/// What a header says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Header {
    Valid,
    Foreign(&'static str),
    OtherVersion(u32),
}

/// Checks a header.
pub(crate) fn check<W: Word>(words: &[W]) -> Header {
    let load = |index: usize, ordering| Some(words.get(index)?.load(ordering));

    if load(MAGIC_WORD, Ordering::Acquire) != Some(MAGIC) {
        return Header::Foreign("it does not begin as one");
    }

    match load(VERSION_WORD, Ordering::Relaxed) {
        Some(word) if word as u32 != VERSION => return Header::OtherVersion(word as u32),
        Some(word) if word == pair(VERSION, HEADER_SIZE as u32) => {}
        _ => return Header::Foreign("its header has another size than those of its version"),
    }

    match load(RECORD_WORD, Ordering::Relaxed) {
        Some(word) if word == pair(RECORD_SIZE as u32, LINE as u32) => Header::Valid,
        _ => Header::Foreign("its records have another size than those of its version"),
    }
}

/// How many records a segment says that it has, which is no more than there can be.
pub(crate) fn count<W: Word>(words: &[W]) -> usize {
    let count = words.get(COUNT_WORD).map_or(0, |word| word.load(Ordering::Acquire));
    usize::try_from(count).unwrap_or(usize::MAX).min(CAPACITY)
}

/// What a record says of itself, if that makes sense.
pub(crate) fn describe<W: Word>(words: &[W], index: usize) -> Option<(String, Type)> {
    let load = |index: usize| Some(words.get(index)?.load(Ordering::Relaxed));
    let base = value_word(index);
    let [kind, length, ..] = load(base + DESCRIPTION / WORD)?.to_le_bytes();
    let length = usize::from(length);

    if length > NAME_LIMIT {
        return None;
    }

    let mut name = Vec::with_capacity(NAME_LIMIT);

    for place in 0..length.div_ceil(WORD) {
        name.extend(load(base + NAME / WORD + place)?.to_le_bytes());
    }

    name.truncate(length);

    if !schema::is_name(&name) {
        return None;
    }

    Some((String::from_utf8(name).ok()?, Type::ALL.into_iter().find(|other| code(*other) == kind)?))
}

fn code(kind: Type) -> u8 {
    match kind {
        Type::U32 => 1,
        Type::U64 => 2,
        Type::I32 => 3,
        Type::I64 => 4,
        Type::F32 => 5,
        Type::F64 => 6,
    }
}

/// Two 32-bit numbers in a word, the first one at the lower address.
const fn pair(first: u32, second: u32) -> u64 {
    first as u64 | (second as u64) << 32
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use loom::sync::{Arc, atomic::AtomicU64 as ModelWord};

    use super::*;

    fn words(records: usize) -> Arc<Vec<ModelWord>> {
        Arc::new((0..value_word(records)).map(|_| ModelWord::new(0)).collect())
    }

    #[test]
    fn sizes_are_those_of_the_document() {
        assert_eq!((HEADER_SIZE, RECORD_SIZE, NAME_LIMIT, CAPACITY), (64, 256, 184, 4095));
        assert_eq!((value_offset(0), value_offset(1)), (64, 320));
        assert!((0..CAPACITY).all(|index| value_offset(index).is_multiple_of(LINE)));
        assert_eq!((capacity(0), capacity(63), capacity(4096), capacity(usize::MAX)), (0, 0, 15, CAPACITY));
    }

    /// Every interleaving, and every order in which relaxed writes may be seen.
    #[test]
    fn a_reader_never_sees_half_a_record() {
        loom::model(|| {
            let words = words(2);
            let writer = {
                let words = words.clone();
                loom::thread::spawn(move || {
                    initialize(&words);
                    publish(&words, 0, "requests", Type::U64);
                    publish(&words, 1, "load", Type::F64);
                })
            };

            let header = check(&words);
            // It is not there yet, or complete.
            assert!([Header::Valid, Header::Foreign("it does not begin as one")].contains(&header), "{header:?}");
            if header == Header::Valid {
                let expected = [("requests".to_owned(), Type::U64), ("load".to_owned(), Type::F64)];
                for (index, expected) in expected.iter().enumerate().take(count(&words)) {
                    assert_eq!(describe(&words, index).as_ref(), Some(expected));
                }
            }

            writer.join().unwrap();
            assert_eq!(count(&words), 2);
        });
    }

    #[test]
    fn no_update_is_lost_and_no_value_is_one_that_was_never_there() {
        for kind in Type::ALL {
            loom::model(move || {
                let words = words(1);
                let threads = [1u32, 2].map(|number| {
                    let words = words.clone();
                    loom::thread::spawn(move || {
                        add(&words[value_word(0)], kind, kind.encode(number.into()));
                    })
                });

                let seen = kind.decode(words[value_word(0)].load(Ordering::Relaxed)).as_u64();
                assert!([0, 1, 2, 3].contains(&seen), "{kind}: {seen}");

                threads.into_iter().for_each(|thread| thread.join().unwrap());
                assert_eq!(kind.decode(words[value_word(0)].load(Ordering::Relaxed)).as_u64(), 3, "{kind}");
            });
        }
    }

    #[test]
    fn nonsense_is_no_record() {
        let describe_words = |description: u64, name: [u8; 8]| {
            let words: Vec<AtomicU64> = (0..value_word(1)).map(|_| AtomicU64::new(0)).collect();
            words[value_word(0) + DESCRIPTION / WORD].store(description, Ordering::Relaxed);
            words[value_word(0) + NAME / WORD].store(u64::from_le_bytes(name), Ordering::Relaxed);
            describe(&words, 0)
        };
        assert_eq!(describe_words(pair(0x0402, 0), *b"load\0\0\0\0"), Some(("load".to_owned(), Type::U64)));
        assert_eq!(describe_words(pair(0x0407, 0), *b"load\0\0\0\0"), None, "no such type");
        assert_eq!(describe_words(pair(0x0002, 0), *b"load\0\0\0\0"), None, "no name");
        assert_eq!(describe_words(pair(0xff02, 0), *b"load\0\0\0\0"), None, "longer than it can be");
        assert_eq!(describe_words(pair(0x0802, 0), *b"lo\nad\0\0\0"), None, "no name that there can be");
    }
}
