//! Files as memory.

use std::{fs, io, ops::Deref};

/// The contents of a file, or a copy of what is in memory.
pub(crate) enum Mapped {
    File(memmap2::Mmap),
    Copied(Vec<u8>),
}

impl Mapped {
    pub(crate) fn file(file: &fs::File) -> io::Result<Self> {
        // SAFETY: the mapping is private and only read, and nothing relies on its bytes staying the same. What would end
        // the process is a read behind the end of a file that was cut short meanwhile; these are programs and libraries
        // that run in some process, which would end by the same.
        unsafe { memmap2::Mmap::map(file) }.map(Self::File)
    }
}

impl Deref for Mapped {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::File(map) => map,
            Self::Copied(bytes) => bytes,
        }
    }
}
