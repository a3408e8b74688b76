//! Calls that came and were not given to anybody yet.

use std::collections::VecDeque;

use crate::{calls::CallKey, message::Message};

/// How many places are kept while there are no calls.
const KEPT: usize = 64;

/// They wait because what came with them is looked at first, and then because so many answers may wait to be read by the peer
/// that it should read them before it is given more.
#[derive(Default)]
pub(crate) struct Held {
    calls: VecDeque<(CallKey, Message)>,
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

    pub(crate) fn push(&mut self, key: CallKey, message: Message) {
        self.size += message.size();
        self.calls.push_back((key, message));
    }

    pub(crate) fn pop(&mut self) -> Option<(CallKey, Message)> {
        let (key, message) = self.calls.pop_front()?;
        self.size -= message.size();

        if self.calls.is_empty() && self.calls.capacity() > KEPT {
            self.calls = VecDeque::new();
        }

        Some((key, message))
    }

    /// Takes one out of their midst. Returns whether it was there.
    pub(crate) fn remove(&mut self, key: CallKey) -> bool {
        let index = self.calls.iter().position(|(held, _)| *held == key);
        let Some((_, message)) = index.and_then(|index| self.calls.remove(index)) else { return false };
        self.size -= message.size();
        true
    }
}
