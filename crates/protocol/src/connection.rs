//! One side of one connection as a state machine: bytes in, events out, bytes out. It has no socket and no clock.

mod input;

use std::{mem, task::Waker, time::Instant};

use serde::Serialize;

use crate::{
    calls::{CallKey, IncomingCalls, OutgoingCalls, Progress, Taken, keep},
    encode::Entries,
    error::{CallError, ConnectionError, EncodeError, MessageError, SendError},
    failure::Failure,
    fields::Fields,
    flow::{self, Flow},
    frame::Framing,
    held::{Ahead, Held},
    message::{self, Id, Message},
    notice::{Awaiting, Notice},
    output::Output,
    settings::Settings,
};

/// Which side of a connection this is. It decides the ids that its calls have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The side that connected: even ids from 2.
    Connected,
    /// The side that accepted: odd ids from 3.
    Accepted,
}

/// What came of the input.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event {
    /// The other side made a call.
    Call {
        /// What to answer to.
        key: CallKey,
        /// The operation and its parameters.
        message: Message,
    },
    /// The other side no longer wants the answer to a call, which is forgotten already.
    Cancelled(CallKey),
    /// There is a response to a call of this side: see [`Connection::take_response`].
    Response(u64),
}

/// One side of a connection.
///
/// Whoever drives it does this, in any order and as often as there is reason to:
/// - while [`wants_input`](Self::wants_input), appends what was read to a buffer and calls
///   [`poll_event`](Self::poll_event) with it until there is none;
/// - takes what is to be written with [`take_output`](Self::take_output), and says with
///   [`handle_written`](Self::handle_written) and [`handle_blocked`](Self::handle_blocked) how the writing goes;
/// - once there will be no more to read, calls [`handle_end`](Self::handle_end) or closes;
/// - at the time that [`poll_timeout`](Self::poll_timeout) gives, calls [`handle_timeout`](Self::handle_timeout);
/// - once [`is_closing`](Self::is_closing), writes what there is and calls [`close`](Self::close).
///
/// In between, calls and answers are encoded straight into the output: [`call`](Self::call),
/// [`respond`](Self::respond), [`fail`](Self::fail).
pub struct Connection {
    settings: Settings,
    framing: Option<Framing>,
    incoming: IncomingCalls,
    held: Held,
    ahead: Ahead,
    /// What was wrong with the input. It is said once the calls that came before it are given.
    broken: Option<(Option<Id>, ConnectionError)>,
    /// Whether the peer sends no more.
    ended: bool,
    outgoing: OutgoingCalls,
    flow: Flow,
    output: Output,
    searched: usize,
    read_deadline: Option<Instant>,
    /// Whether nobody is left who could make a call.
    abandoned: bool,
    closing: bool,
    closed: bool,
    error: Option<ConnectionError>,
    notices: Vec<Notice>,
}

impl Connection {
    /// A connection on which nothing was said yet.
    pub fn new(side: Side, settings: Settings) -> Self {
        let first = match side {
            Side::Connected => 2,
            Side::Accepted => 3,
        };

        Self {
            outgoing: OutgoingCalls::new(first, settings.queue_limit),
            incoming: IncomingCalls::default(),
            held: Held::default(),
            ahead: Ahead::default(),
            broken: None,
            ended: false,
            settings,
            framing: None,
            flow: Flow::default(),
            output: Output::default(),
            searched: 0,
            read_deadline: None,
            abandoned: false,
            closing: false,
            closed: false,
            error: None,
            notices: Vec::new(),
        }
    }

    /// How the peer delimits and encodes its messages, once it said anything.
    pub fn framing(&self) -> Option<Framing> {
        self.framing
    }

    /// The bounds of this connection.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Whether more may be read now. Not while a call has as many responses waiting to be taken as it may, nor while the
    /// peer makes calls without reading the answers: that is how back-pressure reaches it.
    ///
    /// Calls that come while too many answers wait are held back, and other messages are read on until that is too much as
    /// well. Otherwise two sides that have large answers for each other would both wait for the other to read.
    pub fn wants_input(&self) -> bool {
        !self.closing
            && self.broken.is_none()
            && !self.outgoing.is_full()
            && self.held.size() <= self.settings.backlog_limit
    }

    /// Whether there is a call that was held back and can be given now: [`poll_event`](Self::poll_event) gives it.
    pub fn has_held_call(&self) -> bool {
        !self.held.is_empty() && !self.closing && !self.holds_calls()
    }

    /// Whether there are calls of the peer that are not answered yet.
    pub fn has_incoming_calls(&self) -> bool {
        !self.incoming.is_empty() || !self.held.is_empty()
    }

    /// Whether the peer should read before it makes another call.
    fn holds_calls(&self) -> bool {
        self.output.finals() > self.settings.backlog_limit as u64
    }

    /// Whether the connection is to be closed as soon as the output is written.
    pub fn is_closing(&self) -> bool {
        self.closing
    }

    /// Whether the connection is closed.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Whether [`handle_end`](Self::handle_end) was called.
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// Why the connection is closing, if that is somebody's fault. It is given once.
    pub fn take_error(&mut self) -> Option<ConnectionError> {
        self.error.take()
    }

    /// Tells the peer how many responses to one call may be on their way before it is asked for more, so that a call whose
    /// responses are not taken holds up no other one. It has to be told before the calls for which it is to hold, and is told
    /// once: by the side that connected as the first thing, and by the other as an answer to that, of its own accord.
    pub fn announce(&mut self) {
        if self.flow.announced || self.closing || self.closed {
            return;
        }

        self.flow.announced = true;
        let window = self.settings.queue_limit;
        let result = self.put(|entries| {
            flow::put_window(window, entries);
            Ok(())
        });

        if let Err(error) = result {
            tracing::warn!(%error, "could not announce how many responses may wait");
        }
    }

    /// Wants the connection closed once the output is written.
    pub fn finish(&mut self) {
        self.closing = true;
    }

    /// Wants the connection closed once the calls that were made are over, because there will be no more.
    pub fn abandon(&mut self) {
        self.abandoned = true;
        self.finish_if_idle();
    }

    fn finish_if_idle(&mut self) {
        if self.abandoned && self.outgoing.is_empty() {
            self.finish();
        }
    }

    // Calls of this side.

    /// Makes a call. Its id is what its responses come for.
    pub fn call(&mut self, operation: &str, parameters: &(impl Serialize + ?Sized)) -> Result<u64, CallError> {
        self.begin_call(operation, |entries| parameters.serialize(entries))
    }

    /// Makes a call with parameters that are encoded already.
    pub fn call_fields(&mut self, operation: &str, parameters: &Fields) -> Result<u64, CallError> {
        self.begin_call(operation, |entries| {
            parameters.put(entries);
            Ok(())
        })
    }

    fn begin_call(
        &mut self,
        operation: &str,
        parameters: impl FnOnce(&mut Entries<'_>) -> Result<(), EncodeError>,
    ) -> Result<u64, CallError> {
        if self.closing || self.closed || self.ended {
            return Err(CallError::ConnectionClosed);
        }

        let limit = self.settings.calls_limit;

        if self.outgoing.open() >= limit {
            return Err(CallError::TooManyCalls { limit });
        }

        let id = self.outgoing.next();
        self.put(|entries| {
            message::put_id(id.into(), entries);
            entries.text("do", operation);
            parameters(entries)
        })?;

        Ok(self.outgoing.insert(self.flow.announced))
    }

    /// Makes a call with parameters that are encoded already, whose end is given to `awaiting`: by its response, or at the
    /// deadline. One that cannot be made gives it back.
    pub(crate) fn call_then(
        &mut self,
        operation: &str,
        parameters: &Fields,
        deadline: Instant,
        mut awaiting: Box<dyn Awaiting>,
    ) -> Result<(), Box<dyn Awaiting>> {
        match self.call_fields(operation, parameters) {
            Ok(id) => {
                self.outgoing.set_deadline(id, deadline);
                self.outgoing.set_awaiting(id, awaiting);
                Ok(())
            }
            Err(error) => {
                awaiting.put(Err(error));
                Err(awaiting)
            }
        }
    }

    /// Sets when a call ends without an answer.
    pub fn set_deadline(&mut self, id: u64, deadline: Instant) {
        self.outgoing.set_deadline(id, deadline);
    }

    /// Takes a response to a call: `Ok(None)` while there is none. With the final one, the call is forgotten.
    pub fn take_response(&mut self, id: u64) -> Result<Option<Message>, CallError> {
        self.poll_response(id, None)
    }

    /// As [`take_response`](Self::take_response), and has someone woken once there is one.
    pub(crate) fn poll_response(&mut self, id: u64, waker: Option<&Waker>) -> Result<Option<Message>, CallError> {
        let taken = self.outgoing.take(id, waker);

        if !self.outgoing.is_full() {
            self.read_deadline = None;
        }

        match taken {
            Taken::Message(message, 0) => {
                self.finish_if_idle();
                Ok(Some(message))
            }
            Taken::Message(message, more) => {
                self.put_more(id, more);
                Ok(Some(message))
            }
            Taken::Nothing => Ok(None),
            Taken::Ended(Progress::TimedOut) => Err(CallError::TimedOut),
            Taken::Ended(Progress::NotTaken) => Err(CallError::NotTaken(self.settings.read_stall)),
            Taken::Ended(_) => Err(CallError::ConnectionClosed),
        }
    }

    /// Forgets a call, and tells the other side if it is not over.
    pub fn forget(&mut self, id: u64) {
        if self.outgoing.remove(id) {
            self.put_cancel(id);
        }

        if !self.outgoing.is_full() {
            self.read_deadline = None;
        }

        self.finish_if_idle();
    }

    // Answers of this side.

    /// Sends a response to a call that came in. A final one ends it.
    pub fn respond(&mut self, key: CallKey, last: bool, fields: &(impl Serialize + ?Sized)) -> Result<(), SendError> {
        self.answer(key, last, |entries| {
            put_response(key.id, last, entries);
            fields.serialize(entries)
        })
    }

    /// Sends a response whose fields are encoded already.
    pub fn respond_fields(&mut self, key: CallKey, last: bool, fields: &Fields) -> Result<(), SendError> {
        self.answer(key, last, |entries| {
            put_response(key.id, last, entries);
            fields.put(entries);
            Ok(())
        })
    }

    /// Passes a response on that came to another call, as it is.
    pub fn relay(&mut self, key: CallKey, message: &Message) -> Result<(), SendError> {
        self.answer(key, message.is_final(), |entries| {
            message.relay(key.id, entries);
            Ok(())
        })
    }

    /// Ends a call with a failure.
    pub fn fail(&mut self, key: CallKey, failure: &Failure) -> Result<(), SendError> {
        self.answer(key, true, |entries| {
            message::put_id(key.id, entries);
            message::put_failure(failure, entries);
            Ok(())
        })
    }

    fn answer(
        &mut self,
        key: CallKey,
        last: bool,
        body: impl FnOnce(&mut Entries<'_>) -> Result<(), EncodeError>,
    ) -> Result<(), SendError> {
        let mut call = self.incoming.entry(key).ok_or(SendError::Cancelled)?;
        let (framing, limit) = (self.framing, self.settings.frame_limit);

        if last {
            self.output.put_final(framing, limit, body)?;
            call.remove();
        } else {
            self.output.put(framing, limit, body)?;
            call.get_mut().sent(self.output.end());
        }

        Ok(())
    }

    /// Whether another response to this call may be sent now, or should wait for the peer to read.
    pub fn has_room(&mut self, key: CallKey) -> Result<bool, SendError> {
        let written = self.output.written();
        let call = self.incoming.get(key).ok_or(SendError::Cancelled)?;

        Ok(call.has_credit()
            && call.queued(written) < self.settings.queue_limit
            && self.output.waiting() <= self.settings.backlog_limit as u64)
    }

    /// Whether the call still wants an answer.
    pub fn is_wanted(&mut self, key: CallKey) -> bool {
        self.incoming.get(key).is_some()
    }

    /// Has someone woken when there may be room for another response, or when none is wanted any more.
    pub(crate) fn wait_for_room(&mut self, key: CallKey, waker: &Waker) {
        if let Some(call) = self.incoming.get(key) {
            keep(&mut call.room, waker);

            // Else writing changes nothing, and the peer has the word.
            if call.has_credit() {
                self.output.wait(waker);
            }
        }
    }

    pub(crate) fn wait_for_writing(&mut self, waker: &Waker) {
        self.output.wait(waker);
    }

    pub(crate) fn wait_for_cancel(&mut self, key: CallKey, waker: &Waker) {
        if let Some(call) = self.incoming.get(key) {
            keep(&mut call.cancelled, waker);
        }
    }

    /// Notes that a task carries the handler of this call on. Returns whether the call wants an answer still.
    pub(crate) fn begin_task(&mut self, key: CallKey) -> bool {
        self.incoming.begin_task(key)
    }

    /// Whether such a task should stop; if not, it is woken when it should.
    pub(crate) fn is_task_over(&mut self, key: CallKey, waker: &Waker) -> bool {
        if let Some(call) = self.incoming.get(key) {
            keep(&mut call.task, waker);
        }

        self.incoming.is_task_over(key)
    }

    /// Such a task ended.
    pub(crate) fn end_task(&mut self, key: CallKey) {
        self.incoming.end_task(key);
    }

    // Output.

    fn put_failure(&mut self, id: Id, failure: &Failure) {
        let result = self.output.put_final(self.framing, self.settings.frame_limit, |entries| {
            message::put_id(id, entries);
            message::put_failure(failure, entries);
            Ok(())
        });

        if let Err(error) = result {
            tracing::warn!(%error, "could not send a failure");
        }
    }

    fn put_cancel(&mut self, id: u64) {
        if self.closing || self.closed {
            return;
        }

        let result = self.put(|entries| {
            message::put_id(id.into(), entries);
            entries.boolean("cancel", true);
            Ok(())
        });

        if let Err(error) = result {
            tracing::warn!(%error, "could not send a cancellation");
        }
    }

    fn put_more(&mut self, id: u64, more: u64) {
        if self.closing || self.closed {
            return;
        }

        let result = self.put(|entries| {
            flow::put_more(id, more, entries);
            Ok(())
        });

        if let Err(error) = result {
            tracing::warn!(%error, "could not ask for more responses");
        }
    }

    fn put(&mut self, body: impl FnOnce(&mut Entries<'_>) -> Result<(), EncodeError>) -> Result<(), EncodeError> {
        self.output.put(self.framing, self.settings.frame_limit, body)
    }

    /// Takes all that is to be written, in exchange for an empty buffer. Returns whether there is anything.
    pub fn take_output(&mut self, buffer: &mut Vec<u8>) -> bool {
        self.output.take(buffer)
    }

    /// Whether there is something to be written that was not taken yet.
    pub fn has_output(&self) -> bool {
        !self.output.is_empty()
    }

    /// Whether no other call is under way than one that this side made, so that there will hardly be more to be written than there is,
    /// and whether nothing else follows from its being written, as the end of the connection does where the peer sends no more.
    pub(crate) fn is_sparse(&self) -> bool {
        self.incoming.is_empty() && self.outgoing.open() <= 1 && !self.ended
    }

    /// Has this write what is to be written, unless that is more than `limit` bytes. It says how many it wrote.
    pub(crate) fn write_output(&mut self, limit: usize, write: impl FnOnce(&[u8]) -> usize) {
        let count = self.output.write(limit, write);

        if count > 0 {
            self.handle_written(count);
        }
    }

    /// The socket took this many bytes of what was taken.
    pub fn handle_written(&mut self, bytes: usize) {
        self.output.handle_written(bytes, &mut self.notices);
    }

    /// The socket takes no more for now.
    pub fn handle_blocked(&mut self, now: Instant) {
        self.output.handle_blocked(now, self.settings.write_stall);
    }

    /// The position in the output up to which everything that was said so far has to be written.
    pub(crate) fn output_end(&self) -> u64 {
        self.output.end()
    }

    /// Whether the output is written up to this position, or never will be.
    pub(crate) fn is_written(&self, position: u64) -> bool {
        self.closed || self.output.written() >= position
    }

    // Time.

    /// When [`handle_timeout`](Self::handle_timeout) has to be called next. `None` while nothing waits.
    pub fn poll_timeout(&self) -> Option<Instant> {
        [self.output.deadline(), self.holding_up_until(), self.outgoing.next_deadline()].into_iter().flatten().min()
    }

    /// When a call whose responses are not taken is given up. Not while there is no other that waits for it.
    fn holding_up_until(&self) -> Option<Instant> {
        self.read_deadline.filter(|_| self.outgoing.open() > 1)
    }

    /// Ends whatever has waited for too long.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(id) = self.outgoing.expire(now, &mut self.notices) {
            self.put_cancel(id);
        }

        self.finish_if_idle();

        if self.holding_up_until().is_some_and(|deadline| deadline <= now) {
            self.read_deadline = None;

            for id in self.outgoing.give_up_full(&mut self.notices) {
                tracing::warn!(call = id, "gave up a call whose responses were not taken");
                self.put_cancel(id);
            }
        }

        if self.output.deadline().is_some_and(|deadline| deadline <= now) {
            // What waits will never be written, so there is nothing to wait for.
            self.close();
            self.error = Some(ConnectionError::Stalled(self.settings.write_stall));
        }
    }

    // The end.

    /// Ends all calls of both directions: nothing more will be read or written.
    pub fn close(&mut self) {
        self.closing = true;
        self.closed = true;
        self.read_deadline = None;
        self.held = Held::default();
        // What was wrong matters however it ends.
        self.error = self.error.take().or(self.broken.take().map(|(_, error)| error));
        self.output.close(&mut self.notices);
        self.incoming.clear(&mut self.notices);
        self.outgoing.close(&mut self.notices);
    }

    /// Who is to be told of what happened. They are collected, because they should be told without the lock under which it
    /// did.
    pub(crate) fn take_notices(&mut self) -> Vec<Notice> {
        match self.notices.is_empty() {
            // Its memory is for the next time.
            true => Vec::new(),
            false => mem::take(&mut self.notices),
        }
    }

    /// As [`take_notices`](Self::take_notices), in exchange for an empty list.
    pub(crate) fn exchange_notices(&mut self, notices: &mut Vec<Notice>) {
        debug_assert!(notices.is_empty());
        mem::swap(&mut self.notices, notices);
    }
}

fn put_response(id: Id, last: bool, entries: &mut Entries<'_>) {
    message::put_id(id, entries);

    if last {
        entries.boolean("finished", true);
    }
}

impl From<MessageError> for ConnectionError {
    fn from(error: MessageError) -> Self {
        Self::Message(error)
    }
}
