//! What is known of one task, written by whoever polls it, and read by dumps.

use std::{
    borrow::Cow,
    cell::Cell,
    fmt,
    panic::Location,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    task::{Wake, Waker},
};

use tokio::{runtime::Handle, task::Id};

use super::clock;
#[cfg(feature = "stacks")]
use super::stacks::{Walker, Wish};

/// One task that lives.
pub(super) struct Record {
    pub(super) counters: Counters,
    pub(super) told: Told,
    pub(super) id: u64,
    pub(super) name: Cow<'static, str>,
    pub(super) place: &'static Location<'static>,
    pub(super) parent: Option<Parent>,
    pub(super) spawned: bool,
    pub(super) created: u64,
    /// Known from the first poll on, or once it was spawned.
    home: OnceLock<Home>,
    outside: Mutex<Outside>,
}

/// What other processes are told of a task, see [`outside`](super::outside): in numbers, since they cannot follow what the
/// compiler has made of the rest.
#[repr(C)]
pub(super) struct Told {
    pub(super) name: Text,
    pub(super) file: Text,
    pub(super) line: u64,
    /// Zero if there is none.
    pub(super) parent: u64,
    pub(super) parent_name: Text,
    pub(super) spawned: u64,
    /// Zero once it is in no list any more: whoever reads it may have found it there before.
    pub(super) listed: AtomicU64,
}

/// Where a text is.
#[repr(C)]
pub(super) struct Text {
    pub(super) address: u64,
    pub(super) length: u64,
}

impl Text {
    fn of(text: &str) -> Self {
        Self { address: text.as_ptr() as u64, length: text.len() as u64 }
    }
}

/// What others than those who poll a task may ask of it. It is locked when something is asked, and when somebody else begins
/// to poll it, but not by polls as such.
#[derive(Default)]
struct Outside {
    /// Wakes whoever polls it.
    waker: Option<Waker>,
    #[cfg(feature = "stacks")]
    wishes: Vec<Wish>,
    #[cfg(feature = "stacks")]
    ended: bool,
}

/// What a poll reads and writes: one cache line.
///
/// Only one thread at a time polls a task, so these are read and stored, and never need an atomic addition. A dump that
/// reads in the middle of it may see one of them from before a poll and another from after it, which does not matter.
#[derive(Default)]
#[repr(align(64))]
pub(super) struct Counters {
    /// When the last poll began; zero if there was none.
    pub(super) started: AtomicU64,
    /// When the last poll ended. It is being polled if that was before it started.
    pub(super) ended: AtomicU64,
    pub(super) polls: AtomicU64,
    /// The time of all polls that have ended.
    pub(super) busy: AtomicU64,
    pub(super) longest: AtomicU64,
    /// When it was woken for the first time since the last poll began.
    pub(super) woken: AtomicU64,
    /// The time between being woken and being polled, of all polls.
    pub(super) delay: AtomicU64,
    /// The thread that polled it last.
    pub(super) thread: AtomicU32,
    #[cfg(feature = "stacks")]
    wanted: AtomicU32,
}

/// The task that made another one.
#[derive(Clone, Debug)]
pub(super) struct Parent {
    pub(super) id: u64,
    pub(super) name: Cow<'static, str>,
}

/// Who polls a task.
pub(super) struct Home {
    pub(super) runtime: Option<Handle>,
    pub(super) task: Option<Id>,
}

thread_local! {
    static CURRENT: Cell<u64> = const { Cell::new(0) };
    static THREAD: Cell<u32> = const { Cell::new(0) };
}

/// The task that is being polled on this thread, if one is.
pub(super) fn current() -> Option<u64> {
    Some(CURRENT.get()).filter(|&id| id != 0)
}

/// The id of this thread, as the kernel knows it.
#[inline]
fn thread_here() -> u32 {
    match THREAD.get() {
        0 => {
            let id = rustix::thread::gettid().as_raw_nonzero().get() as u32;
            THREAD.set(id);
            id
        }
        id => id,
    }
}

impl Record {
    pub(super) fn new(
        id: u64,
        name: Cow<'static, str>,
        place: &'static Location<'static>,
        parent: Option<Parent>,
        spawned: bool,
    ) -> Self {
        let told = Told {
            name: Text::of(&name),
            file: Text::of(place.file()),
            line: place.line().into(),
            parent: parent.as_ref().map_or(0, |parent| parent.id),
            parent_name: Text::of(parent.as_ref().map_or("", |parent| &parent.name)),
            spawned: spawned.into(),
            listed: AtomicU64::new(1),
        };
        Self {
            counters: Counters::default(),
            told,
            id,
            name,
            place,
            parent,
            spawned,
            created: clock::now(),
            home: OnceLock::new(),
            outside: Mutex::default(),
        }
    }

    pub(super) fn home(&self) -> Option<&Home> {
        self.home.get()
    }

    /// Says where it is polled, unless that is known.
    pub(super) fn settle(&self, runtime: impl FnOnce() -> Option<Handle>, task: impl FnOnce() -> Option<Id>) {
        self.home.get_or_init(|| Home { runtime: runtime(), task: task() });
    }

    #[inline]
    pub(super) fn is_settled(&self) -> bool {
        self.home.get().is_some()
    }

    fn outside(&self) -> MutexGuard<'_, Outside> {
        self.outside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets whoever polled it: that holds the task, which holds this.
    pub(super) fn finish(&self) {
        #[cfg(feature = "stacks")]
        let last = Outside { ended: true, ..Outside::default() };
        #[cfg(not(feature = "stacks"))]
        let last = Outside::default();
        let former = std::mem::replace(&mut *self.outside(), last);
        // Not with the lock: what it holds may be dropped with it.
        drop(former);
    }

    /// Begins a poll, which ends when the guard is dropped.
    #[inline]
    pub(super) fn begin_poll(&self) -> Poll<'_> {
        let counters = &self.counters;
        let previous = counters.started.load(Relaxed);
        let woken = counters.woken.load(Relaxed);
        // Later than the last end, or a poll within one tick of the clock would not be seen to have begun.
        let started = clock::now().max(counters.ended.load(Relaxed) + 1);

        if woken >= previous && woken != 0 {
            add(&counters.delay, started.saturating_sub(woken));
        }

        counters.thread.store(thread_here(), Relaxed);
        counters.started.store(started, Relaxed);
        Poll { counters, started, outer: CURRENT.replace(self.id) }
    }

    /// Notes that it is to be polled.
    #[inline]
    fn note_wake(&self) {
        let counters = &self.counters;
        let woken = counters.woken.load(Relaxed);

        // Once is enough until it is polled: what counts is for how long it has been waiting.
        if woken == 0 || woken < counters.started.load(Relaxed) {
            counters.woken.store(clock::now(), Relaxed);
        }
    }
}

#[cfg(feature = "stacks")]
impl Record {
    /// Asks for the stacks of its next poll, and has it polled.
    pub(super) fn ask(&self, wish: Wish) {
        let mut outside = self.outside();

        if outside.ended {
            return;
        }

        outside.wishes.push(wish);
        self.counters.wanted.store(1, Relaxed);
        let waker = outside.waker.clone();
        drop(outside);

        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Takes back what was asked for.
    pub(super) fn withdraw(&self, source: &Arc<Walker>) {
        let mut outside = self.outside();
        outside.wishes.retain(|wish| !wish.is_of(source));
        self.counters.wanted.store(u32::from(!outside.wishes.is_empty()), Relaxed);
    }

    /// Whether something is asked of the poll that begins now.
    #[inline]
    pub(super) fn are_stacks_wanted(&self) -> bool {
        self.counters.wanted.load(Relaxed) != 0
    }

    /// Takes what is asked of the poll that begins now.
    pub(super) fn take_wishes(&self) -> Vec<Wish> {
        let mut outside = self.outside();
        self.counters.wanted.store(0, Relaxed);
        std::mem::take(&mut outside.wishes)
    }
}

fn add(counter: &AtomicU64, amount: u64) {
    counter.store(counter.load(Relaxed) + amount, Relaxed);
}

/// A poll that is under way.
pub(super) struct Poll<'a> {
    counters: &'a Counters,
    started: u64,
    /// The task that was being polled on this thread before.
    outer: u64,
}

impl Drop for Poll<'_> {
    #[inline]
    fn drop(&mut self) {
        let counters = self.counters;
        let ended = clock::now().max(self.started);
        let time = ended - self.started;
        add(&counters.busy, time);
        add(&counters.polls, 1);

        if time > counters.longest.load(Relaxed) {
            counters.longest.store(time, Relaxed);
        }

        counters.ended.store(ended, Relaxed);
        CURRENT.set(self.outer);
    }
}

/// The waker that what a task waits for gets: it notes the time, and wakes whoever polls the task.
pub(super) struct Noting {
    record: Arc<Record>,
    outer: Waker,
}

impl Noting {
    pub(super) fn new(record: &Arc<Record>, outer: &Waker) -> Arc<Self> {
        let former = record.outside().waker.replace(outer.clone());
        drop(former);
        Arc::new(Self { record: record.clone(), outer: outer.clone() })
    }

    /// Wakes whoever polls the task, and notes when.
    pub(super) fn note_and_wake(&self) {
        self.record.note_wake();
        self.outer.wake_by_ref();
    }

    /// Whether it wakes the same one.
    #[inline]
    pub(super) fn is_for(&self, outer: &Waker) -> bool {
        self.outer.will_wake(outer)
    }
}

impl fmt::Debug for Noting {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Noting").field("outer", &self.outer).finish_non_exhaustive()
    }
}

impl Wake for Noting {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.note_and_wake();
    }
}
