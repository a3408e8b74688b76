//! What a supervisor knows as numbers.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, OnceLock},
    time::{Instant, SystemTime},
};

use async_container_monitors::{Family, Value};
use tokio::time::timeout_at;

use crate::{
    monitor::STATUS_TIMEOUT,
    process,
    registry::Registry,
    root::{ChildState, Root, RootState},
    statistics::{OperationStatistics, Statistics},
};

/// What a supervisor, its root, and its monitors know as numbers, for systems that collect them: a handle, which is cheap to
/// clone.
///
/// It is given by [`Server::metrics`](crate::Server::metrics).
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    root: Arc<dyn Root>,
    statistics: Statistics,
    created: Instant,
    /// When the root was started, if that can be known.
    root_began: Arc<OnceLock<Option<SystemTime>>>,
}

impl Metrics {
    pub(crate) fn new(registry: Arc<Registry>, root: Arc<dyn Root>, statistics: Statistics) -> Self {
        Self { registry, root, statistics, created: Instant::now(), root_began: Arc::default() }
    }

    /// All of them, as they are now; what monitors know is as of their last checks. A monitor that does not answer within a
    /// second, or has panicked and come to the end of no check since, is left out, and `monitor_up` is 0 for it.
    ///
    /// Samples that name a process (`process_id`) which is that of a child also get its name (`child`) and that of its
    /// `service`, unless they have them.
    pub async fn gather(&self) -> Vec<Family> {
        let mut families = self.supervisor();
        families.extend(calls(
            &self.statistics.operations(),
            Family::counter("calls", "Calls that came in, by operation."),
            Family::counter("calls_ended", "Calls that are over, by operation and how they ended."),
            Family::histogram("call_duration", "How long calls took, however they ended."),
        ));
        families.extend(calls(
            &self.statistics.forwarded(),
            Family::counter("forwarded_calls", "Calls that were passed on to workers, by the operation of the worker."),
            Family::counter("forwarded_calls_ended", "Those of them that are over, by operation and how they ended."),
            Family::histogram("forwarded_call_duration", "How long they took, however they ended."),
        ));
        let state = self.root.state().map(|state| state.borrow().clone());

        if let Some(state) = &state {
            // What the root counts, it has counted since its own start.
            let known = || *self.root_began.get_or_init(|| process::began(state.process_id));
            let began = (state.process_id > 0).then(known).flatten();
            let of_root = root(state).into_iter().chain(children(&state.children));
            families.extend(of_root.map(|family| match began {
                Some(began) => family.since(began),
                None => family,
            }));
        }

        families.extend(self.monitors(state.as_ref()).await);
        families
    }

    fn supervisor(&self) -> Vec<Family> {
        let mut info = Family::gauge("supervisor_info", "Always 1; the version of the supervisor is a label.");
        info.push([("version", env!("CARGO_PKG_VERSION"))], 1);
        let uptime = Family::gauge("supervisor_uptime", "The time since the supervisor was started.").unit("seconds");

        let mut by_name: BTreeMap<String, u64> = BTreeMap::new();
        for worker in self.registry.all() {
            *by_name.entry(worker.name()).or_default() += 1;
        }
        let mut workers = Family::gauge("workers", "The workers that are connected, by the name that they gave.");
        for (name, count) in by_name {
            workers.push([("service", name.as_str())], count);
        }

        vec![info, uptime.with(self.created.elapsed().as_secs_f64()), workers]
    }

    async fn monitors(&self, state: Option<&RootState>) -> Vec<Family> {
        let deadline = tokio::time::Instant::now() + STATUS_TIMEOUT;
        let asked: Vec<_> = self.registry.monitors().map(|monitor| (monitor.name(), monitor.ask_metrics())).collect();
        let children: HashMap<u32, &ChildState> = state
            .iter()
            .flat_map(|state| &state.children)
            .filter_map(|child| Some((child.process_id?, child)))
            .collect();
        let mut up = Family::gauge("monitor_up", "Whether a monitor told its metrics: 0 if it is stuck, or panics.");
        let mut all = Vec::new();

        for (name, answer) in asked {
            let answer = timeout_at(deadline, answer).await;
            up.push([("monitor", name)], matches!(answer, Ok(Ok(_))));

            if let Ok(Ok(families)) = answer {
                all.extend(families);
            }
        }

        all.iter_mut().for_each(|family| name_children(family, &children));
        all.insert(0, up);
        all
    }
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Metrics").finish_non_exhaustive()
    }
}

/// Says which child a process is.
fn name_children(family: &mut Family, children: &HashMap<u32, &ChildState>) {
    for sample in family.samples_mut() {
        let value =
            |wanted: &str| sample.labels.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_str());
        let process_id = value("process_id").and_then(|process_id| process_id.parse::<u32>().ok());
        let Some(child) = process_id.and_then(|process_id| children.get(&process_id)) else { continue };
        let missing: Vec<_> = [("child", &child.name), ("service", &child.service)]
            .into_iter()
            .filter(|(name, _)| value(name).is_none())
            .map(|(name, value)| (name.to_owned(), value.clone()))
            .collect();
        sample.labels.extend(missing);
    }
}

fn root(state: &RootState) -> [Family; 5] {
    let generation = Family::gauge("root_generation", "The generation of children that is in charge.");
    let reloads = Family::counter("root_reloads", "Attempts at a new generation that have ended, well or not.");
    let reloading = Family::gauge("root_reloading", "Whether a new generation is being started.");
    let failed = Family::gauge("root_reload_failed", "Whether the last attempt at a new generation failed.");
    let ready = Family::gauge("root_ready", "Whether all children are ready.");
    [
        generation.with(state.generation),
        reloads.with(state.reloads),
        reloading.with(state.reloading),
        failed.with(state.reload_error.is_some()),
        ready.with(state.ready),
    ]
}

fn children(children: &[ChildState]) -> Vec<Family> {
    let mut states = Family::gauge("child_state", "Always 1; the state of the child is a label.");
    let mut ready = Family::gauge("child_ready", "Whether a child does its work.");
    let mut restarts = Family::counter("child_restarts", "How often a child was started again.");
    let mut exits = Family::counter("child_exits", "How often a process of a child ended, by cause.");
    let mut to_ready = Family::gauge("child_time_to_ready", "What a child took to become ready.").unit("seconds");
    let mut failures =
        Family::gauge("child_failures", "Attempts in a row that came to nothing, which the back-off grows by.");
    let mut next =
        Family::gauge("child_next_start_timestamp", "When a child that waits is started again.").unit("seconds");
    let mut kill =
        Family::gauge("child_kill_timestamp", "When a child is killed that was asked to end.").unit("seconds");
    let mut last = Family::gauge("child_last_exit_timestamp", "When a process of a child ended last.").unit("seconds");

    for child in children {
        // Generations exist beside each other, with children of the same names.
        let generation = child.generation.to_string();
        let labels = [("child", child.name.as_str()), ("service", &child.service), ("generation", &generation)];
        let with = |label, value| labels.into_iter().chain([(label, value)]);

        states.push(with("state", child.state.as_str()), 1);
        ready.push(labels, child.is_ready());
        restarts.push(labels, child.restarts);
        failures.push(labels, child.failures);

        for (cause, count) in &child.exits {
            exits.push(with("cause", cause.as_str()), *count);
        }

        for (family, value) in [
            (&mut to_ready, child.time_to_ready),
            (&mut next, child.next_start),
            (&mut kill, child.kill_at),
            (&mut last, child.last_exit_at),
        ] {
            if let Some(value) = value {
                family.push(labels, value);
            }
        }
    }

    vec![states, ready, restarts, exits, to_ready, failures, next, kill, last]
}

/// Fills the families of calls.
fn calls(operations: &[OperationStatistics], mut started: Family, mut ended: Family, duration: Family) -> [Family; 3] {
    let mut duration = duration.unit("seconds");

    for operation in operations {
        let name = operation.operation.as_str();
        started.push([("operation", name)], operation.started);

        for (outcome, count) in
            [("finished", operation.finished), ("failed", operation.failed), ("cancelled", operation.cancelled)]
        {
            ended.push([("operation", name), ("outcome", outcome)], count);
        }

        let latency = &operation.latency;
        let mut below = 0;
        let buckets = latency.buckets.iter().map(|(bound, up_to)| {
            let within = up_to.saturating_sub(below);
            below = *up_to;
            (bound.as_secs_f64(), within)
        });
        let buckets = buckets.collect();
        let value = Value::Histogram { buckets, count: latency.count, sum: latency.sum.as_secs_f64() };
        duration.push([("operation", name)], value);
    }

    [started, ended, duration]
}
