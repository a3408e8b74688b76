//! Numbers for systems that collect them.

use std::time::SystemTime;

/// A metric, and its values: one for each set of labels.
///
/// Names are without a prefix, unit and `_total`, which whoever writes them out adds; they are made of letters, digits and
/// `_`, as are those of labels.
///
/// ```
/// use async_container_monitors::Family;
///
/// let mut family = Family::gauge("cache_size", "The memory that caches take.").unit("bytes");
/// family.push([("cache", "sessions")], 4096);
/// assert_eq!(family.samples().len(), 1);
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Family {
    name: String,
    help: String,
    unit: Option<&'static str>,
    kind: Kind,
    began: Option<SystemTime>,
    samples: Vec<Sample>,
}

/// What a metric is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// It only grows, and begins at zero.
    Counter,
    /// It goes up and down.
    Gauge,
    /// How many of what was measured are in which range.
    Histogram,
}

/// A value, and what it is of.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// Names and values.
    pub labels: Vec<(String, String)>,
    /// The value.
    pub value: Value,
}

/// What a metric was when it was looked at.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Value {
    /// An integer that is not negative.
    Integer(u64),
    /// Any number.
    Number(f64),
    /// Of a histogram of what is not negative.
    Histogram {
        /// The upper bound of each range, and how many are in it that are not in the ones before.
        buckets: Vec<(f64, u64)>,
        /// How many there are, also beyond the last range.
        count: u64,
        /// The sum of all that was measured.
        sum: f64,
    },
}

macro_rules! from {
    ($($type:ty),*) => {
        $(impl From<$type> for Value {
            fn from(number: $type) -> Self {
                u64::try_from(number).map_or(Self::Number(number as f64), Self::Integer)
            }
        })*
    };
}

from!(u8, u16, u32, u64, usize, i8, i16, i32, i64, isize);

impl From<f64> for Value {
    fn from(number: f64) -> Self {
        Self::Number(number)
    }
}

/// 1 for what is so, else 0.
impl From<bool> for Value {
    fn from(is_so: bool) -> Self {
        Self::Integer(is_so.into())
    }
}

impl Family {
    /// A metric that only grows, without values so far. `help` is a sentence for people.
    pub fn counter(name: impl Into<String>, help: impl Into<String>) -> Self {
        Self::new(name, help, Kind::Counter)
    }

    /// A metric that goes up and down, without values so far.
    pub fn gauge(name: impl Into<String>, help: impl Into<String>) -> Self {
        Self::new(name, help, Kind::Gauge)
    }

    /// A metric of ranges, without values so far.
    pub fn histogram(name: impl Into<String>, help: impl Into<String>) -> Self {
        Self::new(name, help, Kind::Histogram)
    }

    fn new(name: impl Into<String>, help: impl Into<String>, kind: Kind) -> Self {
        Self { name: name.into(), help: help.into(), unit: None, kind, began: None, samples: Vec::new() }
    }

    /// Sets its unit, such as `bytes` or `seconds`, which becomes the end of its name. Default is none.
    pub fn unit(mut self, unit: &'static str) -> Self {
        self.unit = Some(unit);
        self
    }

    /// Says since when it has counted, for those who are told that. Default is the start of the supervisor.
    pub fn since(mut self, began: SystemTime) -> Self {
        self.began = Some(began);
        self
    }

    /// Adds a value.
    pub fn push<'a>(&mut self, labels: impl IntoIterator<Item = (&'a str, &'a str)>, value: impl Into<Value>) {
        let labels = labels.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        self.samples.push(Sample { labels, value: value.into() });
    }

    /// The same metric with one value, without labels.
    pub fn with(mut self, value: impl Into<Value>) -> Self {
        self.push([], value);
        self
    }

    /// Its name, without a prefix, unit and `_total`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it is, for people.
    pub fn help(&self) -> &str {
        &self.help
    }

    /// Its unit.
    pub fn get_unit(&self) -> Option<&'static str> {
        self.unit
    }

    /// Since when it has counted, if not since the start of the supervisor.
    pub fn get_since(&self) -> Option<SystemTime> {
        self.began
    }

    /// What it is like.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Its values.
    pub fn samples(&self) -> &[Sample] {
        &self.samples
    }

    /// Its values, for whoever knows more labels.
    pub fn samples_mut(&mut self) -> &mut Vec<Sample> {
        &mut self.samples
    }
}
