//! How a segment grows while others read it, and how they follow.
//!
//! As in `layout`, nothing here knows what the memory is, so that a test can have all of it in a model checker, kernel included
//! (`sys/model.rs`).

use std::sync::{Arc, atomic::Ordering};

use crate::{
    error::{AppendError, ViewError},
    layout::{self, Header},
    number::{Number, Type},
    schema::Field,
    sys::{Cell, Grow, Mapping},
    word::Word,
};

/// A segment, as its owner has it.
pub(crate) struct Segment<M> {
    memory: Arc<M>,
    /// Its metrics, in their order.
    fields: Vec<Field>,
}

impl<M: Grow<Word: Word>> Segment<M> {
    /// A segment without metrics, in memory that is zero.
    pub(crate) fn new(memory: M) -> Self {
        layout::initialize(memory.words());
        Self { memory: Arc::new(memory), fields: Vec::new() }
    }

    /// Adds a metric, and gives its value.
    pub(crate) fn append(&mut self, name: &str, kind: Type) -> Result<Cell<M>, AppendError> {
        let index = self.fields.len();

        if index >= layout::CAPACITY {
            return Err(AppendError::Full);
        }

        let size = layout::size(self.memory.words());

        if index >= layout::capacity(size) {
            self.memory.grow(size * 2).map_err(AppendError::Memory)?;
        }

        let cell = Cell::shared(&self.memory, layout::value_word(index)).ok_or(AppendError::Full)?;
        layout::publish(self.memory.words(), index, name, kind);
        self.fields.push(Field { name: name.to_owned(), kind, index });
        Ok(cell)
    }

    pub(crate) fn memory(&self) -> &M {
        &self.memory
    }

    pub(crate) fn fields(&self) -> &[Field] {
        &self.fields
    }
}

/// A segment, as others read it.
#[derive(Debug)]
pub(crate) struct Reader<M> {
    memory: M,
    /// How many records were looked at, those that made no sense included.
    known: usize,
    fields: Vec<Field>,
}

impl<M: Mapping<Word: Word>> Reader<M> {
    /// Its metrics are there once they have been looked for by `refresh`.
    pub(crate) fn new(memory: M) -> Result<Self, ViewError> {
        match layout::check(memory.words()) {
            Header::Valid => Ok(Self { memory, known: 0, fields: Vec::new() }),
            Header::Foreign(why) => Err(ViewError::NotASegment(why)),
            Header::OtherVersion(version) => Err(ViewError::Version(version)),
        }
    }

    /// Looks for metrics that were made since, and says whether there are any. `reopen` maps the memory anew, if it can, for
    /// what it has grown by; what it gives may be any other memory by now.
    pub(crate) fn refresh(&mut self, reopen: impl FnOnce() -> Option<M>) -> bool {
        let count = layout::count(self.memory.words());

        if count == self.known {
            return false;
        }

        if count > self.capacity()
            && let Some(memory) = reopen()
            && memory.identity() == self.memory.identity()
        {
            self.memory = memory;
        }

        // What is not mapped is looked for the next time.
        let end = count.min(self.capacity());
        let before = self.fields.len();

        for index in self.known..end {
            if let Some((name, kind)) = layout::describe(self.memory.words(), index) {
                self.fields.push(Field { name, kind, index });
            }
        }

        self.known = self.known.max(end);
        self.fields.len() > before
    }

    pub(crate) fn fields(&self) -> &[Field] {
        &self.fields
    }

    /// The value of one of the fields.
    pub(crate) fn value(&self, field: &Field) -> Number {
        let word = self.memory.words().get(layout::value_word(field.index));
        field.kind.decode(word.map_or(0, |word| word.load(Ordering::Relaxed)))
    }

    pub(crate) fn memory(&self) -> &M {
        &self.memory
    }

    fn capacity(&self) -> usize {
        layout::capacity(layout::size(self.memory.words()))
    }
}

#[cfg(test)]
mod tests {
    use loom::{sync::Mutex as ModelMutex, thread};

    use super::*;
    use crate::sys::model::{Descriptor, File, LIMIT, OwnerMemory, ReaderMemory, check};

    /// How large a segment of one metric is, and of two: it doubles.
    const ONE: usize = layout::value_offset(1);
    const TWO: usize = ONE * 2;

    fn file() -> Arc<File> {
        File::new(1, ONE, LIMIT)
    }

    /// A segment without metrics, in a file alone.
    fn segment(file: &Arc<File>) -> Segment<OwnerMemory> {
        Segment::new(OwnerMemory::new(&Descriptor::new(&[file]), 0, ONE).unwrap())
    }

    fn add(cell: &Cell<OwnerMemory>, addend: u64) {
        layout::add(&**cell, Type::U64, addend);
    }

    /// What is seen, of which nothing may ever be anything else than what was written in that place.
    fn seen(reader: &Reader<ReaderMemory>) -> Vec<(&str, u64)> {
        let value = |field: &Field| {
            assert_eq!(field.kind, Type::U64);
            reader.value(field).as_u64()
        };
        reader.fields().iter().map(|field| (field.name(), value(field))).collect()
    }

    /// Whether that is something that was there: these metrics, or the first of them, and of the last one also nothing yet.
    fn is_part(seen: &[(&str, u64)], all: &[(&str, u64)]) -> bool {
        let is_same = |(seen, all): (&(&str, u64), &(&str, u64))| seen.0 == all.0 && [0, all.1].contains(&seen.1);
        seen.len() <= all.len() && seen.iter().zip(all).all(is_same)
    }

    #[test]
    fn a_reader_follows_a_segment_that_grows() {
        check(None, || {
            let file = file();
            let mut segment = segment(&file);
            add(&segment.append("a", Type::U64).unwrap(), 1);
            let mut reader = Reader::new(file.open().unwrap()).unwrap();
            assert!(reader.refresh(|| file.open()));

            let owner = thread::spawn(move || {
                add(&segment.append("b", Type::U64).unwrap(), 2);
                segment
            });
            for _ in 0..2 {
                reader.refresh(|| file.open());
                assert!(is_part(&seen(&reader), &[("a", 1), ("b", 2)]), "{:?}", seen(&reader));
            }

            let _segment = owner.join().unwrap();
            reader.refresh(|| file.open());
            assert_eq!(seen(&reader), [("a", 1), ("b", 2)]);
        });
    }

    #[test]
    fn threads_that_make_metrics_while_the_segment_grows_count_in_their_own() {
        check(Some(3), || {
            let file = file();
            let segment = Arc::new(ModelMutex::new(segment(&file)));
            let mut reader = Reader::new(file.open().unwrap()).unwrap();
            let threads = [("a", 1), ("b", 2)].map(|(name, addend)| {
                let segment = segment.clone();
                thread::spawn(move || {
                    let cell = segment.lock().unwrap().append(name, Type::U64).unwrap();
                    add(&cell, addend);
                })
            });

            reader.refresh(|| file.open());
            let now = seen(&reader);
            assert!(is_part(&now, &[("a", 1), ("b", 2)]) || is_part(&now, &[("b", 2), ("a", 1)]), "{now:?}");

            threads.into_iter().for_each(|thread| thread.join().unwrap());
            reader.refresh(|| file.open());
            let mut all = seen(&reader);
            all.sort_unstable();
            assert_eq!(all, [("a", 1), ("b", 2)]);
        });
    }

    /// The registry goes while one of its metrics is being used, and another registry is made, whose file has the same descriptor.
    #[test]
    fn a_segment_that_is_closed_is_there_for_its_metrics_and_never_taken_for_another() {
        check(Some(3), || {
            let files = [File::new(1, ONE, LIMIT), File::new(2, ONE, LIMIT)];
            let descriptor = Descriptor::new(&[&files[0], &files[1]]);
            let mut first = Segment::new(OwnerMemory::new(&descriptor, 0, ONE).unwrap());
            let cell = first.append("a", Type::U64).unwrap();
            let mut reader = Reader::new(descriptor.open().unwrap()).unwrap();
            reader.refresh(|| None);

            let user = thread::spawn(move || add(&cell, 1));
            let owner = {
                let descriptor = descriptor.clone();
                thread::spawn(move || {
                    add(&first.append("b", Type::U64).unwrap(), 2);
                    drop(first);
                    let mut second = Segment::new(OwnerMemory::new(&descriptor, 1, ONE).unwrap());
                    for name in ["x", "y"] {
                        add(&second.append(name, Type::U64).unwrap(), 3);
                    }
                    second
                })
            };

            reader.refresh(|| descriptor.open());
            assert!(is_part(&seen(&reader), &[("a", 1), ("b", 2)]), "{:?}", seen(&reader));

            user.join().unwrap();
            let second = owner.join().unwrap();
            reader.refresh(|| descriptor.open());
            assert_eq!(seen(&reader)[0], ("a", 1));
            assert!(is_part(&seen(&reader), &[("a", 1), ("b", 2)]), "{:?}", seen(&reader));

            let mut other = Reader::new(files[1].open().unwrap()).unwrap();
            other.refresh(|| None);
            assert_eq!(seen(&other), [("x", 3), ("y", 3)]);

            drop((reader, other, second));
            assert!(files.iter().all(|file| file.is_unmapped()));
        });
    }

    #[test]
    fn nothing_is_touched_that_was_cut_before_the_file_was_sealed() {
        check(None, || {
            let file = File::unsealed(1, TWO, LIMIT, ONE);
            let mut segment = Segment::new(OwnerMemory::new(&Descriptor::new(&[&file]), 0, TWO).unwrap());
            for name in ["a", "b"] {
                add(&segment.append(name, Type::U64).unwrap(), 1);
            }

            let owner = {
                let file = file.clone();
                thread::spawn(move || {
                    file.cut(ONE);
                    file.seal();
                })
            };
            // It says that it has two, and has one.
            if let Some(memory) = file.open() {
                let mut reader = Reader::new(memory).unwrap();
                reader.refresh(|| file.open());
                assert_eq!(seen(&reader), [("a", 1)]);
            }
            owner.join().unwrap();
        });
    }

    #[test]
    fn a_segment_that_cannot_grow_is_what_it_was_and_can_grow_later() {
        loom::model(|| {
            let file = File::new(1, ONE, ONE);
            let mut segment = segment(&file);
            add(&segment.append("a", Type::U64).unwrap(), 1);
            for name in ["b", "c"] {
                assert!(matches!(segment.append(name, Type::U64), Err(AppendError::Memory(_))));
            }
            let mut reader = Reader::new(file.open().unwrap()).unwrap();
            reader.refresh(|| file.open());
            assert_eq!(seen(&reader), [("a", 1)]);

            file.set_room(LIMIT);
            add(&segment.append("d", Type::U64).unwrap(), 4);
            assert!(reader.refresh(|| file.open()));
            assert_eq!(seen(&reader), [("a", 1), ("d", 4)]);
        });
    }

    #[test]
    fn what_could_not_be_mapped_is_found_later() {
        loom::model(|| {
            let file = file();
            let mut segment = segment(&file);
            let mut reader = Reader::new(file.open().unwrap()).unwrap();
            add(&segment.append("a", Type::U64).unwrap(), 1);
            add(&segment.append("b", Type::U64).unwrap(), 2);
            // The reader has no files left, say.
            assert!(reader.refresh(|| None));
            assert!(!reader.refresh(|| None));
            assert_eq!(seen(&reader), [("a", 1)]);
            assert!(reader.refresh(|| file.open()));
            assert_eq!(seen(&reader), [("a", 1), ("b", 2)]);
        });
    }
}
