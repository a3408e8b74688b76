//! The tasks of another process, read from its memory: for one whose executor is blocked, and which nobody in it could be
//! asked for.
//!
//! What is where in it is known because it runs the very same file as this process does. It goes on meanwhile, so whatever
//! is read may be about to change: lengths are bounded, each task has to be the one that the list said, and to be in the list
//! still when everything was read.

use std::{
    borrow::Cow,
    collections::{HashMap, HashSet},
    io,
    mem::{offset_of, size_of},
    sync::Arc,
    time::Instant,
};

use super::{
    clock::{self, Reading},
    dump::{Options, Task, TaskDump, arranged},
    observed::{Counts, Observed},
    record::{Counters, Record, Text, Told},
    registry::{self, Entry, Listed, SHARDS, Shard},
};
use crate::{
    external::{ExternalDump, ExternalError, refused},
    sys::memory,
    threads::ThreadDump,
    unwind::Modules,
};

/// What is longer is cut off.
const NAME_LIMIT: u64 = 4096;

/// A shard with more tasks is none.
const SHARD_LIMIT: u64 = 1 << 20;

/// How often a list is read that is moved meanwhile.
const ATTEMPTS: usize = 10;

impl Options {
    /// Takes a dump of another process, from its memory: for one whose executor is blocked. It needs not answer, and nothing
    /// runs in it; only if some task blocks its executor, and [stacks](Self::stacks) are wanted, it is stopped for a moment, as
    /// by an [`ExternalDump`]. Where idle tasks wait cannot be seen from outside.
    ///
    /// Both processes have to run the same file, as supervisor and workers of one application do; otherwise it fails with
    /// [`ExternalError::OtherProgram`].
    pub fn take_from_outside(&self, process_id: u32) -> Result<TaskDump, ExternalError> {
        clock::begin();
        let process = Process::find(process_id)?;
        let start = Instant::now();
        let mut observed = process.observe()?;
        let mut reading = Reading::take();
        let mut notes = vec!["seen from outside: neither runtimes nor where idle tasks wait can be told so".to_owned()];
        let mut duration = start.elapsed();
        let mut stopped = None;

        if self.are_stacks_wanted() && observed.iter().any(|task| self.blocks(&task.counts, &reading)) {
            let polls: HashMap<u64, u64> = observed.iter().map(|task| (task.id, task.counts.started)).collect();

            match ExternalDump::new(process_id).stacks() {
                Ok(stacks) => stopped = Some((stacks, polls)),
                Err(error) => notes.push(format!("what blocks an executor is not shown: {error}")),
            }

            // Once more, to know whose stacks these were: of those that were polled before and after.
            let start = Instant::now();
            observed = process.observe()?;
            reading = Reading::take();
            duration = start.elapsed();
        }

        let living: HashSet<u64> = observed.iter().map(|task| task.id).collect();
        let begun: Vec<u64> = observed.iter().map(|task| task.counts.started).collect();
        let tasks = observed.into_iter().map(|task| self.task(task, process_id, &reading, &living));
        let mut tasks = arranged(tasks.collect());

        if let Some((stacks, polls)) = stopped {
            let dump = stacks.symbolise();

            for (task, begun) in tasks.iter_mut().zip(begun) {
                if polls.get(&task.id) == Some(&begun) {
                    show_what_blocks(task, &dump);
                }
            }
        }

        Ok(TaskDump {
            duration: duration.as_secs_f64(),
            from_outside: true,
            tasks,
            notes,
            ..TaskDump::of(process_id, &reading)
        })
    }
}

fn show_what_blocks(task: &mut Task, dump: &ThreadDump) {
    let thread = task.thread.as_ref().map(|thread| thread.id);

    if let Some(thread) = dump.threads.iter().find(|other| Some(other.id) == thread) {
        task.show_what_blocks(&thread.frames);
    }
}

/// Another process that runs the same file.
struct Process {
    id: u32,
    /// Where its registry is.
    registry: u64,
}

impl Process {
    fn find(process_id: u32) -> Result<Self, ExternalError> {
        let unreadable = |error| crate::external::unreadable(process_id, error);
        let own = Modules::of_this_process()?;
        let other = Modules::of_process(process_id).map_err(unreadable)?;
        let code = registry::all as *const () as u64;
        let own = own.find(code).ok_or(ExternalError::OtherProgram { process_id })?;
        let same = other.iter().find(|module| module.id() == own.id() && module.build_id() == own.build_id());
        let other = same.ok_or(ExternalError::OtherProgram { process_id })?;
        Ok(Self { id: process_id, registry: other.to_process(own.to_file(registry::address())) })
    }

    /// All tasks, the oldest first.
    fn observe(&self) -> Result<Vec<Observed>, ExternalError> {
        let entries = self.entries().map_err(|error| refused(self.id, error))?;
        let mut files = HashMap::new();
        let mut tasks: Vec<Observed> = entries.iter().filter_map(|entry| self.task(entry, &mut files)).collect();
        let living: HashSet<u64> =
            self.entries().map_err(|error| refused(self.id, error))?.iter().map(|entry| entry.id).collect();
        tasks.retain(|task| living.contains(&task.id));
        tasks.sort_unstable_by_key(|task| (task.created, task.id));
        Ok(tasks)
    }

    fn entries(&self) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();

        for shard in 0..SHARDS {
            let listed = self.registry + (shard * size_of::<Shard>() + offset_of!(Shard, listed)) as u64;
            let mut begin = Bytes::read(self.id, listed, size_of::<Listed>())?;

            for _ in 0..ATTEMPTS {
                let list = self.list(&begin);
                let end = Bytes::read(self.id, listed, size_of::<Listed>())?;
                let is_moved = end.number(offset_of!(Listed, begin)) != begin.number(offset_of!(Listed, begin));
                begin = end;

                if let Ok(list) = list
                    && !is_moved
                {
                    entries.extend(list);
                    break;
                }
            }
        }

        Ok(entries)
    }

    fn list(&self, listed: &Bytes) -> io::Result<Vec<Entry>> {
        let count = listed.number(offset_of!(Listed, count)).min(SHARD_LIMIT) as usize;
        let list = Bytes::read(self.id, listed.number(offset_of!(Listed, begin)), count * size_of::<Entry>())?;
        let entry = |at| Entry {
            id: list.number(at + offset_of!(Entry, id)),
            address: list.number(at + offset_of!(Entry, address)),
        };
        Ok((0..count).map(|place| entry(place * size_of::<Entry>())).collect())
    }

    fn task(&self, entry: &Entry, files: &mut HashMap<(u64, u64), Arc<str>>) -> Option<Observed> {
        let record = Bytes::read(self.id, entry.address, size_of::<Record>()).ok()?;
        let told = |field| record.number(offset_of!(Record, told) + field);
        let text = |field| (told(field + offset_of!(Text, address)), told(field + offset_of!(Text, length)));
        let counter = |field| record.number(offset_of!(Record, counters) + field);

        if record.number(offset_of!(Record, id)) != entry.id {
            return None;
        }

        let file = text(offset_of!(Told, file));
        let file = match files.get(&file) {
            Some(name) => name.clone(),
            None => files.entry(file).or_insert(self.text(file)?.into()).clone(),
        };
        let parent = match told(offset_of!(Told, parent)) {
            0 => None,
            id => Some((id, self.text(text(offset_of!(Told, parent_name)))?)),
        };
        let name = self.text(text(offset_of!(Told, name)))?;
        // Names are freed after that.
        let after = Bytes::read(self.id, entry.address, size_of::<Record>()).ok()?;
        let is_listed = after.number(offset_of!(Record, told) + offset_of!(Told, listed)) == 1;

        if !is_listed || after.number(offset_of!(Record, id)) != entry.id {
            return None;
        }

        Some(Observed {
            id: entry.id,
            name,
            file: Cow::Owned(file.to_string()),
            line: told(offset_of!(Told, line)) as u32,
            parent,
            spawned: told(offset_of!(Told, spawned)) != 0,
            created: record.number(offset_of!(Record, created)),
            counts: Counts {
                started: counter(offset_of!(Counters, started)),
                ended: counter(offset_of!(Counters, ended)),
                polls: counter(offset_of!(Counters, polls)),
                busy: counter(offset_of!(Counters, busy)),
                longest: counter(offset_of!(Counters, longest)),
                woken: counter(offset_of!(Counters, woken)),
                delay: counter(offset_of!(Counters, delay)),
                thread: record.half(offset_of!(Record, counters) + offset_of!(Counters, thread)),
            },
        })
    }

    fn text(&self, (address, length): (u64, u64)) -> Option<String> {
        if length == 0 {
            return Some(String::new());
        }

        let bytes = Bytes::read(self.id, address, length.min(NAME_LIMIT) as usize).ok()?;
        Some(String::from_utf8_lossy(&bytes.0).into_owned())
    }
}

/// A part of the memory of the other process.
struct Bytes(Vec<u8>);

impl Bytes {
    fn read(process_id: u32, address: u64, length: usize) -> io::Result<Self> {
        let mut bytes = vec![0; length];
        match memory::read_into(process_id, address, &mut bytes)? {
            read if read == length => Ok(Self(bytes)),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    /// Eight bytes. Zero if there is nothing.
    fn number(&self, at: usize) -> u64 {
        let bytes = self.0.get(at..at + 8).and_then(|bytes| bytes.try_into().ok());
        bytes.map_or(0, u64::from_ne_bytes)
    }

    /// Four bytes.
    fn half(&self, at: usize) -> u32 {
        let bytes = self.0.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
        bytes.map_or(0, u32::from_ne_bytes)
    }
}
