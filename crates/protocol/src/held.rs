//! Calls that came and were not given to anybody yet.

use std::collections::VecDeque;

use memchr::memmem;

use crate::{
    calls::CallKey,
    frame::Framing,
    message::{Id, Message},
};

/// How many places are kept while there are no calls.
const KEPT: usize = 64;

/// A call that waits because what came with it is looked at first, or because so many answers wait to be read by the peer that it
/// should read them before it is given more.
pub(crate) struct HeldCall {
    /// `None` if it is to be begun when it is its turn.
    pub(crate) key: Option<CallKey>,
    /// How many responses the peer was ready for when it sent it.
    pub(crate) window: Option<u64>,
    pub(crate) message: Message,
}

#[derive(Default)]
pub(crate) struct Held {
    calls: VecDeque<HeldCall>,
    size: usize,
}

impl Held {
    pub(crate) fn is_empty(&self) -> bool {
        self.calls.is_empty()
    }

    /// How much memory they keep, in bytes.
    pub(crate) fn size(&self) -> usize {
        self.size
    }

    /// Whether the last one is not begun.
    pub(crate) fn ends_unbegun(&self) -> bool {
        self.calls.back().is_some_and(|call| call.key.is_none())
    }

    pub(crate) fn push(&mut self, call: HeldCall) {
        self.size += call.message.size();
        self.calls.push_back(call);
    }

    pub(crate) fn pop(&mut self) -> Option<HeldCall> {
        let call = self.calls.pop_front()?;
        self.size -= call.message.size();

        if self.calls.is_empty() && self.calls.capacity() > KEPT {
            self.calls = VecDeque::new();
        }

        Some(call)
    }

    /// Takes one that is begun out of their midst. Returns whether it was there.
    pub(crate) fn remove(&mut self, key: CallKey) -> bool {
        self.remove_first(|call| call.key == Some(key))
    }

    /// As [`remove`](Self::remove), for the first with that id that is not begun.
    pub(crate) fn remove_unbegun(&mut self, id: Id) -> bool {
        self.remove_first(|call| call.key.is_none() && call.message.id() == id)
    }

    fn remove_first(&mut self, is_it: impl FnMut(&HeldCall) -> bool) -> bool {
        let index = self.calls.iter().position(is_it);
        let Some(call) = index.and_then(|index| self.calls.remove(index)) else { return false };
        self.size -= call.message.size();
        true
    }
}

/// What is known of the input that was not looked at yet. To keep all calls of a read until its end costs more than to search it
/// for a cancellation, and hardly any has one.
#[derive(Default)]
pub(crate) struct Ahead {
    /// How much of the input was searched, from its beginning.
    searched: usize,
    found: bool,
}

impl Ahead {
    /// So much was taken off the input.
    pub(crate) fn advance(&mut self, length: usize) {
        self.searched = self.searched.saturating_sub(length);
    }

    /// Whether there may be a cancellation in the input.
    pub(crate) fn may_cancel(&mut self, input: &[u8], framing: Option<Framing>) -> bool {
        // In JSON, there is more than one way to write it.
        if framing == Some(Framing::JsonLines) {
            return !input.is_empty();
        }

        if self.searched < input.len() {
            self.found = memmem::find(input, b"cancel").is_some();
            self.searched = input.len();
        }

        self.found && !input.is_empty()
    }
}
