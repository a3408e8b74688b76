//! All that a supervisor tells of itself, the root, and the workers, in one look.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use async_container_supervisor_client::{Supervisor, Worker};

use crate::{context::ask_optional, error::Result, process};

#[derive(Debug)]
pub(crate) struct Overview {
    /// The answer to `ping`, if it was understood.
    pub(crate) supervisor: Option<Value>,
    /// The answer to `children`, if there is a root that tells.
    pub(crate) root: Option<Value>,
    /// By name.
    pub(crate) monitors: Map<String, Value>,
    pub(crate) workers: Vec<Worker>,
    /// Whether process ids mean the same here as there.
    pub(crate) same_namespace: bool,
}

/// What is known of a worker beyond what it said of itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Usage {
    /// Seconds since its process was started.
    pub(crate) uptime: Option<f64>,
    /// Bytes that are resident.
    pub(crate) memory: Option<u64>,
    /// Bytes, with those that are shared divided among those who share them.
    pub(crate) proportional: Option<u64>,
    /// The processors that it keeps busy: 1.0 is one.
    pub(crate) processor: Option<f64>,
    /// The time that processors spent on it, in seconds, if that is known as of now.
    pub(crate) processor_time: Option<f64>,
    /// The root's name for the child that it is.
    pub(crate) child: Option<String>,
    /// The state of that child, such as `ready`.
    pub(crate) lifecycle: Option<String>,
}

impl Overview {
    pub(crate) async fn fetch(supervisor: &Supervisor) -> Result<Self> {
        let status = async { Ok(supervisor.status().await?) };
        let (ping, root, status) =
            tokio::try_join!(ask_optional(supervisor, "ping"), ask_optional(supervisor, "children"), status)?;

        // The root listens, and says which process it believes to be. If both agree, so do the pid namespaces.
        let claimed = [&ping, &root].map(|answer| answer.as_ref().and_then(|answer| answer["process_id"].as_u64()));
        let same_namespace = supervisor.listener().is_some_and(|id| claimed.contains(&Some(id.into())));
        Ok(Self { supervisor: ping, root, monitors: status.monitors, workers: status.workers, same_namespace })
    }

    /// What is known of each worker, in their order.
    pub(crate) fn usages(&self) -> Vec<Usage> {
        let by_process = self.usages_by_process([]);
        let usage = |worker: &Worker| by_process.get(&worker.process_id?).cloned();
        self.workers.iter().map(|worker| usage(worker).unwrap_or_default()).collect()
    }

    /// What is known of the processes of workers, and of others.
    pub(crate) fn usages_by_process(&self, others: impl IntoIterator<Item = u32>) -> HashMap<u32, Usage> {
        let memory = self.monitored("memory");
        let process = self.monitored("process");
        let children = by_process_id(self.root.as_ref().and_then(|root| root.get("children")));
        let ids = self.workers.iter().filter_map(|worker| worker.process_id).chain(others);
        let usages = ids.map(|process_id| {
            let local = self.same_namespace.then(|| process::read(process_id)).flatten();
            let (memory, process) = (memory.get(&process_id), process.get(&process_id));
            let child = children.get(&process_id);
            let text = |key: &str| child.and_then(|child| Some(child.get(key)?.as_str()?.to_owned()));
            let usage = Usage {
                // The monitor's figure is as old as its last check, and time does not stand still.
                uptime: local.map(|local| local.uptime).or_else(|| process?.get("elapsed_time")?.as_f64()),
                memory: None
                    .or_else(|| memory?.get("current_size")?.as_u64().filter(|size| *size > 0))
                    .or_else(|| process?.get("resident_size")?.as_u64())
                    .or_else(|| local.map(|local| local.memory)),
                processor: None
                    .or_else(|| process?.get("processor_utilization")?.as_f64())
                    .or_else(|| local.map(|local| local.processor)),
                proportional: process.and_then(|process| process.get("total_size")?.as_u64()),
                processor_time: local.map(|local| local.processor_time),
                child: text("name"),
                lifecycle: text("state"),
            };
            (process_id, usage)
        });
        usages.collect()
    }

    fn monitored(&self, monitor: &str) -> HashMap<u32, &Value> {
        by_process_id(self.monitors.get(monitor).and_then(|monitor| monitor.get("processes")))
    }

    /// The whole as one document.
    pub(crate) fn to_json(&self) -> Value {
        let workers: Vec<Value> = self
            .workers
            .iter()
            .map(|worker| {
                json!({
                    "connection_id": worker.connection_id,
                    "process_id": worker.process_id,
                    "state": worker.state,
                })
            })
            .collect();
        json!({"supervisor": self.supervisor, "root": self.root, "monitors": self.monitors, "workers": workers})
    }
}

fn by_process_id(entries: Option<&Value>) -> HashMap<u32, &Value> {
    let entries = entries.and_then(Value::as_array).into_iter().flatten();
    let key = |entry: &Value| u32::try_from(entry.get("process_id")?.as_u64()?).ok();
    entries.filter_map(|entry| Some((key(entry)?, entry))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn overview(monitors: Value, root: Value, same_namespace: bool) -> Overview {
        let workers = [
            json!({"connection_id": "b", "state": {"name": "unknown"}}),
            json!({"connection_id": "a", "process_id": std::process::id(), "state": {"name": "web"}}),
        ];
        let workers = workers.iter().filter_map(Worker::from_json).collect();
        let monitors = monitors.as_object().unwrap().clone();
        Overview { supervisor: None, root: Some(root), monitors, workers, same_namespace }
    }

    #[test]
    fn nothing_is_known_of_a_process_elsewhere() {
        let overview = overview(json!({}), Value::Null, false);
        assert_eq!(overview.usages(), [Usage::default(), Usage::default()]);
    }

    #[test]
    fn a_process_here_is_looked_at() {
        let usage = &overview(json!({}), Value::Null, true).usages()[1];
        assert!(usage.memory.unwrap() > 100_000 && usage.uptime.is_some() && usage.processor.is_some(), "{usage:?}");
        assert_eq!(usage.lifecycle, None);
    }

    #[test]
    fn monitors_and_the_root_know_better() {
        let process_id = std::process::id();
        let monitors = json!({
            "memory": {"processes": [{"process_id": process_id, "current_size": 5}]},
            "process": {"processes": [{"process_id": process_id, "resident_size": 6, "processor_utilization": 0.5,
                                       "elapsed_time": 7.5}]},
            "other": {"error": {"class": "Internal", "message": "x"}},
        });
        let root = json!({"children": [{"name": "web#1", "process_id": process_id, "state": "ready"}]});
        let usages = overview(monitors, root, false).usages();
        let expected = Usage {
            uptime: Some(7.5),
            memory: Some(5),
            processor: Some(0.5),
            proportional: None,
            processor_time: None,
            child: Some("web#1".to_owned()),
            lifecycle: Some("ready".to_owned()),
        };
        assert_eq!(usages, [Usage::default(), expected]);
    }
}
