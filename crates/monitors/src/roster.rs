//! Which processes are registered: one entry a process, however many connections it has.

use std::collections::{BTreeMap, HashMap, btree_map};

use crate::Worker;

/// The registered processes, each with the state `T` that a monitor keeps of it.
pub(crate) struct Roster<T> {
    connections: HashMap<String, u32>,
    processes: BTreeMap<u32, Entry<T>>,
}

pub(crate) struct Entry<T> {
    /// The name that was registered last.
    pub(crate) name: String,
    /// The start time, which tells this process from a later one with its id. `None` if it could
    /// not be read.
    pub(crate) start_time: Option<u64>,
    pub(crate) state: T,
    connections: usize,
}

impl<T> Default for Roster<T> {
    fn default() -> Self {
        Self { connections: HashMap::new(), processes: BTreeMap::new() }
    }
}

impl<T> Roster<T> {
    /// Adds a worker. `start_time` and `state` are those of the process as it is now; the state
    /// is dropped if the process has an entry with a start time already.
    pub(crate) fn register(&mut self, worker: &Worker, start_time: Option<u64>, state: T) {
        let process_id = worker.process_id;
        if self.connections.get(&worker.id).is_some_and(|known| *known != process_id) {
            self.remove(worker);
        }
        // Where one start time is unknown, nothing says that they are two processes.
        let replaced = self
            .processes
            .get(&process_id)
            .is_some_and(|entry| start_time.zip(entry.start_time).is_some_and(|(new, known)| new != known));
        if replaced {
            // The process ended and its id was given to this one before its connections were
            // seen to end. Those end later, and must not take the new process with them.
            self.processes.remove(&process_id);
            self.connections.retain(|_, known| *known != process_id);
        }

        let entry = match self.processes.entry(process_id) {
            btree_map::Entry::Vacant(vacant) => {
                let name = worker.name.clone();
                vacant.insert(Entry { name, start_time, state, connections: 0 })
            }
            btree_map::Entry::Occupied(occupied) => {
                let entry = occupied.into_mut();
                entry.name.clone_from(&worker.name);
                if entry.start_time.is_none() && start_time.is_some() {
                    (entry.start_time, entry.state) = (start_time, state);
                }
                entry
            }
        };
        if self.connections.insert(worker.id.clone(), process_id).is_none() {
            entry.connections += 1;
        }
    }

    /// Removes a connection, and its process if that was the last one.
    pub(crate) fn remove(&mut self, worker: &Worker) {
        let Some(process_id) = self.connections.remove(&worker.id) else {
            return;
        };
        if let Some(entry) = self.processes.get_mut(&process_id) {
            entry.connections -= 1;
            if entry.connections == 0 {
                self.processes.remove(&process_id);
            }
        }
    }

    /// What is known of a process.
    #[cfg(feature = "memory")]
    pub(crate) fn get(&self, process_id: u32) -> Option<&Entry<T>> {
        self.processes.get(&process_id)
    }

    /// The processes in the order of their ids.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &Entry<T>)> {
        self.processes.iter().map(|(process_id, entry)| (*process_id, entry))
    }

    #[cfg(feature = "memory")]
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (u32, &mut Entry<T>)> {
        self.processes.iter_mut().map(|(process_id, entry)| (*process_id, entry))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worker(id: &str, process_id: u32) -> Worker {
        Worker { id: id.into(), process_id, name: "web".into() }
    }

    fn states(roster: &Roster<char>) -> Vec<(u32, char)> {
        roster.iter().map(|(process_id, entry)| (process_id, entry.state)).collect()
    }

    #[test]
    fn a_process_stays_until_its_last_connection_ends() {
        let mut roster = Roster::default();
        roster.register(&worker("a", 7), Some(1), 'x');
        roster.register(&worker("b", 7), Some(1), 'y');
        // Again on the same connection: no third one.
        roster.register(&worker("b", 7), None, 'z');
        assert_eq!(states(&roster), [(7, 'x')]);

        roster.remove(&worker("a", 7));
        assert_eq!(states(&roster), [(7, 'x')]);
        roster.remove(&worker("a", 7));
        assert_eq!(states(&roster), [(7, 'x')], "a connection ends once");
        roster.remove(&worker("b", 7));
        assert_eq!(states(&roster), []);
        assert!(roster.connections.is_empty());
    }

    #[test]
    fn a_reused_id_is_another_process() {
        let mut roster = Roster::default();
        roster.register(&worker("old", 7), Some(1), 'x');
        roster.register(&worker("new", 7), Some(2), 'y');
        assert_eq!(states(&roster), [(7, 'y')]);
        roster.remove(&worker("old", 7));
        assert_eq!(states(&roster), [(7, 'y')]);
        roster.remove(&worker("new", 7));
        assert_eq!(states(&roster), []);
    }

    #[test]
    fn a_process_that_can_be_read_only_later_keeps_its_connections() {
        let mut roster = Roster::default();
        roster.register(&worker("a", 7), None, 'x');
        roster.register(&worker("b", 7), Some(1), 'y');
        assert_eq!(states(&roster), [(7, 'y')]);
        roster.remove(&worker("b", 7));
        assert_eq!(states(&roster), [(7, 'y')]);
    }

    #[test]
    fn a_connection_that_names_another_process_leaves_the_first() {
        let mut roster = Roster::default();
        roster.register(&worker("a", 7), Some(1), 'x');
        roster.register(&worker("a", 8), Some(2), 'y');
        assert_eq!(states(&roster), [(8, 'y')]);
        roster.remove(&worker("a", 7));
        assert_eq!(states(&roster), []);
    }
}
