//! The fields of a message, as far as they are the operation's own.

use std::fmt;

use bytes::Bytes;
use rmpv::Value;
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{DeserializeSeed, MapAccess, Visitor, value::BorrowedStrDeserializer},
    forward_to_deserialize_any,
    ser::SerializeMap,
};

use crate::{
    encode::Entries,
    error::{DecodeError, EncodeError, MessageError},
    json::Cursor,
    message::{Span, is_reserved_key},
    reader::Reader,
};

/// The parameters of a call or the fields of a response: a map with string keys, kept as it came and decoded when asked
/// for.
///
/// The names that the protocol keeps for itself at the top level of a message (`id`, `do`, `finished`, `failed`, `error`,
/// `cancel`) are not among those of a message, and left out where these become those of one. Within a field, they are names
/// like all others.
///
/// ```
/// use async_container_protocol::Fields;
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// struct Sample { duration: f64, path: Option<String> }
///
/// let fields = Fields::new(&Sample { duration: 30.0, path: None })?;
/// assert_eq!(fields.get::<f64>("duration")?, Some(30.0));
/// assert_eq!(fields.get::<f64>("frequency")?, None);
/// assert_eq!(fields.deserialize::<Sample>()?.duration, 30.0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Default)]
pub struct Fields {
    payload: Bytes,
    body: usize,
    entries: u32,
    reserved: Reserved,
}

/// What there is of reserved names.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Reserved {
    /// None.
    #[default]
    Absent,
    /// Some, which are names like all others.
    Present,
    /// Some, which are the message's and not the operation's.
    Hidden,
}

impl Fields {
    /// No fields.
    pub const fn empty() -> Self {
        Self { payload: Bytes::new(), body: 0, entries: 0, reserved: Reserved::Absent }
    }

    /// The fields of a struct or the entries of a map, encoded. Nothing (`()`, `None`) has none.
    pub fn new<T: Serialize + ?Sized>(value: &T) -> Result<Self, EncodeError> {
        Self::encode(0, |entries| value.serialize(entries))
    }

    fn encode(
        capacity: usize,
        body: impl FnOnce(&mut Entries<'_>) -> Result<(), EncodeError>,
    ) -> Result<Self, EncodeError> {
        let mut out = Vec::with_capacity(capacity);
        let mut entries = Entries::nested(&mut out);
        body(&mut entries)?;
        let (entries, reserved) = (entries.count, Reserved::found(entries.has_reserved));
        out.shrink_to_fit();
        Ok(Self { payload: out.into(), body: 0, entries, reserved })
    }

    /// A view into a message that was scanned, of fields none of which is reserved.
    pub(crate) fn own(payload: Bytes, body: usize, entries: u32) -> Self {
        Self { payload, body, entries, reserved: Reserved::Absent }
    }

    /// A view into a message that was scanned.
    pub(crate) fn within(payload: Bytes, body: usize, entries: u32) -> Self {
        Self { payload, body, entries, reserved: Reserved::Hidden }
    }

    /// A view of one value that was scanned, which has to be a map with string keys.
    pub(crate) fn from_value(payload: Bytes) -> Result<Self, MessageError> {
        let mut reader = Reader::new(&payload);
        let entries = reader.map()?.ok_or(MessageError::NotAMap)?;
        let body = reader.position();

        let mut found = false;

        for _ in 0..entries {
            found |= is_reserved_key(reader.string_bytes()?.ok_or(MessageError::KeyNotText)?);
            reader.skip(1)?;
        }

        Ok(Self { payload, body, entries, reserved: Reserved::found(found) })
    }

    /// A text of the message that these are of.
    pub(crate) fn text(&self, span: Span) -> &str {
        // It was looked at when the message was scanned; without `unsafe` that has to be repeated, for a short name.
        std::str::from_utf8(self.bytes(span)).unwrap_or_default()
    }

    pub(crate) fn bytes(&self, span: Span) -> &[u8] {
        self.payload.get(span.range()).unwrap_or_default()
    }

    fn all(&self) -> Iter<'_> {
        Iter { reader: Reader::checked(&self.payload, self.body), remaining: self.entries }
    }

    fn iter(&self) -> impl Iterator<Item = Entry<'_>> {
        let hidden = self.reserved == Reserved::Hidden;
        self.all().filter(move |entry| !(hidden && is_reserved_key(entry.key)))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        match self.reserved {
            Reserved::Hidden => self.iter().count(),
            Reserved::Absent | Reserved::Present => self.entries as usize,
        }
    }

    /// How many bytes they take, encoded.
    pub fn size(&self) -> usize {
        self.iter().map(|entry| entry.whole.len()).sum()
    }

    /// Their names, in the order in which they came.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.iter().map(|entry| entry.name())
    }

    /// Whether there is a field of that name.
    pub fn contains(&self, key: &str) -> bool {
        self.find(key).is_some()
    }

    fn find(&self, key: &str) -> Option<Entry<'_>> {
        self.iter().find(|entry| entry.key == key.as_bytes())
    }

    /// One field. `None` if there is none of that name, or if it is nil.
    pub fn get<'a, T: Deserialize<'a>>(&'a self, key: &str) -> Result<Option<T>, DecodeError> {
        let Some(entry) = self.find(key) else {
            return Ok(None);
        };

        decode(&entry, std::marker::PhantomData::<Option<T>>).map_err(|error| explained::<T>(&entry).unwrap_or(error))
    }

    /// One field that is a map itself, without decoding or copying it. `None` if there is none of that name.
    pub fn nested(&self, key: &str) -> Result<Option<Self>, DecodeError> {
        let Some(entry) = self.find(key) else {
            return Ok(None);
        };

        let payload = self.payload.slice_ref(entry.value);
        Self::from_value(payload).map(Some).map_err(|error| {
            let reason = match error {
                MessageError::NotAMap => "it has to be a map".to_owned(),
                error => error.to_string(),
            };
            DecodeError::Field { field: key.to_owned(), reason }
        })
    }

    /// The operation that a nested map names, where it is the body of a call to be made elsewhere: its `do`.
    pub fn operation(&self) -> Option<&str> {
        let entry = self.all().find(|entry| entry.key == b"do")?;
        Reader::new(entry.value).string().ok().flatten()
    }

    /// One field that is an integer.
    pub(crate) fn integer(&self, key: &str) -> Option<i128> {
        Reader::new(self.find(key)?.value).integer().ok().flatten()
    }

    /// All of them as a struct or a map. Unknown ones are ignored unless `T` objects.
    pub fn deserialize<'a, T: Deserialize<'a>>(&'a self) -> Result<T, DecodeError> {
        T::deserialize(Map(self))
    }

    /// All of them as a map that anything of serde can be read from.
    pub fn deserializer<'a>(&'a self) -> impl Deserializer<'a, Error = DecodeError> {
        Map(self)
    }

    /// All of them as a value to look around in.
    pub fn to_value(&self) -> Value {
        let entries = self.iter().map(|entry| {
            let mut bytes = entry.value;
            let value = rmpv::decode::read_value(&mut bytes).unwrap_or(Value::Nil);
            (Value::from(entry.name()), value)
        });

        Value::Map(entries.collect())
    }

    /// All of them as JSON. Binary values become base64; keys that are no strings become their JSON text,
    /// in which a key that is a map or an array becomes its MessagePack in base64.
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::to_value(self).unwrap_or_default()
    }

    /// The same fields in memory of their own. Those of a message share the buffer that it was read into, and would
    /// keep all of it for as long as they are kept.
    pub fn compact(&self) -> Self {
        self.without(&[])
    }

    /// These fields and one more, which replaces one of the same name.
    pub fn with<T: Serialize + ?Sized>(&self, key: &str, value: &T) -> Result<Self, EncodeError> {
        self.build(&[key], |entries| entries.entry(key, value))
    }

    /// These fields and those of `other`, which replace ones of the same name.
    pub fn merge(&self, other: &Self) -> Self {
        let keys: Vec<&str> = other.keys().collect();
        self.build(&keys, |entries| {
            other.put_nested(entries);
            Ok(())
        })
        .unwrap_or_default()
    }

    /// These fields but for some.
    pub fn without(&self, keys: &[&str]) -> Self {
        self.build(keys, |_| Ok(())).unwrap_or_default()
    }

    fn build(
        &self,
        without: &[&str],
        more: impl FnOnce(&mut Entries<'_>) -> Result<(), EncodeError>,
    ) -> Result<Self, EncodeError> {
        Self::encode(self.payload.len(), |entries| {
            for entry in self.iter().filter(|entry| !without.contains(&entry.name())) {
                entries.raw(entry.whole, 1);
                entries.has_reserved |= is_reserved_key(entry.key);
            }

            more(entries)
        })
    }

    /// Writes them into a message, but for those whose names are the message's own.
    pub(crate) fn put(&self, entries: &mut Entries<'_>) {
        if self.reserved == Reserved::Absent {
            return entries.raw(self.payload.get(self.body..).unwrap_or_default(), self.entries);
        }

        for entry in self.all().filter(|entry| !is_reserved_key(entry.key)) {
            entries.raw(entry.whole, 1);
        }
    }

    /// Writes them into a map within a message.
    pub(crate) fn put_nested(&self, entries: &mut Entries<'_>) {
        for entry in self.iter() {
            entries.raw(entry.whole, 1);
            entries.has_reserved |= is_reserved_key(entry.key);
        }
    }
}

impl Reserved {
    fn found(found: bool) -> Self {
        match found {
            true => Self::Present,
            false => Self::Absent,
        }
    }
}

impl PartialEq for Fields {
    fn eq(&self, other: &Self) -> bool {
        self.iter().map(|entry| entry.whole).eq(other.iter().map(|entry| entry.whole))
    }
}

impl fmt::Debug for Fields {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.to_json(), formatter)
    }
}

/// In any format, by walking the MessagePack.
impl Serialize for Fields {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.len()))?;

        for entry in self.iter() {
            map.serialize_entry(entry.name(), &Cursor::new(entry.value))?;
        }

        map.end()
    }
}

/// One field.
#[derive(Clone, Copy)]
struct Entry<'a> {
    key: &'a [u8],
    value: &'a [u8],
    whole: &'a [u8],
}

impl<'a> Entry<'a> {
    fn name(&self) -> &'a str {
        // It was looked at when it was scanned.
        std::str::from_utf8(self.key).unwrap_or_default()
    }
}

/// Goes over entries that were scanned once; should they be broken all the same, it ends.
struct Iter<'a> {
    reader: Reader<'a>,
    remaining: u32,
}

impl<'a> Iterator for Iter<'a> {
    type Item = Entry<'a>;

    fn next(&mut self) -> Option<Entry<'a>> {
        self.remaining = self.remaining.checked_sub(1)?;
        let start = self.reader.position();
        let key = self.reader.string_bytes().ok()??;
        let middle = self.reader.position();
        self.reader.skip(1).ok()?;

        Some(Entry { key, value: self.reader.since(middle), whole: self.reader.since(start) })
    }
}

fn decode<'a, S: DeserializeSeed<'a>>(entry: &Entry<'a>, seed: S) -> Result<S::Value, DecodeError> {
    let mut deserializer = rmp_serde::Deserializer::from_read_ref(entry.value);

    seed.deserialize(&mut deserializer)
        .map_err(|error| DecodeError::Field { field: entry.name().to_owned(), reason: error.to_string() })
}

/// Why a value is of no use as that type, for whoever sent it. Of one of another type, rmp_serde tells only its first byte.
fn explained<'a, T: Deserialize<'a>>(entry: &Entry<'a>) -> Option<DecodeError> {
    let value = rmpv::decode::read_value_ref(&mut &*entry.value).ok()?;
    let rmpv::ext::Error::Syntax(reason) = rmpv::ext::deserialize_from::<T, _>(value).err()?;
    Some(DecodeError::Field { field: entry.name().to_owned(), reason })
}

/// The fields as serde sees them.
struct Map<'a>(&'a Fields);

impl<'de> Deserializer<'de> for Map<'de> {
    type Error = DecodeError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        let hidden = self.0.reserved == Reserved::Hidden;
        visitor.visit_map(Access { entries: self.0.all(), hidden, current: None })
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        visitor.visit_some(self)
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        visitor.visit_unit()
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, DecodeError> {
        visitor.visit_newtype_struct(self)
    }

    fn is_human_readable(&self) -> bool {
        false
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit_struct seq tuple
        tuple_struct map struct enum identifier ignored_any
    }
}

struct Access<'a> {
    entries: Iter<'a>,
    hidden: bool,
    current: Option<Entry<'a>>,
}

impl<'a> MapAccess<'a> for Access<'a> {
    type Error = DecodeError;

    fn next_key_seed<K: DeserializeSeed<'a>>(&mut self, seed: K) -> Result<Option<K::Value>, DecodeError> {
        self.current = self.entries.find(|entry| !(self.hidden && is_reserved_key(entry.key)));

        match self.current {
            Some(entry) => seed.deserialize(BorrowedStrDeserializer::new(entry.name())).map(Some),
            None => Ok(None),
        }
    }

    fn next_value_seed<V: DeserializeSeed<'a>>(&mut self, seed: V) -> Result<V::Value, DecodeError> {
        match self.current.take() {
            Some(entry) => decode(&entry, seed),
            None => Err(serde::de::Error::custom("a value was asked for before its key")),
        }
    }
}
