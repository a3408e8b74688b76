//! Families as text.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    sync::Arc,
};

use async_container_monitors::{Family, Kind, Sample, Value};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, MetricEncoder, prometheus_text, text},
    metrics::{MetricType, exemplar::Exemplar},
    registry::{Registry, Unit},
};

/// What the names of all metrics begin with, followed by `_`.
pub const PREFIX: &str = "acs";

/// How families are written out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// The text format of Prometheus, version 0.0.4.
    Prometheus,
}

impl Format {
    /// The one to answer with, to somebody who sends this header `Accept`.
    pub fn accepted(accept: &str) -> Self {
        if accept.contains("application/openmetrics-text") { Self::OpenMetrics } else { Self::Prometheus }
    }

    /// The header `Content-Type`.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

/// Writes families out.
///
/// A name that would not be one is made one, by `_` in the place of what is wrong. Of two families that would have the same
/// name, and of two values that would have the same labels, the first is written.
pub fn render(families: Vec<Family>, format: Format) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix(PREFIX);
    registry.register_collector(Box::new(Families(Arc::from(families))));
    let mut output = String::new();
    match format {
        Format::OpenMetrics => text::encode(&mut output, &registry)?,
        Format::Prometheus => prometheus_text::encode(&mut output, &registry)?,
    }
    Ok(output)
}

#[derive(Debug)]
struct Families(Arc<[Family]>);

impl Collector for Families {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut names = HashSet::new();
        for family in self.0.iter().filter(|family| !family.samples().is_empty()) {
            let name = name(family.name());
            let unit = family.get_unit().map(|unit| Unit::Other(unit.to_owned()));
            if !names.insert((name.clone(), family.get_unit())) {
                tracing::debug!(name, "a metric was left out, because there is another one of that name");
                continue;
            }
            // Help is the rest of a line.
            let help = family.help().replace('\n', " ");
            let kind = match family.kind() {
                Kind::Counter => MetricType::Counter,
                Kind::Histogram => MetricType::Histogram,
                _ => MetricType::Gauge,
            };
            let mut encoder = encoder.encode_descriptor(&name, &help, unit.as_ref(), kind)?;
            let mut seen = HashSet::new();
            for sample in family.samples() {
                let labels: Labels =
                    sample.labels.iter().map(|(key, value)| (self::name(key), value.clone())).collect();
                if !seen.insert(labels.clone()) {
                    continue;
                }
                if labels.is_empty() {
                    encode(&mut encoder, family.kind(), sample)?;
                } else {
                    encode(&mut encoder.encode_family(&labels)?, family.kind(), sample)?;
                }
            }
        }
        Ok(())
    }
}

type Labels = Vec<(String, String)>;

/// Examples are for those who trace.
const NO_EXEMPLAR: Option<&Exemplar<Labels, u64>> = None;
const NO_EXEMPLAR_OF_NUMBER: Option<&Exemplar<Labels, f64>> = None;
const NO_EXEMPLARS: Option<&HashMap<usize, Exemplar<Labels, f64>>> = None;

fn encode(encoder: &mut MetricEncoder<'_>, kind: Kind, sample: &Sample) -> fmt::Result {
    match (kind, &sample.value) {
        (Kind::Counter, Value::Integer(value)) => encoder.encode_counter(value, NO_EXEMPLAR),
        (Kind::Counter, Value::Number(value)) => encoder.encode_counter(value, NO_EXEMPLAR_OF_NUMBER),
        (Kind::Gauge, Value::Integer(value)) => encoder.encode_gauge(value),
        (Kind::Gauge, Value::Number(value)) => encoder.encode_gauge(value),
        (Kind::Histogram, Value::Histogram { buckets, count, sum }) => {
            let within: u64 = buckets.iter().map(|(_, count)| count).sum();
            let mut buckets = buckets.clone();
            // The last range has no end, and the format wants it.
            buckets.push((f64::INFINITY, count.saturating_sub(within)));
            encoder.encode_histogram(*sum, *count, &buckets, NO_EXEMPLARS)
        }
        // A value of another kind than its family says nothing.
        _ => Ok(()),
    }
}

/// The name, as far as it is one.
fn name(text: &str) -> String {
    let allowed = |(index, byte): (usize, char)| match byte {
        'a'..='z' | 'A'..='Z' | '_' => byte,
        '0'..='9' if index > 0 => byte,
        _ => '_',
    };
    let name: String = text.chars().enumerate().map(allowed).collect();
    if name.is_empty() { "_".to_owned() } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn families() -> Vec<Family> {
        let mut calls = Family::counter("calls", "Calls that came in.");
        calls.push([("operation", "status")], 7);
        calls.push([("operation", "ping")], 8);
        calls.push([("operation", "ping")], 9);
        let size = Family::gauge("resident", "Memory.").unit("bytes").with(4096);
        let mut duration = Family::histogram("call_duration", "How long.").unit("seconds");
        duration
            .push([("operation", "ping")], Value::Histogram { buckets: vec![(0.1, 3), (1.0, 2)], count: 6, sum: 12.5 });
        vec![
            calls,
            size,
            duration,
            Family::gauge("nothing", "Without a value."),
            Family::gauge("calls", "Again.").with(1),
        ]
    }

    #[test]
    fn open_metrics() {
        let expected = "\
# HELP acs_calls Calls that came in.
# TYPE acs_calls counter
acs_calls_total{operation=\"status\"} 7
acs_calls_total{operation=\"ping\"} 8
# HELP acs_resident_bytes Memory.
# TYPE acs_resident_bytes gauge
# UNIT acs_resident_bytes bytes
acs_resident_bytes 4096
# HELP acs_call_duration_seconds How long.
# TYPE acs_call_duration_seconds histogram
# UNIT acs_call_duration_seconds seconds
acs_call_duration_seconds_sum{operation=\"ping\"} 12.5
acs_call_duration_seconds_count{operation=\"ping\"} 6
acs_call_duration_seconds_bucket{le=\"0.1\",operation=\"ping\"} 3
acs_call_duration_seconds_bucket{le=\"1.0\",operation=\"ping\"} 5
acs_call_duration_seconds_bucket{le=\"+Inf\",operation=\"ping\"} 6
# EOF
";
        assert_eq!(render(families(), Format::OpenMetrics).unwrap(), expected);
    }

    #[test]
    fn the_older_format_differs_in_what_it_says_of_metrics() {
        let text = render(families(), Format::Prometheus).unwrap();
        assert!(text.contains("# TYPE acs_calls_total counter\nacs_calls_total{operation=\"status\"} 7\n"), "{text}");
        assert!(!text.contains("# EOF") && !text.contains("# UNIT"), "{text}");
    }

    #[test]
    fn nothing_breaks_out_of_its_place() {
        let mut family = Family::gauge("9 lives\n", "Of a cat\n# TYPE lie counter");
        family.push([("na me", "a \"quoted\" \\ and a\nnew line")], 1);
        let text = render(vec![family], Format::OpenMetrics).unwrap();
        let expected = "\
# HELP acs___lives_ Of a cat # TYPE lie counter
# TYPE acs___lives_ gauge
acs___lives_{na_me=\"a \\\"quoted\\\" \\\\ and a\\nnew line\"} 1
# EOF
";
        assert_eq!(text, expected);
    }

    #[test]
    fn formats_are_chosen_by_what_is_accepted() {
        let prometheus = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.2,*/*;q=0.1";
        assert_eq!(Format::accepted(prometheus), Format::OpenMetrics);
        assert_eq!(Format::accepted("*/*"), Format::Prometheus);
        assert_eq!(Format::accepted(""), Format::Prometheus);
    }
}
