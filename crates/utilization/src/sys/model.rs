//! Memory that processes share in a model checker, with as much of the kernel as it takes.
//!
//! What the kernel does is as weak here as it is anywhere. `fallocate(2)`, `ftruncate(2)` and the setting of seals take the lock
//! of the inode, so one comes after the other. `fstat(2)` and a page that is touched take none, and see a length that may be
//! an old one, as long as nothing else tells them of the new one: the length is a relaxed atomic. To read the seals
//! takes no lock either, but what a process asks the kernel next it asks in another system call, after it has looked at
//! the answer: acquire. A descriptor is found, and set, by the means of RCU. What `munmap(2)` takes away is gone for all
//! processors at once.

use std::{
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use loom::sync::atomic::{AtomicBool as ModelFlag, AtomicU64 as ModelWord, AtomicUsize as ModelSize};

use super::{
    Grow, Mapping, Memory,
    bounds::{Extent, lasting},
};
use crate::word::Word;

/// How large the files of a model may be, in bytes, and how much of them is reserved, or mapped at most.
pub(crate) const LIMIT: usize = 768;

/// Runs a model in every order that its threads can be in, or in those with at most so many changes from a thread that could go on
/// to another one: with three threads, all of them take minutes.
pub(crate) fn check(changes: Option<usize>, model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = changes;
    builder.check(model);
}

/// A file in memory.
pub(crate) struct File {
    inode: Arc<Inode>,
    /// What was ever mapped, for what touches it too late to find that it is gone.
    mappings: Mutex<Vec<Words>>,
}

struct Inode {
    number: u64,
    words: Vec<ModelWord>,
    /// In bytes.
    length: ModelWord,
    /// It never becomes shorter than that. Touches before it cannot fail, and are not looked at, which makes a model quick.
    shortest: usize,
    /// How long it can be until there is no memory left.
    room: ModelSize,
    is_sealed: ModelFlag,
}

/// The words of a mapping.
type Words = Arc<[MappedWord]>;

/// A word of a mapping. To use it is to touch a page.
pub(crate) struct MappedWord {
    inode: Arc<Inode>,
    index: usize,
    is_mapped: Arc<AtomicBool>,
}

impl File {
    /// A sealed file that never becomes shorter than that, and as much longer as there is room.
    pub(crate) fn new(number: u64, shortest: usize, room: usize) -> Arc<Self> {
        let file = Self::unsealed(number, shortest, room, shortest);
        file.seal();
        file
    }

    pub(crate) fn unsealed(number: u64, length: usize, room: usize, shortest: usize) -> Arc<Self> {
        let words = (0..LIMIT / size_of::<u64>()).map(|_| ModelWord::new(0)).collect();
        let (length, room) = (ModelWord::new(length as u64), ModelSize::new(room));
        let inode = Inode { number, words, length, shortest, room, is_sealed: ModelFlag::new(false) };
        Arc::new(Self { inode: Arc::new(inode), mappings: Mutex::default() })
    }

    pub(crate) fn seal(&self) {
        self.inode.is_sealed.store(true, Ordering::Release);
    }

    /// Makes it shorter, for who has not sealed it yet.
    pub(crate) fn cut(&self, length: usize) {
        self.inode.length.store(length as u64, Ordering::Relaxed);
    }

    pub(crate) fn set_room(&self, room: usize) {
        self.inode.room.store(room, Ordering::Relaxed);
    }

    /// Maps it for reading, as far as that is safe.
    pub(crate) fn open(&self) -> Option<ReaderMemory> {
        let check_seal = || self.inode.is_sealed.load(Ordering::Acquire).then_some(()).ok_or(());
        let size = lasting(LIMIT, check_seal, || Ok(self.inode.length.load(Ordering::Relaxed))).ok()?;
        Some(ReaderMemory { words: self.map(size), identity: (0, self.inode.number) })
    }

    /// Whether everything was unmapped.
    pub(crate) fn is_unmapped(&self) -> bool {
        let mappings = self.mappings.lock().unwrap_or_else(PoisonError::into_inner);
        !mappings.iter().flat_map(|words| words.iter()).any(|word| word.is_mapped.load(Ordering::SeqCst))
    }

    fn map(&self, size: usize) -> Words {
        let is_mapped = Arc::new(AtomicBool::new(true));
        let word = |index| MappedWord { inode: self.inode.clone(), index, is_mapped: is_mapped.clone() };
        let words: Words = (0..size / size_of::<u64>()).map(word).collect();
        self.mappings.lock().unwrap_or_else(PoisonError::into_inner).push(words.clone());
        words
    }

    fn allocate(&self, size: usize) -> io::Result<()> {
        if size > self.inode.room.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::StorageFull.into());
        }

        // The lock of the inode: nobody else changes it meanwhile.
        if size as u64 > self.inode.length.load(Ordering::Relaxed) {
            self.inode.length.store(size as u64, Ordering::Relaxed);
        }

        Ok(())
    }
}

fn unmap(words: &Words) {
    words.iter().for_each(|word| word.is_mapped.store(false, Ordering::SeqCst));
}

impl MappedWord {
    fn touch(&self) -> &ModelWord {
        assert!(self.is_mapped.load(Ordering::SeqCst), "SIGSEGV: word {} is mapped no more", self.index);
        let end = (self.index + 1) * size_of::<u64>();
        assert!(
            end <= self.inode.shortest || end as u64 <= self.inode.length.load(Ordering::Relaxed),
            "SIGBUS: word {} is behind the end of the file",
            self.index
        );
        &self.inode.words[self.index]
    }
}

impl Word for MappedWord {
    fn load(&self, ordering: Ordering) -> u64 {
        self.touch().load(ordering)
    }

    fn store(&self, value: u64, ordering: Ordering) {
        self.touch().store(value, ordering);
    }

    fn add(&self, value: u64) {
        Word::add(self.touch(), value);
    }

    fn compare_exchange(&self, current: u64, new: u64) -> Result<u64, u64> {
        Word::compare_exchange(self.touch(), current, new)
    }
}

/// The number by which others find a file of a process. It can be closed, and lead to another file then.
pub(crate) struct Descriptor {
    files: Vec<Arc<File>>,
    /// Which of them, counted from one; zero if it is closed.
    place: ModelSize,
}

impl Descriptor {
    /// One that is closed yet.
    pub(crate) fn new(files: &[&Arc<File>]) -> Arc<Self> {
        Arc::new(Self { files: files.iter().copied().cloned().collect(), place: ModelSize::new(0) })
    }

    /// What others find there.
    pub(crate) fn open(&self) -> Option<ReaderMemory> {
        self.files.get(self.place.load(Ordering::Acquire).checked_sub(1)?)?.open()
    }
}

/// What [`super::Shared`] is elsewhere.
pub(crate) struct OwnerMemory {
    file: Arc<File>,
    words: Words,
    extent: Extent<ModelWord>,
    descriptor: Arc<Descriptor>,
}

impl OwnerMemory {
    /// As much of one of the files of a descriptor, which is that file's from now on.
    pub(crate) fn new(descriptor: &Arc<Descriptor>, place: usize, size: usize) -> io::Result<Self> {
        let file = descriptor.files[place].clone();
        descriptor.place.store(place + 1, Ordering::Release);
        let words = file.map(LIMIT);
        let memory = Self { file, words, extent: Extent::new(ModelWord::new(0)), descriptor: descriptor.clone() };
        memory.grow(size)?;
        Ok(memory)
    }
}

// SAFETY: the words are in an `Arc` that this has a share of, and never another one.
unsafe impl Memory for OwnerMemory {
    type Word = MappedWord;

    fn words(&self) -> &[MappedWord] {
        &self.words[..self.extent.get() / size_of::<u64>()]
    }
}

impl Grow for OwnerMemory {
    fn grow(&self, size: usize) -> io::Result<()> {
        self.extent.grow(size.min(LIMIT), |size| self.file.allocate(size))
    }
}

impl Drop for OwnerMemory {
    fn drop(&mut self) {
        unmap(&self.words);
        self.descriptor.place.store(0, Ordering::Release);
    }
}

/// What [`super::View`] is elsewhere.
pub(crate) struct ReaderMemory {
    words: Words,
    identity: (u64, u64),
}

// SAFETY: as for `OwnerMemory`.
unsafe impl Memory for ReaderMemory {
    type Word = MappedWord;

    fn words(&self) -> &[MappedWord] {
        &self.words
    }
}

impl Mapping for ReaderMemory {
    fn identity(&self) -> (u64, u64) {
        self.identity
    }
}

impl Drop for ReaderMemory {
    fn drop(&mut self) {
        unmap(&self.words);
    }
}
