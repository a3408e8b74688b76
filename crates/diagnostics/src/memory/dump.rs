//! What lives now.

use std::{
    fs::File,
    io::{self, Read, Write},
    sync::Arc,
    vec,
};

use super::{
    MemoryError, Mode, blame, control,
    figures::Sum,
    groups::Groups,
    hook,
    recorder::{Position, Recorder, StackCopy},
    totals::Totals,
};
use crate::{
    report::{Format, Header, Measure, ReportError, Writer},
    symbols::{Place, Symbols},
    unwind::Unwinder,
};

const MEASURES: [Measure; 2] = [Measure::new("inuse_objects", "count"), Measure::new("inuse_space", "bytes")];
const SPACE: Measure = Measure::new("space", "bytes");

/// What lives now, of all that was allocated since recording began.
///
/// It is read while it is written: what is allocated or freed meanwhile may be in it or not. It shows how much lives by which
/// stack, and no contents of memory.
///
/// If nothing is recorded, and the program allocates by jemalloc, whose own profiler was switched on as the program began, it is
/// what that one has found.
#[derive(Debug)]
pub struct Dump {
    source: Source,
    unwinder: Arc<Unwinder>,
    header: Header,
}

/// A stack of which something lives.
#[derive(Debug)]
pub(super) struct Living {
    /// From the innermost function on. None for what is not told apart.
    pub(super) addresses: Arc<[u64]>,
    pub(super) sum: Sum,
}

/// Who knows what lives.
#[derive(Debug)]
enum Source {
    Recorder {
        recorder: Arc<Recorder>,
        position: Position,
    },
    #[cfg(feature = "jemalloc")]
    Jemalloc(super::jemalloc::HeapProfile),
}

impl Source {
    /// The next stacks; none when there are no more.
    fn next(&mut self) -> io::Result<Option<Vec<Living>>> {
        match self {
            Self::Recorder { recorder, position } => {
                let living = |stack: StackCopy| Living { addresses: stack.addresses, sum: stack.retained };
                let stacks = recorder.copy(position);
                Ok(stacks.map(|stacks| stacks.into_iter().map(living).collect()))
            }
            #[cfg(feature = "jemalloc")]
            Self::Jemalloc(profile) => profile.read(),
        }
    }

    /// Begins once more.
    fn rewind(&mut self) -> io::Result<()> {
        match self {
            Self::Recorder { position, .. } => *position = Position::default(),
            #[cfg(feature = "jemalloc")]
            Self::Jemalloc(profile) => profile.rewind()?,
        }

        Ok(())
    }

    /// What it has written itself.
    fn own_form(self) -> Result<File, ReportError> {
        match self {
            #[cfg(feature = "jemalloc")]
            Self::Jemalloc(profile) => Ok(profile.into_file()?),
            Self::Recorder { .. } => Err(ReportError::Heap),
        }
    }
}

impl Dump {
    /// The largest piece that [`chunks`](Self::chunks) gives, in bytes.
    pub const CHUNK: usize = 64 << 10;

    /// Begins one. Fails if nothing is recorded, be it by an [`Allocator`](super::Allocator) or by jemalloc.
    pub fn begin() -> Result<Self, MemoryError> {
        hook::unrecorded(|| match hook::RECORDER.get() {
            Some(recorder) => Self::of_recorder(recorder),
            // Of the ways that there are, the one to be told of is that which the program is closer to.
            None => Self::of_jemalloc().map_err(|error| match error {
                MemoryError::NoJemalloc | MemoryError::NotJemalloc | MemoryError::NotProfiled
                    if hook::is_installed() =>
                {
                    match control::note() {
                        Some(_) => MemoryError::Misunderstood,
                        None => MemoryError::NotRecording,
                    }
                }
                MemoryError::NoJemalloc | MemoryError::NotJemalloc => MemoryError::NotInstalled,
                error => error,
            }),
        })
    }

    /// Begins one of what jemalloc's own profiler has found, whatever else is recorded: the only one that can be written as
    /// [`Format::Heap`]. Fails if the program has not the feature `jemalloc`, does not allocate by it, or was started without its profiler.
    pub fn of_jemalloc() -> Result<Self, MemoryError> {
        #[cfg(feature = "jemalloc")]
        return hook::unrecorded(|| {
            let profile = super::jemalloc::HeapProfile::take()?;
            let rate = profile.rate();
            let mut this = Self::new(Source::Jemalloc(profile), Unwinder::of_this_process()?)?;
            this.header.period = Some((SPACE, rate));
            this.header.notes.push(format!("estimated by jemalloc: one byte in {rate} was looked at"));

            if !crate::sys::jemalloc::is_profiling() {
                this.header.notes.push(
                    "jemalloc's profiler pauses (prof.active is false): what was allocated meanwhile is missing"
                        .to_owned(),
                );
            }

            Ok(this)
        });
        #[cfg(not(feature = "jemalloc"))]
        Err(MemoryError::NoJemalloc)
    }

    fn of_recorder(recorder: Arc<Recorder>) -> Result<Self, MemoryError> {
        // Libraries may have been loaded since.
        let unwinder = hook::apart(|| recorder.newest_unwinder())?;
        let mode = recorder.mode();
        let lost = recorder.lost();
        let (begun_at, duration) = (recorder.begun_at(), recorder.running_for());
        let mut this = Self::new(Source::Recorder { recorder, position: Position::default() }, unwinder)?;
        let header = &mut this.header;
        header.period = mode.rate().map(|rate| (SPACE, rate));
        header.at = begun_at;
        header.duration = duration;
        header.notes.push(match mode {
            Mode::Sampled { rate } => format!("estimated: one byte in {rate} was looked at"),
            Mode::Full => "all allocations since recording began".to_owned(),
        });
        header.notes.extend(control::note().map(str::to_owned));

        if lost.blocks > 0 {
            header.notes.push(format!(
                "more blocks lived than can be followed: {} of {} bytes are missing",
                lost.blocks, lost.bytes
            ));
        }

        if lost.stacks {
            header.notes.push("there were more stacks than can be told apart: the rest is under one name".to_owned());
        }

        Ok(this)
    }

    fn new(source: Source, unwinder: Arc<Unwinder>) -> Result<Self, MemoryError> {
        let totals = Totals::now().map_err(MemoryError::Totals)?;
        let mut header = Header::new("memory in use", MEASURES.to_vec());
        header.main = 1;
        header.totals = totals.named();
        Ok(Self { source, unwinder, header })
    }

    /// Writes all of it.
    pub fn write<W: Write>(mut self, format: Format, mut output: W) -> Result<W, ReportError> {
        hook::unrecorded(|| {
            if format == Format::Heap {
                io::copy(&mut self.source.own_form()?, &mut output)?;
                return Ok(output);
            }

            let mut writer = self.writer(format, output)?;

            while let Some(stacks) = self.source.next()? {
                for stack in stacks {
                    self.write_stack(&stack, &mut writer)?;
                }
            }

            writer.finish()
        })
    }

    /// Gives it piece by piece: none is longer than [`CHUNK`](Self::CHUNK), and the next is made when it is asked for.
    pub fn chunks(mut self, format: Format) -> Result<Chunks, ReportError> {
        let rest = match format {
            Format::Heap => Rest::Own(self.source.own_form()?),
            format => {
                let writer = hook::unrecorded(|| self.writer(format, Vec::new()))?;
                Rest::Stacks(Box::new(Stacks { dump: self, writer, pending: Vec::new().into_iter() }))
            }
        };
        Ok(Chunks { rest, made: Vec::new() })
    }

    fn writer<W: Write>(&mut self, format: Format, output: W) -> Result<Writer<W>, ReportError> {
        let header = self.header.clone();

        match format {
            // Whoever reads it is told first whose it is, so all of it is looked at twice: nothing of it is kept in between.
            Format::Json => Writer::json(header, &self.groups()?, output),
            format => Writer::new(format, header, output),
        }
    }

    fn groups(&mut self) -> Result<Groups, ReportError> {
        let mut groups = Groups::new(self.header.period.is_some());

        while let Some(stacks) = self.source.next()? {
            for stack in stacks.iter().filter(|stack| stack.sum.samples > 0) {
                groups.add(blame::blame(&self.places(stack)), &stack.sum);
            }
        }

        self.source.rewind()?;
        Ok(groups)
    }

    fn places(&self, stack: &Living) -> Vec<Arc<Place>> {
        blame::resolve(Symbols::shared(), self.unwinder.modules(), &stack.addresses)
    }

    fn write_stack<W: Write>(&self, stack: &Living, writer: &mut Writer<W>) -> Result<(), ReportError> {
        if stack.sum.samples == 0 {
            return Ok(());
        }

        let figures = stack.sum.figures(false);
        writer.stack(&self.places(stack), &[figures.count, figures.bytes])
    }
}

/// The pieces of a [`Dump`].
#[derive(Debug)]
pub struct Chunks {
    rest: Rest,
    /// Bytes that were made, and not yet given.
    made: Vec<u8>,
}

/// What is not made yet.
#[derive(Debug)]
enum Rest {
    Stacks(Box<Stacks>),
    Own(File),
    Nothing,
}

#[derive(Debug)]
struct Stacks {
    dump: Dump,
    writer: Writer<Vec<u8>>,
    /// Stacks that were copied, and not yet written.
    pending: vec::IntoIter<Living>,
}

impl Chunks {
    fn make(&mut self) -> Result<(), ReportError> {
        while self.made.len() < Dump::CHUNK {
            match &mut self.rest {
                Rest::Stacks(stacks) => {
                    let Stacks { dump, writer, pending } = &mut **stacks;

                    if let Some(stack) = pending.next() {
                        dump.write_stack(&stack, writer)?;
                        self.made.append(writer.output_mut());
                    } else if let Some(stacks) = dump.source.next()? {
                        *pending = stacks.into_iter();
                    } else if let Rest::Stacks(stacks) = std::mem::replace(&mut self.rest, Rest::Nothing) {
                        self.made.append(&mut stacks.writer.finish()?);
                    }
                }
                Rest::Own(file) => {
                    if file.take(Dump::CHUNK as u64).read_to_end(&mut self.made)? == 0 {
                        self.rest = Rest::Nothing;
                    }
                }
                Rest::Nothing => return Ok(()),
            }
        }

        Ok(())
    }
}

impl Iterator for Chunks {
    type Item = io::Result<Vec<u8>>;

    fn next(&mut self) -> Option<Self::Item> {
        match hook::unrecorded(|| self.make()) {
            Ok(()) if self.made.is_empty() => None,
            Ok(()) => {
                let after = self.made.split_off(self.made.len().min(Dump::CHUNK));
                Some(Ok(std::mem::replace(&mut self.made, after)))
            }
            Err(error) => {
                *self = Self { rest: Rest::Nothing, made: Vec::new() };
                Some(Err(io::Error::other(error)))
            }
        }
    }
}
