//! jemalloc, and the profile of the heap that it keeps itself.

use std::{
    ffi::CString,
    fs::File,
    io::{self, BufRead, BufReader, Seek},
    os::fd::AsRawFd,
};

use rustix::fs::MemfdFlags;
pub use tikv_jemallocator::Jemalloc;

use super::{Allocator, AllocatorTotals, MemoryError, dump::Living, figures::Sum};
use crate::sys::jemalloc;

/// How many stacks are read at once.
const AT_ONCE: usize = 64;

impl Allocator<Jemalloc> {
    /// Around jemalloc.
    pub const fn jemalloc() -> Self {
        Self::new(Jemalloc).totals(totals)
    }
}

fn totals() -> Option<AllocatorTotals> {
    let (allocated, mapped) = jemalloc::totals()?;
    Some(AllocatorTotals { allocated, mapped, free: mapped.saturating_sub(allocated) })
}

/// What jemalloc has written of the heap.
///
/// After a line with the distance between samples, there is one for each stack, with the addresses at which its functions will go on,
/// followed by how many blocks and bytes live of it, in all and by thread. The list of mappings is last.
#[derive(Debug)]
pub(super) struct HeapProfile {
    file: BufReader<File>,
    rate: u64,
    line: String,
}

impl HeapProfile {
    /// Has it written.
    pub(super) fn take() -> Result<Self, MemoryError> {
        if !jemalloc::is_used() {
            return Err(MemoryError::NotJemalloc);
        }

        if !jemalloc::has_profiler() {
            return Err(MemoryError::NotProfiled);
        }

        Self::write().map_err(MemoryError::Jemalloc)
    }

    fn write() -> io::Result<Self> {
        // In memory, because jemalloc holds locks while it writes that threads may need which allocate: none of them is to wait for
        // a disk. It is as long as there are stacks, not as the heap is large; and nobody else can open it.
        let file = File::from(rustix::fs::memfd_create("heap", MemfdFlags::CLOEXEC)?);
        let path = CString::new(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
        jemalloc::write_profile(&path)?;
        let mut this = Self { file: BufReader::new(file), rate: 1, line: String::new() };
        this.rewind()?;
        Ok(this)
    }

    /// Reads it from the beginning.
    pub(super) fn rewind(&mut self) -> io::Result<()> {
        self.file.rewind()?;
        self.next_line()?;
        let rate = self.line.trim_end().strip_prefix("heap_v2/").and_then(|rate| rate.parse().ok());
        self.rate = rate.ok_or_else(|| odd(&self.line))?;
        Ok(())
    }

    /// The whole of it, in its own form.
    pub(super) fn into_file(self) -> io::Result<File> {
        let mut file = self.file.into_inner();
        file.rewind()?;
        Ok(file)
    }

    /// How many bytes lie between two samples, on average.
    pub(super) fn rate(&self) -> u64 {
        self.rate
    }

    /// The next stacks; none when there are no more.
    pub(super) fn read(&mut self) -> io::Result<Option<Vec<Living>>> {
        let mut stacks = Vec::new();

        while stacks.len() < AT_ONCE && self.next_line()? && !self.line.starts_with("MAPPED_LIBRARIES") {
            let Some(addresses) = self.line.strip_prefix('@') else { continue };
            let addresses = addresses.split_ascii_whitespace().map(|address| {
                let address = address.strip_prefix("0x").and_then(|digits| u64::from_str_radix(digits, 16).ok());
                // Within the call that has not returned yet.
                address.map(|address| address.wrapping_sub(1)).ok_or_else(|| odd(&self.line))
            });
            let addresses = addresses.collect::<io::Result<_>>()?;
            self.next_line()?;
            let (count, bytes) = figures(&self.line).ok_or_else(|| odd(&self.line))?;
            // Blocks of one stack are of one size, mostly; that is what those who read this form assume, and jemalloc knows it.
            stacks.push(Living { addresses, sum: Sum::of_many(count, bytes, self.rate) });
        }

        Ok(Some(stacks).filter(|stacks| !stacks.is_empty()))
    }

    /// Whether there is one.
    fn next_line(&mut self) -> io::Result<bool> {
        self.line.clear();
        Ok(self.file.read_line(&mut self.line)? > 0)
    }
}

fn odd(line: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("jemalloc wrote what is not understood: {:?}", line.trim_end()))
}

/// Blocks and bytes that were looked at, and live, by `  t*: 13: 6688 [0: 0]`.
fn figures(line: &str) -> Option<(u64, u64)> {
    let mut fields = line.trim().strip_prefix("t*:")?.split(':');
    let count = fields.next()?.trim().parse().ok()?;
    let bytes = fields.next()?.split('[').next()?.trim().parse().ok()?;
    Some((count, bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_as_they_are_documented() {
        assert_eq!(figures("  t*: 13: 6688 [0: 0]\n"), Some((13, 6688)));
        assert_eq!(figures("  t3: 13: 6688 [0: 0]\n"), None);
        assert_eq!(figures("@ 0x10"), None);
    }

    #[test]
    fn small_blocks_stand_for_many_and_large_ones_for_themselves() {
        let estimate = |count, bytes| Sum::of_many(count, bytes, 512 << 10).figures(true);
        let small = estimate(1, 1024);
        assert!((500..=530).contains(&small.count) && (500 << 10..530 << 10).contains(&small.bytes), "{small:?}");
        assert!(small.error.unwrap() > 0.9);
        let large = estimate(3, 96 << 20);
        assert_eq!((large.count, large.bytes), (3, 96 << 20));
        assert!(large.error.unwrap() < 1e-3);
        assert_eq!(estimate(0, 0), super::super::Figures::default());
    }
}
