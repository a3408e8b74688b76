//! What jemalloc knows of itself, by its one function for everything: `mallctl`.

use std::{
    ffi::{CStr, c_char, c_void},
    hint::black_box,
    io,
    mem::MaybeUninit,
    ptr,
};

use tikv_jemalloc_sys::mallctl;

/// Whether its profiler looks at what this thread allocates, while it looks at anything.
const THREAD_ACTIVE: &CStr = c"thread.prof.active";

/// A type of which any bytes are a value, so that what is read is one whatever jemalloc wrote.
trait Plain: Copy {}

impl Plain for u8 {}
impl Plain for u64 {}
impl Plain for usize {}

fn read<T: Plain>(name: &CStr) -> io::Result<T> {
    let mut value = MaybeUninit::<T>::zeroed();
    let mut size = size_of::<T>();
    // SAFETY: the name ends with a zero; the place is as large as is said, and ours. jemalloc refuses to write if what it has is
    // of another size.
    let error = unsafe { mallctl(name.as_ptr(), value.as_mut_ptr().cast(), &mut size, ptr::null_mut(), 0) };

    match error {
        // SAFETY: it was zeroed, and of this type any bytes are a value.
        0 => Ok(unsafe { value.assume_init() }),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

fn write<T: Copy>(name: &CStr, mut value: T) -> io::Result<()> {
    let place: *mut c_void = (&raw mut value).cast();
    // SAFETY: the name ends with a zero; the value is as large as is said, and lives until the call returns. jemalloc refuses what is
    // not of the size that it expects.
    match unsafe { mallctl(name.as_ptr(), ptr::null_mut(), ptr::null_mut(), place, size_of::<T>()) } {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

/// A flag. It takes a byte, which is zero for no.
fn flag(name: &CStr) -> bool {
    read::<u8>(name).is_ok_and(|flag| flag != 0)
}

/// Whether what this program allocates comes from jemalloc.
pub(crate) fn is_used() -> bool {
    const SIZE: usize = 4096;
    let allocated = || read::<u64>(c"thread.allocated").unwrap_or_default();
    let before = allocated();
    drop(black_box(Vec::<u8>::with_capacity(SIZE)));
    allocated() >= before + SIZE as u64
}

/// Whether its profiler was switched on when the program began. It cannot be later.
pub(crate) fn has_profiler() -> bool {
    flag(c"opt.prof")
}

/// Whether its profiler looks at what is allocated now.
pub(crate) fn is_profiling() -> bool {
    flag(c"prof.active")
}

/// As long as it is there, its profiler does not look at what this thread allocates.
pub(crate) struct Unprofiled {
    /// Whether it did before.
    was_profiled: bool,
}

impl Unprofiled {
    pub(crate) fn begin() -> Self {
        let was_profiled = has_profiler() && flag(THREAD_ACTIVE);

        if was_profiled {
            // If it refuses, the report is in the profile: that is all.
            let _ = write::<u8>(THREAD_ACTIVE, 0);
        }

        Self { was_profiled }
    }
}

impl Drop for Unprofiled {
    fn drop(&mut self) {
        if self.was_profiled {
            let _ = write::<u8>(THREAD_ACTIVE, 1);
        }
    }
}

/// Has it write its profile to a file, which it creates, or writes over.
///
/// It holds locks meanwhile that threads wait for which allocate: the file must be one that does not make it wait.
pub(crate) fn write_profile(path: &CStr) -> io::Result<()> {
    // What is given is where the path is. It is only read.
    write::<*const c_char>(c"prof.dump", path.as_ptr())
}

/// In bytes: (handed out, had from the kernel).
pub(crate) fn totals() -> Option<(u64, u64)> {
    // Its figures are those of the latest epoch.
    write::<u64>(c"epoch", 1).ok()?;
    let read = |name| read::<usize>(name).ok().map(|bytes| bytes as u64);
    Some((read(c"stats.allocated")?, read(c"stats.mapped")?))
}
