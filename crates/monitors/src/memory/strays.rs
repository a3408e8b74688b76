//! Processes that whoever started them left to the root before a check saw them below a worker, as a daemon does that forks twice.

use std::collections::{HashMap, HashSet};

use super::Watch;
use crate::{
    roster::Roster,
    sample::{Directory, Stat},
    turns::Turns,
};

/// What the root has in the environment of a child, and all that descend from it inherit.
const MARK: &[u8] = b"ASYNC_CONTAINER_CHILD=";

/// What it has there beside for an instance of its own program, which that does not pass on.
const ENTRY: &[u8] = b"ASYNC_CONTAINER_ENTRY=";

/// What a process says of whose it is.
pub(super) type Mark = Box<[u8]>;

/// The root's children that are no workers, each looked at once: by the mark of one that it was left.
#[derive(Default)]
pub(super) struct Strays {
    marks: HashMap<u32, Option<Mark>>,
}

impl Strays {
    /// Has those that are new, and the root's, count with the worker that they descend from.
    pub(super) fn find_among(&mut self, new: &[Stat], workers: &mut Roster<Watch>) {
        let root = root();
        let left = new.iter().filter(|stat| stat.parent_process_id == root);
        let left: Vec<u32> = left.map(|stat| stat.process_id).collect();
        // They may have the ids of others that have ended.
        left.iter().for_each(|process_id| drop(self.marks.remove(process_id)));
        self.give_back(&left, workers);
    }

    /// Has all that are the root's by now count with the worker that they descend from.
    pub(super) fn find(&mut self, workers: &mut Roster<Watch>) {
        let children = Directory::open(root()).and_then(|root| root.children()).unwrap_or_default();
        let living: HashSet<&u32> = children.iter().collect();
        self.marks.retain(|process_id, _| living.contains(process_id));
        self.give_back(&children, workers);
    }

    fn give_back(&mut self, left: &[u32], workers: &mut Roster<Watch>) {
        let mut turns = Turns::new();
        let mut strays: HashMap<&Mark, Vec<u32>> = HashMap::new();
        let others = || left.iter().copied().filter(|process_id| workers.get(*process_id).is_none());
        for process_id in others() {
            self.marks.entry(process_id).or_insert_with(|| mark_of_stray(process_id));
            turns.give_way();
        }
        for process_id in others() {
            if let Some(Some(mark)) = self.marks.get(&process_id) {
                strays.entry(mark).or_default().push(process_id);
            }
        }
        if strays.is_empty() {
            return;
        }
        for (_, entry) in workers.iter_mut() {
            let Some(footprint) = entry.state.source.footprint() else { continue };
            let own = footprint.mark().and_then(|mark| strays.get(mark));
            own.into_iter().flatten().for_each(|process_id| footprint.adopt(*process_id));
            turns.give_way();
        }
    }
}

/// What is left to another parent comes to the root, which is the parent of this process, too.
fn root() -> u32 {
    rustix::process::getppid().map_or(0, |root| root.as_raw_nonzero().get().unsigned_abs())
}

/// The mark of a worker, which all that descend from it have. One that is not the root's own child has it in common with the one that
/// started it, and with others that this one started.
pub(super) fn mark_of(process_id: u32) -> Option<Mark> {
    let directory = Directory::open(process_id).ok()?;
    let is_child = directory.stat().is_ok_and(|stat| stat.parent_process_id == root());
    mark_in(&directory.environment().ok()?).filter(|_| is_child)
}

/// The mark of a process that is no instance itself.
fn mark_of_stray(process_id: u32) -> Option<Mark> {
    let environment = Directory::open(process_id).and_then(|directory| directory.environment()).ok()?;
    let is_instance = variables(&environment).any(|variable| variable.starts_with(ENTRY));
    mark_in(&environment).filter(|_| !is_instance)
}

fn mark_in(environment: &[u8]) -> Option<Mark> {
    variables(environment).find_map(|variable| variable.strip_prefix(MARK)).map(Mark::from)
}

fn variables(environment: &[u8]) -> impl Iterator<Item = &[u8]> {
    environment.split(|byte| *byte == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_a_whole_variable() {
        assert_eq!(mark_in(b"A=1\0ASYNC_CONTAINER_CHILD=web#1@07\0B=2\0").as_deref(), Some(&b"web#1@07"[..]));
        assert_eq!(mark_in(b"A=ASYNC_CONTAINER_CHILD=web#1@07\0XASYNC_CONTAINER_CHILD=x\0"), None);
        assert_eq!(mark_in(b""), None);
    }
}
