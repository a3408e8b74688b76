//! JSON lines: the same messages as MessagePack, for people with a terminal and for peers that speak the older protocol.
//!
//! A line is turned into MessagePack where it comes in and back where it goes out, so that nothing in between knows of
//! it. That costs such a connection about a microsecond a message, and the others nothing.

use std::{cell::Cell, fmt};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use serde::{
    Deserializer, Serialize, Serializer,
    de::{DeserializeSeed, MapAccess, SeqAccess, Visitor},
    ser::{Error, SerializeMap, SerializeSeq},
};

use crate::{
    encode,
    error::MessageError,
    reader::{Broken, MAXIMUM_DEPTH, Reader, Token},
};

/// Reads a line into a payload. Where it is broken, `out` holds what could be read.
pub(crate) fn parse(line: &[u8], out: &mut Vec<u8>) -> Result<(), MessageError> {
    if line.trim_ascii_start().first() != Some(&b'{') {
        return Err(MessageError::NotAMap);
    }

    let mut deserializer = serde_json::Deserializer::from_slice(line);
    // Its own limit is one level less than what a message may have, and could not be said again on a line. The writer has ours.
    deserializer.disable_recursion_limit();
    let json = |error: serde_json::Error| MessageError::Json(error.to_string());
    Writer { out, depth: 0 }.deserialize(&mut deserializer).map_err(json)?;
    deserializer.end().map_err(json)
}

/// Writes a payload as a line.
pub(crate) fn write(payload: &[u8], out: &mut Vec<u8>) -> Result<(), serde_json::Error> {
    serde_json::to_writer(&mut *out, &Cursor::new(payload))?;
    out.push(b'\n');
    Ok(())
}

/// Writes what it visits as MessagePack.
struct Writer<'a> {
    out: &'a mut Vec<u8>,
    /// How many maps and arrays it is in.
    depth: usize,
}

impl Writer<'_> {
    /// One for what is in a map or an array.
    fn nested<E: serde::de::Error>(&mut self) -> Result<Writer<'_>, E> {
        if self.depth == MAXIMUM_DEPTH {
            return Err(E::custom(MessageError::TooDeep { limit: MAXIMUM_DEPTH }));
        }

        Ok(Writer { out: self.out, depth: self.depth + 1 })
    }

    /// One for another value in the same place.
    fn again(&mut self) -> Writer<'_> {
        Writer { out: self.out, depth: self.depth }
    }
}

impl<'de> DeserializeSeed<'de> for Writer<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Writer<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("any JSON value")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        encode::put_nil(self.out);
        Ok(())
    }

    fn visit_bool<E>(self, value: bool) -> Result<(), E> {
        encode::put_boolean(self.out, value);
        Ok(())
    }

    fn visit_u64<E>(self, value: u64) -> Result<(), E> {
        encode::put_unsigned(self.out, value);
        Ok(())
    }

    fn visit_i64<E>(self, value: i64) -> Result<(), E> {
        encode::put_signed(self.out, value);
        Ok(())
    }

    fn visit_f64<E>(self, value: f64) -> Result<(), E> {
        encode::put_float(self.out, value);
        Ok(())
    }

    fn visit_str<E>(self, value: &str) -> Result<(), E> {
        encode::put_text(self.out, value);
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut seq: A) -> Result<(), A::Error> {
        let mut nested = self.nested()?;
        let start = encode::open(nested.out);
        let mut elements = 0;

        while seq.next_element_seed(nested.again())?.is_some() {
            elements += 1;
        }

        encode::close_array(nested.out, start, elements);
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        let mut nested = self.nested()?;
        let start = encode::open(nested.out);
        let mut entries = 0;

        while map.next_key_seed(nested.again())?.is_some() {
            map.next_value_seed(nested.again())?;
            entries += 1;
        }

        encode::close_map(nested.out, start, entries);
        Ok(())
    }
}

/// MessagePack as something to serialize: each time, one value from where it stands.
///
/// The position is shared by a value and its children, because they are read in the order in which they are written,
/// and to find where a child ends by passing over it first would cost time that grows with the square of the depth.
pub(crate) struct Cursor<'a> {
    bytes: &'a [u8],
    at: Cell<usize>,
    /// Whether this is a key that becomes text.
    within_key: bool,
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: Cell::new(0), within_key: false }
    }

    fn read<T>(&self, read: impl FnOnce(&mut Reader<'a>) -> Result<T, Broken>) -> Result<T, MessageError> {
        let mut reader = Reader::starting_at(self.bytes, self.at.get());
        let value = read(&mut reader)?;
        self.at.set(reader.position());
        Ok(value)
    }

    /// A key, for a format whose keys are strings: others become their own text, so that one odd map of one worker
    /// does not cost everybody else the whole answer.
    ///
    /// Text within text has its quotes escaped, and these escapes have theirs, so each level would be twice as long as what
    /// it holds: a few hundred bytes of keys that are maps with such keys would be more than there is memory. Within a key, one
    /// that is not a simple value stays what it was, in base64.
    fn key_text(&self) -> Result<String, MessageError> {
        let start = self.at.get();
        let token = self.read(Reader::token)?;

        if let Token::Text(text) = token {
            return Ok(text.to_owned());
        }

        self.at.set(start);
        let value = self.read(|reader| {
            reader.skip(1)?;
            Ok(reader.since(start))
        })?;

        if self.within_key && matches!(token, Token::Array(_) | Token::Map(_)) {
            return Ok(BASE64.encode(value));
        }

        let key = Cursor { within_key: true, ..Cursor::new(value) };
        serde_json::to_string(&key).map_err(|error| MessageError::Json(error.to_string()))
    }
}

impl Serialize for Cursor<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let readable = serializer.is_human_readable();

        match self.read(Reader::token).map_err(S::Error::custom)? {
            Token::Nil => serializer.serialize_unit(),
            Token::Boolean(value) => serializer.serialize_bool(value),
            Token::Unsigned(value) => serializer.serialize_u64(value),
            Token::Signed(value) => serializer.serialize_i64(value),
            Token::Float(value) => serializer.serialize_f64(value),
            Token::Text(text) => serializer.serialize_str(text),
            Token::Binary(bytes) | Token::Extension(_, bytes) if readable => {
                serializer.serialize_str(&BASE64.encode(bytes))
            }
            Token::Binary(bytes) => serializer.serialize_bytes(bytes),
            Token::Extension(kind, bytes) => {
                serializer.serialize_newtype_struct(rmp_serde::MSGPACK_EXT_STRUCT_NAME, &(kind, Binary(bytes)))
            }
            Token::Array(elements) => {
                let mut seq = serializer.serialize_seq(Some(elements as usize))?;

                for _ in 0..elements {
                    seq.serialize_element(self)?;
                }

                seq.end()
            }
            Token::Map(entries) => {
                let mut map = serializer.serialize_map(Some(entries as usize))?;

                for _ in 0..entries {
                    if readable {
                        map.serialize_key(&self.key_text().map_err(S::Error::custom)?)?;
                    } else {
                        map.serialize_key(self)?;
                    }

                    map.serialize_value(self)?;
                }

                map.end()
            }
        }
    }
}

struct Binary<'a>(&'a [u8]);

impl Serialize for Binary<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(self.0)
    }
}
