//! What was called, how often, how it ended and how long it took.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, OnceLock, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use async_container_protocol::{Outcome, Responder};

use crate::access::DIAGNOSTICS;

/// The operations of every supervisor, in the order in which they are shown.
const OWN: [&str; 9] =
    ["register", "status", "forward", "restart", "replace", "ping", "children", "subscribe", "ready"];

/// What operations that nobody knows are counted as. Whoever calls decides how they are called, and must not decide how
/// many counters there are.
const OTHER: &str = "other";

/// How many operations of workers are counted apart, and how long their names may be. Which ones there are only the workers know, and
/// neither they nor whoever calls may make as many counters as they like.
const OF_WORKERS: usize = 64;
const NAME_LENGTH: usize = 64;

/// The upper bounds of the histogram, in microseconds. What takes longer than the last is counted in `count` alone.
const BOUNDS: [u64; 16] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
    5_000_000, 10_000_000,
];

/// Counts of the calls that were made to a supervisor: a handle, which is cheap to clone.
///
/// It is given by [`Server::statistics`](crate::Server::statistics), and counts once the server serves. A call costs it two
/// looks at the clock and a few increments.
#[derive(Clone, Debug, Default)]
pub struct Statistics(Arc<OnceLock<Table>>);

/// The calls of one operation, since the server began to serve.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct OperationStatistics {
    /// Its name. `other` stands for all that are unknown.
    pub operation: String,
    /// How many calls came in.
    pub started: u64,
    /// How many were answered.
    pub finished: u64,
    /// How many failed, those that were not permitted among them.
    pub failed: u64,
    /// How many were given up by their caller, or lost with its connection, before there was an answer.
    pub cancelled: u64,
    /// How long those that are over took, however they ended. For one that streams, which is until the end of the stream.
    pub latency: Latency,
}

/// How long calls took.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Latency {
    /// How many calls took no longer than each of these, so that each includes the ones before it. The last is ten seconds;
    /// some may have taken longer.
    pub buckets: Vec<(Duration, u64)>,
    /// How many calls there were.
    pub count: u64,
    /// How long all of them took together.
    pub sum: Duration,
}

#[derive(Debug)]
struct Table {
    custom: HashMap<String, usize>,
    names: Vec<String>,
    counters: Vec<Counters>,
    /// Of operations of workers: those that are known, and all others.
    forwarded: RwLock<BTreeMap<String, Arc<Counters>>>,
    other_forwarded: Arc<Counters>,
}

#[derive(Debug, Default)]
struct Counters {
    started: AtomicU64,
    finished: AtomicU64,
    failed: AtomicU64,
    cancelled: AtomicU64,
    buckets: [AtomicU64; BOUNDS.len()],
    nanoseconds: AtomicU64,
}

impl Statistics {
    /// All operations: the supervisor's own, those of the application by name, and `other`. Empty before the server serves.
    pub fn operations(&self) -> Vec<OperationStatistics> {
        let Some(table) = self.0.get() else { return Vec::new() };
        table.names.iter().zip(&table.counters).map(|(name, counters)| counters.read(name)).collect()
    }

    /// The calls that were passed on to workers (`forward`), by the operation of the worker, and `other`. One is known once a worker has
    /// answered it, at most 64 of them, and a diagnostic of workers however it ended.
    pub fn forwarded(&self) -> Vec<OperationStatistics> {
        let Some(table) = self.0.get() else { return Vec::new() };
        let forwarded = table.forwarded.read().unwrap_or_else(PoisonError::into_inner);
        let known = forwarded.iter().map(|(name, counters)| counters.read(name));
        known.chain([table.other_forwarded.read(OTHER)]).collect()
    }

    /// Begins to count, with these operations beside the supervisor's own.
    pub(crate) fn begin<'a>(&self, custom: impl Iterator<Item = &'a str>) {
        let mut custom: Vec<&str> = custom.filter(|name| !OWN.contains(name)).collect();
        custom.sort_unstable();
        let names: Vec<String> = OWN.iter().chain(&custom).chain(&[OTHER]).map(|name| (*name).to_owned()).collect();
        let custom = custom.iter().enumerate().map(|(index, name)| ((*name).to_owned(), OWN.len() + index)).collect();
        let counters = names.iter().map(|_| Counters::default()).collect();
        // A server serves once.
        let (forwarded, other_forwarded) = (RwLock::default(), Arc::default());
        let _ = self.0.set(Table { custom, names, counters, forwarded, other_forwarded });
    }

    /// Counts a call, now and when it is over.
    pub(crate) fn attend(&self, operation: &str, responder: &mut Responder) {
        let Some(table) = self.0.get() else { return };
        let index = table.index(operation);
        count(&table.counters[index].started);
        let (table, begin) = (self.0.clone(), Instant::now());

        responder.when_over(move |outcome| {
            if let Some(table) = table.get() {
                table.counters[index].end(outcome, begin.elapsed());
            }
        });
    }
}

impl Statistics {
    /// Counts a call of an operation of a worker. Of one that is not known yet it is known only at its end as what it counts.
    pub(crate) fn attend_forwarded(&self, operation: &str, responder: &mut Responder) {
        let Some(table) = self.0.get() else { return };
        let counters = table.known_of_workers(operation);

        if let Some(counters) = &counters {
            count(&counters.started);
        }

        let name = counters.is_none().then(|| operation.to_owned());
        let (table, begin) = (self.0.clone(), Instant::now());

        responder.when_over(move |outcome| {
            let learned = || {
                let counters = table.get()?.learn_of_workers(name?, outcome);
                count(&counters.started);
                Some(counters)
            };

            if let Some(counters) = counters.or_else(learned) {
                counters.end(outcome, begin.elapsed());
            }
        });
    }
}

impl Table {
    fn known_of_workers(&self, operation: &str) -> Option<Arc<Counters>> {
        self.forwarded.read().unwrap_or_else(PoisonError::into_inner).get(operation).cloned()
    }

    /// What an operation is counted as from now on, of which a call has ended so.
    fn learn_of_workers(&self, operation: String, outcome: Outcome<'_>) -> Arc<Counters> {
        let mut forwarded = self.forwarded.write().unwrap_or_else(PoisonError::into_inner);
        let is_diagnostic = DIAGNOSTICS.contains(&operation.as_str());
        let is_answered = matches!(outcome, Outcome::Finished) && operation.len() <= NAME_LENGTH;
        let is_room = forwarded.len() < OF_WORKERS || forwarded.contains_key(&operation);

        match is_diagnostic || is_answered && is_room {
            true => forwarded.entry(operation).or_default().clone(),
            false => self.other_forwarded.clone(),
        }
    }

    fn index(&self, operation: &str) -> usize {
        let own = OWN.iter().position(|name| *name == operation);
        own.or_else(|| self.custom.get(operation).copied()).unwrap_or(self.counters.len() - 1)
    }
}

impl Counters {
    fn end(&self, outcome: Outcome<'_>, duration: Duration) {
        count(match outcome {
            Outcome::Finished => &self.finished,
            Outcome::Failed(_) => &self.failed,
            _ => &self.cancelled,
        });

        if let Some(bucket) = BOUNDS.iter().position(|bound| duration <= Duration::from_micros(*bound)) {
            count(&self.buckets[bucket]);
        }

        let nanoseconds = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.nanoseconds.fetch_add(nanoseconds, Ordering::Relaxed);
    }

    fn read(&self, operation: &str) -> OperationStatistics {
        // What ended is read before what began: then nothing has ended that did not begin.
        let [finished, failed, cancelled] =
            [&self.finished, &self.failed, &self.cancelled].map(|counter| counter.load(Ordering::Relaxed));
        let count = finished + failed + cancelled;
        let mut below = 0;
        let buckets = BOUNDS.iter().zip(&self.buckets).map(|(bound, bucket)| {
            // Counted a moment later than the ends above, if at all.
            below = (below + bucket.load(Ordering::Relaxed)).min(count);
            (Duration::from_micros(*bound), below)
        });
        let latency = Latency {
            buckets: buckets.collect(),
            count,
            sum: Duration::from_nanos(self.nanoseconds.load(Ordering::Relaxed)),
        };

        OperationStatistics {
            operation: operation.to_owned(),
            started: self.started.load(Ordering::Relaxed).max(count),
            finished,
            failed,
            cancelled,
            latency,
        }
    }
}

/// Nothing else depends on the order in which others see it.
fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_operations_share_a_counter() {
        let statistics = Statistics::default();
        assert!(statistics.operations().is_empty());
        statistics.begin(["flush", "ping", "count"].into_iter());
        let table = statistics.0.get().unwrap();
        assert_eq!(table.names[OWN.len()..], ["count", "flush", "other"]);
        let other = table.index("who knows");
        assert_eq!(table.names[table.index("flush")], "flush");
        assert_eq!(table.names[table.index("ping")], "ping");
        assert_eq!((table.index("other"), table.index("")), (other, other));
        assert_eq!(table.names[other], "other");
    }

    #[test]
    fn each_bucket_includes_the_ones_before() {
        let counters = Counters::default();

        for milliseconds in [1, 2, 3_000, 60_000] {
            counters.end(Outcome::Finished, Duration::from_millis(milliseconds));
        }

        let read = counters.read("x");
        let below = |milliseconds| {
            let bound = Duration::from_millis(milliseconds);
            read.latency.buckets.iter().find(|(known, _)| *known == bound).unwrap().1
        };
        assert_eq!([1, 5, 1_000, 5_000, 10_000].map(below), [1, 2, 2, 3, 3]);
        assert_eq!((read.latency.count, read.latency.sum), (4, Duration::from_millis(63_003)));
    }
}
