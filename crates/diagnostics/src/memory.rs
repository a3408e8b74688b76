//! Where the memory of this process goes.
//!
//! For this, the program has an [`Allocator`] as its global one, around whichever it would have otherwise:
//!
//! ```
//! use async_container_diagnostics::memory::{Allocator, Mode, Options, Sampling};
//!
//! #[global_allocator]
//! static ALLOCATOR: Allocator = Allocator::system();
//!
//! fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let sampling = Sampling::start(&Options::new().mode(Mode::Full))?;
//!     let kept = vec![1_u8; 100_000];
//!     let sample = sampling.finish()?;
//!     assert!(sample.total_retained.bytes >= 100_000);
//!     println!("{sample}");
//!     # drop(kept);
//!     Ok(())
//! }
//! ```
//!
//! - [`Sampling`] tells what was allocated during a time, and what of that still lives: by crate, file, line and type.
//! - [`Dump`] is what lives now of all that was recorded since the program began, or since [`record`]. It is written as it is
//!   read, and takes no memory of its own that would grow with the program's.
//! - [`AllocatorProfile`] tells how the allocator did during a time: how often it was asked, what it had from the kernel, and
//!   what it kept.
//!
//! # What is recorded, and what it costs
//!
//! By [`Mode::Sampled`], an allocation is looked at whenever 512 KiB, on average and at random, were allocated, and stands for
//! those in between; each figure says how far off it may be. By [`Mode::Full`], all are looked at: for tests and small programs. The
//! recorder follows up to a million blocks and 65,536 stacks at a time, and the report says so if there were more.
//!
//! A block that is made larger or smaller counts as freed and allocated anew.
//!
//! There is one recording at a time. Whoever asks for one while there is another takes part in that: the report then has its mode,
//! and says so. It ends, and what it took is given back, when the last one who asked for it is dropped; a
//! recording since the start of the program goes on until [`stop`].
//!
//! # Since the start of the program
//!
//! The variable `ACS_MEMORY_SAMPLING` says so from outside: `boot`, `boot:64k` for another rate (in bytes, or with `k` or `m`),
//! `boot:full`, or `off`. It is read at the first allocation, before `main`. A program can make it its default by
//! [`Allocator::record_from_start`].
//!
//! # jemalloc
//!
//! With the feature `jemalloc`, a program can have that one do the work, by `static ALLOCATOR: Allocator<Jemalloc> =
//! Allocator::jemalloc()`. If it was started with `_RJEM_MALLOC_CONF=prof:true`, jemalloc samples by itself, and a [`Dump`] shows what
//! it has found whenever nothing is recorded here; [`Dump::of_jemalloc`] does so in any case, also as the file that its own tools read.
//!
//! # Who is blamed
//!
//! An allocation is counted for the innermost function that is not one of those that allocate for others: the allocator itself,
//! the standard library, and crates that are containers only (`hashbrown`, `indexmap`, `smallvec`, `bytes` and the like). So what a
//! `Vec` takes is counted for the line that pushes to it. If there is no such function, the innermost one counts. The crate is found
//! by the path of the source file, else by the name of the function.
//!
//! Types are what can be read from the names of the functions in between: `Vec<u8>`, if the compiler has written it there, `Vec<_>`,
//! if it has not, and `unknown`, if nothing is to be seen.
//!
//! # After a fork
//!
//! In the child of a fork nothing is recorded any more, until it asks for it itself: what the threads that it does not have were
//! at is not known there. What the recorder took of the parent's memory stays, copied when it is written to.

mod blame;
mod control;
mod counters;
mod dump;
mod figures;
mod filter;
mod groups;
pub(crate) mod hook;
#[cfg(feature = "jemalloc")]
mod jemalloc;
mod profile;
mod recorder;
mod sample;
mod text;
pub(crate) mod totals;

use std::{fmt, io};

use serde::{Serialize, Serializer};

use crate::{report::ReportError, unwind::UnwindError};

pub use crate::sys::allocator::Allocator;
pub use counters::Counts;
pub use dump::{Chunks, Dump};
pub use figures::Figures;
#[cfg(feature = "jemalloc")]
pub use jemalloc::Jemalloc;
pub use profile::{AllocatorProfile, AllocatorReport, Snapshot};
pub use sample::{MemorySample, Options, Row, Sampling};
pub use totals::{AllocatorTotals, ProcessTotals, Totals};

/// Why nothing is known of the memory.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MemoryError {
    /// The program has another global allocator.
    #[error(
        "this program's #[global_allocator] does not tell what it does: add `use \
         async_container_supervisor::diagnostics::memory::Allocator; #[global_allocator] static ALLOCATOR: Allocator = \
         Allocator::system();` to its main.rs (or `use async_container_diagnostics::memory::Allocator;`, if it uses that \
         crate by itself)"
    )]
    NotInstalled,
    /// Nothing is recorded, so nothing is known of what lives.
    #[error(
        "nothing was recorded of what lives in this process: start it with ACS_MEMORY_SAMPLING=boot, or with \
         Allocator::record_from_start, or take a memory sample instead"
    )]
    NotRecording,
    /// The same, since what was said of that was not understood.
    #[error("nothing was recorded of what lives in this process: {}", control::VARIABLE_MISUNDERSTOOD)]
    Misunderstood,
    /// There is no profile of jemalloc, because it is not part of the program.
    #[error(
        "this program was built without jemalloc's profiler: build async-container-supervisor (or \
         async-container-diagnostics) with its feature `jemalloc`, and let `static ALLOCATOR: Allocator<Jemalloc> = \
         Allocator::jemalloc();` be its #[global_allocator]"
    )]
    NoJemalloc,
    /// There is no profile of jemalloc, because the program allocates by another one.
    #[error(
        "this program does not allocate by jemalloc: let `static ALLOCATOR: Allocator<Jemalloc> = \
         Allocator::jemalloc();` be its #[global_allocator]"
    )]
    NotJemalloc,
    /// There is no profile of jemalloc, because that was started without its profiler.
    #[error(
        "jemalloc's profiler is off, and cannot be switched on later: start this program with \
         _RJEM_MALLOC_CONF=prof:true (or MALLOC_CONF=prof:true, if its jemalloc was built to replace malloc)"
    )]
    NotProfiled,
    /// jemalloc could not write its profile.
    #[error("jemalloc could not write its profile")]
    Jemalloc(#[source] io::Error),
    /// It is recorded in another way already.
    #[error("memory is recorded already, in mode {mode}")]
    Recording {
        /// How.
        mode: Mode,
    },
    /// Stacks cannot be walked.
    #[error(transparent)]
    Unwind(#[from] UnwindError),
    /// The report could not be written.
    #[error(transparent)]
    Report(#[from] ReportError),
    /// The kernel did not say what the process holds.
    #[error("could not read how much memory this process has")]
    Totals(#[source] io::Error),
}

/// Which allocations are recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Mode {
    /// Each byte with the same probability, and with it the block that it is in.
    Sampled {
        /// How many bytes lie between two that are looked at, on average: from 1 to [`Mode::LARGEST_RATE`].
        rate: u64,
    },
    /// All.
    Full,
}

impl Mode {
    /// One in 512 KiB.
    pub const SAMPLED: Self = Self::Sampled { rate: 512 << 10 };

    /// The largest distance between samples that makes sense: 1 TiB.
    pub const LARGEST_RATE: u64 = 1 << 40;

    fn rate(self) -> Option<u64> {
        match self {
            Self::Sampled { rate } => Some(rate.clamp(1, Self::LARGEST_RATE)),
            Self::Full => None,
        }
    }

    /// How likely it is that a block of that size is looked at.
    fn probability(self, size: usize) -> f64 {
        match self.rate() {
            // One byte at least, so that it is never zero.
            Some(rate) => -(-(size.max(1) as f64) / rate as f64).exp_m1(),
            None => 1.0,
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Sampled { .. } => "sampled",
            Self::Full => "full",
        })
    }
}

impl Serialize for Mode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Records from now on until [`stop`], so that dumps can be taken. Nothing changes if that is what is done already.
pub fn record(mode: Mode) -> Result<(), MemoryError> {
    control::keep(mode)
}

/// Ends what [`record`] has begun, or what is recorded since the start of the program. Samples that are under way go on.
pub fn stop() {
    control::stop();
}

/// What is recorded now, if anything is.
pub fn recording() -> Option<Mode> {
    hook::RECORDER.get().map(|recorder| recorder.mode())
}

/// What is wrong with the variable `ACS_MEMORY_SAMPLING`, if the program was started with one that is not understood.
pub fn warning() -> Option<&'static str> {
    control::note()
}
