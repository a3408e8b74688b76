//! The compressed form of `pprof`.
//!
//! A message of its kind may be written in pieces, one after the other, since all that is long in it are repeated fields.
//! So only names, and which of them were written, are kept; and of these there are no more than the program has.

use std::{
    collections::HashMap,
    io,
    io::Write,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use flate2::{Compression, write::GzEncoder};
use prost::Message;

use super::{Header, Measure};
use crate::{symbols::Place, unwind::Mapping as ModuleMapping};

/// What is collected before it is compressed, in bytes.
const PIECE: usize = 16 << 10;

#[derive(Message)]
struct Profile {
    #[prost(message, repeated, tag = "1")]
    sample_type: Vec<ValueType>,
    #[prost(message, repeated, tag = "2")]
    sample: Vec<Sample>,
    #[prost(message, repeated, tag = "3")]
    mapping: Vec<Mapping>,
    #[prost(message, repeated, tag = "4")]
    location: Vec<Location>,
    #[prost(message, repeated, tag = "5")]
    function: Vec<Function>,
    #[prost(string, repeated, tag = "6")]
    string_table: Vec<String>,
    #[prost(int64, tag = "9")]
    time_nanos: i64,
    #[prost(int64, tag = "10")]
    duration_nanos: i64,
    #[prost(message, optional, tag = "11")]
    period_type: Option<ValueType>,
    #[prost(int64, tag = "12")]
    period: i64,
    #[prost(int64, repeated, tag = "13")]
    comment: Vec<i64>,
    #[prost(int64, tag = "14")]
    default_sample_type: i64,
}

#[derive(Message)]
struct ValueType {
    #[prost(int64, tag = "1")]
    r#type: i64,
    #[prost(int64, tag = "2")]
    unit: i64,
}

#[derive(Message)]
struct Sample {
    #[prost(uint64, repeated, tag = "1")]
    location_id: Vec<u64>,
    #[prost(int64, repeated, tag = "2")]
    value: Vec<i64>,
}

#[derive(Message)]
struct Mapping {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(uint64, tag = "2")]
    memory_start: u64,
    #[prost(uint64, tag = "3")]
    memory_limit: u64,
    #[prost(uint64, tag = "4")]
    file_offset: u64,
    #[prost(int64, tag = "5")]
    filename: i64,
    #[prost(int64, tag = "6")]
    build_id: i64,
    #[prost(bool, tag = "7")]
    has_functions: bool,
    #[prost(bool, tag = "8")]
    has_filenames: bool,
    #[prost(bool, tag = "9")]
    has_line_numbers: bool,
    #[prost(bool, tag = "10")]
    has_inline_frames: bool,
}

#[derive(Message)]
struct Location {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(uint64, tag = "2")]
    mapping_id: u64,
    #[prost(uint64, tag = "3")]
    address: u64,
    #[prost(message, repeated, tag = "4")]
    line: Vec<Line>,
}

#[derive(Message)]
struct Line {
    #[prost(uint64, tag = "1")]
    function_id: u64,
    #[prost(int64, tag = "2")]
    line: i64,
}

#[derive(Message)]
struct Function {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(int64, tag = "2")]
    name: i64,
    #[prost(int64, tag = "3")]
    system_name: i64,
    #[prost(int64, tag = "4")]
    filename: i64,
}

/// What is known by its place in a table that has been written.
#[derive(Default)]
struct Tables {
    strings: HashMap<Arc<str>, i64>,
    /// Written at the end, when it is known what is known of their functions.
    mappings: HashMap<Arc<ModuleMapping>, Mapping>,
    /// By the indices of their name and file.
    functions: HashMap<(i64, i64), u64>,
    /// By their address, or, without one, by the index of their name.
    locations: HashMap<(u64, i64), u64>,
}

pub(super) struct Writer<W: Write> {
    output: GzEncoder<W>,
    tables: Tables,
    piece: Profile,
    buffer: Vec<u8>,
}

impl<W: Write> Writer<W> {
    pub(super) fn new(header: &Header, output: W) -> io::Result<Self> {
        let mut writer = Self {
            output: GzEncoder::new(output, Compression::fast()),
            tables: Tables::default(),
            piece: Profile::default(),
            buffer: Vec::with_capacity(PIECE),
        };
        // The first string is the empty one, by definition.
        writer.tables.string("", &mut writer.piece);

        for measure in &header.measures {
            let value_type = writer.tables.measure(measure, &mut writer.piece);
            writer.piece.sample_type.push(value_type);
        }

        if let Some((measure, period)) = &header.period {
            writer.piece.period_type = Some(writer.tables.measure(measure, &mut writer.piece));
            writer.piece.period = signed(*period);
        }

        if let Some(main) = header.measures.get(header.main) {
            writer.piece.default_sample_type = writer.tables.string(main.name, &mut writer.piece);
        }

        writer.piece.time_nanos = nanoseconds(since_1970(header.at));
        writer.flush()?;
        Ok(writer)
    }

    pub(super) fn output_mut(&mut self) -> &mut W {
        self.output.get_mut()
    }

    pub(super) fn stack(&mut self, places: &[Arc<Place>], values: &[u64]) -> io::Result<()> {
        let location_id = places.iter().map(|place| self.tables.location(place, &mut self.piece)).collect();
        let value = values.iter().map(|&value| signed(value)).collect();
        self.piece.sample.push(Sample { location_id, value });
        self.flush()
    }

    pub(super) fn finish(mut self, header: &Header) -> io::Result<W> {
        self.piece.duration_nanos = nanoseconds(header.duration);

        let totals = header.totals.iter().map(|(name, value)| format!("{name}: {value}"));

        for note in totals.chain(header.notes.iter().cloned()) {
            let comment = self.tables.string(&note, &mut self.piece);
            self.piece.comment.push(comment);
        }

        self.piece.mapping = self.tables.mappings.drain().map(|(_, mapping)| mapping).collect();
        // Readers take the first one for the program itself, which Linux puts below all libraries.
        self.piece.mapping.sort_by_key(|mapping| mapping.memory_start);
        self.flush()?;
        self.output.write_all(&self.buffer)?;
        self.output.finish()
    }

    fn flush(&mut self) -> io::Result<()> {
        let piece = std::mem::take(&mut self.piece);
        // A vector has no end that it could come to.
        piece.encode(&mut self.buffer).map_err(io::Error::other)?;

        if self.buffer.len() >= PIECE {
            self.output.write_all(&self.buffer)?;
            self.buffer.clear();
        }

        Ok(())
    }
}

impl Tables {
    fn string(&mut self, string: &str, piece: &mut Profile) -> i64 {
        if let Some(&index) = self.strings.get(string) {
            return index;
        }

        let index = self.strings.len() as i64;
        self.strings.insert(string.into(), index);
        piece.string_table.push(string.to_owned());
        index
    }

    fn measure(&mut self, measure: &Measure, piece: &mut Profile) -> ValueType {
        ValueType { r#type: self.string(measure.name, piece), unit: self.string(measure.unit, piece) }
    }

    fn mapping(&mut self, place: &Place, piece: &mut Profile) -> u64 {
        let Some(known) = &place.mapping else { return 0 };

        if !self.mappings.contains_key(known) {
            let mapping = Mapping {
                id: self.mappings.len() as u64 + 1,
                memory_start: known.addresses.start,
                memory_limit: known.addresses.end,
                file_offset: known.offset,
                filename: self.string(&known.file, piece),
                build_id: self.string(known.build_id.as_deref().unwrap_or_default(), piece),
                ..Mapping::default()
            };
            self.mappings.insert(known.clone(), mapping);
        }

        let Some(mapping) = self.mappings.get_mut(known) else { return 0 };
        // Readers that see one of these do not look for the file, to find in it what is missing.
        mapping.has_functions |= place.is_named;
        mapping.has_filenames |= place.frames.iter().any(|frame| frame.file.is_some());
        mapping.has_line_numbers |= place.frames.iter().any(|frame| frame.line.is_some());
        // Both are told by the same tables.
        mapping.has_inline_frames = mapping.has_line_numbers;
        mapping.id
    }

    fn location(&mut self, place: &Place, piece: &mut Profile) -> u64 {
        let name = match place.frames.first() {
            Some(frame) if place.address == 0 => self.string(&frame.function, piece),
            _ => 0,
        };
        let key = (place.address, name);

        if let Some(&id) = self.locations.get(&key) {
            return id;
        }

        let id = self.locations.len() as u64 + 1;
        self.locations.insert(key, id);
        let mapping_id = self.mapping(place, piece);
        let lines = place.frames.iter().map(|frame| {
            let name = self.string(&frame.function, piece);
            let filename = self.string(frame.file.as_deref().unwrap_or_default(), piece);
            let next = self.functions.len() as u64 + 1;
            let function_id = *self.functions.entry((name, filename)).or_insert_with(|| {
                piece.function.push(Function { id: next, name, system_name: name, filename });
                next
            });
            Line { function_id, line: frame.line.unwrap_or_default().into() }
        });
        let line = lines.collect();
        piece.location.push(Location { id, mapping_id, address: place.address, line });
        id
    }
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn since_1970(at: SystemTime) -> Duration {
    at.duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn nanoseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::{super::Format, super::tests::profile, *};

    #[test]
    fn pieces_make_one_message() {
        let bytes = profile().to_bytes(Format::Pprof).unwrap();
        let mut plain = Vec::new();
        flate2::read::GzDecoder::new(&bytes[..]).read_to_end(&mut plain).unwrap();
        let decoded = Profile::decode(&plain[..]).unwrap();
        let string = |index: i64| decoded.string_table[index as usize].as_str();

        assert_eq!(decoded.string_table[0], "");
        assert_eq!(string(decoded.sample_type[1].r#type), "space");
        assert_eq!(string(decoded.default_sample_type), "space");
        assert_eq!(decoded.sample.len(), 2);
        assert_eq!(decoded.sample[0].value, [3, 2500]);
        assert_eq!(decoded.mapping.len(), 1);
        let mapping = &decoded.mapping[0];
        assert_eq!(
            (mapping.memory_start, mapping.memory_limit, string(mapping.filename)),
            (0x10, 0x50, "/bin/program")
        );
        assert!(mapping.has_functions && mapping.has_line_numbers);
        assert_eq!(decoded.location.len(), 3);

        let innermost = &decoded.location[decoded.sample[0].location_id[0] as usize - 1];
        let names: Vec<&str> =
            innermost.line.iter().map(|line| string(decoded.function[line.function_id as usize - 1].name)).collect();
        assert_eq!(names, ["inner", "outer"]);
        assert_eq!((innermost.address, innermost.line[0].line), (0x20, 2));
    }
}
