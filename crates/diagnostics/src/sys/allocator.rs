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

    fn allocated(&self, block: *mut u8, size: usize) {
        if STATE.load(Ordering::Relaxed) == UNKNOWN {
            hook::first_allocation(self.from_start, self.totals);
        }

        let state = STATE.load(Ordering::Relaxed);

        if state != OFF && state != UNKNOWN && !block.is_null() {
            hook::allocated(state, block.addr(), size);
        }
    }
}

/// What is done while something is recorded, in three steps: the calls of the trait do nothing but ask whether anything is, those
/// named `watched` let most pass, and those named `recorded` do the rest. They are apart so that each of the first two ends in
/// a jump into the inner allocator, and saves no registers before: that is most of what they cost.
///
/// All are unsafe as the call of the trait is that each is for.
impl<A: GlobalAlloc> Allocator<A> {
    #[cold]
    #[inline(never)]
    unsafe fn alloc_watched(layout: Layout, this: &Self) -> *mut u8 {
        if !hook::passes(STATE.load(Ordering::Relaxed), layout.size()) {
            // SAFETY: the caller promises what is asked for here.
            return unsafe { Self::alloc_recorded(layout, this) };
        }

        // SAFETY: the caller promises what is asked for here.
        unsafe { this.inner.alloc(layout) }
    }

    #[inline(never)]
    unsafe fn alloc_recorded(layout: Layout, this: &Self) -> *mut u8 {
        // SAFETY: the caller promises what is asked for here.
        let block = unsafe { this.inner.alloc(layout) };
        this.allocated(block, layout.size());
        block
    }

    #[cold]
    #[inline(never)]
    unsafe fn alloc_zeroed_watched(layout: Layout, this: &Self) -> *mut u8 {
        if !hook::passes(STATE.load(Ordering::Relaxed), layout.size()) {
            // SAFETY: the caller promises what is asked for here.
            return unsafe { Self::alloc_zeroed_recorded(layout, this) };
        }

        // SAFETY: the caller promises what is asked for here.
        unsafe { this.inner.alloc_zeroed(layout) }
    }

    #[inline(never)]
    unsafe fn alloc_zeroed_recorded(layout: Layout, this: &Self) -> *mut u8 {
        // SAFETY: the caller promises what is asked for here.
        let block = unsafe { this.inner.alloc_zeroed(layout) };
        this.allocated(block, layout.size());
        block
    }

    #[inline(never)]
    unsafe fn dealloc_asked(block: *mut u8, layout: Layout, this: &Self) {
        if hook::is_on() {
            // SAFETY: the caller promises what is asked for here.
            return unsafe { Self::dealloc_watched(block, layout, this) };
        }

        // SAFETY: the caller promises what is asked for here.
        unsafe { this.inner.dealloc(block, layout) }
    }

    #[cold]
    #[inline(never)]
    unsafe fn dealloc_watched(block: *mut u8, layout: Layout, this: &Self) {
        if !hook::is_unknown(STATE.load(Ordering::Relaxed), block.addr()) {
            // SAFETY: the caller promises what is asked for here.
            return unsafe { Self::dealloc_recorded(block, layout, this) };
        }

        // SAFETY: the caller promises what is asked for here.
        unsafe { this.inner.dealloc(block, layout) }
    }

    #[inline(never)]
    unsafe fn dealloc_recorded(block: *mut u8, layout: Layout, this: &Self) {
        // Before it goes back: after that, its address may be somebody else's.
        hook::freed(STATE.load(Ordering::Relaxed), block.addr(), layout.size());
        // SAFETY: the caller promises what is asked for here.
        unsafe { this.inner.dealloc(block, layout) }
    }

    #[cold]
    #[inline(never)]
    unsafe fn realloc_watched(block: *mut u8, layout: Layout, size: usize, this: &Self) -> *mut u8 {
        if !(hook::is_unknown(STATE.load(Ordering::Relaxed), block.addr())
            && hook::passes(STATE.load(Ordering::Relaxed), size))
        {
            // SAFETY: the caller promises what is asked for here.
            return unsafe { Self::realloc_recorded(block, layout, size, this) };
        }

        // SAFETY: the caller promises what is asked for here.
        unsafe { this.inner.realloc(block, layout, size) }
    }

    #[inline(never)]
    unsafe fn realloc_recorded(block: *mut u8, layout: Layout, size: usize, this: &Self) -> *mut u8 {
        // The old block may be somebody else's as soon as it was given back, so it is forgotten before; if it turns out that it
        // was not, it is remembered again, and nobody can have had its address in between.
        let taken = hook::take(block.addr());
        // SAFETY: the caller promises what is asked for here.
        let new = unsafe { this.inner.realloc(block, layout, size) };

        if new.is_null() {
            hook::put_back(block.addr(), taken);
        } else {
            hook::freed_taken(STATE.load(Ordering::Relaxed), taken, layout.size());
            this.allocated(new, size);
        }

        new
    }
}

// SAFETY: every block comes from the inner allocator, by the same layout, and goes back to it; the promises are its own. The
// hooks neither panic nor touch the blocks: they are given numbers. Where they allocate, which they do through this allocator
// as well, they are marked as busy, and the calls from there are not looked at.
//
// The compiler makes a function of the program of each, which is what callers call, and each is put into that one. But none of it is
// for the compiler to put into the callers: they would grow by it, and lose more by what is not put into them then than a call
// costs. That is why a block is given back by one more function, `dealloc_asked`: the program's own would be small enough.
unsafe impl<A: GlobalAlloc> GlobalAlloc for Allocator<A> {
    #[inline(always)]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if hook::is_on() {
            // SAFETY: the caller promises what is asked for here.
            return unsafe { Self::alloc_watched(layout, self) };
        }

        // SAFETY: the caller promises what is asked for here.
        unsafe { self.inner.alloc(layout) }
    }

    #[inline(always)]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if hook::is_on() {
            // SAFETY: the caller promises what is asked for here.
            return unsafe { Self::alloc_zeroed_watched(layout, self) };
        }

        // SAFETY: the caller promises what is asked for here.
        unsafe { self.inner.alloc_zeroed(layout) }
    }

    #[inline(always)]
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller promises what is asked for here.
        unsafe { Self::dealloc_asked(block, layout, self) }
    }

    #[inline(always)]
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        if hook::is_on() {
            // SAFETY: the caller promises what is asked for here.
            return unsafe { Self::realloc_watched(block, layout, size, self) };
        }

        // SAFETY: the caller promises what is asked for here.
        unsafe { self.inner.realloc(block, layout, size) }
    }
}
