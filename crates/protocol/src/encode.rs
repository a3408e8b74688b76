//! Writing messages: fields that the protocol adds, then those of a value, in one map, straight into the output.

use rmp::encode as write;
use serde::{
    Serialize, Serializer,
    ser::{Impossible, SerializeMap, SerializeStruct},
};

use crate::{
    error::EncodeError,
    message::{is_reserved, is_reserved_key},
    reader::{MAXIMUM_DEPTH, Reader},
};

/// Writes into a `Vec` cannot fail, so there is nothing to look at in what `rmp` returns.
fn infallible<T, E>(_: Result<T, E>) {}

/// Nearly all texts of a message are short: the names of its fields.
#[inline]
pub(crate) fn put_text(out: &mut Vec<u8>, text: &str) {
    const SHORT: usize = 32;

    if text.len() < SHORT {
        out.push(0xa0 | text.len() as u8);
        out.extend_from_slice(text.as_bytes());
    } else {
        infallible(write::write_str(out, text));
    }
}

pub(crate) fn put_boolean(out: &mut Vec<u8>, value: bool) {
    out.push(0xc2 | u8::from(value));
}

pub(crate) fn put_nil(out: &mut Vec<u8>) {
    infallible(write::write_nil(out));
}

pub(crate) fn put_float(out: &mut Vec<u8>, value: f64) {
    infallible(write::write_f64(out, value));
}

pub(crate) fn put_signed(out: &mut Vec<u8>, value: i64) {
    infallible(write::write_sint(out, value));
}

pub(crate) fn put_unsigned(out: &mut Vec<u8>, value: u64) {
    infallible(write::write_uint(out, value));
}

/// Makes room for the header of a map or an array whose length is not known yet. One byte is enough for nearly all of
/// them; see [`close_map`] for the rest. Until then it stands for the longest map of one byte, so that what was written
/// of a message before it turned out to be broken can be searched for its id.
pub(crate) fn open(out: &mut Vec<u8>) -> usize {
    out.push(0x8f);
    out.len() - 1
}

/// Writes the header of a map into the room made by [`open`]. More than fifteen entries need a longer header, and the
/// body moves up for it: rare enough that the shortest form everywhere is worth it.
pub(crate) fn close_map(out: &mut Vec<u8>, start: usize, entries: u32) {
    match entries {
        0..16 => out[start] = 0x80 | entries as u8,
        16..0x1_0000 => {
            let [high, low] = (entries as u16).to_be_bytes();
            out.splice(start..=start, [0xde, high, low]);
        }
        _ => {
            let [a, b, c, d] = entries.to_be_bytes();
            out.splice(start..=start, [0xdf, a, b, c, d]);
        }
    }
}

/// As [`close_map`], for an array.
pub(crate) fn close_array(out: &mut Vec<u8>, start: usize, elements: u32) {
    match elements {
        0..16 => out[start] = 0x90 | elements as u8,
        16..0x1_0000 => {
            let [high, low] = (elements as u16).to_be_bytes();
            out.splice(start..=start, [0xdc, high, low]);
        }
        _ => {
            let [a, b, c, d] = elements.to_be_bytes();
            out.splice(start..=start, [0xdd, a, b, c, d]);
        }
    }
}

/// Entries of one map, written as they are given. It is a [`Serializer`] for the maps and structs whose fields become
/// fields of a message.
pub(crate) struct Entries<'a> {
    pub(crate) out: &'a mut Vec<u8>,
    pub(crate) count: u32,
    /// Whether these are the top level of a message, where the protocol keeps some names for itself.
    is_message: bool,
    /// Whether one of those names was given, somewhere else than there.
    pub(crate) has_reserved: bool,
}

impl<'a> Entries<'a> {
    pub(crate) fn nested(out: &'a mut Vec<u8>) -> Self {
        Self { out, count: 0, is_message: false, has_reserved: false }
    }

    /// Looks at a key that somebody chose.
    fn check(&mut self, key: &str) -> Result<(), EncodeError> {
        if is_reserved(key) {
            if self.is_message {
                return Err(EncodeError::Reserved(key.to_owned()));
            }

            self.has_reserved = true;
        }

        Ok(())
    }

    pub(crate) fn text(&mut self, key: &str, value: &str) {
        put_text(self.out, key);
        put_text(self.out, value);
        self.count += 1;
    }

    pub(crate) fn boolean(&mut self, key: &str, value: bool) {
        put_text(self.out, key);
        put_boolean(self.out, value);
        self.count += 1;
    }

    /// Any value, by serde.
    pub(crate) fn entry<T: Serialize + ?Sized>(&mut self, key: &str, value: &T) -> Result<(), EncodeError> {
        self.check(key)?;
        put_text(self.out, key);
        put_value(self.out, value)?;
        self.count += 1;
        Ok(())
    }

    /// Entries that are MessagePack already.
    pub(crate) fn raw(&mut self, entries: &[u8], count: u32) {
        self.out.extend_from_slice(entries);
        self.count += count;
    }
}

pub(crate) fn put_value<T: Serialize + ?Sized>(out: &mut Vec<u8>, value: &T) -> Result<(), EncodeError> {
    let mut serializer = rmp_serde::Serializer::new(out).with_struct_map();
    // What goes deeper would cost us the connection: the other side refuses it.
    serializer.unstable_set_max_depth(MAXIMUM_DEPTH - 1);
    Ok(value.serialize(&mut serializer)?)
}

/// Writes a message from the entries that `body` gives.
pub(crate) fn message(
    out: &mut Vec<u8>,
    body: impl FnOnce(&mut Entries<'_>) -> Result<(), EncodeError>,
) -> Result<(), EncodeError> {
    let start = open(out);
    let mut entries = Entries { is_message: true, ..Entries::nested(out) };
    body(&mut entries)?;
    let count = entries.count;
    close_map(out, start, count);
    Ok(())
}

/// Writes a map within a message.
pub(crate) fn map(out: &mut Vec<u8>, body: impl FnOnce(&mut Entries<'_>)) {
    let start = open(out);
    let mut entries = Entries::nested(out);
    body(&mut entries);
    let count = entries.count;
    close_map(out, start, count);
}

macro_rules! not_a_map {
    ($($method:ident($($argument:ty),*) $what:literal;)*) => {
        $(fn $method(self, $(_: $argument),*) -> Result<(), EncodeError> {
            Err(EncodeError::NotAMap($what))
        })*
    };
}

impl Serializer for &mut Entries<'_> {
    type Ok = ();
    type Error = EncodeError;
    type SerializeSeq = Impossible<(), EncodeError>;
    type SerializeTuple = Impossible<(), EncodeError>;
    type SerializeTupleStruct = Impossible<(), EncodeError>;
    type SerializeTupleVariant = Impossible<(), EncodeError>;
    type SerializeMap = Self;
    type SerializeStruct = Self;
    type SerializeStructVariant = Impossible<(), EncodeError>;

    fn is_human_readable(&self) -> bool {
        false
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Self, EncodeError> {
        Ok(self)
    }

    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Self, EncodeError> {
        Ok(self)
    }

    fn serialize_unit(self) -> Result<(), EncodeError> {
        Ok(())
    }

    fn serialize_none(self) -> Result<(), EncodeError> {
        Ok(())
    }

    fn serialize_unit_struct(self, _: &'static str) -> Result<(), EncodeError> {
        Ok(())
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), EncodeError> {
        value.serialize(self)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, value: &T) -> Result<(), EncodeError> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<(), EncodeError> {
        self.entry(variant, value)
    }

    not_a_map! {
        serialize_bool(bool) "a boolean";
        serialize_i8(i8) "a number";
        serialize_i16(i16) "a number";
        serialize_i32(i32) "a number";
        serialize_i64(i64) "a number";
        serialize_u8(u8) "a number";
        serialize_u16(u16) "a number";
        serialize_u32(u32) "a number";
        serialize_u64(u64) "a number";
        serialize_f32(f32) "a number";
        serialize_f64(f64) "a number";
        serialize_char(char) "a character";
        serialize_str(&str) "a string";
        serialize_bytes(&[u8]) "bytes";
        serialize_unit_variant(&'static str, u32, &'static str) "a variant";
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<Self::SerializeSeq, EncodeError> {
        Err(EncodeError::NotAMap("a sequence"))
    }

    fn serialize_tuple(self, _: usize) -> Result<Self::SerializeTuple, EncodeError> {
        Err(EncodeError::NotAMap("a tuple"))
    }

    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Self::SerializeTupleStruct, EncodeError> {
        Err(EncodeError::NotAMap("a tuple"))
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self::SerializeTupleVariant, EncodeError> {
        Err(EncodeError::NotAMap("a tuple"))
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        _: usize,
    ) -> Result<Self::SerializeStructVariant, EncodeError> {
        Err(EncodeError::NotAMap("a variant with fields"))
    }
}

impl SerializeMap for &mut Entries<'_> {
    type Ok = ();
    type Error = EncodeError;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), EncodeError> {
        let start = self.out.len();
        put_value(self.out, key)?;

        match Reader::checked(self.out, start).string_bytes() {
            Ok(Some(key)) if is_reserved_key(key) => {
                let key = String::from_utf8_lossy(key).into_owned();
                self.check(&key)
            }
            Ok(Some(_)) => Ok(()),
            _ => Err(EncodeError::KeyNotText),
        }
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), EncodeError> {
        put_value(self.out, value)?;
        self.count += 1;
        Ok(())
    }

    fn end(self) -> Result<(), EncodeError> {
        Ok(())
    }
}

impl SerializeStruct for &mut Entries<'_> {
    type Ok = ();
    type Error = EncodeError;

    fn serialize_field<T: Serialize + ?Sized>(&mut self, key: &'static str, value: &T) -> Result<(), EncodeError> {
        self.entry(key, value)
    }

    fn end(self) -> Result<(), EncodeError> {
        Ok(())
    }
}
