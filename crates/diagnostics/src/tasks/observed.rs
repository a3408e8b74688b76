//! What is read of a task at one moment, here or in another process.

use std::{borrow::Cow, sync::atomic::Ordering::Relaxed};

use super::record::{Counters, Record};

/// A task, as it was at one moment.
#[derive(Debug)]
pub(super) struct Observed {
    pub(super) id: u64,
    pub(super) name: String,
    pub(super) file: Cow<'static, str>,
    pub(super) line: u32,
    pub(super) parent: Option<(u64, String)>,
    pub(super) spawned: bool,
    pub(super) created: u64,
    pub(super) counts: Counts,
}

/// What its [`Counters`] were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) started: u64,
    pub(super) ended: u64,
    pub(super) polls: u64,
    pub(super) busy: u64,
    pub(super) longest: u64,
    pub(super) woken: u64,
    pub(super) delay: u64,
    pub(super) thread: u32,
}

impl Observed {
    pub(super) fn of(record: &Record) -> Self {
        Self {
            id: record.id,
            name: record.name.to_string(),
            file: Cow::Borrowed(record.place.file()),
            line: record.place.line(),
            parent: record.parent.as_ref().map(|parent| (parent.id, parent.name.to_string())),
            spawned: record.spawned,
            created: record.created,
            counts: Counts::of(&record.counters),
        }
    }
}

impl Counts {
    pub(super) fn of(counters: &Counters) -> Self {
        // In this order, so that the end is never one that is missing to the beginning.
        let started = counters.started.load(Relaxed);
        let ended = counters.ended.load(Relaxed);
        Self {
            started,
            ended,
            woken: counters.woken.load(Relaxed),
            busy: counters.busy.load(Relaxed),
            polls: counters.polls.load(Relaxed),
            longest: counters.longest.load(Relaxed),
            delay: counters.delay.load(Relaxed),
            thread: counters.thread.load(Relaxed),
        }
    }

    /// Whether it is being polled.
    pub(super) fn is_polled(&self) -> bool {
        self.ended < self.started
    }
}
