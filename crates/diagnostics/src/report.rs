//! Stacks with numbers, in the forms that people and tools read.
//!
//! A [`Profile`] holds stacks in memory, and can be written in any [`Format`]; a [`Writer`] is given one stack after the
//! other and keeps none of them, for what would be too large.
//!
//! ```
//! use async_container_diagnostics::{report::{Format, Measure, Profile}, symbols::Symbols, unwind::{Cache, Unwinder}};
//!
//! let unwinder = Unwinder::of_this_process()?;
//! let mut addresses = [0; 64];
//! let depth = unwinder.walk_here(&mut Cache::new(), &mut addresses);
//! let stack = Symbols::shared().resolve(unwinder.modules(), &addresses[..depth]);
//!
//! let mut profile = Profile::new("where this example is", vec![Measure::new("samples", "count")]);
//! profile.add(stack, &[1]);
//! let folded = profile.to_bytes(Format::Folded)?;
//! assert!(String::from_utf8(folded)?.trim_end().ends_with(" 1"));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod folded;
mod json;
#[cfg(feature = "pprof")]
mod pprof;
#[cfg(feature = "svg")]
mod svg;
mod text;
mod writer;

use std::{
    collections::HashMap,
    fmt, io,
    io::Write,
    path::Path,
    str::FromStr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use serde::Serialize;

use crate::symbols::{Frame, Place};

#[cfg(feature = "memory")]
pub(crate) use json::seconds;
pub use text::{bytes, count};
pub use writer::Writer;

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReportError {
    /// Where it was to go took no more.
    #[error("could not write the report")]
    Write(#[from] io::Error),
    /// The form needs a feature of this crate that the program was built without.
    #[error("this program cannot write {format}: build async-container-diagnostics with its feature `{feature}`")]
    Feature {
        /// What was asked for.
        format: Format,
        /// What it takes.
        feature: &'static str,
    },
    /// Only jemalloc's own profile has that form.
    #[error("only a dump of jemalloc's own profiler has the form heap")]
    Heap,
    /// There is no such form.
    #[error("no report has the format `{name}`: it is one of json, text, pprof, folded, svg, heap")]
    Format {
        /// What was asked for.
        name: String,
    },
}

/// A form of reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Format {
    /// For programs.
    Json,
    /// For people: what is largest, and the stacks that lead there.
    Text,
    /// The compressed form of `pprof`, which many viewers read. Needs the feature `pprof`.
    Pprof,
    /// One line a stack, from the outermost function on, and a number: what tools for flame graphs read.
    Folded,
    /// A flame graph as a picture to click on, in any browser. Needs the feature `svg`.
    Svg,
    /// What jemalloc writes itself, for `jeprof`. Dumps of memory have it, if they are of jemalloc's own profiler.
    Heap,
}

impl Format {
    /// The form that goes with the name of a file: by `.json`, `.txt`, `.pb.gz`, `.folded`, `.svg` or `.heap`.
    pub fn of_path(path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_str()?;
        let endings = [
            (".json", Self::Json),
            (".txt", Self::Text),
            (".pb.gz", Self::Pprof),
            (".folded", Self::Folded),
            (".svg", Self::Svg),
            (".heap", Self::Heap),
        ];
        endings.into_iter().find(|(ending, _)| name.ends_with(ending)).map(|(_, format)| format)
    }

    /// Whether it consists of characters. What jemalloc writes does, but for the names of files, which may be anything.
    pub fn is_text(self) -> bool {
        !matches!(self, Self::Pprof | Self::Heap)
    }

    /// What it is called in calls and on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Text => "text",
            Self::Pprof => "pprof",
            Self::Folded => "folded",
            Self::Svg => "svg",
            Self::Heap => "heap",
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

impl FromStr for Format {
    type Err = ReportError;

    fn from_str(name: &str) -> Result<Self, ReportError> {
        [Self::Json, Self::Text, Self::Pprof, Self::Folded, Self::Svg, Self::Heap]
            .into_iter()
            .find(|format| format.name() == name)
            .ok_or_else(|| ReportError::Format { name: name.to_owned() })
    }
}

/// What a number in a profile is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Measure {
    /// Such as `inuse_space`.
    pub name: &'static str,
    /// `bytes`, `count`, or `nanoseconds`.
    pub unit: &'static str,
}

impl Measure {
    /// One of that name and unit.
    pub const fn new(name: &'static str, unit: &'static str) -> Self {
        Self { name, unit }
    }
}

/// What holds for all stacks of a profile.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Header {
    /// What it shows, for people.
    pub title: String,
    /// The numbers that each stack has.
    pub measures: Vec<Measure>,
    /// Which of them counts where there is room for one only.
    pub main: usize,
    /// What lies between two samples, and what that is, if it was sampled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub period: Option<(Measure, u64)>,
    /// When it was begun, in seconds since 1970.
    #[serde(serialize_with = "json::seconds_since_1970")]
    pub at: SystemTime,
    /// How long it took, in seconds.
    #[serde(serialize_with = "json::seconds")]
    pub duration: Duration,
    /// Numbers that belong to no stack, by name.
    #[serde(serialize_with = "json::map", skip_serializing_if = "Vec::is_empty")]
    pub totals: Vec<(&'static str, u64)>,
    /// What whoever reads it should know.
    pub notes: Vec<String>,
}

impl Header {
    /// One without a period, taken now, in which the first number counts most.
    pub fn new(title: impl Into<String>, measures: Vec<Measure>) -> Self {
        Self {
            title: title.into(),
            measures,
            main: 0,
            period: None,
            at: SystemTime::now(),
            duration: Duration::ZERO,
            totals: Vec::new(),
            notes: Vec::new(),
        }
    }
}

/// A stack with its numbers.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Stack {
    /// Where its frames are, the innermost first.
    pub places: Vec<Arc<Place>>,
    /// One for each measure.
    pub values: Vec<u64>,
}

/// Stacks with numbers.
///
/// Its [`Serialize`] gives what [`Format::Json`] does.
#[derive(Clone, Debug)]
pub struct Profile {
    header: Header,
    stacks: Vec<Stack>,
    /// By the addresses of a stack.
    known: HashMap<Vec<u64>, usize>,
}

impl Profile {
    /// One that has no stacks yet.
    pub fn new(title: impl Into<String>, measures: Vec<Measure>) -> Self {
        Self::with_header(Header::new(title, measures))
    }

    /// One that has no stacks yet.
    pub fn with_header(header: Header) -> Self {
        Self { header, stacks: Vec::new(), known: HashMap::new() }
    }

    /// What holds for all stacks.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// What holds for all stacks, to be changed.
    pub fn header_mut(&mut self) -> &mut Header {
        &mut self.header
    }

    /// Adds the numbers of a stack, its innermost place first, to those that it has. A number for each measure.
    pub fn add(&mut self, places: Vec<Arc<Place>>, values: &[u64]) {
        // What has no address is told apart by its name, which is not worth the time to compare.
        let addresses: Vec<u64> = places.iter().map(|place| place.address).collect();
        let known = if addresses.contains(&0) { None } else { self.known.get(&addresses) };

        match known.and_then(|&index| self.stacks.get_mut(index)) {
            Some(stack) => {
                for (sum, value) in stack.values.iter_mut().zip(values) {
                    *sum = sum.saturating_add(*value);
                }
            }
            None => {
                self.known.insert(addresses, self.stacks.len());
                self.stacks.push(Stack { places, values: values.to_vec() });
            }
        }
    }

    /// The stacks, in the order in which they were added.
    pub fn stacks(&self) -> &[Stack] {
        &self.stacks
    }

    /// Writes it.
    pub fn write<W: Write>(&self, format: Format, output: W) -> Result<W, ReportError> {
        let mut writer = Writer::new(format, self.header.clone(), output)?;

        for stack in &self.stacks {
            writer.stack(&stack.places, &stack.values)?;
        }

        writer.finish()
    }

    /// All of it in memory.
    pub fn to_bytes(&self, format: Format) -> Result<Vec<u8>, ReportError> {
        self.write(format, Vec::new())
    }
}

impl fmt::Display for Profile {
    /// Writes what [`Format::Text`] gives.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.to_bytes(Format::Text).map_err(|_| fmt::Error)?;
        formatter.write_str(&String::from_utf8_lossy(&bytes))
    }
}

/// What stands for something that is no code, such as the name of a thread, at the end of a stack.
pub fn label(name: &str) -> Arc<Place> {
    let frame = Frame { function: name.into(), ..Frame::default() };
    Arc::new(Place { frames: vec![frame], is_named: true, ..Place::default() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::unwind::Mapping;

    pub(super) fn place(address: u64, frames: &[(&str, &str, u32)]) -> Arc<Place> {
        let last = frames.len() - 1;
        let frames = frames.iter().enumerate().map(|(index, &(function, file, line))| Frame {
            function: function.into(),
            file: Some(file.into()),
            line: Some(line),
            inlined: index < last,
        });
        let mapping = Mapping { file: "/bin/program".into(), addresses: 0x10..0x50, ..Mapping::default() };
        Arc::new(Place {
            address,
            mapping: Some(Arc::new(mapping)),
            frames: frames.collect(),
            is_named: true,
            note: None,
        })
    }

    /// `main` calls `outer`, into which `inner` was inlined, and `other`.
    pub(super) fn profile() -> Profile {
        let mut profile = Profile::new("test", vec![Measure::new("objects", "count"), Measure::new("space", "bytes")]);
        profile.header_mut().main = 1;
        let main = place(0x10, &[("main", "main.rs", 1)]);
        profile.add(vec![place(0x20, &[("inner", "a.rs", 2), ("outer", "a.rs", 3)]), main.clone()], &[1, 2000]);
        profile.add(vec![place(0x30, &[("other::<[u8; 2]>", "b.rs", 4)]), main.clone()], &[1, 30]);
        profile.add(vec![place(0x20, &[("inner", "a.rs", 2), ("outer", "a.rs", 3)]), main], &[2, 500]);
        profile
    }

    #[test]
    fn what_a_stack_has_is_added_up() {
        let profile = profile();
        assert_eq!(profile.stacks().len(), 2);
        assert_eq!(profile.stacks()[0].values, [3, 2500]);
    }

    #[test]
    fn labels_are_told_apart() {
        let mut profile = Profile::new("test", vec![Measure::new("samples", "count")]);
        profile.add(vec![label("a")], &[1]);
        profile.add(vec![label("b")], &[1]);
        assert_eq!(profile.to_bytes(Format::Folded).unwrap(), b"a 1\nb 1\n");
    }

    #[test]
    fn formats_go_with_names() {
        assert_eq!(Format::of_path("a/b.pb.gz".as_ref()), Some(Format::Pprof));
        assert_eq!(Format::of_path("heap.svg".as_ref()), Some(Format::Svg));
        assert_eq!(Format::of_path("svg".as_ref()), None);
        assert_eq!("folded".parse::<Format>().unwrap(), Format::Folded);
        assert!("gif".parse::<Format>().unwrap_err().to_string().contains("one of json"));
    }
}
