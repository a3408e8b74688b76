//! What was allocated during a time, and what of it lives.

use std::{
    collections::HashMap,
    fmt,
    io::Write,
    time::{Duration, Instant, SystemTime},
};

use serde::Serialize;

use super::{
    MemoryError, Mode,
    blame::{self, Blame},
    control::{self, Share},
    figures::{Figures, Sum},
    hook, text,
};
use crate::{
    report::{Format, Header, Measure, Profile, ReportError},
    symbols::Symbols,
};

/// How to take a sample.
#[derive(Clone, Debug)]
pub struct Options {
    mode: Option<Mode>,
    rows: usize,
}

impl Options {
    /// Enough for a person, and little enough for a message.
    const ROWS: usize = 200;

    /// The defaults.
    pub fn new() -> Self {
        Self { mode: None, rows: Self::ROWS }
    }

    /// Sets which allocations are looked at. If something is recorded already, that counts, and a note says so. Default is what is
    /// recorded, or else one in 512 KiB.
    pub fn mode(mut self, mode: Mode) -> Self {
        self.mode = Some(mode);
        self
    }

    /// Sets how many rows each list of the report has at most; a note says how many were left out. Default is 200.
    pub fn rows(mut self, rows: usize) -> Self {
        self.rows = rows;
        self
    }
}

impl Default for Options {
    fn default() -> Self {
        Self::new()
    }
}

/// A sample that is being taken. Dropped, it is given up, and all that it took is given back.
#[derive(Debug)]
pub struct Sampling {
    share: Share,
    options: Options,
    window: u32,
    before: HashMap<u32, Sum>,
    at: SystemTime,
    begun: Instant,
}

impl Sampling {
    /// Begins.
    pub fn start(options: &Options) -> Result<Self, MemoryError> {
        let share = control::share(options.mode.unwrap_or(Mode::SAMPLED))?;
        let (window, before) = hook::apart(|| share.recorder.open_window());
        let options = options.clone();
        Ok(Self { share, options, window, before, at: SystemTime::now(), begun: Instant::now() })
    }

    /// Ends, and says what was found. What it needs of the program's symbols it reads now, which may take a second: not for a
    /// thread that serves.
    pub fn finish(self) -> Result<MemorySample, MemoryError> {
        hook::unrecorded(|| self.report())
    }

    fn report(self) -> Result<MemorySample, MemoryError> {
        let recorder = self.share.recorder.clone();
        let duration = self.begun.elapsed();
        // First what is retained, so that nothing is that was not allocated.
        let retained = hook::apart(|| recorder.retained_since(self.window));
        let mut stacks = Vec::new();
        recorder.visit(|mut stack| {
            if let Some(before) = self.before.get(&stack.id) {
                stack.allocated = stack.allocated.without(before);
            }

            stack.retained = retained.get(&stack.id).copied().unwrap_or_default();

            if stack.allocated.samples > 0 {
                stacks.push(stack);
            }
        });
        let mode = recorder.mode();
        let lost = recorder.lost();
        let unwinder = hook::apart(|| recorder.newest_unwinder());
        let mut notes = Vec::new();

        if self.share.is_shared && mode != self.options.mode.unwrap_or(Mode::SAMPLED) {
            let what = match mode {
                Mode::Sampled { rate } => format!("one byte in {rate}"),
                Mode::Full => "all allocations".to_owned(),
            };
            let but = if self.options.mode.is_some() { ", and not in the mode that was asked for" } else { "" };
            notes.push(format!("took part in a recording that was under way, of {what}{but}"));
        }

        notes.extend(control::note().map(str::to_owned));

        if lost.blocks > 0 {
            notes.push(format!(
                "more blocks lived than can be followed: {} of {} bytes are counted as allocated, but not as retained",
                lost.blocks, lost.bytes
            ));
        }

        if lost.stacks {
            notes.push("there were more stacks than can be told apart: the rest is under one name".to_owned());
        }

        // Nothing is recorded any more while symbols are read, unless somebody else wants it.
        drop(self.share);
        drop(recorder);
        let unwinder = unwinder?;
        let is_estimate = mode != Mode::Full;
        let mut header = Header::new("memory allocated and retained", MEASURES.to_vec());
        header.main = RETAINED;
        header.period = mode.rate().map(|rate| (Measure::new("space", "bytes"), rate));
        header.at = self.at;
        header.duration = duration;
        let mut profile = Profile::with_header(header);
        let mut groups = <[HashMap<String, (Sum, Sum)>; 4]>::default();
        let mut total = (Sum::default(), Sum::default());

        for stack in &stacks {
            let places = blame::resolve(Symbols::shared(), unwinder.modules(), &stack.addresses);
            let Blame { krate, file, location, kind } = blame::blame(&places);

            for note in places.iter().filter_map(|place| place.note) {
                let module = places.iter().find(|place| place.note == Some(note)).and_then(|place| place.module());
                let note = format!("{}: {note}", module.map_or("some code", |module| module));

                if blame::is_worth_a_note(&note) && !notes.contains(&note) {
                    notes.push(note);
                }
            }

            for (group, name) in groups.iter_mut().zip([krate, file, location, kind]) {
                let sums = group.entry(name).or_default();
                sums.0.add(&stack.allocated);
                sums.1.add(&stack.retained);
            }

            total.0.add(&stack.allocated);
            total.1.add(&stack.retained);
            let (allocated, retained) = (stack.allocated.figures(false), stack.retained.figures(false));
            profile.add(places, &[allocated.count, allocated.bytes, retained.count, retained.bytes]);
        }

        if is_estimate && total.0.figures(false).bytes == 0 {
            notes.push(
                "nothing of what was allocated was sampled, since it was little, or nothing at all: sample for longer, or all of it \
                 (mode=full)"
                    .to_owned(),
            );
        }

        let names = ["by_crate", "by_file", "by_location", "by_type"];
        let mut rows = groups.into_iter().zip(names).map(|(group, name)| {
            let mut rows: Vec<_> = group.into_iter().collect();
            rows.sort_by(|(a, (_, retained)), (b, (_, other))| {
                other.bytes.total_cmp(&retained.bytes).then_with(|| a.cmp(b))
            });
            // What does not live any more is in the order of what was allocated.
            let dead = rows.partition_point(|(_, (_, retained))| retained.bytes > 0.0);
            rows[dead..].sort_by(|(_, (allocated, _)), (_, (other, _))| other.bytes.total_cmp(&allocated.bytes));

            if rows.len() > self.options.rows {
                notes.push(format!("{name} has {} more rows, which are left out", rows.len() - self.options.rows));
                rows.truncate(self.options.rows);
            }

            let rows = rows.into_iter().map(|(name, (allocated, retained))| Row {
                name,
                allocated: allocated.figures(is_estimate),
                retained: retained.figures(is_estimate),
            });
            rows.collect::<Vec<Row>>()
        });
        let mut next = || rows.next().unwrap_or_default();
        let (by_crate, by_file, by_location, by_type) = (next(), next(), next(), next());
        drop(rows);
        profile.header_mut().notes = notes.clone();

        Ok(MemorySample {
            mode,
            rate: mode.rate(),
            duration,
            total_allocated: total.0.figures(is_estimate),
            total_retained: total.1.figures(is_estimate),
            by_crate,
            by_file,
            by_location,
            by_type,
            notes,
            profile,
        })
    }
}

const MEASURES: [Measure; 4] = [
    Measure::new("alloc_objects", "count"),
    Measure::new("alloc_space", "bytes"),
    Measure::new("inuse_objects", "count"),
    Measure::new("inuse_space", "bytes"),
];
const ALLOCATED: usize = 1;
const RETAINED: usize = 3;

/// What goes under one name.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Row {
    /// A crate, a file, a line or a type.
    pub name: String,
    /// What was allocated.
    pub allocated: Figures,
    /// What of that still lived at the end.
    pub retained: Figures,
}

/// What was allocated during a time, and what of it lived at the end.
///
/// The lists begin with what retains most; what retains nothing follows, in the order of what was allocated. Its
/// [`Display`](fmt::Display) is for people, its [`Serialize`] for programs.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct MemorySample {
    /// How it was recorded.
    pub mode: Mode,
    /// Bytes between two samples, on average.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<u64>,
    /// How long it took, in seconds.
    #[serde(serialize_with = "crate::report::seconds")]
    pub duration: Duration,
    /// What was allocated.
    pub total_allocated: Figures,
    /// What of that still lived at the end.
    pub total_retained: Figures,
    /// By the crates whose functions have allocated, with their versions where they are known.
    pub by_crate: Vec<Row>,
    /// By their source files.
    pub by_file: Vec<Row>,
    /// By the lines in those.
    pub by_location: Vec<Row>,
    /// By what the memory is used for, as far as that can be told.
    pub by_type: Vec<Row>,
    /// What whoever reads it should know.
    pub notes: Vec<String>,
    #[serde(skip)]
    profile: Profile,
}

impl MemorySample {
    /// The stacks, with what each has allocated and retained.
    pub fn profile(&self) -> &Profile {
        &self.profile
    }

    /// Writes it. As [`Format::Json`] and [`Format::Text`], it is in rows; the other forms have the stacks. Flame graphs and
    /// folded stacks show what is retained, or, if nothing is, what was allocated.
    pub fn write<W: Write>(&self, format: Format, mut output: W) -> Result<W, ReportError> {
        match format {
            Format::Text => {
                text::sample(self, &mut output)?;
                Ok(output)
            }
            Format::Json => {
                output.write_all(&crate::output::to_json(self)?)?;
                Ok(output)
            }
            format if self.total_retained.bytes == 0 => {
                let mut profile = self.profile.clone();
                profile.header_mut().main = ALLOCATED;
                profile.header_mut().title = "memory allocated (nothing of it is retained)".to_owned();
                profile.write(format, output)
            }
            format => self.profile.write(format, output),
        }
    }
}

impl fmt::Display for MemorySample {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.write(Format::Text, Vec::new()).map_err(|_| fmt::Error)?;
        formatter.write_str(&String::from_utf8_lossy(&bytes))
    }
}
