//! Whether the kernel has killed for want of memory in the cgroup of this program, which children share that have none of their own.

use std::path::PathBuf;

use super::{find, kills_in};

/// How often it did, as far as that is told.
#[derive(Debug)]
pub(crate) struct Shortage {
    /// Where it is told, of this one cgroup alone.
    file: Option<PathBuf>,
    kills: u64,
}

impl Shortage {
    /// As of now.
    pub(crate) fn new() -> Self {
        // A cgroup without the controller counts as part of the one around it, as that of the root does if children have limits
        // of other things only.
        let own = find::own().ok();
        let second = own.iter().flat_map(|own| own.ancestors()).map(|path| path.join("memory.events.local"));
        let first = find::own_of_memory().map(|path| path.join("memory.oom_control"));
        let told = second.chain(first).find_map(|file| Some((kills_in(&file)?, file)));
        match told {
            Some((kills, file)) => Shortage { file: Some(file), kills },
            None => Shortage { file: None, kills: 0 },
        }
    }

    /// True if it did since this was last asked.
    pub(crate) fn has_killed(&mut self) -> bool {
        let kills = self.file.as_deref().and_then(kills_in).unwrap_or(self.kills);
        std::mem::replace(&mut self.kills, kills) < kills
    }
}
