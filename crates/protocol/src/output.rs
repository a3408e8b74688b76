//! What one side has to say, encoded and waiting to be written.

use std::{
    mem,
    task::Waker,
    time::{Duration, Instant},
};

use crate::{
    encode::{self, Entries},
    error::EncodeError,
    frame::{Framing, HEADER},
    json,
    notice::Notice,
};

/// The output of a connection: one buffer that messages are encoded into, and how far the writing of it is.
///
/// Positions count all bytes that were ever put into it, so that "is this written?" is a comparison.
#[derive(Default)]
pub(crate) struct Output {
    bytes: Vec<u8>,
    queued: u64,
    written: u64,
    /// Bytes of final answers that may wait to be written, and the position up to which the output has to be written until
    /// none of them does.
    finals: u64,
    finals_end: u64,
    deadline: Option<Instant>,
    /// Tasks that wait until more is written.
    writers: Vec<Waker>,
}

impl Output {
    /// Encodes one message at the end. Should the encoding of somebody's value fail or panic, nothing of it stays there.
    pub(crate) fn put(
        &mut self,
        framing: Option<Framing>,
        limit: usize,
        body: impl FnOnce(&mut Entries<'_>) -> Result<(), EncodeError>,
    ) -> Result<(), EncodeError> {
        let start = self.bytes.len();
        let message = Unfinished { bytes: &mut self.bytes, start };
        message.bytes.extend_from_slice(&[0; HEADER]);
        encode::message(message.bytes, body)?;
        let length = message.bytes.len() - start - HEADER;
        check_limit(length, limit)?;

        if framing == Some(Framing::JsonLines) {
            let payload = message.bytes.split_off(start + HEADER);
            message.bytes.truncate(start);
            json::write(&payload, message.bytes).map_err(|error| EncodeError::Value(error.to_string()))?;
            check_limit(message.bytes.len() - start, limit)?;
        } else {
            let header = (length as u32).to_be_bytes();
            message.bytes[start..start + HEADER].copy_from_slice(&header);
        }

        let end = message.bytes.len();
        mem::forget(message);
        self.queued += (end - start) as u64;
        Ok(())
    }

    /// As [`put`](Self::put), for a final answer. These never wait for room, so what bounds them is that no more calls are
    /// read. Others do not count: a stream that fills the output must not keep its own cancellation from being read.
    pub(crate) fn put_final(
        &mut self,
        framing: Option<Framing>,
        limit: usize,
        body: impl FnOnce(&mut Entries<'_>) -> Result<(), EncodeError>,
    ) -> Result<(), EncodeError> {
        let before = self.queued;
        self.put(framing, limit, body)?;
        self.finals += self.queued - before;
        self.finals_end = self.queued;
        Ok(())
    }

    /// How many bytes of final answers wait, at most.
    pub(crate) fn finals(&self) -> u64 {
        self.finals
    }

    /// How many bytes wait.
    pub(crate) fn waiting(&self) -> u64 {
        self.queued - self.written
    }

    /// The position of the end.
    pub(crate) fn end(&self) -> u64 {
        self.queued
    }

    /// The position up to which it is written.
    pub(crate) fn written(&self) -> u64 {
        self.written
    }

    pub(crate) fn take(&mut self, buffer: &mut Vec<u8>) -> bool {
        debug_assert!(buffer.is_empty());
        mem::swap(&mut self.bytes, buffer);
        !buffer.is_empty()
    }

    /// Has this write what was not taken, unless that is more than `limit` bytes, and forgets as much as it says that it wrote.
    pub(crate) fn write(&mut self, limit: usize, write: impl FnOnce(&[u8]) -> usize) -> usize {
        if self.bytes.len() > limit {
            return 0;
        }

        let count = write(&self.bytes).min(self.bytes.len());
        self.bytes.drain(..count);
        count
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub(crate) fn handle_written(&mut self, count: usize, notices: &mut Vec<Notice>) {
        self.written += count as u64;

        if self.written >= self.finals_end {
            self.finals = 0;
        }

        self.deadline = None;
        notices.extend(self.writers.drain(..).map(Notice::Wake));
    }

    pub(crate) fn handle_blocked(&mut self, now: Instant, stall: Duration) {
        self.deadline.get_or_insert_with(|| now + stall);
    }

    /// When the peer has read nothing for too long.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    pub(crate) fn wait(&mut self, waker: &Waker) {
        if !self.writers.iter().any(|known| known.will_wake(waker)) {
            self.writers.push(waker.clone());
        }
    }

    /// Nothing more will be written.
    pub(crate) fn close(&mut self, notices: &mut Vec<Notice>) {
        self.bytes = Vec::new();
        self.deadline = None;
        notices.extend(self.writers.drain(..).map(Notice::Wake));
    }
}

fn check_limit(length: usize, limit: usize) -> Result<(), EncodeError> {
    match length > limit {
        true => Err(EncodeError::TooLarge { length, limit }),
        false => Ok(()),
    }
}

/// A message that is being encoded: what there is of it is taken back, unless it is forgotten when it is complete.
struct Unfinished<'a> {
    bytes: &'a mut Vec<u8>,
    start: usize,
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        self.bytes.truncate(self.start);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_in_part_goes_on_where_that_ended() {
        let mut output = Output::default();
        let put = |output: &mut Output| {
            output.put(None, 100, |entries| {
                entries.boolean("a", true);
                Ok(())
            })
        };
        put(&mut output).unwrap();
        assert_eq!(output.write(7, |_| panic!("it is larger than that")), 0);
        assert_eq!(output.write(8, |bytes| bytes.len() - 5), 3);
        assert_eq!(output.write(8, |_| 0), 0);
        put(&mut output).unwrap();
        let mut rest = Vec::new();
        assert!(output.take(&mut rest));
        assert_eq!(rest, b"\x04\x81\xa1a\xc3\0\0\0\x04\x81\xa1a\xc3");
        assert_eq!(output.write(8, |bytes| bytes.len()), 0);
    }
}
