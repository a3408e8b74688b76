//! The stack of the calling thread.

use std::{cell::Cell, ops::Range};

use super::registers::Registers;

/// Where the stack of the calling thread is. Empty if the C library does not know.
///
/// The answer is kept for each thread, without anything to be dropped at its end, so that an allocator may ask.
pub(crate) fn bounds_here() -> Range<u64> {
    thread_local! {
        static BOUNDS: Cell<Option<(u64, u64)>> = const { Cell::new(None) };
    }

    let (start, end) = BOUNDS.get().unwrap_or_else(|| {
        // What is asked allocates, and may come back here: the answer is then an empty stack, not another question.
        BOUNDS.set(Some((0, 0)));
        let bounds = ask();
        BOUNDS.set(Some(bounds));
        bounds
    });
    start..end
}

fn ask() -> (u64, u64) {
    let mut attributes = std::mem::MaybeUninit::<libc::pthread_attr_t>::uninit();
    // SAFETY: the attributes are initialised by the first call if it succeeds, and only then used and destroyed; the
    // other arguments are places of ours.
    unsafe {
        if libc::pthread_getattr_np(libc::pthread_self(), attributes.as_mut_ptr()) != 0 {
            return (0, 0);
        }

        let (mut start, mut size) = (std::ptr::null_mut(), 0);
        let found = libc::pthread_attr_getstack(attributes.as_ptr(), &mut start, &mut size) == 0;
        libc::pthread_attr_destroy(attributes.as_mut_ptr());
        if found { (start as u64, start as u64 + size as u64) } else { (0, 0) }
    }
}

/// Reads eight bytes of the stack that the caller runs on, outwards of where it is.
pub(crate) fn read_own(bounds: &Range<u64>, registers: &Registers, address: u64) -> Option<u64> {
    let is_live = address >= registers.stack_pointer && bounds.contains(&registers.stack_pointer);
    let is_within = address.checked_add(8).is_some_and(|end| end <= bounds.end);
    // SAFETY: between the stack pointer and the end of the stack, everything is mapped, and belongs to callers of this
    // function, on the same thread; the address need not be aligned.
    (is_live && is_within).then(|| unsafe { (address as *const u64).read_unaligned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stack_of_each_thread_is_found() {
        let local = 0_u8;
        let here = &raw const local as u64;
        assert!(bounds_here().contains(&here));
        std::thread::spawn(move || assert!(!bounds_here().contains(&here))).join().unwrap();
    }
}
