//! The allocator that looks on while another one works.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::atomic::Ordering,
};

use crate::memory::{
    Mode,
    hook::{self, OFF, STATE, UNKNOWN},
    totals::{self, AllocatorTotals},
};

/// Where it is written which source file the frames of the allocator itself have.
pub(crate) const FILE: &str = file!();

/// A global allocator that has another one do the work, and records who allocates what while somebody wants to know.
///
/// ```
/// use async_container_diagnostics::memory::Allocator;
///
/// #[global_allocator]
/// static ALLOCATOR: Allocator = Allocator::system();
/// # fn main() {}
/// ```
///
/// Around another allocator than the one of the system: `static ALLOCATOR: Allocator<MiMalloc> = Allocator::new(MiMalloc)`.
///
/// While nothing is recorded, it costs one load and one branch a call.
#[derive(Debug)]
pub struct Allocator<A = System> {
    inner: A,
    from_start: Option<Mode>,
    totals: Option<fn() -> Option<AllocatorTotals>>,
}

impl Allocator<System> {
    /// Around the allocator of the system.
    pub const fn system() -> Self {
        Self { inner: System, from_start: None, totals: Some(totals::of_c_library) }
    }
}

impl<A> Allocator<A> {
    /// Around any other allocator.
    pub const fn new(inner: A) -> Self {
        Self { inner, from_start: None, totals: None }
    }

    /// Records from the first allocation on, so that a [dump](crate::memory::Dump) has all that lives. The variable
    /// `ACS_MEMORY_SAMPLING` comes before it. Default is not to record until it is asked for.
    pub const fn record_from_start(mut self, mode: Mode) -> Self {
        self.from_start = Some(mode);
        self
    }

    /// Sets who knows what the inner allocator holds. It is called when a report is made, and may allocate. Default is the C
    /// library for [`Allocator::system`], and nobody for others.
    pub const fn totals(mut self, totals: fn() -> Option<AllocatorTotals>) -> Self {
        self.totals = Some(totals);
        self
    }

    #[inline(never)]
    fn allocated(&self, state: u64, block: *mut u8, size: usize) {
        if state == UNKNOWN {
            hook::first_allocation(self.from_start, self.totals);
            return self.allocated_if_on(block, size);
        }

        if !block.is_null() {
            hook::allocated(state, block.addr(), size);
        }
    }

    fn allocated_if_on(&self, block: *mut u8, size: usize) {
        let state = STATE.load(Ordering::Relaxed);

        if state != OFF && state != UNKNOWN && !block.is_null() {
            hook::allocated(state, block.addr(), size);
        }
    }

    /// `realloc`, while something is recorded.
    ///
    /// # Safety
    ///
    /// As for `realloc`.
    #[inline(never)]
    unsafe fn reallocated(&self, state: u64, block: *mut u8, layout: Layout, size: usize) -> *mut u8
    where
        A: GlobalAlloc,
    {
        // The old block may be somebody else's as soon as it was given back, so it is forgotten before; if it turns out that it
        // was not, it is remembered again, and nobody can have had its address in between.
        let taken = hook::take(state, block.addr());
        // SAFETY: the caller promises what is asked for here.
        let new = unsafe { self.inner.realloc(block, layout, size) };

        if new.is_null() {
            hook::put_back(block.addr(), taken);
        } else {
            hook::freed_taken(state, taken, layout.size());
            hook::allocated(state, new.addr(), size);
        }

        new
    }
}

// SAFETY: every block comes from the inner allocator, by the same layout, and goes back to it; the promises are its own. The
// hooks neither panic nor touch the blocks: they are given numbers. Where they allocate, which they do through this allocator
// as well, they are marked as busy, and the calls from there are not looked at.
unsafe impl<A: GlobalAlloc> GlobalAlloc for Allocator<A> {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller promises what is asked for here.
        let block = unsafe { self.inner.alloc(layout) };
        let state = STATE.load(Ordering::Relaxed);

        if state != OFF {
            self.allocated(state, block, layout.size());
        }

        block
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller promises what is asked for here.
        let block = unsafe { self.inner.alloc_zeroed(layout) };
        let state = STATE.load(Ordering::Relaxed);

        if state != OFF {
            self.allocated(state, block, layout.size());
        }

        block
    }

    #[inline]
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        let state = STATE.load(Ordering::Relaxed);

        // Before it goes back: after that, its address may be somebody else's.
        if state != OFF {
            hook::freed(state, block.addr(), layout.size());
        }

        // SAFETY: the caller promises what is asked for here.
        unsafe { self.inner.dealloc(block, layout) }
    }

    #[inline]
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let state = STATE.load(Ordering::Relaxed);

        if state != OFF {
            // SAFETY: the caller promises what is asked for here.
            return unsafe { self.reallocated(state, block, layout, size) };
        }

        // SAFETY: the caller promises what is asked for here.
        unsafe { self.inner.realloc(block, layout, size) }
    }
}
