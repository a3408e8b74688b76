//! Anonymous files in memory: one side owns and writes, the other reads.
//!
//! A page of a mapping behind the end of its file is the one thing in here that could kill a process (`SIGBUS`). So a file is
//! mapped only if the kernel guarantees that its end never comes nearer (`F_SEAL_SHRINK`), and nothing behind the end
//! that it had when that was checked is touched. Of huge pages, which may be missing when they are first touched, none are
//! mapped.

use std::{
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd, RawFd},
    ptr::{self, NonNull},
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
};

use rustix::{
    fs::{FallocateFlags, FileType, MemfdFlags, SealFlags},
    mm::{MapFlags, ProtFlags},
};

/// `TMPFS_MAGIC` of statfs(2), which is what the kernel keeps such files on.
const TMPFS: rustix::fs::FsWord = 0x0102_1994;

/// The memory that a process owns.
#[derive(Debug)]
pub(crate) struct Shared {
    file: OwnedFd,
    base: NonNull<AtomicU64>,
    /// How much is mapped. The mapping is longer than the file from the beginning, so that it need never be moved.
    reserved: usize,
    /// How much of that has memory behind it, in bytes.
    size: AtomicUsize,
}

// SAFETY: what `base` leads to are atomics, in a mapping that lasts as long as this does and is never moved.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    /// `size` bytes, all of them zero, and the space to grow to `reserved`. Both are multiples of the page's size.
    pub(crate) fn new(name: &str, size: usize, reserved: usize) -> io::Result<Self> {
        let file = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;

        // SAFETY: the kernel chooses the place, so nothing that is mapped already is replaced. What lies behind the end of
        // the file is not touched before the file has grown, see `words`.
        let base = unsafe {
            rustix::mm::mmap(
                ptr::null_mut(),
                reserved,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED | MapFlags::NORESERVE,
                &file,
                0,
            )?
        };
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::AddrNotAvailable)?;
        let memory = Self { file, base, reserved, size: AtomicUsize::new(0) };
        memory.grow(size)?;

        // From now on, nobody can make the file smaller, and nobody can write to it but through the mapping above. That the
        // kernel does not know the last one is no reason to go without the others: it is about strangers of the same user.
        let seals = SealFlags::SHRINK | SealFlags::FUTURE_WRITE;
        if rustix::fs::fcntl_add_seals(&memory.file, seals).is_err() {
            rustix::fs::fcntl_add_seals(&memory.file, SealFlags::SHRINK)?;
        }
        rustix::fs::fcntl_add_seals(&memory.file, SealFlags::SEAL)?;
        Ok(memory)
    }

    /// Makes it larger, in place. One thread at a time.
    pub(crate) fn grow(&self, size: usize) -> io::Result<()> {
        let size = size.min(self.reserved);

        if size > self.size.load(Ordering::Relaxed) {
            // Not only the length but the memory, so that it is here, where it can be told, that there may be none left.
            rustix::fs::fallocate(&self.file, FallocateFlags::empty(), 0, size as u64)?;
            self.size.store(size, Ordering::Release);
        }

        Ok(())
    }

    /// All that there is of it now.
    pub(crate) fn words(&self) -> &[AtomicU64] {
        let length = self.size.load(Ordering::Acquire) / size_of::<AtomicU64>();
        // SAFETY: `base` is aligned to a page and leads to at least `size` mapped bytes that have memory behind them, since
        // `size` was set after the file had grown to it, and a sealed file never shrinks. All bit patterns are
        // valid, and others use these words by atomic operations only, if at all.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), length) }
    }

    pub(crate) fn descriptor(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: this is the mapping made in `new`, whole, and nobody has a reference into it any more: references
        // borrow from this, and `Cell`s own a share of it.
        let _ = unsafe { rustix::mm::munmap(self.base.as_ptr().cast(), self.reserved) };
    }
}

/// The memory of another process.
#[derive(Debug)]
pub(crate) struct View {
    /// `None` if it is empty, since nothing cannot be mapped.
    base: Option<NonNull<AtomicU64>>,
    size: usize,
    identity: (u64, u64),
}

// SAFETY: what `base` leads to is read by atomic loads only, in a mapping that lasts as long as this does.
unsafe impl Send for View {}
// SAFETY: as above.
unsafe impl Sync for View {}

/// Why a file is not mapped.
pub(crate) enum ViewFailure {
    NotSealed,
    Map(io::Error),
}

impl View {
    /// Maps a file, at most `limit` bytes of it.
    pub(crate) fn new(file: impl AsFd, limit: usize) -> Result<Self, ViewFailure> {
        let map = |error: rustix::io::Errno| ViewFailure::Map(error.into());
        // Before the length is asked for: it is final only then. What is no file in memory has no seals.
        let seals = rustix::fs::fcntl_get_seals(&file).map_err(|_| ViewFailure::NotSealed)?;
        let kind = rustix::fs::fstatfs(&file).map_err(map)?.f_type;

        if !seals.contains(SealFlags::SHRINK) || kind != TMPFS {
            return Err(ViewFailure::NotSealed);
        }

        let status = rustix::fs::fstat(&file).map_err(map)?;

        if FileType::from_raw_mode(status.st_mode) != FileType::RegularFile {
            return Err(ViewFailure::NotSealed);
        }

        let size = usize::try_from(status.st_size).unwrap_or(0).min(limit);
        let base = match size {
            0 => None,
            size => {
                // SAFETY: the kernel chooses the place, so nothing that is mapped already is replaced. No more is mapped
                // than the file has, and will always have.
                let base = unsafe {
                    rustix::mm::mmap(ptr::null_mut(), size, ProtFlags::READ, MapFlags::SHARED, &file, 0).map_err(map)?
                };
                NonNull::new(base.cast())
            }
        };
        Ok(Self { base, size, identity: (status.st_dev, status.st_ino) })
    }

    /// A word, if there is one of that index.
    #[inline]
    pub(crate) fn load(&self, index: usize, ordering: Ordering) -> Option<u64> {
        let words = self.size / size_of::<AtomicU64>();
        let base = self.base.filter(|_| index < words)?;
        // SAFETY: within the mapping and aligned, see above, and backed by the file to its end. The memory cannot be written
        // to through this mapping, and is not: this is an atomic load of at most the width of a register, which is
        // allowed for such memory. Whatever the owner writes there meanwhile, by what means ever, is a valid number.
        Some(unsafe { base.add(index).as_ref() }.load(ordering))
    }

    pub(crate) fn size(&self) -> usize {
        self.size
    }

    /// What no other file of this machine has.
    pub(crate) fn identity(&self) -> (u64, u64) {
        self.identity
    }
}

impl Drop for View {
    fn drop(&mut self) {
        if let Some(base) = self.base {
            // SAFETY: this is the mapping made in `new`, whole, and no reference into it is ever given away.
            let _ = unsafe { rustix::mm::munmap(base.as_ptr().cast(), self.size) };
        }
    }
}
