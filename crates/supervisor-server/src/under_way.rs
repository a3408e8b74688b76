//! Restarts that are under way, and who is to hear of their end.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_container_monitors::Restart;
use tokio::sync::{Notify, watch};

use crate::{monitor::ReplyTo, restart::Told};

/// Processes that are being restarted, by their ids.
#[derive(Clone, Default)]
pub(crate) struct UnderWay(Arc<Mutex<HashMap<u32, Running>>>);

struct Running {
    /// The start time of the process, which tells it from a later one with its id.
    start_time: Option<u64>,
    progress: Arc<Progress>,
}

impl Running {
    /// Whether that is about the same process. One of which nothing can be read has ended, or cannot be told from others.
    fn is_of(&self, start_time: Option<u64>) -> bool {
        self.start_time.zip(start_time).is_none_or(|(known, other)| known == other)
    }
}

/// How far a restart is.
#[derive(Default)]
pub(crate) struct Progress {
    /// To have it hurry.
    pub(crate) hurry: Notify,
    /// Set once.
    asked: watch::Sender<Option<Told>>,
    /// The monitors that want it, each with its first wish.
    monitors: Mutex<Vec<(ReplyTo, Restart)>>,
}

impl UnderWay {
    /// Notes that somebody wants a restart of a process that was started then. If one is under way already there is no mark, only how
    /// far that is. The monitor that wants it is told of its end.
    pub(crate) fn begin(
        &self,
        restart: &Restart,
        start_time: Option<u64>,
        monitor: Option<&ReplyTo>,
    ) -> (Arc<Progress>, Option<Mark>) {
        let process_id = restart.process_id;
        let mut processes = lock(&self.0);

        let (progress, mark) = match processes.entry(process_id) {
            Entry::Occupied(entry) if entry.get().is_of(start_time) => (entry.get().progress.clone(), None),
            entry => {
                let progress = Arc::<Progress>::default();
                entry.insert_entry(Running { start_time, progress: progress.clone() });
                let mark = Mark { processes: self.clone(), process_id, progress: progress.clone() };
                (progress, Some(mark))
            }
        };

        // Before anybody can see its end.
        if let Some(monitor) = monitor {
            progress.add(monitor, restart);
        }

        drop(processes);
        (progress, mark)
    }
}

impl Progress {
    /// Who wants it already need not be told twice.
    fn add(&self, monitor: &ReplyTo, restart: &Restart) {
        let mut monitors = lock(&self.monitors);

        if !monitors.iter().any(|(known, _)| known.is(monitor)) {
            monitors.push((monitor.clone(), restart.clone()));
        }
    }

    /// Says what the root was told. What was said first counts.
    pub(crate) fn tell(&self, outcome: Told) {
        self.asked.send_if_modified(|asked| {
            let is_first = asked.is_none();
            if is_first {
                *asked = Some(outcome);
            }
            is_first
        });
    }

    /// What the root was told, once it is known.
    pub(crate) fn asked(&self) -> watch::Receiver<Option<Told>> {
        self.asked.subscribe()
    }
}

/// A restart that is under way, until it is dropped.
pub(crate) struct Mark {
    processes: UnderWay,
    process_id: u32,
    pub(crate) progress: Arc<Progress>,
}

impl Drop for Mark {
    fn drop(&mut self) {
        let mut processes = lock(&self.processes.0);

        // A later process with the same id may be restarted by now.
        if let Entry::Occupied(entry) = processes.entry(self.process_id)
            && Arc::ptr_eq(&entry.get().progress, &self.progress)
        {
            entry.remove();
        }

        let monitors = std::mem::take(&mut *lock(&self.progress.monitors));
        drop(processes);
        monitors.into_iter().for_each(|(monitor, restart)| monitor.restarted(restart));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wish_about_another_process_with_the_same_id_is_another_restart() {
        let (under_way, restart) = (UnderWay::default(), Restart::new(7, "for a test"));
        let begin = |start_time| under_way.begin(&restart, start_time, None);
        let (first, mark) = begin(Some(1));
        for start_time in [Some(1), None] {
            let (again, none) = begin(start_time);
            assert!(Arc::ptr_eq(&first, &again) && none.is_none(), "{start_time:?}");
        }
        let (second, second_mark) = begin(Some(2));
        assert!(!Arc::ptr_eq(&first, &second) && second_mark.is_some());
        drop(mark);
        let (again, none) = begin(Some(2));
        assert!(Arc::ptr_eq(&second, &again) && none.is_none(), "the end of the first one is none of its business");
        drop(second_mark);
        assert!(begin(Some(2)).1.is_some());
    }
}
