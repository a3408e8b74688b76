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
    sync::atomic::AtomicU64,
};

use rustix::{
    fs::{FallocateFlags, FileType, MemfdFlags, SealFlags, Stat},
    mm::{MapFlags, ProtFlags},
    process::{Resource, getrlimit},
};

use super::{
    Grow, Mapping, Memory,
    bounds::{Extent, lasting},
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
    /// How much of that may be touched.
    extent: Extent<AtomicU64>,
    /// The process that made it.
    process_id: u32,
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
        // the file is not touched before the file has grown, see `Memory::words`.
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
        let extent = Extent::new(AtomicU64::new(0));
        let memory = Self { file, base, reserved, extent, process_id: std::process::id() };

        // From now on, nobody can make the file smaller, and nobody can write to it but through the mapping above. That the
        // kernel does not know the last one is no reason to go without the others: it is about strangers of the same user.
        let seals = SealFlags::SHRINK | SealFlags::FUTURE_WRITE;
        if rustix::fs::fcntl_add_seals(&memory.file, seals).is_err() {
            rustix::fs::fcntl_add_seals(&memory.file, SealFlags::SHRINK)?;
        }
        rustix::fs::fcntl_add_seals(&memory.file, SealFlags::SEAL)?;
        // Only now, since until then somebody could have cut it again.
        memory.grow(size)?;
        Ok(memory)
    }

    /// Whether it is that of another process, of which this one is a fork.
    pub(crate) fn is_inherited(&self) -> bool {
        self.process_id != std::process::id()
    }

    pub(crate) fn descriptor(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

// SAFETY: `words` gives words of one mapping, which is neither moved nor unmapped as long as this is there.
unsafe impl Memory for Shared {
    type Word = AtomicU64;

    fn words(&self) -> &[AtomicU64] {
        let length = self.extent.get() / size_of::<AtomicU64>();
        // SAFETY: `base` is aligned to a page and leads to at least as many mapped bytes that have memory behind them, since
        // the extent was set after the file had grown to it, and a sealed file never shrinks. All bit patterns are
        // valid, and others use these words by atomic operations only, if at all.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), length) }
    }
}

impl Grow for Shared {
    fn grow(&self, size: usize) -> io::Result<()> {
        self.extent.grow(size.min(self.reserved), |size| allocate(&self.file, size as u64))
    }
}

/// Makes a file larger, and gives it the memory at once, so that it is here, where it can be told, that there may be none left.
fn allocate(file: &OwnedFd, size: u64) -> io::Result<()> {
    // Beyond this limit the kernel does not only refuse: it sends `SIGXFSZ`, by which most programs end.
    if let Some(limit) = getrlimit(Resource::Fsize).current.filter(|limit| size > *limit) {
        let reason = format!("files of this process may have {limit} bytes at most (RLIMIT_FSIZE)");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, reason));
    }

    Ok(rustix::fs::fallocate(file, FallocateFlags::empty(), 0, size)?)
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
        let status = || rustix::fs::fstat(&file).map_err(map);
        let Stat { st_mode, st_dev, st_ino, .. } = status()?;

        if FileType::from_raw_mode(st_mode) != FileType::RegularFile {
            return Err(ViewFailure::NotSealed);
        }

        let check_seal = || {
            // What is no file in memory has no seals.
            let seals = rustix::fs::fcntl_get_seals(&file).map_err(|_| ViewFailure::NotSealed)?;
            let kind = rustix::fs::fstatfs(&file).map_err(map)?.f_type;
            let is_sealed = seals.contains(SealFlags::SHRINK) && kind == TMPFS;
            is_sealed.then_some(()).ok_or(ViewFailure::NotSealed)
        };
        let size = lasting(limit, check_seal, || Ok(u64::try_from(status()?.st_size).unwrap_or(0)))?;
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
        Ok(Self { base, size, identity: (st_dev, st_ino) })
    }
}

// SAFETY: `words` gives words of one mapping, which is neither moved nor unmapped as long as this is there.
unsafe impl Memory for View {
    type Word = AtomicU64;

    #[inline]
    fn words(&self) -> &[AtomicU64] {
        let Some(base) = self.base else { return &[] };
        // SAFETY: aligned to a page, mapped, and backed by the file to its end. The memory cannot be written to through this
        // mapping, and is not: readers load from it, by at most the width of a register, which is allowed for such memory.
        // Whatever the owner writes there meanwhile, by what means ever, is a valid number.
        unsafe { std::slice::from_raw_parts(base.as_ptr(), self.size / size_of::<AtomicU64>()) }
    }
}

impl Mapping for View {
    fn identity(&self) -> (u64, u64) {
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
