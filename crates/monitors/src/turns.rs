//! Giving way to others in the middle of something long.
//!
//! Where there are fewer processors than there is to do, the kernel may take one from a thread only when its clock ticks, 4 ms later,
//! and a check of a thousand processes takes about as long: whoever asks for the status meanwhile would wait for all of it.

use std::{
    ops::Deref,
    thread,
    time::{Duration, Instant},
};

use serde::{Serialize, Serializer, ser::SerializeSeq};

/// How long a thread goes on before it lets others have their turn. Where they want one, it is theirs for some milliseconds, so the
/// shorter this is, the longer a check takes on a machine that is busy.
const TURN: Duration = Duration::from_micros(250);

/// The time that a thread has had the processor, by its own account.
pub(crate) struct Turns {
    since: Instant,
}

impl Turns {
    pub(crate) fn new() -> Self {
        Self { since: Instant::now() }
    }

    /// To be called between any two things that take some microseconds each.
    pub(crate) fn give_way(&mut self) {
        if self.since.elapsed() >= TURN {
            thread::yield_now();
            self.since = Instant::now();
        }
    }
}

/// Serialises what may be a thousand of something, and gives way between.
pub(crate) fn serialize<T, L, S>(list: &L, serializer: S) -> Result<S::Ok, S::Error>
where
    T: Serialize,
    L: Deref<Target = [T]>,
    S: Serializer,
{
    let mut turns = Turns::new();
    let mut sequence = serializer.serialize_seq(Some(list.len()))?;
    for item in list.iter() {
        sequence.serialize_element(item)?;
        turns.give_way();
    }
    sequence.end()
}
