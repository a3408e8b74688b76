//! Children in cgroups of their own.

use std::os::fd::OwnedFd;

use super::words::size;
use super::{Container, Key};
use crate::cgroup::Tree;
use crate::error::{CgroupError, SpawnError, StartError};
use crate::plan::Planned;
use crate::slot::Slot;

/// Sees to it that all limits of services can be had, or says so.
pub(crate) fn require_limits(cgroups: &mut Result<Tree, CgroupError>, plan: &[Planned]) -> Result<(), StartError> {
    for Planned { service, .. } in plan.iter().filter(|planned| !planned.service.limits.controllers().is_empty()) {
        let had = match cgroups {
            Ok(tree) => tree.require(&service.limits),
            Err(error) => Err(error.clone()),
        };
        match had {
            Err(error) if service.limits.best_effort => {
                tracing::warn!(service = service.name, %error, "limits of the service are not in force");
            }
            had => had.map_err(|source| StartError::Limits { name: service.name.clone(), source })?,
        }
    }
    Ok(())
}

impl Container {
    /// Sees to it that all limits of services that are about to be started can be had.
    pub(crate) fn require_limits(&mut self, plan: &[Planned]) -> Result<(), StartError> {
        require_limits(&mut self.cgroups, plan)
    }

    /// The directory of the child's cgroup, which is made if there is none yet.
    pub(super) fn open_cgroup(&mut self, key: Key) -> Result<Option<OwnedFd>, SpawnError> {
        let (Ok(tree), Some(slot)) = (&mut self.cgroups, self.slots.get_mut(&key)) else {
            return Ok(None);
        };
        let limits = &slot.service.limits;
        let opened = match slot.cgroup.take() {
            Some(cgroup) if !cgroup.is_spent() => Ok(cgroup),
            spent => {
                spent.into_iter().for_each(|cgroup| tree.retire(cgroup));
                tree.make(&slot.name, slot.generation, limits)
            }
        };
        let opened = opened.and_then(|mut cgroup| Ok((cgroup.open()?, cgroup)));
        match opened {
            Ok((directory, cgroup)) => {
                slot.cgroup = Some(cgroup);
                Ok(Some(directory))
            }
            Err(error) if limits.best_effort || limits.controllers().is_empty() => {
                if tree.is_first_failure() {
                    tracing::warn!(child = slot.name, %error, "child runs without a cgroup of its own; further ones will not be logged");
                }
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Kills the child with what it has started, wherever that is by now.
    pub(super) fn kill_cgroup(&mut self, key: Key) {
        let (Ok(tree), Some(slot)) = (&self.cgroups, self.slots.get_mut(&key)) else {
            return;
        };
        if let Some(cgroup) = slot.cgroup.as_mut().filter(|_| tree.kills() && slot.service.kills_descendants) {
            cgroup.kill();
        }
    }

    /// Kills what a child that has ended left behind in its cgroup. True if nothing can have escaped.
    pub(super) fn clear_cgroup(&mut self, key: Key) -> bool {
        let (Ok(tree), Some(slot)) = (&self.cgroups, self.slots.get_mut(&key)) else {
            return false;
        };
        let Some(cgroup) = slot.cgroup.as_mut().filter(|_| tree.kills() && slot.service.kills_descendants) else {
            return false;
        };
        if cgroup.is_populated() {
            tracing::debug!(child = slot.name, "killing what the child left behind in its cgroup");
            cgroup.kill();
        }
        true
    }

    /// The child is over, or its cgroup cannot be used again: it goes when all has ended that was in it.
    pub(super) fn leave_cgroup(&mut self, key: Key) {
        if let (Ok(tree), Some(slot)) = (&mut self.cgroups, self.slots.get_mut(&key))
            && let Some(cgroup) = slot.cgroup.take()
        {
            tree.retire(cgroup);
        }
    }

    /// Processes have ended, so that cgroups may be empty.
    pub(super) fn tidy_cgroups(&mut self) {
        if let Ok(tree) = &mut self.cgroups {
            tree.tidy();
        }
    }
}

/// What there is to add to how the child's process ended.
pub(super) fn cause_of_death(slot: &Slot) -> Option<String> {
    let cgroup = slot.cgroup.as_ref().filter(|cgroup| cgroup.lacked_memory())?;
    Some(match slot.service.limits.memory_max {
        Some(bytes) if cgroup.was_at_its_limit() => format!("out of memory, its limit is {}", size(bytes)),
        // Raising it would not help: the host has no more, or a cgroup around all of this.
        Some(bytes) => format!("out of memory, though below its limit of {}", size(bytes)),
        None => "out of memory".to_owned(),
    })
}

/// What there is to add where it did not get as many processes as it wanted.
pub(super) fn want_of_processes(slot: &Slot) -> Option<String> {
    let limit = slot.cgroup.as_ref()?.lacked_processes()?;
    Some(format!("limit of {limit} processes reached"))
}
