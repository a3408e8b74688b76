//! Who is there: every visible process, of which only those of the application are read at each check.

use std::{
    collections::{HashMap, HashSet},
    io,
    time::{Duration, Instant},
};

use crate::{
    sample::{self, Stat, StatFile},
    turns::Turns,
};

/// Descriptors are kept for at most this part of those that the supervisor may have; the others are for its connections.
const DESCRIPTOR_SHARE: u64 = 4;

/// After this time processes are listed though none seems to have been started: what the kernel says of that may come from
/// something between, such as lxcfs, and be old.
const LISTED_ANEW: Duration = Duration::from_secs(10);

/// All processes that are visible, as of the last listing.
#[derive(Default)]
pub(super) struct Census {
    entries: HashMap<u32, Entry>,
    /// The last listing: when it was made, and the process id that was given last before.
    listed: Option<(Instant, Option<u32>)>,
}

struct Entry {
    /// The number of its directory of `/proc`, which the next process with its id does not have.
    inode: u64,
    stat: Stat,
    /// Kept of those that are followed: a reading through it takes a third of what one by path does, and is never of another process.
    file: Option<StatFile>,
}

impl Entry {
    /// Of a process that has been found anew.
    fn read(process_id: u32, inode: u64) -> Option<Self> {
        Some(Self { inode, stat: Stat::read(process_id).ok()?, file: None })
    }

    /// Reads it once more, and keeps the descriptor while there is room for more.
    fn refresh(&mut self, process_id: u32, room: &mut u64) -> io::Result<()> {
        if let Some(file) = &self.file {
            self.stat = file.read()?;
            return Ok(());
        }
        let file = StatFile::open(process_id)?;
        self.stat = file.read()?;
        if *room > 0 {
            *room -= 1;
            self.file = Some(file);
        }
        Ok(())
    }
}

impl Census {
    /// Lists all processes, and reads those that are `followed`, those that were not there before, and those whose parent may be
    /// another one by now.
    ///
    /// Others have nothing new to tell: a process has the parent that it had as long as that one lives, so one that does not
    /// descend from the root never will. And where no process was started since the last listing, there is none to be found:
    /// those that are followed are read, and nothing is listed.
    ///
    /// # Errors
    /// If `/proc` cannot be listed.
    pub(super) fn take(&mut self, followed: &HashSet<u32>) -> io::Result<()> {
        let (now, last_id) = (Instant::now(), sample::last_process_id());
        let is_complete = self.listed.is_some_and(|(at, known)| {
            let is_recent = now.saturating_duration_since(at) < LISTED_ANEW;
            is_recent && known.is_some() && known == last_id
        });
        if is_complete && followed.iter().all(|process_id| self.entries.contains_key(process_id)) {
            let (mut room, mut turns) = (self.room(), Turns::new());
            self.entries.retain(|process_id, entry| match followed.contains(process_id) {
                true => {
                    turns.give_way();
                    entry.refresh(*process_id, &mut room).is_ok()
                }
                false => {
                    entry.file = None;
                    true
                }
            });
            return Ok(());
        }
        self.list(followed)?;
        self.listed = Some((now, last_id));
        Ok(())
    }

    fn list(&mut self, followed: &HashSet<u32>) -> io::Result<()> {
        let listed: HashMap<u32, u64> = sample::listing()?.collect();
        let (mut room, mut turns) = (self.room(), Turns::new());
        let mut before = std::mem::take(&mut self.entries);
        let is_same = |process_id: u32, entry: &Entry| listed.get(&process_id) == Some(&entry.inode);
        // As they were before this listing: who has ended by now may have passed its children on since.
        let living: HashSet<u32> = before
            .iter()
            .filter(|(process_id, entry)| is_same(**process_id, entry) && !entry.stat.ended)
            .map(|(process_id, _)| *process_id)
            .collect();
        before.retain(|process_id, entry| is_same(*process_id, entry));

        for (process_id, inode) in listed {
            turns.give_way();
            let Some(mut entry) = before.remove(&process_id) else {
                self.entries.extend(Entry::read(process_id, inode).map(|entry| (process_id, entry)));
                continue;
            };
            let parent = entry.stat.parent_process_id;
            if followed.contains(&process_id) {
                if entry.refresh(process_id, &mut room).is_err() {
                    continue;
                }
            } else {
                entry.file = None;
                // That of the first process, and of those that the kernel runs, is out of sight and stays so.
                if parent != 0 && !living.contains(&parent) {
                    match Entry::read(process_id, inode) {
                        Some(anew) => entry = anew,
                        None => continue,
                    }
                }
            }
            self.entries.insert(process_id, entry);
        }
        Ok(())
    }

    /// How many more descriptors may be kept.
    fn room(&self) -> u64 {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
        let kept = self.entries.values().filter(|entry| entry.file.is_some()).count() as u64;
        (limit / DESCRIPTOR_SHARE).saturating_sub(kept)
    }

    /// What was read of a process, if it has not ended.
    pub(super) fn get(&self, process_id: u32) -> Option<&Stat> {
        Some(&self.entries.get(&process_id)?.stat).filter(|stat| !stat.ended)
    }

    /// The root and its descendants, parents first.
    pub(super) fn tree(&self, root: u32) -> Vec<u32> {
        tree(root, self.entries.values().map(|entry| &entry.stat).filter(|stat| !stat.ended))
    }
}

fn tree<'a>(root: u32, stats: impl Iterator<Item = &'a Stat>) -> Vec<u32> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    for stat in stats {
        children.entry(stat.parent_process_id).or_default().push(stat.process_id);
    }
    let mut process_ids = Vec::new();
    let mut waiting = vec![root];
    let mut seen = HashSet::new();
    while let Some(process_id) = waiting.pop() {
        // The readings are not of one moment: where an id was reused meanwhile, the "tree" may
        // have a cycle.
        if !seen.insert(process_id) {
            continue;
        }
        process_ids.push(process_id);
        let mut next = children.remove(&process_id).unwrap_or_default();
        next.sort_unstable_by(|left, right| right.cmp(left));
        waiting.extend(next);
    }
    process_ids
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stat(process_id: u32, parent_process_id: u32) -> Stat {
        Stat {
            at: Duration::ZERO,
            process_id,
            parent_process_id,
            process_group_id: 1,
            executable: String::new(),
            ended: false,
            processor_time: Duration::ZERO,
            threads: 1,
            minor_faults: 0,
            major_faults: 0,
            start_time: 0,
            virtual_size: 0,
            resident_size: 0,
        }
    }

    #[test]
    fn a_tree_is_the_root_and_what_descends_from_it() {
        let stats = [stat(1, 0), stat(5, 1), stat(9, 5), stat(7, 5), stat(8, 7), stat(6, 1)];
        assert_eq!(tree(5, stats.iter()), [5, 7, 8, 9]);
        assert_eq!(tree(6, stats.iter()), [6]);
    }

    #[test]
    fn a_cycle_ends() {
        assert_eq!(tree(5, [stat(5, 7), stat(7, 5)].iter()), [5, 7]);
    }

    #[test]
    fn a_process_that_was_started_since_is_found_and_one_that_ended_is_not() {
        let mut census = Census::default();
        let own = HashSet::from([std::process::id()]);
        let sleep = || std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        census.take(&own).unwrap();
        let mut first = sleep();
        census.take(&own).unwrap();
        assert!(census.get(first.id()).is_some());
        let mut second = sleep();
        let followed = HashSet::from([std::process::id(), first.id()]);
        census.take(&followed).unwrap();
        assert!(census.get(second.id()).is_some());
        for child in [&mut first, &mut second] {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        // Whether something else was started meanwhile or not.
        for _ in 0..2 {
            census.take(&followed).unwrap();
            assert!(census.get(first.id()).is_none());
        }
    }

    #[test]
    fn what_is_followed_is_read_anew_and_others_are_not() {
        let own = std::process::id();
        let mut census = Census::default();
        census.take(&HashSet::new()).unwrap();
        let first = census.get(own).unwrap().at;
        census.take(&HashSet::new()).unwrap();
        assert_eq!(census.get(own).unwrap().at, first);
        for _ in 0..2 {
            let before = census.get(own).unwrap().at;
            census.take(&HashSet::from([own])).unwrap();
            assert!(census.get(own).unwrap().at > before);
            assert!(census.entries[&own].file.is_some());
        }
        let other = census.entries.get(&own).unwrap().stat.parent_process_id;
        assert!(census.get(other).is_some_and(|stat| stat.at <= census.get(own).unwrap().at));
        census.take(&HashSet::new()).unwrap();
        assert!(census.entries[&own].file.is_none(), "nobody follows it");
    }
}
