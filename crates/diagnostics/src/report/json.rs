//! For programs.
//!
//! `{title, measures, main, period?, at, duration, totals?, notes, stacks: [{values, frames: [{function, file?, line?, inlined?}]}]}`, where
//! the values of a stack are in the order of the measures, and frames begin with the innermost.

use std::{
    io,
    io::Write,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::{Serialize, Serializer, ser::SerializeSeq};

use super::{Header, Profile};
use crate::symbols::{Frame, Place};

pub(super) fn seconds_since_1970<S: Serializer>(at: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64())
}

pub(crate) fn seconds<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(duration.as_secs_f64())
}

pub(super) fn map<S: Serializer>(entries: &[(&'static str, u64)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(entries.iter().copied())
}

/// One stack.
#[derive(Serialize)]
struct Stack<'a> {
    values: &'a [u64],
    frames: Frames<'a>,
}

struct Frames<'a>(&'a [Arc<Place>]);

impl Serialize for Frames<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let frames: Vec<&Frame> = self.0.iter().flat_map(|place| &place.frames).collect();
        let mut sequence = serializer.serialize_seq(Some(frames.len()))?;

        for frame in frames {
            sequence.serialize_element(frame)?;
        }

        sequence.end()
    }
}

struct Stacks<'a>(&'a [super::Stack]);

impl Serialize for Stacks<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer
            .collect_seq(self.0.iter().map(|stack| Stack { values: &stack.values, frames: Frames(&stack.places) }))
    }
}

#[derive(Serialize)]
struct Whole<'a> {
    #[serde(flatten)]
    header: &'a Header,
    stacks: Stacks<'a>,
}

impl Serialize for Profile {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let header = &self.header;
        Whole { header, stacks: Stacks(&self.stacks) }.serialize(serializer)
    }
}

/// Writes the stacks first, as they come, and then what holds for all.
pub(super) struct Writer<W: Write> {
    output: W,
    empty: bool,
}

impl<W: Write> Writer<W> {
    pub(super) fn new(mut output: W) -> io::Result<Self> {
        output.write_all(b"{\"stacks\":[")?;
        Ok(Self { output, empty: true })
    }

    /// With the fields of a map before everything else, one a line.
    #[cfg(feature = "memory")]
    pub(super) fn after<T: Serialize>(first: &T, mut output: W) -> io::Result<Self> {
        let first = serde_json::to_vec_pretty(first)?;
        // All but its end, which is to come.
        output.write_all(first.strip_suffix(b"\n}").unwrap_or(&first))?;
        output.write_all(b",\n  \"stacks\":[")?;
        Ok(Self { output, empty: true })
    }

    pub(super) fn output_mut(&mut self) -> &mut W {
        &mut self.output
    }

    pub(super) fn stack(&mut self, _header: &Header, places: &[Arc<Place>], values: &[u64]) -> io::Result<()> {
        if !std::mem::take(&mut self.empty) {
            self.output.write_all(b",\n")?;
        }

        serde_json::to_writer(&mut self.output, &Stack { values, frames: Frames(places) })?;
        Ok(())
    }

    pub(super) fn finish(mut self, header: &Header) -> io::Result<W> {
        // An object without its first brace continues the one that was begun.
        let rest = serde_json::to_string(header)?;
        self.output.write_all(b"],")?;
        self.output.write_all(rest.strip_prefix('{').unwrap_or(&rest).as_bytes())?;
        self.output.write_all(b"\n")?;
        Ok(self.output)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Format, Measure, tests::profile};

    #[test]
    fn what_is_written_is_what_is_serialized() {
        let mut profile = profile();
        profile.header_mut().period = Some((Measure::new("space", "bytes"), 512));
        profile.header_mut().notes.push("\"noted\"".to_owned());
        let written: serde_json::Value = serde_json::from_slice(&profile.to_bytes(Format::Json).unwrap()).unwrap();
        // By way of text as well, which may cost a number its last digit.
        let serialized: serde_json::Value = serde_json::from_str(&serde_json::to_string(&profile).unwrap()).unwrap();
        assert_eq!(written, serialized);
        assert_eq!(written["stacks"][0]["values"], serde_json::json!([3, 2500]));
        assert_eq!(written["stacks"][0]["frames"][0]["function"], "inner");
        assert_eq!(written["stacks"][0]["frames"][2]["line"], 1);
        assert_eq!(written["notes"][0], "\"noted\"");
    }
}
