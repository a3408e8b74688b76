//! What lives now.

use std::{
    io::{self, Write},
    sync::Arc,
    vec,
};

use super::{
    MemoryError, Mode, blame, control, hook,
    recorder::{Position, Recorder, StackCopy},
    totals::Totals,
};
use crate::{
    report::{Format, Header, Measure, ReportError, Writer},
    symbols::Symbols,
    unwind::Unwinder,
};

const MEASURES: [Measure; 2] = [Measure::new("inuse_objects", "count"), Measure::new("inuse_space", "bytes")];

/// What lives now, of all that was allocated since recording began.
///
/// It is read while it is written: what is allocated or freed meanwhile may be in it or not. It shows how much lives by which
/// stack, and no contents of memory.
#[derive(Debug)]
pub struct Dump {
    recorder: Arc<Recorder>,
    unwinder: Arc<Unwinder>,
    header: Header,
}

impl Dump {
    /// The largest piece that [`chunks`](Self::chunks) gives, in bytes.
    pub const CHUNK: usize = 64 << 10;

    /// Begins one. Fails if nothing is recorded.
    pub fn begin() -> Result<Self, MemoryError> {
        hook::unrecorded(|| {
            if !hook::is_installed() {
                return Err(MemoryError::NotInstalled);
            }

            let recorder = hook::RECORDER.get().ok_or(MemoryError::NotRecording)?;
            // Libraries may have been loaded since.
            let unwinder = hook::apart(|| recorder.newest_unwinder())?;
            let totals = Totals::now().map_err(MemoryError::Totals)?;
            let mut header = Header::new("memory in use", MEASURES.to_vec());
            header.main = 1;
            header.period = recorder.mode().rate().map(|rate| (Measure::new("space", "bytes"), rate));
            header.at = recorder.begun_at();
            header.duration = recorder.running_for();
            header.totals = totals.named();
            header.notes.push(match recorder.mode() {
                Mode::Sampled { rate } => format!("estimated: one byte in {rate} was looked at"),
                Mode::Full => "all allocations since recording began".to_owned(),
            });
            header.notes.extend(control::note().map(str::to_owned));
            let lost = recorder.lost();

            if lost.blocks > 0 {
                header.notes.push(format!(
                    "more blocks lived than can be followed: {} of {} bytes are missing",
                    lost.blocks, lost.bytes
                ));
            }

            if lost.stacks {
                header
                    .notes
                    .push("there were more stacks than can be told apart: the rest is under one name".to_owned());
            }

            Ok(Self { recorder, unwinder, header })
        })
    }

    /// Writes all of it.
    pub fn write<W: Write>(self, format: Format, output: W) -> Result<W, ReportError> {
        hook::unrecorded(|| {
            let mut writer = Writer::new(format, self.header.clone(), output)?;
            let mut position = Position::default();

            while let Some(stacks) = self.recorder.copy(&mut position) {
                for stack in stacks {
                    self.write_stack(&stack, &mut writer)?;
                }
            }

            writer.finish()
        })
    }

    /// Gives it piece by piece: none is longer than [`CHUNK`](Self::CHUNK), and the next is made when it is asked for.
    pub fn chunks(self, format: Format) -> Result<Chunks, ReportError> {
        let writer = Writer::new(format, self.header.clone(), Vec::new())?;
        Ok(Chunks {
            dump: self,
            writer: Some(writer),
            position: Position::default(),
            pending: Vec::new().into_iter(),
            rest: Vec::new(),
            failed: false,
        })
    }

    fn write_stack<W: Write>(&self, stack: &StackCopy, writer: &mut Writer<W>) -> Result<(), ReportError> {
        if stack.retained.samples == 0 {
            return Ok(());
        }

        let figures = stack.retained.figures(false);
        let places = blame::resolve(Symbols::shared(), self.unwinder.modules(), &stack.addresses);
        writer.stack(&places, &[figures.count, figures.bytes])
    }
}

/// The pieces of a [`Dump`].
#[derive(Debug)]
pub struct Chunks {
    dump: Dump,
    writer: Option<Writer<Vec<u8>>>,
    position: Position,
    /// Stacks that were copied, and not yet written.
    pending: vec::IntoIter<StackCopy>,
    /// Bytes that were written, and not yet given.
    rest: Vec<u8>,
    failed: bool,
}

impl Chunks {
    fn make(&mut self) -> Result<(), ReportError> {
        while self.rest.len() < Dump::CHUNK {
            let Some(writer) = &mut self.writer else { return Ok(()) };

            if let Some(stack) = self.pending.next() {
                self.dump.write_stack(&stack, writer)?;
                self.rest.append(writer.output_mut());
            } else if let Some(stacks) = self.dump.recorder.copy(&mut self.position) {
                self.pending = stacks.into_iter();
            } else if let Some(writer) = self.writer.take() {
                self.rest.append(&mut writer.finish()?);
            }
        }

        Ok(())
    }
}

impl Iterator for Chunks {
    type Item = io::Result<Vec<u8>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }

        match hook::unrecorded(|| self.make()) {
            Ok(()) if self.rest.is_empty() => None,
            Ok(()) => {
                let after = self.rest.split_off(self.rest.len().min(Dump::CHUNK));
                Some(Ok(std::mem::replace(&mut self.rest, after)))
            }
            Err(error) => {
                self.failed = true;
                Some(Err(io::Error::other(error)))
            }
        }
    }
}
