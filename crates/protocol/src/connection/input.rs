//! What one side makes of the bytes that come.

use std::time::Instant;

use bytes::BytesMut;

use super::{Connection, Event};
use crate::{
    calls::Refusal,
    error::{ConnectionError, FrameError},
    failure::{Failure, class},
    flow::Control,
    frame::{self, Framing},
    held::HeldCall,
    json,
    message::{self, Id, Invalid, Message},
};

impl Connection {
    /// Takes messages off the input until something came of one, and says what.
    ///
    /// Calls are given last, when the input holds no more that could be their cancellation: one that came along with it is not
    /// begun at all.
    pub fn poll_event(&mut self, input: &mut BytesMut, now: Instant) -> Option<Event> {
        loop {
            // One that would have to be refused now may not have to be once those before it are answered.
            let is_due = self.held.ends_unbegun() && self.has_held_call();

            if !is_due && self.wants_input() {
                let length = input.len();

                match self.take_message(input) {
                    Ok(Some(message)) => {
                        self.ahead.advance(length - input.len());
                        let event = self.handle_message(message, input);

                        if self.outgoing.is_full() {
                            let read_stall = self.settings.read_stall;
                            self.read_deadline.get_or_insert_with(|| now + read_stall);
                        }

                        match event {
                            Some(event) => return Some(event),
                            None => continue,
                        }
                    }
                    Ok(None) => {}
                    Err(broken) => self.broken = Some(broken),
                }
            }

            if !self.has_held_call() {
                break;
            }

            let event = self.held.pop().and_then(|call| self.give(call));

            if event.is_some() {
                return event;
            }
        }

        if self.held.is_empty()
            && let Some((id, error)) = self.broken.take()
        {
            self.refuse(id, error);
        }

        None
    }

    fn give(&mut self, call: HeldCall) -> Option<Event> {
        let HeldCall { key, window, message } = call;

        let key = match key {
            Some(key) => key,
            None => match self.incoming.begin(message.id(), window, self.settings.calls_limit) {
                Ok(key) => key,
                Err(refusal) => {
                    self.refuse_call(message.id(), refusal);
                    return None;
                }
            },
        };

        Some(Event::Call { key, message })
    }

    /// The peer sends no more, so it answers no calls: those that were made to it end, and no other can be made. Its own can
    /// still be answered.
    pub fn handle_end(&mut self) {
        self.ended = true;
        self.outgoing.close(&mut self.notices);
    }

    fn take_message(&mut self, input: &mut BytesMut) -> Result<Option<Message>, (Option<Id>, ConnectionError)> {
        let broken = |error: FrameError| (None, ConnectionError::Frame(error));
        let invalid = |Invalid { id, reason }: Invalid| (id, ConnectionError::Message(reason));
        let limit = self.settings.frame_limit;

        let framing = match (self.framing, input.first()) {
            (Some(framing), _) => framing,
            (None, Some(first)) => *self.framing.insert(Framing::of(*first)),
            (None, None) => return Ok(None),
        };

        if framing == Framing::MessagePack {
            return match frame::take_frame(input, limit).map_err(broken)? {
                Some(payload) => Message::parse(payload.freeze()).map(Some).map_err(invalid),
                None => Ok(None),
            };
        }

        while let Some(line) = frame::take_line(input, &mut self.searched, limit).map_err(broken)? {
            // A person presses return on an empty line at times.
            if line.trim_ascii().is_empty() {
                continue;
            }

            let mut payload = Vec::with_capacity(line.len());

            if let Err(reason) = json::parse(&line, &mut payload) {
                let id = message::find_id(&payload);
                return Err(invalid(Invalid { id, reason }));
            }

            return Message::parse(payload.into()).map(Some).map_err(invalid);
        }

        Ok(None)
    }

    fn handle_message(&mut self, message: Message, rest: &[u8]) -> Option<Event> {
        let id = message.id();

        if message.is_call() {
            return self.handle_call(message, rest);
        }

        if message.is_cancel() {
            let Some(key) = self.incoming.cancel(id, &mut self.notices) else {
                self.held.remove_unbegun(id);
                return None;
            };

            // Whom it was to be given to has not heard of it.
            return (!self.held.remove(key)).then_some(Event::Cancelled(key));
        }

        if Control::is_one(&message) {
            self.handle_control(Control::of(&message));
            return None;
        }

        let delivered =
            id.as_outgoing().and_then(|call| Some((call, self.outgoing.deliver(call, message, &mut self.notices)?)));

        let Some((call, more)) = delivered else {
            tracing::debug!(%id, "dropped a response to a call that is over");
            return None;
        };

        if more > 0 {
            self.put_more(call, more);
        }

        self.finish_if_idle();
        Some(Event::Response(call))
    }

    fn handle_control(&mut self, control: Control) {
        if let Some(window) = control.window {
            self.flow.window = Some(window);
            self.outgoing.heed();
            self.announce();
        }

        if let Some((call, more)) = control.more {
            self.incoming.grant(call, more, &mut self.notices);
        }
    }

    /// Begins a call, and gives it at once if nothing that came with it is to be looked at before. While the peer should read, it
    /// is not even refused: that would be one more answer.
    fn handle_call(&mut self, message: Message, rest: &[u8]) -> Option<Event> {
        let window = self.flow.window;

        if self.holds_calls() {
            self.held.push(HeldCall { key: None, window, message });
            return None;
        }

        match self.incoming.begin(message.id(), window, self.settings.calls_limit) {
            Ok(key) if self.held.is_empty() && !self.ahead.may_cancel(rest, self.framing) => {
                return Some(Event::Call { key, message });
            }
            Ok(key) => self.held.push(HeldCall { key: Some(key), window, message }),
            Err(_) if !self.held.is_empty() => self.held.push(HeldCall { key: None, window, message }),
            Err(refusal) => self.refuse_call(message.id(), refusal),
        }

        None
    }

    fn refuse_call(&mut self, id: Id, refusal: Refusal) {
        let limit = self.settings.calls_limit;

        let failure = match refusal {
            Refusal::DuplicateId => {
                Failure::new(class::DUPLICATE_ID, format!("the call {id} is not finished yet: choose another id"))
            }
            Refusal::TooManyCalls => {
                Failure::new(class::TOO_MANY_CALLS, format!("{limit} calls are under way on this connection already"))
            }
        };

        self.put_failure(id, &failure);
    }

    /// Answers a peer that broke the protocol, where there is something to answer to, and takes no more from it.
    fn refuse(&mut self, id: Option<Id>, error: ConnectionError) {
        if let Some(id) = id {
            let failure = Failure::new(class::INVALID_MESSAGE, error.to_string());
            self.put_failure(id, &failure);
        }

        self.closing = true;
        self.error = Some(error);
    }
}
