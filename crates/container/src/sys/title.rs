//! The memory that `ps` shows as a process's command line.
//!
//! The kernel keeps the bounds of the arguments that a program was executed with, and whoever reads `/proc/PID/cmdline` is
//! given what lies between them, whatever it is by now. To write there costs no system call.
//!
//! The standard library reads the arguments from there as well, each time that it is asked for them, by way of a list of
//! pointers that the kernel has placed at the bottom of the stack. So before anything is overwritten, the list is made to
//! lead to copies.

use std::ffi::{CStr, c_char};
use std::io;
use std::sync::atomic::{AtomicPtr, Ordering};

/// Fields of `/proc/PID/stat` as proc(5) counts them: where the list begins, and the bounds of the arguments.
const START_STACK: usize = 28;
const ARGUMENTS_START: usize = 48;
const ARGUMENTS_END: usize = 49;

/// The memory of the arguments, from now on for a title.
#[derive(Debug)]
pub(crate) struct Area {
    start: *mut u8,
    length: usize,
    /// How much of it may differ from NUL.
    used: usize,
}

// SAFETY: the memory is that of the stack's bottom, which lasts as long as the process, and after `claim` no one but the
// `Area`, of which there is one, refers to it.
unsafe impl Send for Area {}

impl Area {
    /// Takes the memory. To be called once, while there is one thread; fails if there are more.
    pub(crate) fn claim() -> io::Result<Area> {
        let odd = |what: &str| io::Error::new(io::ErrorKind::Unsupported, what.to_owned());
        if !super::inherit::single_threaded() {
            return Err(odd("this process has other threads already"));
        }
        let stat = std::fs::read_to_string("/proc/self/stat")?;
        // The name may contain anything, so fields are counted from its end; the first one there is the third.
        let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        let field = |number: usize| fields.split_ascii_whitespace().nth(number - 3)?.parse::<usize>().ok();
        let (Some(list), Some(start), Some(end)) = (field(START_STACK), field(ARGUMENTS_START), field(ARGUMENTS_END))
        else {
            return Err(odd("the kernel does not tell where the arguments are"));
        };
        let count = std::env::args_os().count();
        if list == 0 || !list.is_multiple_of(align_of::<usize>()) || start == 0 || end <= start || count == 0 {
            return Err(odd("the kernel does not tell where the arguments are"));
        }
        let list: *mut usize = std::ptr::with_exposed_provenance_mut(list);
        // SAFETY: the kernel has placed the number of arguments here, aligned, and then a pointer to each and a null
        // pointer; see "Process initialization" of the platform's ABI. The stack's bottom is mapped as long as the
        // process lives. That it is what it is meant to be is checked against what the standard library knows: the
        // number first, before anything is read by it.
        let pointers = unsafe {
            if list.read() != count {
                return Err(odd("the list of arguments is not where it should be"));
            }
            std::slice::from_raw_parts(list.add(1).cast::<AtomicPtr<c_char>>(), count + 1)
        };
        let mut addresses = pointers.iter().map(|pointer| pointer.load(Ordering::Relaxed).addr());
        let first = addresses.next() == Some(start);
        let others = addresses.by_ref().take(count - 1).all(|address| (start..end).contains(&address));
        if !(first && others && addresses.next() == Some(0)) {
            return Err(odd("the arguments are not where they should be"));
        }
        for pointer in &pointers[..count] {
            // SAFETY: a string that the kernel has terminated, within the bounds that it gave. The copy is given away for
            // as long as the process lives, since anybody may hold what the list leads to. No other thread exists that
            // could be reading the string or the list.
            let copy = unsafe { CStr::from_ptr(pointer.load(Ordering::Relaxed)) }.to_owned();
            pointer.store(copy.into_raw(), Ordering::Relaxed);
        }
        Ok(Area { start: std::ptr::with_exposed_provenance_mut(start), length: end - start, used: end - start })
    }

    /// The longest text that there is room for, in bytes.
    pub(crate) fn room(&self) -> usize {
        // With another byte than NUL at the end, the kernel would go on into the environment.
        self.length - 1
    }

    /// Shows the text, or the beginning of it that there is room for, and nothing of what was there before.
    pub(crate) fn write(&mut self, text: &[u8]) {
        let length = text.len().min(self.room());
        let end = self.used.max(length);
        // SAFETY: both stay within the area, which is writable, as all of the stack is; the text is none of it, since
        // nobody else refers to the area. The kernel may read it at the same time, and then shows some of both.
        unsafe {
            std::ptr::copy_nonoverlapping(text.as_ptr(), self.start, length);
            std::ptr::write_bytes(self.start.add(length), 0, end - length);
        }
        self.used = length;
    }
}
