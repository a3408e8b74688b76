//! Families as a request of OTLP.

use std::{
    collections::HashMap,
    time::{Duration, SystemTime},
};

use async_container_monitors::{Family, Kind, Value};
use opentelemetry_proto::tonic::{
    collector::metrics::v1::ExportMetricsServiceRequest,
    common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value},
    metrics::v1::{
        AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint, ResourceMetrics,
        ScopeMetrics, Sum, metric::Data, number_data_point,
    },
    resource::v1::Resource,
};

use crate::{
    Format,
    render::{Distinct, PREFIX, beyond, distinct},
};

/// Who made the numbers.
const SCOPE: &str = "async-container-supervisor";

/// The label that says which process a number is of.
const PROCESS: &str = "process_id";

/// When what is counted began to be.
#[derive(Debug)]
pub(super) struct Starts {
    /// What nothing else is known of: when the supervisor was started.
    all: SystemTime,
    /// Those of processes, by process id, with their age when they were seen last. It is asked for once for each: the age is as
    /// of the last check, so the difference would be another one each time, and each time say that all begins anew.
    processes: HashMap<String, (SystemTime, f64)>,
}

impl Starts {
    pub(super) fn new(all: SystemTime) -> Self {
        Self { all, processes: HashMap::new() }
    }

    /// Takes note of the processes that there are.
    fn update(&mut self, families: &[Family], now: SystemTime) {
        let ages = families.iter().filter(|family| family.name() == "process_elapsed").flat_map(Family::samples);
        let mut processes = HashMap::new();
        for sample in ages {
            let (Some(process_id), Value::Number(age)) = (find(&sample.labels, PROCESS), &sample.value) else {
                continue;
            };
            let start = match self.processes.get(process_id) {
                Some((start, before)) if before <= age => *start,
                _ => Duration::try_from_secs_f64(*age).ok().and_then(|age| now.checked_sub(age)).unwrap_or(self.all),
            };
            processes.insert(process_id.to_owned(), (start, *age));
        }
        self.processes = processes;
    }

    fn of(&self, family: &Family, labels: &[(String, String)]) -> SystemTime {
        // What a process has used it has since its own start; what else is told of it was counted by others.
        let is_own = family.name().starts_with("process_");
        let process = find(labels, PROCESS).filter(|_| is_own).and_then(|process_id| self.processes.get(process_id));
        process.map(|(start, _)| *start).or(family.get_since()).unwrap_or(self.all)
    }
}

fn find<'a>(labels: &'a [(String, String)], wanted: &str) -> Option<&'a str> {
    labels.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_str())
}

/// What is sent of families as they are now.
pub(super) fn request(families: &[Family], resource: Resource, starts: &mut Starts) -> ExportMetricsServiceRequest {
    let now = SystemTime::now();
    starts.update(families, now);
    // Metrics have all of their names here, as there.
    let metrics =
        distinct(families, Format::Prometheus).filter_map(|distinct| metric(&distinct, starts, now)).collect();
    let scope = InstrumentationScope {
        name: SCOPE.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..InstrumentationScope::default()
    };
    let scope_metrics = vec![ScopeMetrics { scope: Some(scope), metrics, ..ScopeMetrics::default() }];
    let resource_metrics = ResourceMetrics { resource: Some(resource), scope_metrics, ..ResourceMetrics::default() };
    ExportMetricsServiceRequest { resource_metrics: vec![resource_metrics] }
}

/// The same name and numbers as in the text, so that it does not matter which way they come.
fn metric(Distinct { name, family, samples, .. }: &Distinct<'_>, starts: &Starts, now: SystemTime) -> Option<Metric> {
    let unit = family.get_unit();
    let end = unit.map(|unit| format!("_{unit}")).unwrap_or_default();
    let total = if family.kind() == Kind::Counter { "_total" } else { "" };
    let cumulative = AggregationTemporality::Cumulative as i32;
    let numbers = |has_start: bool| -> Vec<_> {
        let points = samples.iter().filter_map(|(labels, value)| {
            Some(NumberDataPoint {
                attributes: attributes(labels),
                start_time_unix_nano: if has_start { nanoseconds(starts.of(family, labels).min(now)) } else { 0 },
                time_unix_nano: nanoseconds(now),
                value: Some(number(value)?),
                ..NumberDataPoint::default()
            })
        });
        points.collect()
    };
    let data = match family.kind() {
        Kind::Counter => {
            Data::Sum(Sum { data_points: numbers(true), aggregation_temporality: cumulative, is_monotonic: true })
        }
        Kind::Histogram => {
            let points = samples.iter().filter_map(|(labels, value)| {
                let Value::Histogram { buckets, count, sum } = value else { return None };
                Some(HistogramDataPoint {
                    attributes: attributes(labels),
                    start_time_unix_nano: nanoseconds(starts.of(family, labels).min(now)),
                    time_unix_nano: nanoseconds(now),
                    count: *count,
                    sum: Some(*sum),
                    bucket_counts: buckets.iter().map(|(_, count)| *count).chain([beyond(buckets, *count)]).collect(),
                    explicit_bounds: buckets.iter().map(|(bound, _)| *bound).collect(),
                    ..HistogramDataPoint::default()
                })
            });
            Data::Histogram(Histogram { data_points: points.collect(), aggregation_temporality: cumulative })
        }
        _ => Data::Gauge(Gauge { data_points: numbers(false) }),
    };
    let is_empty = match &data {
        Data::Sum(sum) => sum.data_points.is_empty(),
        Data::Histogram(histogram) => histogram.data_points.is_empty(),
        Data::Gauge(gauge) => gauge.data_points.is_empty(),
        _ => false,
    };
    (!is_empty).then(|| Metric {
        name: format!("{PREFIX}_{name}{end}{total}"),
        description: family.help().to_owned(),
        unit: unit.map(code).unwrap_or_default().to_owned(),
        data: Some(data),
        ..Metric::default()
    })
}

fn number(value: &Value) -> Option<number_data_point::Value> {
    match value {
        // An integer of OTLP has a sign.
        Value::Integer(value) => Some(match i64::try_from(*value) {
            Ok(value) => number_data_point::Value::AsInt(value),
            Err(_) => number_data_point::Value::AsDouble(*value as f64),
        }),
        Value::Number(value) => Some(number_data_point::Value::AsDouble(*value)),
        _ => None,
    }
}

/// The unit as the Unified Code for Units of Measure has it, where that is known.
fn code(unit: &'static str) -> &'static str {
    match unit {
        "seconds" => "s",
        "bytes" => "By",
        "ratio" => "1",
        "celsius" => "Cel",
        other => other,
    }
}

fn attributes(labels: &[(String, String)]) -> Vec<KeyValue> {
    labels.iter().map(|(name, value)| attribute(name, text(value))).collect()
}

pub(super) fn attribute(key: &str, value: any_value::Value) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}

pub(super) fn text(value: &str) -> any_value::Value {
    any_value::Value::StringValue(value.to_owned())
}

fn nanoseconds(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn starts_of(families: &[Family], starts: &mut Starts) -> HashMap<String, u64> {
        let request = request(families, Resource::default(), starts);
        let metrics = &request.resource_metrics[0].scope_metrics[0].metrics;
        let sums = metrics.iter().filter_map(|metric| match &metric.data {
            Some(Data::Sum(sum)) => Some((metric.name.clone(), sum.data_points[0].start_time_unix_nano)),
            _ => None,
        });
        sums.collect()
    }

    fn families(age: f64) -> Vec<Family> {
        let of_process = |mut family: Family, value: f64| {
            family.push([("process_id", "7")], value);
            family
        };
        vec![
            of_process(Family::gauge("process_elapsed", "").unit("seconds"), age),
            of_process(Family::counter("process_cpu", "").unit("seconds"), 3.0),
            of_process(Family::counter("health_answers", ""), 3.0),
            Family::counter("root_reloads", "").since(SystemTime::UNIX_EPOCH + Duration::from_secs(5)).with(1),
        ]
    }

    #[test]
    fn what_is_counted_has_begun_when_it_did() {
        let began = SystemTime::now();
        let mut starts = Starts::new(began);
        let first = starts_of(&families(100.0), &mut starts);
        assert_eq!(first["acs_health_answers_total"], nanoseconds(began));
        assert_eq!(first["acs_root_reloads_total"], 5_000_000_000);
        let before = nanoseconds(began) - first["acs_process_cpu_seconds_total"];
        assert!((90_000_000_000..=100_000_000_000).contains(&before), "{before}");

        assert_eq!(starts_of(&families(100.0), &mut starts), first, "no check since");
        assert_eq!(starts_of(&families(160.0), &mut starts), first, "older, and still the same");
        let another = starts_of(&families(1.0), &mut starts);
        assert!(another["acs_process_cpu_seconds_total"] > first["acs_process_cpu_seconds_total"], "its successor");
    }

    #[test]
    fn numbers_are_what_they_can_be() {
        assert_eq!(number(&Value::Integer(7)), Some(number_data_point::Value::AsInt(7)));
        assert_eq!(number(&Value::Integer(u64::MAX)), Some(number_data_point::Value::AsDouble(u64::MAX as f64)));
        assert_eq!(number(&Value::Number(-0.5)), Some(number_data_point::Value::AsDouble(-0.5)));
    }
}
