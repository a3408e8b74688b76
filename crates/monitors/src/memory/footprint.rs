//! How much memory a worker takes: its process and those that descend from it, cheaply at every check and closely when it
//! matters.

use std::{
    cell::OnceCell,
    collections::HashSet,
    io,
    time::{Duration, Instant},
};

use super::strays::{Mark, mark_of};
use crate::sample::{self, Activity, Directory, Memory, Process, Resident};

/// A close look at a process that is near a limit may take this part of the time: 1 in 100. It holds up the process, too.
const NEAR_SHARE: u32 = 100;

/// One that had the processor for less than this since it was measured cannot have taken more than some megabytes: the kernel clears the
/// memory that it gives, at some gigabytes a second.
const QUIET: Duration = Duration::from_micros(200);

/// Descendants of descendants: how many are followed. Nobody could be told more apart, and a fork bomb is not to be the
/// end of the supervisor.
const MAXIMUM_MEMBERS: usize = 256;

/// What memory is counted as. Sizes are in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Size {
    /// What is resident, shared or not.
    pub resident: u64,
    /// What of that belongs to no file, not even to one in memory.
    pub anonymous: u64,
    /// What is resident, shared pages divided by the number of those that share them, and without those of files on disk: these are
    /// page cache.
    pub proportional: u64,
    /// What would be free without it.
    pub private: u64,
    /// What it has in common with others, but for page cache. Of several processes, the most that one of them has: it is much the same
    /// for all.
    pub shared: u64,
    /// Whether these were measured, and not only bounded by what is resident.
    pub is_close: bool,
}

/// A worker's process, and those that it started.
pub(super) struct Footprint {
    root: Member,
    descendants: Vec<Member>,
    /// What those that descend from it have in common, once somebody asked for that.
    mark: OnceCell<Option<Mark>>,
    /// It was said that there is one that cannot be looked at closely.
    is_told: bool,
}

struct Member {
    process: Process,
    activity: Activity,
    resident: Resident,
    close: Option<Close>,
    /// When it may be looked at closely again.
    due: Option<Instant>,
    /// It may not be looked at closely: it belongs to somebody else.
    is_hidden: bool,
}

/// What a close look gave.
struct Close {
    /// As in [`Size`].
    proportional: u64,
    private: u64,
    shared: u64,
    /// What belonged to no file by the cheap figure at that time.
    anonymous: u64,
}

impl Close {
    fn new(memory: &Memory, resident: Resident) -> Self {
        let proportional = memory.proportional_size.saturating_sub(memory.proportional_file_size);
        // Of what is private, that which is as it is on disk belongs to files as far as there are any. What was written to may yet
        // have to go to one, but all that does not comes to no more than the proportional size without files.
        let in_files = memory.private_clean_size.min(memory.proportional_file_size);
        let private = memory.private_size.saturating_sub(in_files).min(proportional);
        Self { proportional, private, shared: memory.shared_dirty_size, anonymous: resident.anonymous_size }
    }
}

impl Footprint {
    pub(super) fn open(process_id: u32) -> io::Result<Self> {
        Ok(Self { root: Member::open(process_id)?, descendants: Vec::new(), mark: OnceCell::new(), is_told: false })
    }

    pub(super) fn start_time(&self) -> u64 {
        self.root.process.start_time()
    }

    /// The time since it was started.
    pub(super) fn age(&self) -> Duration {
        self.root.process.age()
    }

    pub(super) fn has_descendants(&self) -> bool {
        !self.descendants.is_empty()
    }

    /// What all that descend from it have in their environment, if it is the child of a root.
    pub(super) fn mark(&self) -> Option<&Mark> {
        self.mark.get_or_init(|| mark_of(self.root.process.process_id())).as_ref()
    }

    /// Has a process count as one that descends from it, though it is another one's child by now.
    pub(super) fn adopt(&mut self, process_id: u32) {
        if self.descendants.len() < MAXIMUM_MEMBERS && !self.has(process_id) {
            self.add(process_id);
        }
    }

    fn has(&self, process_id: u32) -> bool {
        self.descendants.iter().any(|member| member.process.process_id() == process_id)
    }

    fn add(&mut self, process_id: u32) {
        if let Ok(mut member) = Member::open(process_id)
            && member.sample().unwrap_or(false)
        {
            self.descendants.push(member);
        }
    }

    /// Measures at 1–2 µs a process, less for one that did nothing. `None` once the worker's own process has ended.
    pub(super) fn sample(&mut self) -> io::Result<Option<Size>> {
        if !self.root.sample()? {
            return Ok(None);
        }
        // Those that cannot be read any more are no reason to know nothing of the worker.
        self.descendants.retain_mut(|member| member.sample().unwrap_or(false));
        Ok(Some(self.size()))
    }

    /// What is known without looking again.
    pub(super) fn size(&self) -> Size {
        let mut total = Size { is_close: true, ..Size::default() };
        for member in std::iter::once(&self.root).chain(&self.descendants) {
            let size = member.size();
            total.resident += size.resident;
            total.anonymous += size.anonymous;
            total.proportional += size.proportional;
            total.private += size.private;
            total.shared = total.shared.max(size.shared);
            total.is_close &= size.is_close;
        }
        total
    }

    /// Measures what is private and what is shared, unless it did so too short a time ago for what that costs.
    pub(super) fn look_closely(&mut self, now: Instant) {
        for member in std::iter::once(&mut self.root).chain(&mut self.descendants) {
            member.look_closely(now);
            if member.is_hidden && !std::mem::replace(&mut self.is_told, true) {
                tracing::warn!(
                    process_id = member.process.process_id(),
                    "cannot look into a process of a worker, which belongs to another user: all that it has resident counts, \
                     also what it shares"
                );
            }
        }
    }

    /// Finds the processes that descend from it, except for those that are workers themselves. One that was found goes on to be one
    /// when it is left to another parent, as daemons are; so do those that it starts.
    pub(super) fn find_descendants(&mut self, workers: &HashSet<u32>) {
        let mut found: Vec<u32> = Vec::new();
        let known = self.descendants.iter().map(|member| member.process.process_id());
        let known: Vec<u32> = known.filter(|process_id| !workers.contains(process_id)).collect();
        let mut waiting = [&known[..], &[self.root.process.process_id()]].concat();
        found.extend(known);
        while let Some(process_id) = waiting.pop() {
            let children = Directory::open(process_id).and_then(|directory| directory.children()).unwrap_or_default();
            for child in children {
                if found.len() < MAXIMUM_MEMBERS && !workers.contains(&child) && !found.contains(&child) {
                    found.push(child);
                    waiting.push(child);
                }
            }
        }
        self.descendants.retain(|member| found.contains(&member.process.process_id()));
        for process_id in found {
            if !self.has(process_id) {
                self.add(process_id);
            }
        }
    }
}

impl Member {
    fn open(process_id: u32) -> io::Result<Self> {
        let (process, activity) = (Process::open(process_id)?, Activity::of(process_id, QUIET));
        Ok(Self { process, activity, resident: Resident::default(), close: None, due: None, is_hidden: false })
    }

    /// False once it has ended.
    fn sample(&mut self) -> io::Result<bool> {
        // What was looked at closely is, or was, near a limit. Whether a process has ended is for its file to say.
        if self.close.is_none() && matches!(self.activity.look(), Ok(Some(look)) if look.is_quiet) {
            return Ok(true);
        }
        let resident = self.process.resident()?;
        self.resident = resident.unwrap_or_default();
        Ok(resident.is_some())
    }

    fn size(&self) -> Size {
        let Resident { size: resident, anonymous_size: anonymous } = self.resident;
        let Some(close) = &self.close else {
            let (proportional, private, is_close) = (resident, resident, self.is_hidden);
            return Size { resident, anonymous, proportional, private, shared: 0, is_close };
        };
        // What has come since is its own, as far as is known; what has gone was. Of files, it may be page cache.
        let since = |then: u64| (then + anonymous).saturating_sub(close.anonymous).min(resident);
        let private = since(close.private);
        let (proportional, shared) = (since(close.proportional).max(private), close.shared.min(resident - private));
        Size { resident, anonymous, proportional, private, shared, is_close: true }
    }

    fn look_closely(&mut self, now: Instant) {
        if self.is_hidden || self.due.is_some_and(|due| now < due) {
            return;
        }
        let before = Instant::now();
        match self.process.memory() {
            Ok(memory) => self.close = Some(Close::new(&memory, self.resident)),
            Err(error) if sample::has_ended(&error) => {}
            Err(error) => {
                self.is_hidden = error.kind() == io::ErrorKind::PermissionDenied;
                tracing::debug!(process_id = self.process.process_id(), %error, "cannot tell private from shared memory");
            }
        }
        self.due = Some(now + before.elapsed() * NEAR_SHARE);
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn one_that_did_nothing_is_not_measured_unless_it_is_near_a_limit() {
        let mut child = Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let mut member = Member::open(child.id()).unwrap();
        let mut is_measured = || {
            member.resident = Resident::default();
            assert!(member.sample().unwrap());
            member.resident.size > 0
        };
        let start = Instant::now();
        assert!(is_measured());
        // It takes a moment until it waits, and its turn comes at times.
        while is_measured() {
            assert!(start.elapsed() < Duration::from_secs(60), "it is measured at each look");
        }
        member.look_closely(Instant::now());
        assert!(member.close.is_some() && member.sample().unwrap());
        assert!(member.resident.size > 0);
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!member.sample().unwrap());
        member.close = None;
        assert!(!member.sample().unwrap(), "it has ended, by its clock as well");
    }
}
