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

/// When processes were started: seconds since 1970, by process.
const PROCESS_STARTS: &str = "process_start_timestamp";

/// When what is counted began to be.
struct Starts<'a> {
    /// What nothing else is known of: when the supervisor was started.
    all: SystemTime,
    /// Those of processes, by process id.
    processes: HashMap<&'a str, SystemTime>,
}

impl<'a> Starts<'a> {
    fn new(all: SystemTime, families: &'a [Family]) -> Self {
        let told = families.iter().filter(|family| family.name() == PROCESS_STARTS).flat_map(Family::samples);
        let processes = told.filter_map(|sample| {
            let (process_id, Value::Number(seconds)) = (find(&sample.labels, PROCESS)?, &sample.value) else {
                return None;
            };
            Some((process_id, SystemTime::UNIX_EPOCH + Duration::try_from_secs_f64(*seconds).ok()?))
        });
        Self { all, processes: processes.collect() }
    }

    fn of(&self, family: &Family, labels: &[(String, String)]) -> SystemTime {
        // What a process has used it has since its own start; what else is told of it was counted by others.
        let is_own = family.name().starts_with("process_");
        let process = find(labels, PROCESS).filter(|_| is_own).and_then(|process_id| self.processes.get(process_id));
        process.copied().or(family.get_since()).unwrap_or(self.all)
    }
}

fn find<'a>(labels: &'a [(String, String)], wanted: &str) -> Option<&'a str> {
    labels.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_str())
}

/// What is sent of families as they are now, of which most have counted since the supervisor began.
pub(super) fn request(families: &[Family], resource: Resource, began: SystemTime) -> ExportMetricsServiceRequest {
    let now = SystemTime::now();
    let starts = &Starts::new(began, families);
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
fn metric(
    Distinct { name, family, samples, .. }: &Distinct<'_>,
    starts: &Starts<'_>,
    now: SystemTime,
) -> Option<Metric> {
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

    #[test]
    fn what_is_counted_has_begun_when_it_did() {
        let of_process = |mut family: Family, value: f64| {
            family.push([("process_id", "7")], value);
            family
        };
        let families = [
            of_process(Family::counter("process_cpu", "").unit("seconds"), 3.0),
            of_process(Family::counter("health_answers", ""), 3.0),
            of_process(Family::gauge("process_start_timestamp", "").unit("seconds"), 3.5),
            Family::counter("root_reloads", "").since(SystemTime::UNIX_EPOCH + Duration::from_secs(5)).with(1),
        ];
        let request = request(&families, Resource::default(), SystemTime::UNIX_EPOCH + Duration::from_secs(9));
        let metrics = &request.resource_metrics[0].scope_metrics[0].metrics;
        let starts = metrics.iter().filter_map(|metric| match &metric.data {
            Some(Data::Sum(sum)) => Some((metric.name.as_str(), sum.data_points[0].start_time_unix_nano)),
            _ => None,
        });
        let expected = [
            ("acs_process_cpu_seconds_total", 3_500_000_000),
            ("acs_health_answers_total", 9_000_000_000),
            ("acs_root_reloads_total", 5_000_000_000),
        ];
        assert!(starts.eq(expected), "{metrics:?}");
    }

    #[test]
    fn numbers_are_what_they_can_be() {
        assert_eq!(number(&Value::Integer(7)), Some(number_data_point::Value::AsInt(7)));
        assert_eq!(number(&Value::Integer(u64::MAX)), Some(number_data_point::Value::AsDouble(u64::MAX as f64)));
        assert_eq!(number(&Value::Number(-0.5)), Some(number_data_point::Value::AsDouble(-0.5)));
    }
}
