//! Writing one stack after the other.

use std::{io::Write, sync::Arc};

use super::{Format, Header, ReportError, folded, json, text};
use crate::symbols::Place;

/// Writes stacks as they come, and keeps none of them, except in forms that need all at once: text keeps a sum for each
/// function and the largest stacks, a flame graph a line for each stack.
pub struct Writer<W: Write> {
    header: Header,
    output: Output<W>,
}

enum Output<W: Write> {
    Json(json::Writer<W>),
    Text(W, text::Summary),
    Folded(W),
    #[cfg(feature = "pprof")]
    Pprof(Box<super::pprof::Writer<W>>),
    #[cfg(feature = "svg")]
    Svg(W, Vec<String>),
}

impl<W: Write> Writer<W> {
    /// Begins. Fails if the form needs a feature that is not there, or nothing can be written.
    pub fn new(format: Format, header: Header, output: W) -> Result<Self, ReportError> {
        let output = match format {
            Format::Json => Output::Json(json::Writer::new(output)?),
            Format::Text => Output::Text(output, text::Summary::default()),
            Format::Folded => Output::Folded(output),
            #[cfg(feature = "pprof")]
            Format::Pprof => Output::Pprof(Box::new(super::pprof::Writer::new(&header, output)?)),
            #[cfg(feature = "svg")]
            Format::Svg => Output::Svg(output, Vec::new()),
            Format::Heap => return Err(ReportError::Heap),
            #[cfg(not(feature = "pprof"))]
            Format::Pprof => return Err(ReportError::Feature { format, feature: "pprof" }),
            #[cfg(not(feature = "svg"))]
            Format::Svg => return Err(ReportError::Feature { format, feature: "svg" }),
        };
        Ok(Self { header, output })
    }

    /// Begins one for programs, with the fields of a map before everything else.
    #[cfg(feature = "memory")]
    pub(crate) fn json<T: serde::Serialize>(header: Header, first: &T, output: W) -> Result<Self, ReportError> {
        Ok(Self { header, output: Output::Json(json::Writer::after(first, output)?) })
    }

    /// What holds for all stacks. What is added to its notes until the end is written.
    pub fn header_mut(&mut self) -> &mut Header {
        &mut self.header
    }

    /// Where it is written to. Compressed forms may keep something back until the end.
    pub fn output_mut(&mut self) -> &mut W {
        match &mut self.output {
            Output::Json(writer) => writer.output_mut(),
            Output::Text(output, _) | Output::Folded(output) => output,
            #[cfg(feature = "pprof")]
            Output::Pprof(writer) => writer.output_mut(),
            #[cfg(feature = "svg")]
            Output::Svg(output, _) => output,
        }
    }

    /// Writes a stack, its innermost place first, with a number for each measure. One whose numbers are all zero is left
    /// out.
    pub fn stack(&mut self, places: &[Arc<Place>], values: &[u64]) -> Result<(), ReportError> {
        if values.iter().all(|&value| value == 0) {
            return Ok(());
        }

        let main = values.get(self.header.main).copied().unwrap_or_default();

        match &mut self.output {
            Output::Json(writer) => writer.stack(&self.header, places, values)?,
            Output::Text(_, summary) => summary.add(places, main),
            Output::Folded(output) => {
                if main > 0 {
                    let line = folded::line(places, main);
                    output.write_all(line.as_bytes())?;
                    output.write_all(b"\n")?;
                }
            }
            #[cfg(feature = "pprof")]
            Output::Pprof(writer) => writer.stack(places, values)?,
            #[cfg(feature = "svg")]
            Output::Svg(_, lines) => {
                if main > 0 {
                    lines.push(folded::line(places, main));
                }
            }
        }

        Ok(())
    }

    /// Ends it, and gives back where it was written to.
    pub fn finish(self) -> Result<W, ReportError> {
        match self.output {
            Output::Json(writer) => Ok(writer.finish(&self.header)?),
            Output::Text(mut output, summary) => {
                summary.write(&self.header, &mut output)?;
                Ok(output)
            }
            Output::Folded(output) => Ok(output),
            #[cfg(feature = "pprof")]
            Output::Pprof(writer) => Ok(writer.finish(&self.header)?),
            #[cfg(feature = "svg")]
            Output::Svg(output, lines) => Ok(super::svg::write(&self.header, &lines, output)?),
        }
    }
}

impl<W: Write> std::fmt::Debug for Writer<W> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Writer").field("header", &self.header).finish_non_exhaustive()
    }
}
