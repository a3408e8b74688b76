//! One message: the map that a frame or a line holds, and what its reserved fields say.

use std::fmt;

use bytes::Bytes;

use crate::{
    encode::{self, Entries},
    error::MessageError,
    failure::{Failure, class},
    fields::Fields,
    reader::Reader,
};

/// Whether the protocol keeps this name for itself, at the top level of a message.
pub fn is_reserved(key: &str) -> bool {
    is_reserved_key(key.as_bytes())
}

#[inline]
pub(crate) fn is_reserved_key(key: &[u8]) -> bool {
    matches!(key, b"id" | b"do" | b"finished" | b"failed" | b"error" | b"cancel")
}

/// The id of a call: what the caller chose. Ours are unsigned 64-bit; any integer that MessagePack can hold is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Id(i128);

impl Id {
    fn put(self, out: &mut Vec<u8>) {
        match (u64::try_from(self.0), i64::try_from(self.0)) {
            (Ok(value), _) => encode::put_unsigned(out, value),
            (_, Ok(value)) => encode::put_signed(out, value),
            // Neither: no reader gives such a number.
            _ => encode::put_nil(out),
        }
    }

    /// What came as one. A number that MessagePack cannot hold is nobody's.
    pub(crate) fn from_integer(number: i128) -> Self {
        Self(number)
    }

    /// As the table of outgoing calls knows it, whose ids are all ours.
    pub(crate) fn as_outgoing(self) -> Option<u64> {
        u64::try_from(self.0).ok()
    }
}

impl From<u64> for Id {
    fn from(id: u64) -> Self {
        Self(id.into())
    }
}

impl fmt::Display for Id {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// A stretch of the payload.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Span {
    start: u32,
    end: u32,
}

impl Span {
    /// No message is so large that a position in it would not fit.
    fn new(start: usize, end: usize) -> Self {
        Self { start: start as u32, end: end as u32 }
    }

    pub(crate) fn range(self) -> std::ops::Range<usize> {
        self.start as usize..self.end as usize
    }
}

/// A message that was received, still in the bytes that it came in.
///
/// It is a handle to the buffer that it was read into: cheap to clone, and what it holds is decoded only when asked
/// for. To keep one for long, keep [`Fields::compact`] instead, which lets go of that buffer.
#[derive(Clone)]
pub struct Message {
    payload: Bytes,
    head: Head,
}

/// What was found when the payload was looked at.
#[derive(Clone, Copy)]
struct Head {
    body: u32,
    entries: u32,
    own: Own,
    id: Id,
    id_entry: Span,
    operation: Option<Span>,
    error: Option<Span>,
    finished: bool,
    failed: bool,
    cancel: bool,
}

/// The fields that are the operation's own.
#[derive(Clone, Copy, Debug)]
enum Own {
    /// All that follow from here: so many. That is how this crate writes its messages.
    From(u32, u32),
    /// They stand between others.
    Mixed,
}

/// A payload that is no message, and the id to answer to, if there was one.
#[derive(Debug)]
pub(crate) struct Invalid {
    pub(crate) id: Option<Id>,
    pub(crate) reason: MessageError,
}

impl Message {
    /// How much memory it keeps.
    pub(crate) fn size(&self) -> usize {
        self.payload.len() + size_of::<Self>()
    }

    /// Reads a payload, which has to be exactly one map.
    pub(crate) fn parse(payload: Bytes) -> Result<Self, Invalid> {
        match Head::scan(&payload) {
            Ok(head) => Ok(Self { payload, head }),
            Err(reason) => Err(Invalid { id: find_id(&payload), reason }),
        }
    }

    /// The id of the call that this belongs to.
    pub fn id(&self) -> Id {
        self.head.id
    }

    /// Whether this is a call.
    pub(crate) fn is_call(&self) -> bool {
        self.head.operation.is_some()
    }

    /// The operation, if this is a call.
    pub fn operation(&self) -> Option<&str> {
        self.head.operation.map(|span| text(&self.payload, span))
    }

    /// Whether this is the last response to its call.
    pub fn is_final(&self) -> bool {
        // A failure ends the call whether the peer thought of saying so or not.
        self.head.finished || self.head.failed
    }

    /// Whether this says that the call failed.
    pub fn is_failure(&self) -> bool {
        self.head.failed
    }

    /// Whether this says that the caller no longer wants the answer.
    pub fn is_cancel(&self) -> bool {
        self.head.cancel && !self.is_call()
    }

    /// Everything but the reserved fields.
    pub fn fields(&self) -> Fields {
        self.clone().into_fields()
    }

    /// Everything but the reserved fields, without another handle to the buffer.
    pub fn into_fields(self) -> Fields {
        match self.head.own {
            Own::From(body, entries) => Fields::own(self.payload, body as usize, entries),
            Own::Mixed => Fields::within(self.payload, self.head.body as usize, self.head.entries),
        }
    }

    /// The failure that this carries, if it is one. Whatever form the peer gave its error, something comes of it.
    pub fn failure(&self) -> Option<Failure> {
        if !self.head.failed {
            return None;
        }

        let error = self.head.error.and_then(|span| Fields::from_value(self.payload.slice(span.range())).ok());
        let text = |key: &str| error.as_ref().and_then(|error| error.get::<String>(key).ok().flatten());

        let mut failure = Failure::new(
            text("class").unwrap_or_else(|| class::INTERNAL.to_owned()),
            text("message").unwrap_or_else(|| "the other side gave no reason".to_owned()),
        );

        if let Some(error) = &error {
            failure.set_details(error.without(&["class", "message"]));
        }

        failure.set_fields(self.fields());
        Some(failure)
    }

    /// Writes this response as one to another call, without looking into it.
    pub(crate) fn relay(&self, id: Id, entries: &mut Entries<'_>) {
        put_id(id, entries);
        let id_entry = self.head.id_entry.range();
        entries.raw(&self.payload[self.head.body as usize..id_entry.start], self.head.entries - 1);
        entries.raw(&self.payload[id_entry.end..], 0);
    }

    /// Where in its payload the name of the operation is, and the parameters, if this is a call.
    pub(crate) fn into_call(self) -> (Span, Fields) {
        (self.head.operation.unwrap_or_default(), self.into_fields())
    }
}

impl Head {
    /// Reads a payload, which has to be exactly one map.
    fn scan(payload: &[u8]) -> Result<Self, MessageError> {
        let mut reader = Reader::new(payload);
        let entries = reader.map()?.ok_or(MessageError::NotAMap)?;
        let body = reader.position();

        let mut id = None;
        let mut id_entry = Span::default();
        let mut operation = None;
        let mut error = None;
        let (mut finished, mut failed, mut cancel) = (false, false, false);
        // Where the fields that follow begin, how many were of the protocol, and whether others came before one of those.
        let (mut own, mut reserved, mut is_mixed) = (body, 0, false);

        for index in 0..entries {
            let start = reader.position();
            let key = reader.unchecked_bytes()?.ok_or(MessageError::KeyNotText)?;
            let value = reader.position();

            match key {
                // The first one counts, so that the place that a relay leaves out is the id that it read.
                b"id" if id.is_none() => {
                    let number = reader.integer()?.ok_or(MessageError::Type { field: "id", expected: "an integer" })?;
                    id = Some(Id(number));
                    id_entry = Span::new(start, reader.position());
                }
                b"do" => {
                    let name =
                        reader.string_bytes()?.ok_or(MessageError::Type { field: "do", expected: "a string" })?;
                    let end = reader.position();
                    operation = Some(Span::new(end - name.len(), end));
                }
                b"finished" => finished = boolean(&mut reader, "finished")?,
                b"failed" => failed = boolean(&mut reader, "failed")?,
                b"cancel" => cancel = boolean(&mut reader, "cancel")?,
                b"error" => {
                    reader.skip(1)?;
                    error = Some(Span::new(value, reader.position()));
                }
                b"id" => reader.skip(1)?,
                _ => {
                    reader.check(key)?;
                    reader.skip(1)?;
                    continue;
                }
            }

            is_mixed |= reserved < index;
            reserved += 1;
            own = reader.position();
        }

        if !reader.is_at_end() {
            return Err(MessageError::Trailing(payload.len() - reader.position()));
        }

        Ok(Self {
            body: body as u32,
            entries,
            own: match is_mixed {
                true => Own::Mixed,
                false => Own::From(own as u32, entries - reserved),
            },
            id: id.ok_or(MessageError::MissingId)?,
            id_entry,
            operation,
            error,
            finished,
            failed,
            cancel,
        })
    }
}

fn text(payload: &[u8], span: Span) -> &str {
    // It was looked at when the message was scanned; without `unsafe` that has to be repeated, for a short name.
    payload.get(span.range()).and_then(|bytes| std::str::from_utf8(bytes).ok()).unwrap_or_default()
}

impl fmt::Debug for Message {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Message")
            .field("id", &self.head.id.0)
            .field("operation", &self.operation())
            .field("finished", &self.head.finished)
            .field("failed", &self.head.failed)
            .field("cancel", &self.head.cancel)
            .field("fields", &self.fields())
            .finish()
    }
}

/// A boolean, or the nil that some languages have for false.
fn boolean(reader: &mut Reader<'_>, field: &'static str) -> Result<bool, MessageError> {
    match reader.marker()? {
        rmp::Marker::True => Ok(true),
        rmp::Marker::False | rmp::Marker::Null => Ok(false),
        _ => Err(MessageError::Type { field, expected: "a boolean" }),
    }
}

/// Looks for the id in a payload that was refused, as far as it can be followed.
pub(crate) fn find_id(payload: &[u8]) -> Option<Id> {
    let mut reader = Reader::lenient(payload);
    let entries = reader.map().ok()??;

    for _ in 0..entries {
        if reader.string_bytes().ok()?? == b"id" {
            return reader.integer().ok()?.map(Id);
        }

        reader.skip(1).ok()?;
    }

    None
}

pub(crate) fn put_id(id: Id, entries: &mut Entries<'_>) {
    encode::put_text(entries.out, "id");
    id.put(entries.out);
    entries.count += 1;
}

/// Writes what every failure has.
pub(crate) fn put_failure(failure: &Failure, entries: &mut Entries<'_>) {
    entries.boolean("finished", true);
    entries.boolean("failed", true);
    encode::put_text(entries.out, "error");
    entries.count += 1;
    encode::map(entries.out, |error| {
        error.text("class", failure.class());
        error.text("message", failure.message());
        failure.details().put_nested(error);
    });
    failure.fields().put(entries);
}
