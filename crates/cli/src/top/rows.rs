//! The children of the root and the workers that are connected, as rows of one table.

use std::collections::{HashMap, HashSet, VecDeque};

use async_container_supervisor_client::{Child, Root, Worker};
use serde_json::Value;

use crate::overview::{Overview, Usage};

/// How many samples a history keeps: a minute, at the usual pace.
const HISTORY: usize = 60;

/// A child, or a worker that is none.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Row {
    /// What it is called: unique among the rows.
    pub(crate) name: String,
    pub(crate) process_id: Option<u32>,
    /// `ready` and so on; `connected` for a worker that is no child.
    pub(crate) state: String,
    pub(crate) restarts: Option<u64>,
    pub(crate) last_exit: Option<String>,
    /// In seconds since 1970.
    pub(crate) next_start: Option<f64>,
    pub(crate) uptime: Option<f64>,
    /// Resident bytes.
    pub(crate) memory: Option<u64>,
    /// Bytes, with those that are shared divided among those who share them.
    pub(crate) proportional: Option<u64>,
    /// Processors that are busy with it now.
    pub(crate) processor: Option<f64>,
    /// It can be asked for diagnostics, if it is connected.
    pub(crate) worker: Option<Worker>,
}

/// What a process used, the newest last.
#[derive(Clone, Debug, Default)]
pub(crate) struct History {
    pub(crate) memory: VecDeque<u64>,
    pub(crate) processor: VecDeque<f64>,
    /// The time that processors had spent on it, and when that was.
    last: Option<(f64, f64)>,
}

/// The histories of all processes.
#[derive(Debug, Default)]
pub(crate) struct Histories(HashMap<u32, History>);

impl Histories {
    pub(crate) fn get(&self, process_id: Option<u32>) -> Option<&History> {
        self.0.get(&process_id?)
    }

    /// Notes what a process uses now, and gives the processors that it keeps busy: those since the last look, if the
    /// time that was spent on it is known.
    fn note(&mut self, process_id: u32, usage: &Usage, now: f64) -> Option<f64> {
        let history = self.0.entry(process_id).or_default();
        let since = usage.processor_time.zip(history.last).and_then(|(time, (last_time, last))| {
            let elapsed = now - last;
            (elapsed > 0.0).then(|| ((time - last_time) / elapsed).max(0.0))
        });
        let processor = since.or(usage.processor);
        history.last = usage.processor_time.map(|time| (time, now));
        push(&mut history.memory, usage.memory.unwrap_or(0));
        push(&mut history.processor, processor.unwrap_or(0.0));
        processor
    }

    fn retain(&mut self, alive: &HashSet<u32>) {
        self.0.retain(|process_id, _| alive.contains(process_id));
    }
}

fn push<T>(samples: &mut VecDeque<T>, sample: T) {
    if samples.len() == HISTORY {
        samples.pop_front();
    }

    samples.push_back(sample);
}

/// What there is, in the order in which the root and the supervisor list it. `now` is in seconds.
pub(crate) fn rows(overview: &Overview, root: &Root, histories: &mut Histories, now: f64) -> Vec<Row> {
    let workers: HashMap<u32, &Worker> =
        overview.workers.iter().filter_map(|worker| Some((worker.process_id?, worker))).collect();
    let usages = overview.usages_by_process(root.children.iter().filter_map(|child| child.process_id));
    let alive = usages.keys().copied().collect();
    let mut rows: Vec<Row> = root.children.iter().map(|child| of_child(child, root, &workers)).collect();

    for worker in &overview.workers {
        let is_child = worker.process_id.is_some_and(|id| root.children.iter().any(|it| it.process_id == Some(id)));
        // A process may have several connections, as one with threads has.
        if !is_child || worker.process_id.and_then(|id| workers.get(&id)).is_some_and(|it| *it != worker) {
            rows.push(of_worker(worker, &rows));
        }
    }

    for row in &mut rows {
        if let Some(usage) = row.process_id.and_then(|id| usages.get(&id)) {
            row.uptime = usage.uptime;
            row.memory = usage.memory;
            row.proportional = usage.proportional;
        }
    }

    let processors: HashMap<u32, Option<f64>> =
        usages.iter().map(|(id, usage)| (*id, histories.note(*id, usage, now))).collect();
    for row in &mut rows {
        row.processor = row.process_id.and_then(|id| processors.get(&id).copied().flatten());
    }

    histories.retain(&alive);
    rows
}

fn of_child(child: &Child, root: &Root, workers: &HashMap<u32, &Worker>) -> Row {
    // While a new generation comes up beside the old one, the names alone would not tell them apart.
    let name = match child.generation == root.generation {
        true => child.name.clone(),
        false => format!("{} (gen {})", child.name, child.generation),
    };

    Row {
        name,
        process_id: child.process_id,
        state: child.state.clone(),
        restarts: Some(child.restarts),
        last_exit: child.last_exit.clone(),
        next_start: child.next_start,
        worker: child.process_id.and_then(|id| workers.get(&id).copied()).cloned(),
        ..Row::default()
    }
}

fn of_worker(worker: &Worker, others: &[Row]) -> Row {
    let thread = worker.state.get("thread").and_then(Value::as_u64);
    let mut name = thread.map_or_else(|| worker.title(), |thread| format!("{} thread {thread}", worker.title()));

    if others.iter().any(|row| row.name == name) {
        name = format!("{name} {}", worker.short_id(8));
    }

    Row {
        name,
        process_id: worker.process_id,
        state: "connected".to_owned(),
        worker: Some(worker.clone()),
        ..Row::default()
    }
}

/// What rows may be sorted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sort {
    Name,
    Memory,
    Processor,
    Restarts,
    Uptime,
}

impl Sort {
    pub(crate) const ALL: [Self; 5] = [Self::Name, Self::Memory, Self::Processor, Self::Restarts, Self::Uptime];

    pub(crate) fn next(self) -> Self {
        let index = Self::ALL.iter().position(|sort| *sort == self).unwrap_or(0);
        Self::ALL[(index + 1) % Self::ALL.len()]
    }

    /// Sorts: names from the first, figures from the largest. Those that are equal stay as they are.
    pub(crate) fn sort(self, rows: &mut [Row]) {
        match self {
            Self::Name => rows.sort_by_cached_key(|row| natural(&row.name)),
            Self::Memory => rows.sort_by_key(|row| std::cmp::Reverse(row.memory)),
            Self::Processor => rows.sort_by(|left, right| total(right.processor).total_cmp(&total(left.processor))),
            Self::Restarts => rows.sort_by_key(|row| std::cmp::Reverse(row.restarts)),
            Self::Uptime => rows.sort_by(|left, right| total(right.uptime).total_cmp(&total(left.uptime))),
        }
    }
}

fn total(figure: Option<f64>) -> f64 {
    figure.unwrap_or(-1.0)
}

/// A key by which `worker#10` comes after `worker#9`.
fn natural(name: &str) -> (String, u64) {
    match name.split_once('#') {
        Some((service, instance)) => {
            let digits: String = instance.chars().take_while(char::is_ascii_digit).collect();
            (service.to_owned(), digits.parse().unwrap_or(u64::MAX))
        }
        None => (name.to_owned(), 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(name: &str, memory: u64) -> Row {
        Row { name: name.to_owned(), memory: Some(memory), ..Row::default() }
    }

    fn sorted(sort: Sort) -> Vec<String> {
        let mut rows = [named("web#10", 1), named("web#9", 3), named("job", 2), Row::default()];
        sort.sort(&mut rows);
        rows.iter().map(|row| row.name.clone()).collect()
    }

    #[test]
    fn rows_are_sorted_as_people_count() {
        assert_eq!(sorted(Sort::Name), ["", "job", "web#9", "web#10"]);
        assert_eq!(sorted(Sort::Memory), ["web#9", "job", "web#10", ""]);
    }

    #[test]
    fn processors_are_those_since_the_last_look() {
        let mut histories = Histories::default();
        let usage = |time| Usage { processor: Some(0.1), processor_time: Some(time), ..Usage::default() };
        assert_eq!(histories.note(1, &usage(5.0), 100.0), Some(0.1));
        assert_eq!(histories.note(1, &usage(6.0), 102.0), Some(0.5));
        // A clock that stands still tells nothing new.
        assert_eq!(histories.note(1, &usage(6.0), 102.0), Some(0.1));
        assert_eq!(histories.get(Some(1)).unwrap().processor, [0.1, 0.5, 0.1]);
        histories.retain(&HashSet::new());
        assert!(histories.get(Some(1)).is_none());
    }

    #[test]
    fn histories_are_bounded() {
        let mut samples = VecDeque::new();
        (0..100).for_each(|sample| push(&mut samples, sample));
        assert_eq!((samples.len(), samples.front(), samples.back()), (HISTORY, Some(&40), Some(&99)));
    }
}
