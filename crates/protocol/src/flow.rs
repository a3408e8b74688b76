//! Flow control for each call: what the two sides of a connection tell each other about the responses that may be on their
//! way before the first of them is taken.
//!
//! Nobody calls with the id 0, so a message with that id which is no call is about the connection. A peer that knows nothing
//! of this takes it for a late response, and drops it.

use crate::{
    encode::{self, Entries},
    message::{self, Id, Message},
};

/// The id of messages about the connection.
const CONNECTION: u64 = 0;

const WINDOW: &str = "window";
const CALL: &str = "call";
const MORE: &str = "more";

/// What was told.
#[derive(Debug, Default)]
pub(crate) struct Flow {
    /// Whether the peer knows how many responses to calls of this side may wait.
    pub(crate) announced: bool,
    /// How many responses to a call of the peer may be sent before it asks for more. `None` for a peer that never said.
    pub(crate) window: Option<u64>,
}

/// What a message about the connection says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Control {
    /// So many responses to each call that follows may be sent before more are asked for.
    pub(crate) window: Option<u64>,
    /// So many more responses may be sent to this call.
    pub(crate) more: Option<(Id, u64)>,
}

impl Control {
    /// Whether a message without an operation is one.
    pub(crate) fn is_one(message: &Message) -> bool {
        message.id() == Id::from(CONNECTION)
    }

    /// Reads one. What is not understood is left to those who will.
    pub(crate) fn of(message: &Message) -> Self {
        let fields = message.fields();
        let unsigned = |key| fields.integer(key).and_then(|number| u64::try_from(number).ok());
        let call = fields.integer(CALL).map(Id::from_integer);
        Self { window: unsigned(WINDOW), more: call.zip(unsigned(MORE)) }
    }
}

pub(crate) fn put_window(window: usize, entries: &mut Entries<'_>) {
    message::put_id(CONNECTION.into(), entries);
    put_number(WINDOW, window as u64, entries);
}

pub(crate) fn put_more(call: u64, more: u64, entries: &mut Entries<'_>) {
    message::put_id(CONNECTION.into(), entries);
    put_number(CALL, call, entries);
    put_number(MORE, more, entries);
}

fn put_number(key: &str, number: u64, entries: &mut Entries<'_>) {
    encode::put_text(entries.out, key);
    encode::put_unsigned(entries.out, number);
    entries.count += 1;
}
