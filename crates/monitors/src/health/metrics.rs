//! What the health monitor knows, as numbers.

use std::collections::BTreeMap;

use super::HealthStatus;
use crate::metrics::Family;

/// What is told of one process, which may have several connections: the worst of them, and the answers of all.
#[derive(Default)]
struct Worst {
    round_trip: Option<f64>,
    maximum_round_trip: f64,
    silent_for: f64,
    is_slow: bool,
    answers: u64,
}

/// The families of a report.
pub(super) fn families(status: &HealthStatus) -> Vec<Family> {
    let mut processes: BTreeMap<(u32, &str), Worst> = BTreeMap::new();

    for worker in &status.workers {
        let worst = processes.entry((worker.process_id, &worker.name)).or_default();
        worst.round_trip = [worst.round_trip, worker.round_trip].into_iter().flatten().reduce(f64::max);
        worst.maximum_round_trip = worst.maximum_round_trip.max(worker.maximum_round_trip);
        worst.silent_for = worst.silent_for.max(worker.silent_for.unwrap_or(0.0));
        worst.is_slow |= worker.state == "slow";
        worst.answers += worker.answers;
    }

    let seconds = |name: &str, help: &str| Family::gauge(name, help).unit("seconds");
    let mut round_trip = seconds("health_round_trip", "What a worker took for its last answer.");
    let mut maximum = seconds("health_maximum_round_trip", "The most that a worker took for an answer.");
    let mut silent = seconds("health_silent", "How long an answer of a worker has been missing; 0 if none is.");
    let mut slow = Family::gauge("health_slow", "Whether a worker does not answer in time.");
    let mut answers = Family::counter("health_answers", "How often a worker answered.");
    let lag =
        seconds("health_supervisor_lag", "What the supervisor itself takes for a call.").with(status.supervisor_lag);

    for ((process_id, name), worst) in processes {
        let process_id = process_id.to_string();
        let labels = [("process_id", process_id.as_str()), ("name", name)];
        if let Some(time) = worst.round_trip {
            round_trip.push(labels, time);
            maximum.push(labels, worst.maximum_round_trip);
        }
        silent.push(labels, worst.silent_for);
        slow.push(labels, worst.is_slow);
        answers.push(labels, worst.answers);
    }

    let thresholds = [
        ("health_warn_after", "How long an answer may take before that is told.", Some(status.warn_after)),
        ("health_dump_after", "How long an answer may take before a thread dump is made.", status.dump_after),
        ("health_restart_after", "How long an answer may take before a restart.", status.restart_after),
    ];
    let thresholds = thresholds.into_iter().filter_map(|(name, help, value)| Some(seconds(name, help).with(value?)));
    [round_trip, maximum, silent, slow, answers, lag].into_iter().chain(thresholds).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{health::WorkerStatus, metrics::Value};

    #[test]
    fn the_worst_connection_speaks_for_its_process() {
        let worker = |process_id, round_trip, silent_for: Option<f64>| WorkerStatus {
            connection_id: format!("{round_trip:?}"),
            process_id,
            name: "web".into(),
            state: if silent_for.is_some() { "slow" } else { "well" },
            round_trip,
            maximum_round_trip: round_trip.unwrap_or(0.0) * 2.0,
            answers: 3,
            silent_for,
        };
        let workers = vec![worker(1, Some(0.5), None), worker(1, Some(0.25), Some(7.0)), worker(2, None, None)];
        let status =
            HealthStatus { warn_after: 1.0, dump_after: None, restart_after: None, supervisor_lag: 0.125, workers };
        let values = |family: &Family| family.samples().iter().map(|sample| sample.value.clone()).collect::<Vec<_>>();
        let families = families(&status);
        let values: Vec<_> = families.iter().map(|family| (family.name(), values(family))).collect();
        let expected = [
            ("health_round_trip", vec![Value::Number(0.5)]),
            ("health_maximum_round_trip", vec![Value::Number(1.0)]),
            ("health_silent", vec![Value::Number(7.0), Value::Number(0.0)]),
            ("health_slow", vec![Value::Integer(1), Value::Integer(0)]),
            ("health_answers", vec![Value::Integer(6), Value::Integer(3)]),
            ("health_supervisor_lag", vec![Value::Number(0.125)]),
            ("health_warn_after", vec![Value::Number(1.0)]),
        ];
        assert_eq!(values, expected);
    }
}
