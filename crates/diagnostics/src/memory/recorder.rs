//! What was allocated where, and what of it lives.
//!
//! Two tables, in parts with a lock each. Of each stack: what was allocated there, and what of that was freed. Of each block
//! that lives: its stack. Both are bounded, and say so when they are full. Everything here runs while the thread is marked as
//! busy (see `hook`), so none of it comes back here.

use std::{
    collections::HashMap,
    fmt,
    hash::{BuildHasherDefault, Hasher},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock, TryLockError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use super::{Mode, figures::Sum, filter};
use crate::{
    sys::process,
    unwind::{Cache, Modules, UnwindError, Unwinder},
};

/// Frames of a stack, from the innermost on. What is further out is not kept.
const FRAMES: usize = 128;

/// Blocks that are followed at the same time.
pub(super) const BLOCK_LIMIT: usize = 1 << 20;

/// Stacks that are told apart.
pub(super) const STACK_LIMIT: usize = 1 << 16;

/// Parts of each table.
const BLOCK_PARTS: usize = 64;
const STACK_PARTS: usize = 16;

/// For an unwinder of which it is not known which libraries were loaded when it was made.
const NOT_ASKED: u64 = u64::MAX;

/// How many threads can walk their stacks at the same time. Each takes 50 KiB.
const WALKERS: usize = 8;

/// A block that lives.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Live {
    stack: u32,
    window: u32,
    size: usize,
}

/// What was allocated by one stack.
#[derive(Debug)]
struct Entry {
    /// Empty for what came when there were too many.
    addresses: Arc<[u64]>,
    allocated: Sum,
    freed: Sum,
}

#[derive(Debug, Default)]
struct Stacks {
    by_hash: HashMap<u64, u32, Mix>,
    entries: Vec<Entry>,
}

type Blocks = HashMap<usize, Live, Mix>;

/// A copy of what is known of a stack.
#[derive(Clone, Debug)]
pub(super) struct StackCopy {
    pub(super) id: u32,
    pub(super) addresses: Arc<[u64]>,
    pub(super) allocated: Sum,
    pub(super) retained: Sum,
}

/// What did not fit.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Lost {
    /// Blocks that are counted as allocated, and not followed.
    pub(super) blocks: u64,
    /// Their bytes.
    pub(super) bytes: u64,
    /// Whether there were too many stacks to tell all apart.
    pub(super) stacks: bool,
}

pub(super) struct Recorder {
    number: u64,
    mode: Mode,
    begun: (SystemTime, Instant),
    /// With what `process::loads` was when it was made.
    unwinder: RwLock<Option<(Arc<Unwinder>, u64)>>,
    walkers: [Mutex<Option<Cache>>; WALKERS],
    stacks: [Mutex<Stacks>; STACK_PARTS],
    blocks: [Mutex<Blocks>; BLOCK_PARTS],
    number_of_stacks: AtomicUsize,
    number_of_blocks: AtomicUsize,
    /// Raised whenever somebody begins to look, so that what was allocated before can be told apart.
    window: AtomicU64,
    lost_blocks: AtomicU64,
    lost_bytes: AtomicU64,
    lost_stacks: AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing in here panics; if it did, the numbers would be off by one block.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Recorder {
    pub(super) fn new(number: u64, mode: Mode) -> Self {
        Self {
            number,
            mode,
            begun: (SystemTime::now(), Instant::now()),
            unwinder: RwLock::new(None),
            walkers: [const { Mutex::new(None) }; WALKERS],
            stacks: std::array::from_fn(|_| Mutex::default()),
            blocks: std::array::from_fn(|_| Mutex::default()),
            number_of_stacks: AtomicUsize::new(0),
            number_of_blocks: AtomicUsize::new(0),
            window: AtomicU64::new(0),
            lost_blocks: AtomicU64::new(0),
            lost_bytes: AtomicU64::new(0),
            lost_stacks: AtomicBool::new(false),
        }
    }

    pub(super) fn number(&self) -> u64 {
        self.number
    }

    pub(super) fn mode(&self) -> Mode {
        self.mode
    }

    pub(super) fn begun_at(&self) -> SystemTime {
        self.begun.0
    }

    pub(super) fn running_for(&self) -> Duration {
        self.begun.1.elapsed()
    }

    /// The unwinder for the libraries that are loaded now. Stacks that are recorded from now on are walked with it, too.
    pub(super) fn newest_unwinder(&self) -> Result<Arc<Unwinder>, UnwindError> {
        let loads = process::loads();

        if let Some((unwinder, at)) = &*self.unwinder.read().unwrap_or_else(PoisonError::into_inner)
            && *at == loads
        {
            return Ok(unwinder.clone());
        }

        let unwinder = unwinder()?;
        *self.unwinder.write().unwrap_or_else(PoisonError::into_inner) = Some((unwinder.clone(), loads));
        Ok(unwinder)
    }

    /// The unwinder, which is made now if it was not needed before.
    fn unwinder(&self) -> Option<Arc<Unwinder>> {
        if let Some((unwinder, _)) = &*self.unwinder.read().unwrap_or_else(PoisonError::into_inner) {
            return Some(unwinder.clone());
        }

        let mut place = self.unwinder.write().unwrap_or_else(PoisonError::into_inner);

        if place.is_none() {
            // Which libraries it knows is not asked here: the loader may be in the middle of something.
            *place = unwinder().ok().map(|unwinder| (unwinder, NOT_ASKED));
        }

        place.as_ref().map(|(unwinder, _)| unwinder.clone())
    }

    /// A block was allocated by whoever called.
    pub(super) fn allocated(&self, thread: usize, address: usize, size: usize) {
        let mut addresses = [0; FRAMES];
        let depth = self.walk(thread, &mut addresses);
        let sum = Sum::of(size, self.mode.probability(size));
        let (stack, window) = self.add(&addresses[..depth], &sum);
        let live = Live { stack, window, size };

        if self.number_of_blocks.load(Ordering::Relaxed) >= BLOCK_LIMIT || !self.insert(address, live) {
            self.lost_blocks.fetch_add(sum.count as u64, Ordering::Relaxed);
            self.lost_bytes.fetch_add(sum.bytes as u64, Ordering::Relaxed);
            self.settle(&live);
        }
    }

    pub(super) fn freed(&self, address: usize) {
        if let Some(live) = self.take(address) {
            self.settle(&live);
        }
    }

    /// Forgets a block, without counting it as freed.
    pub(super) fn take(&self, address: usize) -> Option<Live> {
        let live = lock(self.blocks_of(address)).remove(&address)?;
        self.number_of_blocks.fetch_sub(1, Ordering::Relaxed);
        filter::remove(address);
        Some(live)
    }

    pub(super) fn put_back(&self, address: usize, live: Live) {
        if !self.insert(address, live) {
            self.settle(&live);
        }
    }

    /// Counts a block as freed that was forgotten.
    pub(super) fn settle(&self, live: &Live) {
        let (part, index) = split(live.stack);
        let sum = Sum::of(live.size, self.mode.probability(live.size));

        if let Some(entry) = lock(&self.stacks[part]).entries.get_mut(index) {
            entry.freed.add(&sum);
        }
    }

    fn walk(&self, thread: usize, addresses: &mut [u64]) -> usize {
        let Some(unwinder) = self.unwinder() else { return 0 };
        let mut walker = (0..WALKERS)
            .find_map(|index| match self.walkers[(thread + index) % WALKERS].try_lock() {
                Ok(walker) => Some(walker),
                Err(TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
                Err(TryLockError::WouldBlock) => None,
            })
            .unwrap_or_else(|| lock(&self.walkers[thread % WALKERS]));
        unwinder.walk_here(walker.get_or_insert_with(Cache::new), addresses)
    }

    /// Adds to what a stack has allocated. Returns which one it is, and the window that this falls into.
    fn add(&self, addresses: &[u64], sum: &Sum) -> (u32, u32) {
        let mut hash = hash(addresses);
        let part = hash as usize % STACK_PARTS;
        let mut stacks = lock(&self.stacks[part]);
        let index = loop {
            match stacks.by_hash.get(&hash) {
                Some(&index) if *stacks.entries[index as usize].addresses == *addresses => break index,
                // Another one with the same hash: this one is known by the next number.
                Some(_) => hash = hash.wrapping_add(1),
                None => break self.new_stack(&mut stacks, hash, addresses),
            }
        };

        if let Some(entry) = stacks.entries.get_mut(index as usize) {
            entry.allocated.add(sum);
        }

        // Read while the part is locked: whoever raises it has copied what was allocated before, or will not find this.
        (join(part, index), self.window.load(Ordering::Relaxed) as u32)
    }

    fn new_stack(&self, stacks: &mut Stacks, hash: u64, addresses: &[u64]) -> u32 {
        // The first of each part is for those that do not fit.
        if stacks.entries.is_empty() && stacks.entries.try_reserve(1).is_ok() {
            stacks.entries.push(Entry { addresses: Arc::default(), allocated: Sum::default(), freed: Sum::default() });
        }

        let fits = self.number_of_stacks.load(Ordering::Relaxed) < STACK_LIMIT
            && stacks.entries.try_reserve(1).is_ok()
            && stacks.by_hash.try_reserve(1).is_ok();

        if !fits {
            self.lost_stacks.store(true, Ordering::Relaxed);
            return 0;
        }

        let index = stacks.entries.len() as u32;
        self.number_of_stacks.fetch_add(1, Ordering::Relaxed);
        stacks.by_hash.insert(hash, index);
        stacks.entries.push(Entry { addresses: addresses.into(), allocated: Sum::default(), freed: Sum::default() });
        index
    }

    fn insert(&self, address: usize, live: Live) -> bool {
        let mut blocks = lock(self.blocks_of(address));

        if blocks.try_reserve(1).is_err() {
            return false;
        }

        let before = blocks.insert(address, live);
        drop(blocks);

        match before {
            // It was given back without our being told, while this thread was busy.
            Some(before) => self.settle(&before),
            None => {
                self.number_of_blocks.fetch_add(1, Ordering::Relaxed);
                filter::add(address);
            }
        }

        true
    }

    fn blocks_of(&self, address: usize) -> &Mutex<Blocks> {
        &self.blocks[mix(address as u64) as usize % BLOCK_PARTS]
    }

    /// Begins a window: what is allocated from now on can be told apart from what was before. Returns its number, and what
    /// was allocated before.
    pub(super) fn open_window(&self) -> (u32, HashMap<u32, Sum>) {
        let mut before = HashMap::new();
        self.visit(|stack| {
            before.insert(stack.id, stack.allocated);
        });
        // After that, so that what comes in between counts as allocated in the window, and not as retained: never the other
        // way round.
        let window = self.window.fetch_add(1, Ordering::SeqCst) + 1;
        (window as u32, before)
    }

    /// What lives of that which was allocated since a window began, by stack.
    pub(super) fn retained_since(&self, window: u32) -> HashMap<u32, Sum> {
        let mut retained: HashMap<u32, Sum> = HashMap::new();

        for blocks in &self.blocks {
            for live in lock(blocks).values().filter(|live| live.window >= window) {
                retained.entry(live.stack).or_default().add(&Sum::of(live.size, self.mode.probability(live.size)));
            }
        }

        retained
    }

    /// Shows all stacks. No lock is held meanwhile.
    pub(super) fn visit(&self, mut visitor: impl FnMut(StackCopy)) {
        let mut position = Position::default();

        while let Some(copies) = self.copy(&mut position) {
            copies.into_iter().for_each(&mut visitor);
        }
    }

    /// A copy of the next few stacks from there on. `None` after the last ones.
    pub(super) fn copy(&self, position: &mut Position) -> Option<Vec<StackCopy>> {
        const AT_ONCE: usize = 64;

        while position.part < STACK_PARTS {
            let stacks = lock(&self.stacks[position.part]);
            let entries = stacks.entries.iter().enumerate().skip(position.index).take(AT_ONCE);
            let copies: Vec<StackCopy> = entries
                .map(|(index, entry)| StackCopy {
                    id: join(position.part, index as u32),
                    addresses: entry.addresses.clone(),
                    allocated: entry.allocated,
                    retained: entry.allocated.without(&entry.freed),
                })
                .collect();

            if !copies.is_empty() {
                position.index += copies.len();
                return Some(copies);
            }

            *position = Position { part: position.part + 1, index: 0 };
        }

        None
    }

    pub(super) fn lost(&self) -> Lost {
        Lost {
            blocks: self.lost_blocks.load(Ordering::Relaxed),
            bytes: self.lost_bytes.load(Ordering::Relaxed),
            stacks: self.lost_stacks.load(Ordering::Relaxed),
        }
    }
}

impl fmt::Debug for Recorder {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Recorder")
            .field("number", &self.number)
            .field("mode", &self.mode)
            .finish_non_exhaustive()
    }
}

/// How far one has got with reading the stacks.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Position {
    part: usize,
    index: usize,
}

/// An unwinder of our own making. The one that is shared has a lock, and whoever holds it may be the one that allocates.
fn unwinder() -> Result<Arc<Unwinder>, UnwindError> {
    Modules::of_this_process().map(|modules| Arc::new(Unwinder::new(modules)))
}

fn join(part: usize, index: u32) -> u32 {
    index * STACK_PARTS as u32 + part as u32
}

fn split(stack: u32) -> (usize, usize) {
    (stack as usize % STACK_PARTS, stack as usize / STACK_PARTS)
}

fn mix(value: u64) -> u64 {
    let value = value.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    value ^ value >> 32
}

fn hash(addresses: &[u64]) -> u64 {
    addresses.iter().fold(addresses.len() as u64, |hash, &address| mix(hash.rotate_left(5) ^ address))
}

/// For keys that are numbers. Nobody outside can choose them.
#[derive(Default)]
pub(super) struct Mixer(u64);

type Mix = BuildHasherDefault<Mixer>;

impl Hasher for Mixer {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(byte.into());
        }
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = mix(self.0 ^ value);
    }

    fn write_usize(&mut self, value: usize) {
        self.write_u64(value as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn recorder(mode: Mode) -> Recorder {
        Recorder::new(u64::MAX, mode)
    }

    fn all(recorder: &Recorder) -> Vec<StackCopy> {
        let mut all = Vec::new();
        recorder.visit(|stack| all.push(stack));
        all.retain(|stack| stack.allocated.samples > 0);
        all
    }

    #[test]
    fn what_was_freed_is_not_retained() {
        let recorder = recorder(Mode::Full);
        let block = |address, stack: &[u64], size| {
            let (stack, window) = recorder.add(stack, &Sum::of(size, 1.0));
            assert!(recorder.insert(address, Live { stack, window, size }));
        };
        block(0x10, &[1, 2], 100);
        block(0x20, &[1, 2], 50);
        block(0x30, &[3], 7);
        recorder.freed(0x20);
        recorder.freed(0x40);

        let stacks = all(&recorder);
        assert_eq!(stacks.len(), 2);
        let stack = stacks.iter().find(|stack| *stack.addresses == [1, 2]).unwrap();
        assert_eq!((stack.allocated.samples, stack.allocated.bytes), (2, 150.0));
        assert_eq!((stack.retained.samples, stack.retained.bytes), (1, 100.0));

        // One that nobody has told to be free again, and one that moves, or does not.
        block(0x10, &[3], 9);
        let live = recorder.take(0x10).unwrap();
        recorder.put_back(0x10, live);
        let live = recorder.take(0x30).unwrap();
        recorder.settle(&live);
        let stacks = all(&recorder);
        let retained: f64 = stacks.iter().map(|stack| stack.retained.bytes).sum();
        assert_eq!(retained, 9.0);
    }

    #[test]
    fn a_window_has_what_came_after_it_began() {
        let recorder = recorder(Mode::Full);
        let block = |address, size| {
            let (stack, window) = recorder.add(&[1], &Sum::of(size, 1.0));
            assert!(recorder.insert(address, Live { stack, window, size }));
        };
        block(0x10, 1000);
        let (window, before) = recorder.open_window();
        block(0x20, 10);
        block(0x30, 1);
        recorder.freed(0x30);
        recorder.freed(0x10);
        assert_eq!(before.values().map(|sum| sum.bytes).sum::<f64>(), 1000.0);
        let retained = recorder.retained_since(window);
        assert_eq!(retained.values().map(|sum| sum.bytes).collect::<Vec<_>>(), [10.0]);
    }

    #[test]
    fn the_tables_are_bounded() {
        let recorder = recorder(Mode::Full);

        for stack in 0..STACK_LIMIT as u64 + 1000 {
            recorder.add(&[stack], &Sum::of(1, 1.0));
        }

        assert!(recorder.lost().stacks);
        let stacks = all(&recorder);
        assert!(stacks.len() <= STACK_LIMIT + STACK_PARTS);
        assert_eq!(stacks.iter().map(|stack| stack.allocated.samples).sum::<u64>(), STACK_LIMIT as u64 + 1000);
        let rest: u64 =
            stacks.iter().filter(|stack| stack.addresses.is_empty()).map(|stack| stack.allocated.samples).sum();
        assert!(rest >= 1000);

        recorder.number_of_blocks.store(BLOCK_LIMIT, Ordering::Relaxed);
        recorder.allocated(1, 0x10, 5);
        assert_eq!((recorder.lost().blocks, recorder.lost().bytes), (1, 5));
        assert!(recorder.take(0x10).is_none());
    }
}
