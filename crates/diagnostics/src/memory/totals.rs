//! What the process and its allocator hold in all.

use std::{fs, io};

use serde::Serialize;

use super::hook;
use crate::sys::{memory, process};

/// What an allocator holds, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct AllocatorTotals {
    /// Handed out to the program.
    pub allocated: u64,
    /// Had from the kernel.
    pub mapped: u64,
    /// Free, and kept for what comes.
    pub free: u64,
}

/// What a process holds, in bytes, by `/proc/self/smaps_rollup` or, without that, `statm`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct ProcessTotals {
    /// In memory, whoever else has it, too.
    pub resident: u64,
    /// In memory, with a share of what others have, too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proportional: Option<u64>,
    /// In memory, for this process alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub private: Option<u64>,
    /// In memory, and of no file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub anonymous: Option<u64>,
    /// In the swap space.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub swapped: Option<u64>,
    /// Pages that had to be made since the process began.
    pub minor_faults: u64,
    /// Pages that had to be read.
    pub major_faults: u64,
}

/// What there is now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Totals {
    /// By the kernel.
    pub process: ProcessTotals,
    /// By the allocator, if it tells.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allocator: Option<AllocatorTotals>,
}

impl Totals {
    /// Asks both. The kernel walks all pages of the process for it: a millisecond for 50 MB.
    pub fn now() -> io::Result<Self> {
        Ok(Self { process: ProcessTotals::now()?, allocator: hook::allocator_totals() })
    }

    /// By name, as reports have them.
    pub(crate) fn named(&self) -> Vec<(&'static str, u64)> {
        let process = &self.process;
        let allocator = self.allocator;
        let all = [
            ("resident", Some(process.resident)),
            ("proportional", process.proportional),
            ("private", process.private),
            ("anonymous", process.anonymous),
            ("swapped", process.swapped),
            ("allocator_allocated", allocator.map(|totals| totals.allocated)),
            ("allocator_mapped", allocator.map(|totals| totals.mapped)),
            ("allocator_free", allocator.map(|totals| totals.free)),
        ];
        all.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
    }
}

impl ProcessTotals {
    fn now() -> io::Result<Self> {
        let (minor_faults, major_faults) = faults(&fs::read_to_string("/proc/self/stat")?).unwrap_or_default();

        match fs::read_to_string("/proc/self/smaps_rollup") {
            Ok(text) => Ok(Self { minor_faults, major_faults, ..Self::of_rollup(&text) }),
            Err(_) => {
                let pages = fs::read_to_string("/proc/self/statm")?;
                let resident = pages.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or_default();
                let resident = resident * memory::page_size();
                Ok(Self { resident, minor_faults, major_faults, ..Self::default() })
            }
        }
    }

    fn of_rollup(text: &str) -> Self {
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
            Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
        };
        Self {
            resident: field("Rss").unwrap_or_default(),
            proportional: field("Pss"),
            private: Some(field("Private_Clean").unwrap_or_default() + field("Private_Dirty").unwrap_or_default()),
            anonymous: field("Anonymous"),
            swapped: field("Swap"),
            ..Self::default()
        }
    }
}

/// Minor and major faults. The name of the program, in parentheses, may have any characters in it.
fn faults(stat: &str) -> Option<(u64, u64)> {
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split(' ');
    Some((fields.nth(7)?.parse().ok()?, fields.nth(1)?.parse().ok()?))
}

/// What the allocator of the C library holds.
pub(crate) fn of_c_library() -> Option<AllocatorTotals> {
    let (allocated, free, mapped) = process::heap()?;
    Some(AllocatorTotals { allocated, mapped, free })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_tells_is_read() {
        let text = "55-7f ---p 00000000 00:00 0    [rollup]\nRss:      2048 kB\nPss:      1024 kB\nPss_Anon:   10 kB\n\
                    Private_Clean:   4 kB\nPrivate_Dirty:   8 kB\nAnonymous:   8 kB\nSwap:    0 kB\nSwapPss:   1 kB\n";
        let totals = ProcessTotals::of_rollup(text);
        assert_eq!((totals.resident, totals.proportional, totals.private), (2 << 20, Some(1 << 20), Some(12 << 10)));
        assert_eq!((totals.anonymous, totals.swapped), (Some(8 << 10), Some(0)));
        assert_eq!(faults("1 (a) b) S 0 1 1 0 -1 4194560 77 0 5 0 1 2"), Some((77, 5)));
    }

    #[test]
    fn this_process_is_in_memory() {
        let totals = Totals::now().unwrap();
        assert!(totals.process.resident > 100_000);
        assert!(totals.process.minor_faults > 0);
    }
}
