//! How the allocator did during a time.

use std::{
    fmt,
    time::{Duration, Instant},
};

use serde::Serialize;

use super::{
    MemoryError, control,
    counters::{self, Counts},
    text,
    totals::Totals,
};

/// Looks on until it is [stopped](Self::stop). Several may do so at once.
#[derive(Debug)]
pub struct AllocatorProfile {
    before: Snapshot,
    begun: Instant,
    counting: Option<Counting>,
}

/// Counts until it is dropped.
#[derive(Debug)]
struct Counting {
    forks: u64,
}

impl Drop for Counting {
    fn drop(&mut self) {
        control::stop_counting(self.forks);
    }
}

/// What there was at one time.
#[derive(Clone, Copy, Debug, Serialize)]
#[non_exhaustive]
pub struct Snapshot {
    /// What process and allocator held.
    #[serde(flatten)]
    pub totals: Totals,
    /// The part of what the allocator had from the kernel that was not handed out. Nothing if it does not tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fragmentation: Option<f64>,
    #[serde(skip)]
    counts: Counts,
}

impl Snapshot {
    fn take() -> Result<Self, MemoryError> {
        let totals = Totals::now().map_err(MemoryError::Totals)?;
        let fragmentation = totals
            .allocator
            .filter(|totals| totals.mapped > 0)
            .map(|totals| 1.0 - totals.allocated.min(totals.mapped) as f64 / totals.mapped as f64);
        Ok(Self { totals, fragmentation, counts: counters::now() })
    }
}

/// What the allocator did between two times.
///
/// Its [`Display`](fmt::Display) is for people, its [`Serialize`] for programs.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct AllocatorReport {
    /// How long, in seconds.
    #[serde(serialize_with = "crate::report::seconds")]
    pub duration: Duration,
    /// How often it was asked, if the program has an [`Allocator`](super::Allocator).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub counts: Option<Counts>,
    /// Bytes that were allocated and not freed, which is less than nothing if what was allocated before was freed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub growth: Option<i64>,
    /// Change of the resident memory, in bytes.
    pub resident_change: i64,
    /// Pages that had to be made.
    pub minor_faults: u64,
    /// Pages that had to be read.
    pub major_faults: u64,
    /// At the beginning.
    pub before: Snapshot,
    /// At the end.
    pub after: Snapshot,
    /// What whoever reads it should know.
    pub notes: Vec<String>,
}

impl AllocatorProfile {
    /// Begins. From here on each allocation and each free is counted, which costs a few nanoseconds.
    ///
    /// A program without an [`Allocator`](super::Allocator) gets what the kernel and the C library know, and a note.
    pub fn start() -> Result<Self, MemoryError> {
        let counting = control::count().map(|forks| Counting { forks });
        Ok(Self { before: Snapshot::take()?, begun: Instant::now(), counting })
    }

    /// Ends, and says what there was.
    pub fn stop(self) -> Result<AllocatorReport, MemoryError> {
        let after = Snapshot::take()?;
        let before = self.before;
        let duration = self.begun.elapsed();
        let counts = self.counting.as_ref().map(|_| after.counts.since(before.counts));
        let (then, now) = (&before.totals.process, &after.totals.process);
        let mut notes = Vec::new();

        if counts.is_none() {
            notes.push(format!("allocations are not counted: {}", MemoryError::NotInstalled));
        }

        if after.totals.allocator.is_none() {
            notes.push("the allocator does not tell what it holds: see Allocator::totals".to_owned());
        }

        Ok(AllocatorReport {
            duration,
            counts,
            growth: counts.map(|counts| counts.bytes_allocated.wrapping_sub(counts.bytes_freed) as i64),
            resident_change: now.resident.wrapping_sub(then.resident) as i64,
            minor_faults: now.minor_faults.saturating_sub(then.minor_faults),
            major_faults: now.major_faults.saturating_sub(then.major_faults),
            before,
            after,
            notes,
        })
    }
}

impl fmt::Display for AllocatorReport {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        text::allocator(self, formatter)
    }
}
