//! All tasks that live.

use std::{
    borrow::Cow,
    cell::Cell,
    collections::HashMap,
    fmt,
    hash::{BuildHasherDefault, Hasher},
    panic::Location,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use super::{
    clock,
    record::{self, Parent, Record},
};

/// Among how many locks the tasks are divided.
pub(super) const SHARDS: usize = 64;

/// So many ids are taken at once by a thread, and go to the same shard: tasks that are made by different threads meet
/// neither at a counter nor at a lock.
const IDS: u64 = 64;

/// A shard with room for fewer keeps it when its tasks end.
const ROOM_KEPT: usize = 64;

/// The tasks of a shard.
struct Tasks {
    /// With their places in the list.
    by_id: HashMap<u64, (usize, Arc<Record>), BuildHasherDefault<Spread>>,
    list: Vec<Entry>,
}

/// A task, as it is listed for other processes, which cannot make sense of the table.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) id: u64,
    /// Where its [`Record`] is.
    pub(super) address: u64,
}

/// Where the list of a shard is.
#[repr(C)]
#[derive(Default)]
pub(super) struct Listed {
    pub(super) begin: AtomicU64,
    pub(super) count: AtomicU64,
}

static REGISTRY: Registry = Registry::new();

struct Registry {
    shards: [Shard; SHARDS],
    next_id: AtomicU64,
}

/// On a cache line of its own, so that taking one lock does not slow another one down.
#[repr(align(64))]
pub(super) struct Shard {
    tasks: Mutex<Tasks>,
    /// Read by other processes, see [`outside`](super::outside).
    pub(super) listed: Listed,
}

impl Registry {
    const fn new() -> Self {
        Self { shards: [const { Shard::new() }; SHARDS], next_id: AtomicU64::new(IDS) }
    }

    fn shard(&self, id: u64) -> &Shard {
        &self.shards[(id / IDS) as usize % SHARDS]
    }

    /// An id that no task has had. Zero is none.
    fn id(&self) -> u64 {
        thread_local! {
            static NEXT: Cell<u64> = const { Cell::new(0) };
        }

        let id = match NEXT.get() {
            next if next.is_multiple_of(IDS) => self.next_id.fetch_add(IDS, Relaxed),
            next => next,
        };
        NEXT.set(id + 1);
        id
    }
}

impl Shard {
    const fn new() -> Self {
        let by_id = HashMap::with_hasher(BuildHasherDefault::new());
        let listed = Listed { begin: AtomicU64::new(0), count: AtomicU64::new(0) };
        Self { tasks: Mutex::new(Tasks { by_id, list: Vec::new() }), listed }
    }

    fn lock(&self) -> MutexGuard<'_, Tasks> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, id: u64) -> Option<Arc<Record>> {
        self.lock().by_id.get(&id).map(|(_, record)| record.clone())
    }

    fn insert(&self, record: Arc<Record>) {
        let mut tasks = self.lock();
        let Tasks { by_id, list } = &mut *tasks;
        list.push(Entry { id: record.id, address: Arc::as_ptr(&record) as u64 });
        by_id.insert(record.id, (list.len() - 1, record));
        self.tell(list);
    }

    fn remove(&self, id: u64) -> Option<Arc<Record>> {
        let mut tasks = self.lock();
        let Tasks { by_id, list } = &mut *tasks;
        let (place, record) = by_id.remove(&id)?;
        list.swap_remove(place);
        record.told.listed.store(0, Relaxed);

        if let Some(moved) = list.get(place).and_then(|entry| by_id.get_mut(&entry.id)) {
            moved.0 = place;
        }

        // What was once a crowd must not be remembered by its room.
        if by_id.capacity() > ROOM_KEPT && by_id.len() < by_id.capacity() / 4 {
            let room = by_id.len() * 2;
            by_id.shrink_to(room);
            list.shrink_to(room);
        }

        self.tell(list);
        Some(record)
    }

    fn tell(&self, list: &[Entry]) {
        self.listed.begin.store(list.as_ptr() as u64, Relaxed);
        self.listed.count.store(list.len() as u64, Relaxed);
    }
}

/// A task's place in the registry, which it has for as long as this lives.
pub(super) struct Registration(Arc<Record>);

impl Registration {
    /// Registers a task below the one that is being polled on this thread.
    pub(super) fn new(name: Cow<'static, str>, place: &'static Location<'static>, spawned: bool) -> Self {
        let parent = record::current().and_then(|id| {
            let name = REGISTRY.shard(id).get(id)?.name.clone();
            Some(Parent { id, name })
        });
        let id = REGISTRY.id();
        clock::begin();
        let record = Arc::new(Record::new(id, name, place, parent, spawned));
        REGISTRY.shard(id).insert(record.clone());
        Self(record)
    }

    #[inline]
    pub(super) fn record(&self) -> &Arc<Record> {
        &self.0
    }

    /// Takes it out of the registry, before the end of this.
    pub(super) fn finish(&self) {
        if REGISTRY.shard(self.0.id).remove(self.0.id).is_some() {
            self.0.finish();
        }
    }
}

impl fmt::Debug for Registration {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Registration").field("id", &self.0.id).field("name", &self.0.name).finish()
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.finish();
    }
}

/// All tasks at this moment, the oldest first. No lock is held for longer than it takes to go through one of the shards, and
/// none that a poll would need.
pub(super) fn all() -> Vec<Arc<Record>> {
    let mut all = Vec::new();

    for shard in &REGISTRY.shards {
        all.extend(shard.lock().by_id.values().map(|(_, record)| record.clone()));
    }

    all.sort_unstable_by_key(|record| (record.created, record.id));
    all
}

/// Where the shards are, which is at the same place of the file in every process that runs it.
#[cfg(feature = "stacks")]
pub(super) fn address() -> u64 {
    &raw const REGISTRY.shards as u64
}

/// Ids need no protection against those who choose them, only to be spread.
#[derive(Default)]
struct Spread(u64);

impl Hasher for Spread {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u64(self.0 ^ u64::from(byte));
        }
    }

    fn write_u64(&mut self, number: u64) {
        // 2^64 divided by the golden ratio: the upper bits of neighbours are far from each other.
        let spread = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = spread ^ spread >> 32;
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn ids_are_new_on_every_thread() {
        let threads: Vec<_> =
            (0..4).map(|_| thread::spawn(|| (0..1000).map(|_| REGISTRY.id()).collect::<Vec<_>>())).collect();
        let mut ids: Vec<u64> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), 4000);
        assert!(!ids.contains(&0));
    }

    #[test]
    fn what_ended_leaves_no_room_behind() {
        let place = Location::caller();
        let crowd: Vec<_> = (0..20_000).map(|_| Registration::new("one of a crowd".into(), place, false)).collect();
        assert!(all().iter().filter(|record| record.name == "one of a crowd").count() == crowd.len());
        drop(crowd);
        assert!(!all().iter().any(|record| record.name == "one of a crowd"));
        let room = |shard: &Shard| {
            let tasks = shard.lock();
            tasks.by_id.capacity() + tasks.list.capacity()
        };
        let room: usize = REGISTRY.shards.iter().map(room).sum();
        assert!(room <= SHARDS * ROOM_KEPT * 8, "{room}");
    }
}
