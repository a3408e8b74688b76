//! Families as text.

use std::{
    borrow::Cow,
    collections::{BTreeSet, HashMap, HashSet},
    fmt,
    sync::{Arc, Mutex, PoisonError},
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

/// Of how many families that are left out the log tells: names may be what workers say.
const COMPLAINTS: usize = 256;

/// How families are written out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// OpenMetrics 1.0.
    OpenMetrics,
    /// The text format of Prometheus, version 0.0.4.
    Prometheus,
}

impl Format {
    /// The one to answer with, to somebody who sends this header `Accept`: what is preferred of both, and OpenMetrics, where it is
    /// asked for by its name and none is.
    pub fn accepted(accept: &str) -> Self {
        let quality = |names: &[&str]| {
            let ranges = accept.split(',').filter_map(|range| {
                let mut parts = range.split(';').map(str::trim);
                let name = parts.next()?;
                let quality = parts.find_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")));
                let quality: f64 = quality.map_or(Some(1.0), |quality| quality.parse().ok())?;
                names.iter().any(|wanted| name.eq_ignore_ascii_case(wanted)).then_some(quality)
            });
            ranges.fold(0.0, f64::max)
        };
        let open_metrics = quality(&["application/openmetrics-text"]);
        let is_preferred = open_metrics > 0.0 && open_metrics >= quality(&["text/plain"]);
        if is_preferred { Self::OpenMetrics } else { Self::Prometheus }
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
/// A name that would not be one is made one, by `_` in the place of what is wrong, and the ends that are added to names are not
/// added twice. Of two families that would have a name in common, of two values that would have the same labels, and of two labels of
/// a value that would have the same name, the first is written. A value that cannot be, such as a counter that is negative, is left
/// out: for many who read this, it would make all the rest worthless. Of each family that this happens to the log tells once.
///
/// OpenMetrics calls a counter by its name without `_total`. If that is the name of another family, it is written with all of its
/// name and of unknown type there, which changes nothing for those who read it.
pub fn render(families: Vec<Family>, format: Format) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix(PREFIX);
    registry.register_collector(Box::new(Families { families: Arc::from(families), format }));
    let mut output = String::new();
    match format {
        Format::OpenMetrics => text::encode(&mut output, &registry)?,
        Format::Prometheus => prometheus_text::encode(&mut output, &registry)?,
    }
    Ok(output)
}

#[derive(Debug)]
struct Families {
    families: Arc<[Family]>,
    format: Format,
}

impl Collector for Families {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        for Distinct { name, family, samples, is_plain } in distinct(&self.families, self.format) {
            let unit = family.get_unit().map(|unit| Unit::Other(unit.to_owned()));
            let (name, unit, kind) = match family.kind() {
                Kind::Counter if is_plain => (total(&name, family), None, MetricType::Unknown),
                Kind::Counter => (name, unit, MetricType::Counter),
                Kind::Histogram => (name, unit, MetricType::Histogram),
                _ => (name, unit, MetricType::Gauge),
            };
            let mut encoder = encoder.encode_descriptor(&name, &self.help(family), unit.as_ref(), kind)?;
            for (labels, value) in samples {
                if labels.is_empty() {
                    encode(&mut encoder, kind, value)?;
                } else {
                    encode(&mut encoder.encode_family(&labels)?, kind, value)?;
                }
            }
        }
        Ok(())
    }
}

impl Families {
    /// What a metric is, as the rest of one line.
    fn help(&self, family: &Family) -> String {
        let help = without_nul(family.help()).replace('\\', r"\\").replace('\n', r"\n");
        match self.format {
            Format::OpenMetrics => help.replace('"', r#"\""#),
            Format::Prometheus => help,
        }
    }
}

/// What of a family is written: names and labels that are possible, and each once.
pub(crate) struct Distinct<'a> {
    /// Its name without the prefix, and without the ends that are added to it.
    pub(crate) name: String,
    pub(crate) family: &'a Family,
    pub(crate) samples: Vec<(Labels, &'a Value)>,
    /// Whether it is a counter that OpenMetrics would call by the name of another family.
    is_plain: bool,
}

/// What of these is written. Families that have no value are left out.
pub(crate) fn distinct(families: &[Family], format: Format) -> impl Iterator<Item = Distinct<'_>> {
    let families = move || families.iter().filter(|family| !family.samples().is_empty());
    let others = families().filter(|family| family.kind() != Kind::Counter);
    let others: HashSet<String> = others.flat_map(|family| names(&name(stem(family)), family, false)).collect();
    let mut taken: HashMap<String, &Family> = HashMap::new();

    families().filter_map(move |family| {
        let name = name(stem(family));
        let is_stem = family.kind() == Kind::Counter && format == Format::OpenMetrics;
        let is_plain = is_stem && others.contains(&with_unit(&name, family));
        let names = names(&name, family, is_stem && !is_plain);

        if let Some(other) = names.iter().find_map(|name| taken.get(name)) {
            complain_of_family(family, other);
            return None;
        }

        taken.extend(names.into_iter().map(|name| (name, family)));
        let mut seen = HashSet::new();
        let samples = family.samples().iter().filter_map(|sample| {
            let labels = labels(sample);
            let mut key = labels.clone();
            key.sort_unstable();

            if !is_possible(family.kind(), &sample.value) {
                complain_of_value(family, &labels, "it cannot be one of its type");
                return None;
            }
            if !seen.insert(key) {
                complain_of_value(family, &labels, "another one has the same labels");
                return None;
            }

            Some((labels, &sample.value))
        });
        let samples: Vec<_> = samples.collect();
        (!samples.is_empty()).then_some(Distinct { samples, name, family, is_plain })
    })
}

/// Says once of each family that it is left out, and what for.
fn complain_of_family(family: &Family, other: &Family) {
    let (left_out, written) = (full_name(family), full_name(other));

    if is_news(format!("{left_out} {written}")) {
        tracing::warn!(
            metric = left_out,
            other = written,
            "a metric is left out, because another one has its name, or has it but for an end such as `_sum`: rename one of them"
        );
    }
}

/// Says once of each family that a value of it is left out, and what for.
fn complain_of_value(family: &Family, labels: &Labels, reason: &'static str) {
    let metric = full_name(family);

    if is_news(format!("{metric} {reason}")) {
        tracing::warn!(metric, ?labels, reason, "a value of a metric is left out, and so will be others like it");
    }
}

/// Whether this was not said before.
fn is_news(complaint: String) -> bool {
    static TOLD: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    let mut told = TOLD.lock().unwrap_or_else(PoisonError::into_inner);
    told.len() < COMPLAINTS && told.insert(complaint)
}

/// The name with all that is added to it.
fn full_name(family: &Family) -> String {
    let name = name(stem(family));
    let name = if family.kind() == Kind::Counter { total(&name, family) } else { with_unit(&name, family) };
    format!("{PREFIX}_{name}")
}

/// The name of a counter without the prefix.
fn total(name: &str, family: &Family) -> String {
    format!("{}_total", with_unit(name, family))
}

fn with_unit(name: &str, family: &Family) -> String {
    family.get_unit().map_or_else(|| name.to_owned(), |unit| format!("{name}_{unit}"))
}

/// The name without the ends that are added to it.
fn stem(family: &Family) -> &str {
    let name = family.name();
    let name = match family.kind() {
        Kind::Counter => name.strip_suffix("_total").unwrap_or(name),
        _ => name,
    };
    let unit = family.get_unit().and_then(|unit| name.strip_suffix(unit)?.strip_suffix('_'));
    unit.unwrap_or(name)
}

/// All names that are taken by a family. That of a counter without its end is one of them to OpenMetrics only.
fn names(name: &str, family: &Family, has_stem: bool) -> Vec<String> {
    let own = with_unit(name, family);
    let ends: &[&str] = match family.kind() {
        Kind::Counter => &["_total"],
        Kind::Histogram => &["_sum", "_count", "_bucket"],
        _ => &[],
    };
    let has_own = has_stem || family.kind() != Kind::Counter;
    ends.iter().map(|end| format!("{own}{end}")).chain(has_own.then(|| own.clone())).collect()
}

fn labels(sample: &Sample) -> Labels {
    let mut labels = Labels::new();
    for (key, value) in &sample.labels {
        let key = name(key);
        if labels.iter().all(|(other, _)| *other != key) {
            labels.push((key, without_nul(value).into_owned()));
        }
    }
    labels
}

/// A NUL, as a worker may have in its name, is where Prometheus stops reading: all the rest would be lost.
fn without_nul(text: &str) -> Cow<'_, str> {
    if text.contains('\0') { text.replace('\0', "\u{fffd}").into() } else { text.into() }
}

/// How many are beyond the last range of a histogram.
pub(crate) fn beyond(buckets: &[(f64, u64)], count: u64) -> u64 {
    count.saturating_sub(buckets.iter().map(|(_, count)| count).sum())
}

/// Whether the value is one that its family can have: counters have grown from zero, and so have the sums of histograms; of what is
/// in a histogram each is in one range at most.
fn is_possible(kind: Kind, value: &Value) -> bool {
    match (kind, value) {
        (Kind::Counter | Kind::Gauge, Value::Integer(_)) | (Kind::Gauge, Value::Number(_)) => true,
        (Kind::Counter, Value::Number(value)) => *value >= 0.0,
        (Kind::Histogram, Value::Histogram { buckets, count, sum }) => {
            let is_sorted = buckets.is_sorted_by(|(one, _), (next, _)| one < next);
            let within = buckets.iter().try_fold(0u64, |sum, (_, count)| sum.checked_add(*count));
            let is_within = within.is_some_and(|within| within <= *count);
            is_sorted && buckets.iter().all(|(bound, _)| bound.is_finite() && *bound >= 0.0) && is_within && *sum >= 0.0
        }
        _ => false,
    }
}

pub(crate) type Labels = Vec<(String, String)>;

/// Examples are for those who trace.
const NO_EXEMPLAR: Option<&Exemplar<Labels, u64>> = None;
const NO_EXEMPLAR_OF_NUMBER: Option<&Exemplar<Labels, f64>> = None;
const NO_EXEMPLARS: Option<&HashMap<usize, Exemplar<Labels, f64>>> = None;

fn encode(encoder: &mut MetricEncoder<'_>, kind: MetricType, value: &Value) -> fmt::Result {
    match (kind, value) {
        (MetricType::Counter, Value::Integer(value)) => encoder.encode_counter(value, NO_EXEMPLAR),
        (MetricType::Counter, Value::Number(value)) => encoder.encode_counter(value, NO_EXEMPLAR_OF_NUMBER),
        (_, Value::Integer(value)) => encoder.encode_gauge(value),
        (_, Value::Number(value)) => encoder.encode_gauge(value),
        (_, Value::Histogram { buckets, count, sum }) => {
            // The last range has no end, and the format wants it.
            let beyond = (f64::INFINITY, beyond(buckets, *count));
            let buckets: Vec<_> = buckets.iter().copied().chain([beyond]).collect();
            encoder.encode_histogram(*sum, *count, &buckets, NO_EXEMPLARS)
        }
        // There are no others so far.
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
        vec![calls, size, duration, Family::gauge("nothing", "Without a value.")]
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
    fn a_nul_ends_nothing() {
        let mut family = Family::gauge("size", "Of a\0b.");
        family.push([("name", "a\0b")], 1);
        for format in [Format::OpenMetrics, Format::Prometheus] {
            let text = render(vec![family.clone()], format).unwrap();
            assert!(
                text.contains("acs_size Of a\u{fffd}b.\n") && text.contains("acs_size{name=\"a\u{fffd}b\"} 1\n"),
                "{text:?}"
            );
        }
    }

    #[test]
    fn nothing_breaks_out_of_its_place() {
        let mut family = Family::gauge("9 lives\n", "Of a \"cat\\\"\n# TYPE lie counter");
        family.push([("na me", "a \"quoted\" \\ and a\nnew line")], 1);
        let text = render(vec![family], Format::OpenMetrics).unwrap();
        let expected = "\
# HELP acs___lives_ Of a \\\"cat\\\\\\\"\\n# TYPE lie counter
# TYPE acs___lives_ gauge
acs___lives_{na_me=\"a \\\"quoted\\\" \\\\ and a\\nnew line\"} 1
# EOF
";
        assert_eq!(text, expected);
    }

    /// The lines that are no comments.
    fn samples(families: Vec<Family>) -> Vec<String> {
        let text = render(families, Format::OpenMetrics).unwrap();
        text.lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
    }

    #[test]
    fn no_name_is_there_twice() {
        let families = vec![
            Family::gauge("size", "The first.").unit("bytes").with(1),
            Family::gauge("size_bytes", "It has the unit in its name.").with(2),
            Family::gauge("size_bytes", "And that, too.").unit("bytes").with(3),
            Family::counter("calls", "A counter, which gets an end.").with(4),
            Family::gauge("calls_total", "It has that end.").with(5),
            Family::counter("calls_total", "And that, too.").with(6),
            Family::histogram("time", "It gets several ends.").with(Value::Histogram {
                buckets: vec![],
                count: 0,
                sum: 0.0,
            }),
            Family::gauge("time_count", "It has one of them.").with(7),
            Family::counter("others_total", "The end is not added twice.").with(8),
        ];
        let expected = [
            "acs_size_bytes 1",
            "acs_calls_total 4",
            "acs_time_sum 0.0",
            "acs_time_count 0",
            "acs_time_bucket{le=\"+Inf\"} 0",
            "acs_others_total 8",
        ];
        assert_eq!(samples(families), expected);
    }

    #[test]
    fn what_goes_on_and_what_has_been_done_may_have_one_name() {
        let gauge = Family::gauge("jobs", "That there are.").with(3);
        let counter = Family::counter("jobs", "That there were.").with(4);
        let mut time = Family::histogram("time", "").unit("seconds");
        time.push([], Value::Histogram { buckets: vec![(0.1, 1)], count: 1, sum: 0.1 });
        let seconds = Family::counter("time", "").unit("seconds").with(0.5);
        for families in
            [[gauge.clone(), counter.clone(), time.clone(), seconds.clone()], [seconds, time, counter, gauge]]
        {
            for (format, kind) in [(Format::Prometheus, "counter"), (Format::OpenMetrics, "unknown")] {
                let text = render(families.to_vec(), format).unwrap();
                for line in [
                    "# TYPE acs_jobs gauge",
                    "acs_jobs 3",
                    &format!("# TYPE acs_jobs_total {kind}"),
                    "acs_jobs_total 4",
                    "# TYPE acs_time_seconds histogram",
                    "acs_time_seconds_count 1",
                    &format!("# TYPE acs_time_seconds_total {kind}"),
                    "acs_time_seconds_total 0.5",
                ] {
                    assert_eq!(text.lines().filter(|other| *other == line).count(), 1, "{line} in {text}");
                }
                assert!(!text.contains("# UNIT acs_time_seconds_total"), "{text}");
            }
        }
    }

    #[test]
    fn no_label_and_no_series_is_there_twice() {
        let mut family = Family::gauge("size", "");
        family.push([("a b", "1"), ("a-b", "2")], 1);
        family.push([("x", "1"), ("y", "2")], 2);
        family.push([("y", "2"), ("x", "1")], 3);
        assert_eq!(samples(vec![family]), ["acs_size{a_b=\"1\"} 1", "acs_size{x=\"1\",y=\"2\"} 2"]);
    }

    #[test]
    fn a_counter_that_cannot_be_is_left_out() {
        let mut family = Family::counter("calls", "");
        for (name, value) in [("negative", -1.0), ("nothing", f64::NAN), ("well", 1.5)] {
            family.push([("is", name)], value);
        }
        assert_eq!(samples(vec![family]), ["acs_calls_total{is=\"well\"} 1.5"]);
        let mut gauge = Family::gauge("level", "");
        for (name, value) in [("negative", -1.0), ("nothing", f64::NAN), ("much", f64::INFINITY)] {
            gauge.push([("is", name)], value);
        }
        assert_eq!(samples(vec![gauge]).len(), 3, "of others these are possible");
    }

    #[test]
    fn a_value_that_is_none_of_its_family_is_left_out() {
        let histogram = |buckets: &[(f64, u64)], count| Value::Histogram { buckets: buckets.to_vec(), count, sum: 1.0 };
        let values = [
            histogram(&[(1.0, 1), (0.5, 1)], 2),
            histogram(&[(1.0, 1), (1.0, 1)], 2),
            histogram(&[(1.0, 1), (f64::INFINITY, 1)], 2),
            histogram(&[(f64::NAN, 1)], 2),
            histogram(&[(-1.0, 1)], 2),
            Value::Histogram { buckets: vec![], count: 1, sum: -1.0 },
            histogram(&[(1.0, 2)], 1),
            histogram(&[(1.0, u64::MAX), (2.0, 1)], 1),
            Value::Integer(7),
        ];
        for value in values {
            let text = render(vec![Family::histogram("time", "").with(value.clone())], Format::OpenMetrics).unwrap();
            assert_eq!(text, "# EOF\n", "{value:?}");
        }
        let gauge = Family::gauge("size", "").with(histogram(&[], 0));
        assert_eq!(render(vec![gauge], Format::Prometheus).unwrap(), "");
    }

    #[test]
    fn formats_are_chosen_by_what_is_accepted() {
        let prometheus = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.2,*/*;q=0.1";
        assert_eq!(Format::accepted(prometheus), Format::OpenMetrics);
        assert_eq!(Format::accepted("Application/OpenMetrics-Text; version=1.0.0"), Format::OpenMetrics);
        assert_eq!(Format::accepted("text/plain, application/openmetrics-text;q=0.5"), Format::Prometheus);
        assert_eq!(Format::accepted("application/openmetrics-text; q=0, */*"), Format::Prometheus);
        assert_eq!(Format::accepted("*/*"), Format::Prometheus);
        assert_eq!(Format::accepted(""), Format::Prometheus);
    }
}
