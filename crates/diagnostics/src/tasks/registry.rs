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
const SHARDS: usize = 64;

/// So many ids are taken at once by a thread, and go to the same shard: tasks that are made by different threads meet
/// neither at a counter nor at a lock.
const IDS: u64 = 64;

/// A shard with room for fewer keeps it when its tasks end.
const ROOM_KEPT: usize = 64;

type Tasks = HashMap<u64, Arc<Record>, BuildHasherDefault<Spread>>;

static REGISTRY: Registry = Registry::new();

struct Registry {
    shards: [Shard; SHARDS],
    next_id: AtomicU64,
}

/// On a cache line of its own, so that taking one lock does not slow another one down.
#[repr(align(64))]
struct Shard(Mutex<Tasks>);

impl Registry {
    const fn new() -> Self {
        Self {
            shards: [const { Shard(Mutex::new(HashMap::with_hasher(BuildHasherDefault::new()))) }; SHARDS],
            next_id: AtomicU64::new(IDS),
        }
    }

    fn shard(&self, id: u64) -> MutexGuard<'_, Tasks> {
        let shard = &self.shards[(id / IDS) as usize % SHARDS];
        shard.0.lock().unwrap_or_else(PoisonError::into_inner)
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

/// A task's place in the registry, which it has for as long as this lives.
pub(super) struct Registration(Arc<Record>);

impl Registration {
    /// Registers a task below the one that is being polled on this thread.
    pub(super) fn new(name: Cow<'static, str>, place: &'static Location<'static>, spawned: bool) -> Self {
        let parent = record::current().and_then(|id| {
            let name = REGISTRY.shard(id).get(&id)?.name.clone();
            Some(Parent { id, name })
        });
        let id = REGISTRY.id();
        clock::begin();
        let record = Arc::new(Record::new(id, name, place, parent, spawned));
        REGISTRY.shard(id).insert(id, record.clone());
        Self(record)
    }

    #[inline]
    pub(super) fn record(&self) -> &Arc<Record> {
        &self.0
    }

    /// Takes it out of the registry, before the end of this.
    pub(super) fn finish(&self) {
        let mut tasks = REGISTRY.shard(self.0.id);
        let removed = tasks.remove(&self.0.id);

        // What was once a crowd must not be remembered by its room.
        if tasks.capacity() > ROOM_KEPT && tasks.len() < tasks.capacity() / 4 {
            let room = tasks.len() * 2;
            tasks.shrink_to(room);
        }

        drop(tasks);

        if removed.is_some() {
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
        let tasks = shard.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.extend(tasks.values().cloned());
    }

    all.sort_unstable_by_key(|record| (record.created, record.id));
    all
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
        let room: usize = REGISTRY.shards.iter().map(|shard| shard.0.lock().unwrap().capacity()).sum();
        assert!(room <= SHARDS * ROOM_KEPT * 4, "{room}");
    }
}
