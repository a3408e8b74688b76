//! Places for the registers and the stack of a thread, filled by a signal handler on that thread.
//!
//! All memory is there before a signal is sent, and stays mapped for as long as the process lives: a thread may answer
//! long after nobody waits for it any more. Who may touch a place is decided by its state, a number that changes with
//! each use:
//!
//! ```text
//! Free ── arm ──> Armed ── the handler begins ──> Busy ── the handler is done ──> Done ── take ──> Free
//!                   └────── given up ──> Free
//! ```
//!
//! Most threads wait in a system call, and their stacks can be copied before they are asked. Their handlers find them where
//! they were seen, and only add the registers.
//!
//! A handler that comes too late does not find the number that it was sent, and touches nothing.

use std::{
    cell::UnsafeCell,
    io,
    ops::Range,
    ptr::NonNull,
    sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use rustix::{
    mm::{Advice, MapFlags, ProtFlags},
    thread::futex,
    time::{ClockId, Timespec},
};

use super::registers::{CALL_LENGTH, Registers};

/// How much of a stack is copied.
pub(crate) const STACK_LIMIT: usize = 64 << 10;

/// How long a handler that has answered has to come to its end. It takes as long only if its thread is stopped there.
const LAST_STEP: Duration = Duration::from_millis(100);

const FREE: u64 = 0;
const ARMED: u64 = 1;
const BUSY: u64 = 2;
const DONE: u64 = 3;
const STATES: u64 = 4;

/// Bits of a ticket that say which slot it is for. The others are the number of the use.
const SLOT_BITS: u32 = 8;

/// A number of slots, and what their handlers need to know.
pub(crate) struct Pool {
    slots: Box<[Slot]>,
    stacks: NonNull<u8>,
    uses: AtomicU64,
    /// Where memory is that may be copied without asking the kernel.
    stack_ranges: AtomicPtr<Vec<StackRange>>,
    /// Changes with every answer.
    answers: AtomicU32,
    /// How many of them the collector waits for, while it waits.
    enough: AtomicU32,
    waiting: AtomicU32,
}

struct Slot {
    state: AtomicU64,
    registers: UnsafeCell<Registers>,
    /// Where the thread was when its stack was copied that is in the slot, if it was: the stack pointer, and the instruction
    /// that follows its system call. Else zero.
    seen_stack_pointer: AtomicU64,
    seen_instruction_pointer: AtomicU64,
    length: AtomicUsize,
    thread: AtomicU32,
    weight: AtomicU32,
    nanoseconds: AtomicU32,
    /// What the whole of the handler took, in nanoseconds and of processor time, once it is over, if that is measured.
    stop: AtomicU64,
}

/// When a handler was entered.
#[derive(Clone, Copy)]
pub(super) struct Entry {
    at: u64,
    /// The processor time of the thread, if that is measured.
    cpu_time: Option<u64>,
}

/// What a handler took.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Stop {
    pub(crate) duration: Duration,
    pub(crate) cpu_time: Duration,
}

/// Memory that is mapped and readable in one piece.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct StackRange {
    pub(crate) addresses: Range<u64>,
    /// Whether it is the stack that the process began with.
    pub(crate) is_first: bool,
}

/// What a slot was armed for: the number that goes with the signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ticket(pub(crate) u64);

/// A stack that was copied.
pub(crate) struct Captured<'a> {
    /// The thread, if the slot was not armed for one.
    pub(crate) thread: u32,
    /// How many signals it stands for.
    pub(crate) weight: u32,
    pub(crate) registers: Registers,
    pub(crate) stack: &'a [u8],
    /// For how long the thread was held up, apart from entering and leaving the handler, and waking the collector.
    pub(crate) took: Duration,
    /// All of it, if that is measured.
    pub(crate) stop: Option<Stop>,
}

// SAFETY: a slot's registers and its part of `stacks` are written only by the one handler that has moved its state from
// armed (or free) to busy, and read only by the one collector that has found it done, with acquire and release on the
// state in between. Everything else is atomic.
unsafe impl Sync for Pool {}
// SAFETY: nothing in it belongs to a thread.
unsafe impl Send for Pool {}

impl Pool {
    /// A pool that lives as long as the process.
    pub(crate) fn leak(slots: usize) -> io::Result<&'static Self> {
        assert!(slots <= 1 << SLOT_BITS);
        // SAFETY: a new anonymous mapping that overlaps nothing.
        let stacks = unsafe {
            rustix::mm::mmap_anonymous(
                std::ptr::null_mut(),
                slots * STACK_LIMIT,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE | MapFlags::NORESERVE,
            )
        }?;
        let stacks = NonNull::new(stacks.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        let slots = (0..slots).map(|_| Slot::new()).collect();
        Ok(Box::leak(Box::new(Self {
            slots,
            stacks,
            uses: AtomicU64::new(1),
            stack_ranges: AtomicPtr::default(),
            answers: AtomicU32::new(0),
            enough: AtomicU32::new(0),
            waiting: AtomicU32::new(0),
        })))
    }

    /// Makes everything ready that handlers use, so that they take no page faults.
    pub(crate) fn prepare(&self, stack_ranges: Vec<StackRange>) {
        self.replace_ranges(Box::into_raw(Box::new(stack_ranges)));
        self.advise(Advice::LinuxPopulateWrite);
        // The first call looks for the kernel's page with the clock.
        nanoseconds(ClockId::Monotonic);
    }

    /// Gives the memory back, except for what a handler still writes to.
    pub(crate) fn release(&self) {
        if self.slots.iter().all(|slot| !slot.is(BUSY)) {
            self.advise(Advice::LinuxDontNeed);
            self.replace_ranges(std::ptr::null_mut());
        }
    }

    fn advise(&self, advice: Advice) {
        // SAFETY: the mapping is ours, and nobody reads a slot between being taken and being filled again. What the
        // kernel does not know (advice of a later version) it refuses.
        let _ = unsafe { rustix::mm::madvise(self.stacks.as_ptr().cast(), self.slots.len() * STACK_LIMIT, advice) };
    }

    fn replace_ranges(&self, ranges: *mut Vec<StackRange>) {
        let old = self.stack_ranges.swap(ranges, Ordering::SeqCst);

        if !old.is_null() && self.slots.iter().all(|slot| !slot.is(BUSY)) {
            // SAFETY: it came from a box, and a handler looks at it only while its slot is busy; none is, and one that
            // becomes so from here on finds the new one. (If one is, the old table is leaked.)
            drop(unsafe { Box::from_raw(old) });
        }
    }

    /// Prepares a free slot for a thread. `None` if all are in use.
    ///
    /// If the thread waits in a system call, `waits` says where, and its stack is copied from there.
    pub(crate) fn arm(&self, waits: Option<Registers>) -> Option<Ticket> {
        let (index, slot) = self.slots.iter().enumerate().find(|(_, slot)| slot.change(FREE, BUSY))?;
        let length = waits.map_or(0, |registers| self.copy_seen(index, registers.stack_pointer));
        slot.length.store(length, Ordering::Relaxed);
        slot.see(if length > 0 { waits } else { None });
        let use_number = self.uses.fetch_add(1, Ordering::Relaxed);
        slot.state.store(use_number * STATES + ARMED, Ordering::Release);
        Some(Ticket(use_number << SLOT_BITS | index as u64))
    }

    /// Says, before the thread is asked, that it has run since its stack was copied.
    pub(crate) fn forget(&self, ticket: Ticket) {
        self.slot(ticket).0.see(None);
    }

    /// Copies the stack of another thread into a slot that is busy with nothing else, as far as it is in one piece.
    fn copy_seen(&self, index: usize, stack_pointer: u64) -> usize {
        // SAFETY: the caller is the one who replaces the table.
        let ranges = unsafe { self.stack_ranges.load(Ordering::SeqCst).as_ref() };
        let Some(range) = ranges.and_then(|ranges| StackRange::find(ranges, stack_pointer)) else { return 0 };
        let length = (range.addresses.end - stack_pointer).min(STACK_LIMIT as u64) as usize;
        // SAFETY: the slot was made busy by the caller, so that its part of the mapping is for this function alone.
        let to = unsafe { std::slice::from_raw_parts_mut(self.stacks.as_ptr().add(index * STACK_LIMIT), length) };
        // The thread may end, and its stack with it: the kernel copies what is there.
        super::memory::read_into(std::process::id(), stack_pointer, to).unwrap_or(0)
    }

    /// Gives a slot up whose thread has not answered. False if it is just doing so, or has.
    pub(crate) fn disarm(&self, ticket: Ticket) -> bool {
        let (slot, use_number) = self.slot(ticket);
        slot.change(use_number * STATES + ARMED, FREE)
    }

    /// What the thread answered, if it has. The slot is free after `read`. With `measured`, the handlers measure themselves.
    pub(crate) fn take<T>(&self, ticket: Ticket, measured: bool, read: impl FnOnce(Captured<'_>) -> T) -> Option<T> {
        let (slot, use_number) = self.slot(ticket);

        if slot.state.load(Ordering::Acquire) != use_number * STATES + DONE {
            return None;
        }

        let mut captured = self.captured(ticket.index());
        captured.stop = if measured { slot.wait_for_stop() } else { None };
        let answer = read(captured);
        slot.state.store(FREE, Ordering::Release);
        Some(answer)
    }

    /// Like [`take`](Self::take), for whatever slots have answers, whoever they are from.
    pub(crate) fn take_all(&self, mut read: impl FnMut(Captured<'_>)) {
        for (index, slot) in self.slots.iter().enumerate() {
            if slot.is(DONE) {
                read(self.captured(index));
                slot.state.store(FREE, Ordering::Release);
            }
        }
    }

    fn captured(&self, index: usize) -> Captured<'_> {
        let slot = &self.slots[index];
        let length = slot.length.load(Ordering::Relaxed).min(STACK_LIMIT);
        // SAFETY: the callers have seen the state "done", which ends the writing, and nobody writes again before they set
        // it free. The slot's part of the mapping begins at its index and is at least that long.
        let (registers, stack) = unsafe {
            let stack = std::slice::from_raw_parts(self.stacks.as_ptr().add(index * STACK_LIMIT), length);
            (*slot.registers.get(), stack)
        };
        Captured {
            thread: slot.thread.load(Ordering::Relaxed),
            weight: slot.weight.load(Ordering::Relaxed),
            registers,
            stack,
            took: Duration::from_nanos(slot.nanoseconds.load(Ordering::Relaxed).into()),
            stop: None,
        }
    }

    /// How many answers there have been. To be asked before looking for them, and given to [`wait`](Self::wait).
    pub(crate) fn answers(&self) -> u32 {
        self.answers.load(Ordering::SeqCst)
    }

    /// Waits until there are so many more answers than that, or the time is over. Some answers less may end it, too.
    ///
    /// To be woken takes longer than to answer, and is done by who answers: it is better to wait for several.
    pub(crate) fn wait(&self, answers: u32, more: u32, limit: Duration) {
        self.enough.store(answers.wrapping_add(more), Ordering::SeqCst);
        self.waiting.store(1, Ordering::SeqCst);
        let limit = Timespec { tv_sec: limit.as_secs() as i64, tv_nsec: limit.subsec_nanos().into() };
        // Whatever ends it, the caller looks again.
        let _ = futex::wait(&self.answers, futex::Flags::PRIVATE, answers, Some(&limit));
        self.waiting.store(0, Ordering::SeqCst);
    }

    fn slot(&self, ticket: Ticket) -> (&Slot, u64) {
        (&self.slots[ticket.index()], ticket.0 >> SLOT_BITS)
    }

    /// In the handler, on the thread that was asked: fills the slot of the ticket.
    ///
    /// Everything here may happen at any instruction of the program: no allocation, no lock, no panic.
    pub(super) fn answer(&self, ticket: Ticket, registers: Registers, entry: Entry) {
        let Some(slot) = self.slots.get(ticket.index()) else { return };
        let use_number = ticket.0 >> SLOT_BITS;

        if slot.change(use_number * STATES + ARMED, use_number * STATES + BUSY) {
            slot.stop.store(0, Ordering::Relaxed);
            self.fill(ticket.index(), slot, registers, entry);
            slot.state.store(use_number * STATES + DONE, Ordering::Release);
            self.tell();

            if let Some(stop) = entry.measured() {
                slot.stop.store(stop, Ordering::Relaxed);
            }
        }
    }

    /// In the handler: fills any slot that is free, if `wanted` still says so once it has one. False if there was none.
    pub(super) fn answer_anywhere(
        &self,
        registers: Registers,
        entry: Entry,
        weight: u32,
        wanted: impl Fn() -> bool,
    ) -> bool {
        for (index, slot) in self.slots.iter().enumerate() {
            if slot.change(FREE, BUSY) {
                let wanted = wanted();

                if wanted {
                    slot.weight.store(weight, Ordering::Relaxed);
                    slot.thread.store(rustix::thread::gettid().as_raw_nonzero().get() as u32, Ordering::Relaxed);
                    self.fill(index, slot, registers, entry);
                }

                slot.state.store(if wanted { DONE } else { FREE }, Ordering::Release);
                self.tell();
                return true;
            }
        }

        false
    }

    /// Whether a handler is at work.
    pub(crate) fn is_busy(&self) -> bool {
        self.slots.iter().any(|slot| slot.is(BUSY))
    }

    fn fill(&self, index: usize, slot: &Slot, registers: Registers, entry: Entry) {
        // SAFETY: the slot was made busy by this handler, so that its registers and its part of the mapping are for this
        // function alone. Each part is at a multiple of its size.
        unsafe {
            *slot.registers.get() = registers;

            if !slot.has_seen(&registers) {
                let to = self.stacks.as_ptr().add(index * STACK_LIMIT);
                slot.length.store(self.copy_stack(registers.stack_pointer, to), Ordering::Relaxed);
            }
        }

        slot.nanoseconds.store(entry.elapsed(), Ordering::Relaxed);
    }

    /// Copies the stack from the stack pointer outwards.
    ///
    /// # Safety
    /// `to` must have room for [`STACK_LIMIT`] bytes, be nobody else's, and be at a multiple of 16.
    unsafe fn copy_stack(&self, stack_pointer: u64, to: *mut u8) -> usize {
        // SAFETY: the table is replaced, but not freed, while a slot is busy, as the one of this handler is.
        let ranges = unsafe { self.stack_ranges.load(Ordering::SeqCst).as_ref() };
        let range = ranges.and_then(|ranges| StackRange::find(ranges, stack_pointer));
        let thread = super::registers::thread_pointer();
        // The C library keeps what belongs to a thread at the outer end of the stack that it made for it. What lies between
        // that and the stack pointer, mapped in one piece, is that stack, and stays for as long as the thread runs on it.
        let end = range.and_then(|range| {
            let is_own = range.addresses.contains(&thread) && thread > stack_pointer;
            if range.is_first { Some(range.addresses.end) } else { is_own.then_some(thread) }
        });

        if let Some(end) = end {
            let length = (end - stack_pointer).min(STACK_LIMIT as u64) as usize;
            // SAFETY: as argued above, the memory is there; the caller gives room for as much.
            unsafe { super::stream::copy(stack_pointer as *const u8, to, length) };
            return length;
        }

        // Another stack: of a coroutine, of another handler, or one that has grown since. The kernel copies what is there.
        // SAFETY: the caller gives room for as much.
        let buffer = unsafe { std::slice::from_raw_parts_mut(to, STACK_LIMIT) };
        super::memory::read_into(std::process::id(), stack_pointer, buffer).unwrap_or(0)
    }

    /// Wakes the collector if it sleeps, and this was the last answer that it waits for.
    fn tell(&self) {
        let answers = self.answers.fetch_add(1, Ordering::SeqCst).wrapping_add(1);
        let missing = self.enough.load(Ordering::SeqCst).wrapping_sub(answers).cast_signed();

        if missing <= 0 && self.waiting.swap(0, Ordering::SeqCst) != 0 {
            let _ = futex::wake(&self.answers, futex::Flags::PRIVATE, 1);
        }
    }
}

impl Slot {
    fn new() -> Self {
        Self {
            state: AtomicU64::new(FREE),
            registers: UnsafeCell::new(Registers::default()),
            seen_stack_pointer: AtomicU64::new(0),
            seen_instruction_pointer: AtomicU64::new(0),
            length: AtomicUsize::new(0),
            thread: AtomicU32::new(0),
            weight: AtomicU32::new(0),
            nanoseconds: AtomicU32::new(0),
            stop: AtomicU64::new(0),
        }
    }

    fn see(&self, registers: Option<Registers>) {
        let Registers { stack_pointer, instruction_pointer, .. } = registers.unwrap_or_default();
        self.seen_stack_pointer.store(stack_pointer, Ordering::SeqCst);
        self.seen_instruction_pointer.store(instruction_pointer, Ordering::SeqCst);
    }

    /// Whether a thread with these registers is where it was when its stack was copied.
    fn has_seen(&self, registers: &Registers) -> bool {
        let stack_pointer = self.seen_stack_pointer.load(Ordering::SeqCst);
        let after_call = self.seen_instruction_pointer.load(Ordering::SeqCst);
        // A call that is to be started again is the instruction that is next.
        let is_there = [after_call, after_call.wrapping_sub(CALL_LENGTH)].contains(&registers.instruction_pointer);
        stack_pointer != 0 && stack_pointer == registers.stack_pointer && is_there
    }

    /// What the handler took that has filled this, and is about to end, if it does.
    fn wait_for_stop(&self) -> Option<Stop> {
        let deadline = Instant::now() + LAST_STEP;

        loop {
            match self.stop.load(Ordering::Relaxed) {
                0 if Instant::now() >= deadline => return None,
                0 => std::thread::yield_now(),
                stop => {
                    let duration = Duration::from_nanos(stop & u64::from(u32::MAX));
                    return Some(Stop { duration, cpu_time: Duration::from_nanos(stop >> u32::BITS) });
                }
            }
        }
    }

    fn change(&self, from: u64, to: u64) -> bool {
        self.state.compare_exchange(from, to, Ordering::SeqCst, Ordering::Relaxed).is_ok()
    }

    fn is(&self, state: u64) -> bool {
        self.state.load(Ordering::Acquire) % STATES == state
    }
}

impl StackRange {
    /// The one with an address.
    fn find(ranges: &[Self], address: u64) -> Option<&Self> {
        let after = ranges.partition_point(|range| range.addresses.start <= address);
        let range = ranges.get(after.checked_sub(1)?)?;
        range.addresses.contains(&address).then_some(range)
    }
}

impl Ticket {
    fn index(self) -> usize {
        (self.0 & ((1 << SLOT_BITS) - 1)) as usize
    }
}

impl Entry {
    /// At this moment. To ask for the processor time is a system call.
    pub(super) fn now(is_measured: bool) -> Self {
        let cpu_time = is_measured.then(|| nanoseconds(ClockId::ThreadCPUTime));
        Self { at: nanoseconds(ClockId::Monotonic), cpu_time }
    }

    /// Nanoseconds since then.
    fn elapsed(&self) -> u32 {
        u32::try_from(nanoseconds(ClockId::Monotonic).saturating_sub(self.at)).unwrap_or(u32::MAX)
    }

    /// Nanoseconds since then, and of processor time in the upper half. Not zero.
    fn measured(&self) -> Option<u64> {
        let elapsed = self.elapsed();
        let begin = self.cpu_time? + CLOCK_COST.load(Ordering::Relaxed);
        let cpu_time = nanoseconds(ClockId::ThreadCPUTime).saturating_sub(begin);
        Some(cpu_time << u32::BITS | u64::from(elapsed.max(1)))
    }
}

/// What it takes to ask for the processor time, in nanoseconds.
static CLOCK_COST: AtomicU64 = AtomicU64::new(0);

/// Finds that out, for handlers that measure themselves: it would be a fifth of what they take.
pub(super) fn calibrate() {
    let cost = |_| {
        let begin = nanoseconds(ClockId::ThreadCPUTime);
        nanoseconds(ClockId::ThreadCPUTime).saturating_sub(begin)
    };
    // The least is what it takes when nothing comes in between.
    CLOCK_COST.store((0..100).map(cost).min().unwrap_or_default(), Ordering::Relaxed);
}

/// Nanoseconds on a clock that only goes forward.
fn nanoseconds(clock: ClockId) -> u64 {
    let now = rustix::time::clock_gettime(clock);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stack_that_was_seen_is_not_copied_again_where_the_thread_has_not_moved() {
        let pool = Pool::leak(1).unwrap();
        let mut local = [7_u64; 512];
        let stack_pointer = local.as_ptr() as u64;
        let begin = stack_pointer..stack_pointer + size_of_val(&local) as u64;
        pool.prepare(vec![StackRange { addresses: begin, is_first: true }]);
        let seen = Registers { stack_pointer, instruction_pointer: 1000, ..Registers::default() };
        let answers = |pool: &Pool, answer: Registers, ticket: Ticket| {
            pool.answer(ticket, answer, Entry::now(false));
            pool.take(ticket, false, |it| (it.registers, it.stack[0], it.stack.len())).unwrap()
        };

        for (runs, moved, word) in
            [(false, 0, 7), (false, CALL_LENGTH, 7), (false, 1, 8), (false, u64::MAX, 8), (true, 0, 8)]
        {
            local.fill(7);
            let ticket = pool.arm(Some(seen)).unwrap();
            local.fill(8);

            if runs {
                pool.forget(ticket);
            }

            let answer = Registers { instruction_pointer: 1000_u64.wrapping_sub(moved), frame_pointer: 3, ..seen };
            assert_eq!(answers(pool, answer, ticket), (answer, word, size_of_val(&local)), "{runs} {moved}");
        }

        let ticket = pool.arm(Some(seen)).unwrap();
        local.fill(9);
        let deeper = Registers { stack_pointer: stack_pointer + 8, ..seen };
        assert_eq!(answers(pool, deeper, ticket), (deeper, 9, size_of_val(&local) - 8), "it has moved");
        let elsewhere = Registers { stack_pointer: 8, ..seen };
        let ticket = pool.arm(Some(elsewhere)).unwrap();
        assert_eq!(answers(pool, seen, ticket), (seen, 9, size_of_val(&local)), "nothing was seen there");
    }

    #[test]
    fn a_slot_is_used_once_and_only_for_what_it_was_armed_for() {
        let pool = Pool::leak(1).unwrap();
        pool.prepare(Vec::new());
        let local = [7_u64; 4];
        let registers = Registers { stack_pointer: local.as_ptr() as u64, ..Registers::default() };

        let given_up = pool.arm(None).unwrap();
        assert!(pool.arm(None).is_none(), "there is one slot only");
        assert!(pool.disarm(given_up));

        let ticket = pool.arm(None).unwrap();
        pool.answer(given_up, registers, Entry::now(false));
        assert!(pool.take(ticket, false, |_| ()).is_none(), "one that comes too late must not answer for another");
        pool.answer(ticket, registers, Entry::now(true));
        assert!(!pool.disarm(ticket));
        let (stop, begin) = pool.take(ticket, true, |it| (it.stop.unwrap(), it.stack[..8].to_owned())).unwrap();
        assert!(stop.cpu_time > Duration::ZERO && stop.duration > Duration::ZERO);
        assert_eq!(begin, 7_u64.to_ne_bytes());
        assert!(pool.take(ticket, false, |_| ()).is_none());

        assert!(pool.answer_anywhere(registers, Entry::now(false), 3, || true));
        assert!(!pool.answer_anywhere(registers, Entry::now(false), 3, || true));
        let own = rustix::thread::gettid().as_raw_nonzero().get() as u32;
        pool.take_all(|it| assert_eq!((it.thread, it.weight, &it.stack[..8]), (own, 3, &7_u64.to_ne_bytes()[..])));
        assert!(pool.answer_anywhere(registers, Entry::now(false), 1, || false));
        pool.take_all(|_| panic!("it was not wanted"));
    }
}
