//! What the allocator calls, and how little of it happens most of the time.
//!
//! Everything here runs in the middle of an allocation, on any thread, at any time from before `main` to after the last
//! destructor of a thread. So: what belongs to a thread is plain numbers, without a destructor, and there from the beginning.
//! What is allocated here goes through the same allocator, and is not looked at, because the thread is marked as busy.

use std::{
    cell::Cell,
    sync::{
        OnceLock,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use super::{
    Mode, control, counters, filter,
    recorder::{Live, Recorder},
    totals::AllocatorTotals,
};
use crate::sys::published::Published;

/// Nothing is recorded: the value for which calls go straight through.
pub(crate) const OFF: u64 = 0;

/// Nothing was allocated so far, so nothing was decided either.
pub(crate) const UNKNOWN: u64 = 1;

/// Allocations are recorded, each at random.
pub(super) const SAMPLED: u64 = 2;

/// All allocations are recorded.
pub(super) const FULL: u64 = 4;

/// Allocations are counted.
pub(super) const COUNTED: u64 = 8;

/// Where the number of the recording begins, in the same word.
pub(super) const RECORDING: u32 = 8;

/// What is to be done. The one thing that is looked at while nothing is.
pub(crate) static STATE: AtomicU64 = AtomicU64::new(UNKNOWN);

/// Who records.
pub(super) static RECORDER: Published<Recorder> = Published::new();

/// Whether this allocator is in use.
static INSTALLED: AtomicBool = AtomicBool::new(false);

/// Who knows what the inner allocator holds.
static TOTALS: OnceLock<fn() -> Option<AllocatorTotals>> = OnceLock::new();

/// What belongs to a thread.
struct Local {
    /// Whether it is in the middle of recording something, or of reading what was recorded: nothing that it does is looked at.
    busy: Cell<bool>,
    /// How often it was asked not to record what it allocates.
    paused: Cell<u32>,
    /// Bytes until the next allocation that is recorded.
    left: Cell<i64>,
    /// The [`STATE`] in which an allocation smaller than `left` has nothing to do but to be taken from it. Zero while it has: while
    /// this thread is busy or paused, or if allocations are counted as well.
    armed: Cell<u64>,
    /// The recording that `left` belongs to.
    recording: Cell<u64>,
    random: Cell<u64>,
    /// Its number, from one on. Zero as long as it has none.
    number: Cell<usize>,
}

thread_local! {
    static LOCAL: Local = const {
        Local {
            busy: Cell::new(false),
            paused: Cell::new(0),
            left: Cell::new(0),
            armed: Cell::new(OFF),
            recording: Cell::new(0),
            random: Cell::new(0),
            number: Cell::new(0),
        }
    };
}

/// Whether this allocator is the one of the program.
pub(super) fn is_installed() -> bool {
    INSTALLED.load(Ordering::SeqCst)
}

/// What the inner allocator holds, if that is known.
pub(super) fn allocator_totals() -> Option<AllocatorTotals> {
    TOTALS.get().and_then(|totals| totals())
}

/// Decides what is to be done from now on.
#[cold]
pub(crate) fn first_allocation(from_start: Option<Mode>, totals: Option<fn() -> Option<AllocatorTotals>>) {
    if STATE.compare_exchange(UNKNOWN, OFF, Ordering::SeqCst, Ordering::SeqCst).is_err() {
        return;
    }

    INSTALLED.store(true, Ordering::SeqCst);

    if let Some(totals) = totals {
        let _ = TOTALS.set(totals);
    }

    LOCAL.with(|local| local.while_busy(|| control::from_start(from_start)));
}

/// Whether anything is to be done beside what the inner allocator does.
#[inline(always)]
pub(crate) fn is_on() -> bool {
    STATE.load(Ordering::Relaxed) != OFF
}

/// Whether nothing is to be recorded of an allocation that is about to be made. It is taken account of if so, and only then.
#[inline(always)]
pub(crate) fn passes(state: u64, size: usize) -> bool {
    LOCAL.with(|local| {
        if local.armed.get() != state {
            return false;
        }

        // No block has more bytes than fit into this.
        let left = local.left.get() - size as i64;

        if left <= 0 {
            return false;
        }

        local.left.set(left);
        true
    })
}

/// Whether there is nothing to be done about it that a block is freed.
#[inline(always)]
pub(crate) fn is_unknown(state: u64, address: usize) -> bool {
    state & COUNTED == 0 && !filter::may_have(address)
}

#[inline(never)]
pub(crate) fn allocated(state: u64, address: usize, size: usize) {
    LOCAL.with(|local| {
        if local.busy.get() || local.paused.get() > 0 {
            return;
        }

        if state & COUNTED != 0 {
            counters::allocated(local.number(), size);
        }

        if state & SAMPLED != 0 {
            let left = local.left.get() - size as i64;

            if left > 0 && local.recording.get() == state >> RECORDING {
                local.left.set(left);

                if state & COUNTED == 0 {
                    local.armed.set(state);
                }

                return;
            }
        } else if state & FULL == 0 {
            return;
        }

        local.record(state, address, size);
    });
}

#[inline(never)]
pub(crate) fn freed(state: u64, address: usize, size: usize) {
    LOCAL.with(|local| {
        if local.busy.get() {
            return;
        }

        if state & COUNTED != 0 && local.paused.get() == 0 {
            counters::freed(local.number(), size);
        }

        if filter::may_have(address) {
            local.while_busy(|| {
                if let Some(recorder) = RECORDER.enter(local.number()) {
                    recorder.freed(address);
                }
            });
        }
    });
}

/// Forgets a block that may be about to move.
pub(crate) fn take(address: usize) -> Option<Live> {
    LOCAL.with(|local| {
        if local.busy.get() || !filter::may_have(address) {
            return None;
        }

        local.while_busy(|| RECORDER.enter(local.number())?.take(address))
    })
}

/// Remembers a block that has not moved after all.
#[cold]
pub(crate) fn put_back(address: usize, taken: Option<Live>) {
    let Some(live) = taken else { return };
    LOCAL.with(|local| {
        local.while_busy(|| {
            if let Some(recorder) = RECORDER.enter(local.number()) {
                recorder.put_back(address, live);
            }
        })
    });
}

/// The block that was taken is gone.
pub(crate) fn freed_taken(state: u64, taken: Option<Live>, size: usize) {
    if taken.is_none() && state & COUNTED == 0 {
        return;
    }

    LOCAL.with(|local| {
        if local.busy.get() {
            return;
        }

        if state & COUNTED != 0 && local.paused.get() == 0 {
            counters::freed(local.number(), size);
        }

        if let Some(live) = taken {
            local.while_busy(|| {
                if let Some(recorder) = RECORDER.enter(local.number()) {
                    recorder.settle(&live);
                }
            });
        }
    });
}

/// Does something during which nothing that this thread allocates or frees is looked at: for whoever holds a lock of the
/// recorder. What it frees must have been allocated in the same way.
pub(super) fn apart<T>(work: impl FnOnce() -> T) -> T {
    LOCAL.with(|local| local.while_busy(work))
}

/// Does something during which nothing that this thread allocates is recorded, so that reports do not report themselves.
pub(crate) fn unrecorded<T>(work: impl FnOnce() -> T) -> T {
    struct Restore {
        #[cfg(feature = "jemalloc")]
        _unprofiled: crate::sys::jemalloc::Unprofiled,
    }

    impl Drop for Restore {
        fn drop(&mut self) {
            LOCAL.with(|local| local.paused.set(local.paused.get() - 1));
        }
    }

    LOCAL.with(|local| {
        local.armed.set(OFF);
        local.paused.set(local.paused.get() + 1);
    });
    let _restore = Restore {
        #[cfg(feature = "jemalloc")]
        _unprofiled: crate::sys::jemalloc::Unprofiled::begin(),
    };
    work()
}

impl Local {
    #[cold]
    fn record(&self, state: u64, address: usize, size: usize) {
        self.while_busy(|| {
            let Some(recorder) = RECORDER.enter(self.number()) else { return };

            // What is to be done may have changed since the state was read.
            if recorder.number() != state >> RECORDING {
                return;
            }

            if let Some(rate) = recorder.mode().rate() {
                // The distance is drawn anew with each recording: the one that is left was drawn for another rate.
                if self.recording.replace(recorder.number()) != recorder.number() {
                    let left = self.distance(rate) - size as i64;
                    self.left.set(left);

                    if left > 0 {
                        return;
                    }
                }

                self.left.set(self.distance(rate));
            }

            recorder.allocated(self.number(), address, size);
        });
    }

    /// Bytes to the next event of those that come once in `rate` bytes, each byte by itself.
    fn distance(&self, rate: u64) -> i64 {
        let mut random = self.random.get();

        if random == 0 {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64);
            random = (now ^ (self.number() as u64) << 48 | 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        }

        // xorshift*: good enough for where to look, and a few instructions long.
        random ^= random >> 12;
        random ^= random << 25;
        random ^= random >> 27;
        self.random.set(random);
        let uniform = ((random.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) + 1) as f64 / (1_u64 << 53) as f64;
        (-uniform.ln() * rate as f64) as i64 + 1
    }

    fn number(&self) -> usize {
        static NEXT: AtomicUsize = AtomicUsize::new(1);

        match self.number.get() {
            0 => {
                let number = NEXT.fetch_add(1, Ordering::Relaxed);
                self.number.set(number);
                number
            }
            number => number,
        }
    }

    fn while_busy<T>(&self, work: impl FnOnce() -> T) -> T {
        struct Restore<'a>(&'a Cell<bool>, bool);

        impl Drop for Restore<'_> {
            fn drop(&mut self) {
                self.0.set(self.1);
            }
        }

        // It is armed again by the next allocation that is looked at.
        self.armed.set(OFF);
        let _restore = Restore(&self.busy, self.busy.replace(true));
        work()
    }
}
