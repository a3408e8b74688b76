//! What children leave behind: processes that they started and that detached themselves.
//!
//! A process group is killed together with the child that leads it. A process that went to a session of its own is not
//! in it; when its parent ends, it becomes a child of the root, which is a subreaper. Whose it was is told by a mark in
//! its environment, which it inherited, and which lasts as long as the environment that it was started with.

use std::collections::BTreeSet;

use rustix::process::Pid;

use crate::sys::signal;

/// The variable that marks all descendants of a child.
pub(crate) const MARK: &str = "ASYNC_CONTAINER_CHILD";

/// The marks of children that have ended and may have left something behind.
#[derive(Debug, Default)]
pub(crate) struct Orphans {
    retired: BTreeSet<String>,
}

impl Orphans {
    /// A child with this mark has ended.
    pub(crate) fn retire(&mut self, mark: String) {
        self.retired.insert(mark);
    }

    /// Kills what retired children have left behind. What those have left behind in turn comes up when they have ended, so
    /// it is to be called again after each end of a process that is not `ours`.
    pub(crate) fn sweep(&mut self, ours: impl Fn(Pid) -> bool) {
        if self.retired.is_empty() {
            return;
        }
        let mut left = BTreeSet::new();
        for child in signal::children().into_iter().filter(|child| !ours(*child)) {
            match mark_of(child) {
                Some(mark) if self.retired.contains(&mark) => {
                    tracing::info!(pid = child.as_raw_nonzero().get(), mark, "killing what a child left behind");
                    signal::kill_orphan(child);
                    left.insert(mark);
                }
                // It has no environment any more, and what it leaves behind may be anybody's.
                None if is_exiting(child) => left.append(&mut self.retired.clone()),
                _ => {}
            }
        }
        self.retired = left;
    }
}

/// The mark that the process was started with.
pub(crate) fn mark_of(pid: Pid) -> Option<String> {
    let environment = std::fs::read(format!("/proc/{}/environ", pid.as_raw_nonzero())).ok()?;
    let prefix = [MARK.as_bytes(), b"="].concat();
    let mark = environment.split(|byte| *byte == 0).find_map(|entry| entry.strip_prefix(prefix.as_slice()))?;
    String::from_utf8(mark.to_vec()).ok()
}

/// True if the process is ending, or has ended and was not reaped yet.
fn is_exiting(pid: Pid) -> bool {
    /// `PF_EXITING` of linux/sched.h.
    const EXITING: u64 = 0x4;
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())) else {
        return true;
    };
    // The name may contain anything, so what follows it is counted from its end: state, parent, group, session, terminal,
    // its foreground group, flags.
    let flags = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(6)?.parse::<u64>().ok());
    flags.is_none_or(|flags| flags & EXITING != 0)
}
