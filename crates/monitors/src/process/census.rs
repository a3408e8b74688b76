//! Who is there: every visible process, of which only those of the application are read at each check.

use std::{
    io,
    time::{Duration, Instant},
};

use super::reading::Reading;
use crate::{
    sample::{self, Stat},
    turns::Turns,
};

/// Descriptors are kept for at most this part of those that the supervisor may have; the others are for its connections.
const DESCRIPTOR_SHARE: u64 = 4;

/// After this time processes are listed though none seems to have been started: what the kernel says of that may come from
/// something between, such as lxcfs, and be old.
const LISTED_ANEW: Duration = Duration::from_secs(10);

/// All processes that are visible, as of the last listing, and what is known of some of them.
pub(super) struct Census<T> {
    /// In the order of their ids, in which they are listed, so that two listings are laid side by side without a table.
    entries: Vec<Entry<T>>,
    /// When all were listed, and the process id that was given last when it was last looked who is there.
    listed: Option<(Instant, Option<u32>)>,
    /// Whether one is to be followed that was not there at that time.
    is_incomplete: bool,
}

impl<T> Default for Census<T> {
    fn default() -> Self {
        Self { entries: Vec::new(), listed: None, is_incomplete: false }
    }
}

pub(super) struct Entry<T> {
    /// As it was read last: at this census if it is followed.
    pub(super) stat: Stat,
    /// What is known of it, by whoever follows it.
    pub(super) known: Option<T>,
    /// The number of its directory of `/proc`, which the next process with its id does not have.
    inode: u64,
    is_followed: bool,
    /// Kept of those that are followed: this takes a fraction of what a reading by path does, and is never of another process.
    reading: Option<Reading>,
}

impl<T> Entry<T> {
    fn new(inode: u64, stat: Stat) -> Self {
        Self { stat, known: None, inode, is_followed: false, reading: None }
    }

    fn process_id(&self) -> u32 {
        self.stat.process_id
    }

    /// Has it read from now on, and says whether it was not before.
    pub(super) fn follow(&mut self) -> bool {
        !std::mem::replace(&mut self.is_followed, true)
    }

    /// Reads it once more, and keeps the descriptor while there is room for more.
    fn refresh(&mut self, room: &mut u64) -> io::Result<()> {
        if let Some(reading) = &mut self.reading {
            return reading.refresh(&mut self.stat);
        }

        let start_time = self.stat.start_time;
        let reading = Reading::begin(self.process_id(), &mut self.stat)?;

        if self.stat.start_time != start_time {
            self.known = None;
        }

        if *room > 0 {
            *room -= 1;
            self.reading = Some(reading);
        }

        Ok(())
    }
}

impl<T> Census<T> {
    /// Has this process read from now on.
    pub(super) fn follow(&mut self, process_id: u32) {
        match self.position(process_id) {
            Some(index) => self.entries[index].is_followed = true,
            None => self.is_incomplete = true,
        }
    }

    /// Has these read from now on, and no others. What is known of those is forgotten.
    pub(super) fn follow_only(&mut self, indices: &[usize]) {
        self.entries.iter_mut().for_each(|entry| entry.is_followed = false);
        indices.iter().for_each(|index| self.entries[*index].is_followed = true);

        for entry in self.entries.iter_mut().filter(|entry| !entry.is_followed) {
            (entry.known, entry.reading) = (None, None);
        }
    }

    /// Looks who is there, and reads those that are followed, those that were not there before, and those whose parent may be another
    /// one by now.
    ///
    /// Others have nothing new to tell: a process has the parent that it had as long as that one lives, so one that does not
    /// descend from the root never will. Where few processes were started since the last time, these are looked for by their ids,
    /// and not all listed.
    ///
    /// # Errors
    /// If `/proc` cannot be listed.
    pub(super) fn take(&mut self) -> io::Result<()> {
        let (now, last_id) = (Instant::now(), sample::last_process_id());
        let recent = self.listed.filter(|(at, _)| now.saturating_duration_since(*at) < LISTED_ANEW);
        let new = recent.and_then(|(at, known)| Some((at, sample::started(known?, last_id?)?)));

        match new.filter(|_| !self.is_incomplete) {
            Some((at, new)) => {
                self.add(&new);
                self.listed = Some((at, last_id));
            }
            None => {
                self.list()?;
                self.listed = Some((now, last_id));
            }
        }

        Ok(())
    }

    /// Those that have ended are found out only where they are followed: nobody looks at the others.
    fn add(&mut self, new: &[(u32, u64)]) {
        let is_new = |process_id: u32| new.binary_search_by_key(&process_id, |(id, _)| *id).is_ok();
        // It has the id of one that has ended.
        self.entries.retain(|entry| !is_new(entry.process_id()));
        self.read(new, |parent| !is_new(parent));
    }

    fn list(&mut self) -> io::Result<()> {
        let mut listed: Vec<(u32, u64)> = sample::listing()?.collect();
        listed.sort_unstable();
        let (mut listed, mut new) = (listed.into_iter().peekable(), Vec::new());
        self.entries.retain(|entry| {
            let process_id = entry.process_id();
            new.extend(std::iter::from_fn(|| listed.next_if(|(other, _)| *other < process_id)));
            let Some((_, inode)) = listed.next_if(|(other, _)| *other == process_id) else { return false };
            let is_same = inode == entry.inode;
            new.extend((!is_same).then_some((process_id, inode)));
            is_same
        });
        new.extend(listed);

        // As they were before this listing: who has ended by now may have passed its children on since.
        let living = self.living();
        // The parent of the first process, and of those that the kernel runs, is out of sight and stays so.
        self.read(&new, |parent| parent == 0 || living.binary_search(&parent).is_ok());
        self.is_incomplete = false;
        Ok(())
    }

    /// Reads those that are followed, those that are new, and those of whose parent it is not certain that it is the same.
    fn read(&mut self, new: &[(u32, u64)], is_same: impl Fn(u32) -> bool) {
        let (mut room, mut turns, mut has_orphans) = (self.room(), Turns::new(), false);
        self.entries.retain_mut(|entry| {
            if entry.is_followed {
                turns.give_way();
                let is_there = entry.refresh(&mut room).is_ok();
                has_orphans |= !is_there || entry.stat.ended;
                return is_there;
            }

            if is_same(entry.stat.parent_process_id) {
                return true;
            }

            turns.give_way();
            let anew = Stat::read(entry.process_id());
            anew.map(|stat| entry.stat = stat).is_ok()
        });
        self.entries.extend(new.iter().filter_map(|(process_id, inode)| {
            turns.give_way();
            Some(Entry::new(*inode, Stat::read(*process_id).ok()?))
        }));

        if !new.is_empty() {
            self.entries.sort_by_key(Entry::process_id);
        }

        if has_orphans {
            self.find_new_parents(&mut room);
        }
    }

    /// Reads those of whom nothing was read but the clock, and whose parent has ended: they have another one now.
    fn find_new_parents(&mut self, room: &mut u64) {
        let living = self.living();
        self.entries.retain_mut(|entry| {
            let is_same = living.binary_search(&entry.stat.parent_process_id).is_ok();
            let Some(reading) = entry.reading.as_mut().filter(|_| entry.is_followed && !is_same) else { return true };
            reading.expire();
            entry.refresh(room).is_ok()
        });
    }

    /// The ids of those that have not ended, in their order.
    fn living(&self) -> Vec<u32> {
        self.entries.iter().filter(|entry| !entry.stat.ended).map(|entry| entry.process_id()).collect()
    }

    /// How many more descriptors may be kept.
    fn room(&self) -> u64 {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
        let kept = self.entries.iter().filter(|entry| entry.reading.is_some()).count() as u64;
        (limit / DESCRIPTOR_SHARE).saturating_sub(kept)
    }

    fn position(&self, process_id: u32) -> Option<usize> {
        self.entries.binary_search_by_key(&process_id, Entry::process_id).ok()
    }

    /// Where the process is that has this id, if it has not ended.
    pub(super) fn find(&self, process_id: u32) -> Option<usize> {
        self.position(process_id).filter(|index| !self.entries[*index].stat.ended)
    }

    /// What is known of the one at this place, until the next census.
    pub(super) fn entry(&mut self, index: usize) -> &mut Entry<T> {
        &mut self.entries[index]
    }

    /// Where the one at this place and its descendants are, parents first.
    pub(super) fn tree(&self, root: usize) -> Vec<usize> {
        let living = self.entries.iter().enumerate().filter(|(_, entry)| !entry.stat.ended);
        let mut children: Vec<(u32, usize)> =
            living.map(|(index, entry)| (entry.stat.parent_process_id, index)).collect();
        children.sort_unstable();
        let (mut found, mut waiting, mut seen) = (Vec::new(), vec![root], vec![false; self.entries.len()]);

        while let Some(index) = waiting.pop() {
            // The readings are not of one moment: where an id was reused meanwhile, the "tree" may
            // have a cycle.
            if std::mem::replace(&mut seen[index], true) {
                continue;
            }

            found.push(index);
            let process_id = self.entries[index].process_id();
            let first = children.partition_point(|(parent, _)| *parent < process_id);
            let count = children[first..].partition_point(|(parent, _)| *parent == process_id);
            // The one with the lowest id is the next.
            waiting.extend(children[first..first + count].iter().rev().map(|(_, child)| *child));
        }

        found
    }
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
            children_processor_time: Duration::ZERO,
            threads: 1,
            minor_faults: 0,
            major_faults: 0,
            start_time: 0,
            virtual_size: 0,
            resident_size: 0,
        }
    }

    /// The tree of one of those, of each of which the parent is given.
    fn tree(root: u32, parents: &[(u32, u32)]) -> Vec<u32> {
        let entries = parents.iter().map(|(process_id, parent)| Entry::new(0, stat(*process_id, *parent))).collect();
        let mut census: Census<()> = Census { entries, ..Census::default() };
        census.entries.sort_by_key(Entry::process_id);
        let found = census.tree(census.find(root).unwrap());
        found.into_iter().map(|index| census.entries[index].process_id()).collect()
    }

    /// A census that follows those that it finds of these.
    fn census(followed: &[u32]) -> Census<()> {
        let mut census = Census::default();
        follow(&mut census, followed);
        census
    }

    fn follow(census: &mut Census<()>, followed: &[u32]) {
        followed.iter().for_each(|process_id| census.follow(*process_id));
        census.take().unwrap();
        let found: Vec<usize> = followed.iter().filter_map(|process_id| census.find(*process_id)).collect();
        census.follow_only(&found);
    }

    fn sleep() -> std::process::Child {
        std::process::Command::new("sleep").arg("1000").spawn().unwrap()
    }

    #[test]
    fn a_tree_is_the_root_and_what_descends_from_it() {
        let parents = [(1, 0), (5, 1), (9, 5), (7, 5), (8, 7), (6, 1)];
        assert_eq!(tree(5, &parents), [5, 7, 8, 9]);
        assert_eq!(tree(6, &parents), [6]);
    }

    #[test]
    fn a_cycle_ends() {
        assert_eq!(tree(5, &[(5, 7), (7, 5)]), [5, 7]);
    }

    #[test]
    fn a_process_that_was_started_since_is_found_and_one_that_ended_is_not() {
        let own = std::process::id();
        let mut census = census(&[own]);
        let mut first = sleep();
        follow(&mut census, &[own]);
        assert!(census.find(first.id()).is_some());
        let mut second = sleep();
        follow(&mut census, &[own, first.id()]);
        assert!(census.find(second.id()).is_some());
        for child in [&mut first, &mut second] {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        // Whether something else was started meanwhile or not.
        for _ in 0..2 {
            follow(&mut census, &[own]);
            assert!(census.find(first.id()).is_none());
        }
        assert!(census.entries.is_sorted_by_key(Entry::process_id));
    }

    #[test]
    fn what_is_new_is_found_by_its_id() {
        let mut census = census(&[std::process::id()]);
        let (mut first, mut second) = (sleep(), sleep());
        let new = sample::started(first.id() - 1, first.id()).unwrap();
        census.add(&new);
        census.add(&sample::started(second.id() - 1, second.id()).unwrap());
        let parent = |census: &mut Census<()>, id| {
            let index = census.find(id).unwrap();
            census.entry(index).stat.parent_process_id
        };
        for id in [first.id(), second.id()] {
            assert_eq!(parent(&mut census, id), std::process::id());
        }
        // As if it had the id of another one, which had known children.
        let index = census.find(first.id()).unwrap();
        census.entry(index).known = Some(());
        let index = census.find(second.id()).unwrap();
        census.entry(index).stat.parent_process_id = first.id();
        census.add(&new);
        let index = census.find(first.id()).unwrap();
        assert!(census.entry(index).known.is_none());
        assert_eq!(parent(&mut census, second.id()), std::process::id(), "it is no child of a later one");
        assert!(census.entries.is_sorted_by_key(Entry::process_id));
        assert_eq!(census.entries.iter().filter(|entry| entry.process_id() == first.id()).count(), 1);
        for child in [&mut first, &mut second] {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    #[test]
    fn what_is_followed_is_read_anew_and_others_are_not() {
        let own = std::process::id();
        let mut census = census(&[]);
        let at = |census: &Census<()>| census.entries[census.find(own).unwrap()].stat.at;
        let first = at(&census);
        census.take().unwrap();
        assert_eq!(at(&census), first);
        for _ in 0..2 {
            let before = at(&census);
            follow(&mut census, &[own]);
            assert!(at(&census) > before);
            let index = census.find(own).unwrap();
            census.entry(index).known.get_or_insert(());
        }
        let index = census.find(own).unwrap();
        assert!(census.entry(index).reading.is_some() && census.entry(index).known.is_some());
        let parent = census.find(census.entries[index].stat.parent_process_id).unwrap();
        assert!(census.entries[parent].stat.at <= at(&census));
        census.follow_only(&[]);
        assert!(census.entry(index).reading.is_none() && census.entry(index).known.is_none(), "nobody follows it");
    }

    #[test]
    fn one_that_does_nothing_has_another_parent_once_its_own_has_ended() {
        let mut parent = std::process::Command::new("sh")
            .args(["-c", "sleep 1000 & echo $!; wait"])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(parent.stdout.take().unwrap()), &mut line).unwrap();
        let child: u32 = line.trim().parse().unwrap();
        let mut census = census(&[parent.id(), child]);
        follow(&mut census, &[parent.id(), child]);
        let parent_of =
            |census: &mut Census<()>| census.find(child).map(|index| census.entry(index).stat.parent_process_id);
        assert_eq!(parent_of(&mut census), Some(parent.id()));
        parent.kill().unwrap();
        parent.wait().unwrap();
        census.take().unwrap();
        let adopted = parent_of(&mut census);
        rustix::process::kill_process(
            rustix::process::Pid::from_raw(child as i32).unwrap(),
            rustix::process::Signal::KILL,
        )
        .unwrap();
        assert!(adopted.is_some_and(|adopted| adopted != parent.id()), "{adopted:?}");
    }

    #[test]
    fn nothing_is_known_of_a_process_that_has_the_id_of_another() {
        let mut child = sleep();
        let mut census = census(&[child.id()]);
        let index = census.find(child.id()).unwrap();
        // As if it were another one, which was not listed since.
        let entry = census.entry(index);
        (entry.known, entry.reading, entry.stat.start_time) = (Some(()), None, entry.stat.start_time + 1);
        census.take().unwrap();
        let index = census.find(child.id()).unwrap();
        assert!(census.entry(index).known.is_none());
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
