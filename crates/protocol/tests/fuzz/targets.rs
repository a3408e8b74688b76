//! What is done with bytes that nobody has vouched for, and what has to hold whatever they are.
//!
//! The tests of this crate feed these with random bytes for a moment, and `fuzz/` with bytes that a fuzzer finds for as
//! long as one likes.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use async_container_protocol::{
    CallError, CallKey, Fields, Message, SendError, Settings, Side,
    connection::{Connection, Event},
};
use bytes::{Buf, BytesMut};
use serde::{Deserialize, Serialize};

/// Small, so that every bound is met.
fn settings() -> Settings {
    Settings::default().frame_limit(2048).calls_limit(6).queue_limit(3).backlog_limit(512)
}

fn framed(payload: &[u8]) -> Vec<u8> {
    [&(payload.len() as u32).to_be_bytes()[..], payload].concat()
}

/// Frames, or lines, as they come: where they are cut must make no difference to what is understood.
pub fn frame(data: &[u8]) {
    let Some((&cut, data)) = data.split_first() else { return };
    let whole = Transcript::of(data, data.len().max(1));
    let cut = Transcript::of(data, usize::from(cut) % 23 + 1);
    assert_eq!(whole, cut);
}

/// The same for lines. What is understood of one can be said in another, and is understood again.
pub fn json(data: &[u8]) {
    let Some((&cut, data)) = data.split_first() else { return };
    let lines = [b"{", data].concat();
    frame(&[&[cut], &lines[..]].concat());
    let mut peer = Connection::new(Side::Accepted, settings());

    for message in calls(&mut peer, &lines) {
        says_again(&message.fields());
    }
}

/// One message in a frame that is as it should be.
pub fn message(data: &[u8]) {
    let mut peer = Connection::new(Side::Accepted, settings());

    for message in calls(&mut peer, &framed(data)) {
        let fields = message.fields();
        assert_eq!(fields.compact(), fields);
        assert_eq!(fields.keys().count(), fields.len());
        assert!(fields.size() <= data.len());
        fields.to_json();
        fields.to_value();
        let _ = fields.deserialize::<BTreeMap<String, Option<f64>>>();

        for key in fields.keys() {
            let _ = fields.get::<u64>(key);

            if let Ok(Some(nested)) = fields.nested(key) {
                nested.operation();
                says_again(&nested);
            }
        }

        says_again(&fields);
    }

    // As a response, it is none that anybody waits for, or it is.
    let mut peer = Connection::new(Side::Connected, settings());
    let id = peer.call("x", &()).unwrap();
    let mut input = BytesMut::from(&framed(data)[..]);
    let now = Instant::now();
    while peer.poll_event(&mut input, now).is_some() {}

    if let Ok(Some(message)) = peer.take_response(id) {
        message.failure();
        let fields = message.into_fields();
        assert_eq!(fields.compact(), fields);
    }
}

fn calls(peer: &mut Connection, data: &[u8]) -> Vec<Message> {
    let mut input = BytesMut::from(data);
    let now = Instant::now();
    let events = std::iter::from_fn(|| peer.poll_event(&mut input, now));
    let calls = events.filter_map(|event| match event {
        Event::Call { message, .. } => Some(message),
        _ => None,
    });
    calls.collect()
}

/// Fields that came can be sent in both framings: in one byte by byte, in the other as near as it can come.
fn says_again(fields: &Fields) {
    let mut sender = Connection::new(Side::Connected, settings());

    if sender.call_fields("again", fields).is_ok() {
        let mut output = Vec::new();
        sender.take_output(&mut output);
        let again = calls(&mut Connection::new(Side::Accepted, settings()), &output);
        assert_eq!(again.len(), 1);
        let names = fields.without(&["id", "do", "finished", "failed", "error", "cancel"]);
        assert_eq!(again[0].fields(), names);
    }

    let mut sender = Connection::new(Side::Accepted, settings());
    calls(&mut sender, b"{\"id\":2,\"do\":\"x\"}\n");

    if sender.call_fields("again", fields).is_ok() {
        let mut output = Vec::new();
        sender.take_output(&mut output);
        assert_eq!(output.last(), Some(&b'\n'));
        let mut receiver = Connection::new(Side::Accepted, settings());
        let again = calls(&mut receiver, &output);
        assert_eq!(again.len(), 1, "{:?}: {:?}", receiver.take_error(), String::from_utf8_lossy(&output));
    }
}

/// What one side understood, and what it said to it.
#[derive(Debug, PartialEq)]
struct Transcript {
    /// Those that are still wanted: one that was cancelled need not have been given.
    calls: Vec<(CallKey, String)>,
    responses: Vec<String>,
    output: Vec<u8>,
    error: Option<String>,
    /// What stays as the beginning of a message, unless it was given up.
    rest: Option<usize>,
}

impl Transcript {
    fn of(data: &[u8], cut: usize) -> Self {
        let mut peer = Connection::new(Side::Accepted, settings());
        let outgoing = [peer.call("x", &()).unwrap(), peer.call("y", &()).unwrap()];
        let mut output = Vec::new();
        peer.take_output(&mut output);
        let (mut input, now) = (BytesMut::new(), Instant::now());
        let (mut calls, mut responses) = (Vec::<(CallKey, String)>::new(), Vec::new());

        for part in data.chunks(cut) {
            input.extend_from_slice(part);

            loop {
                while let Some(event) = peer.poll_event(&mut input, now) {
                    match event {
                        Event::Call { key, message } => {
                            calls.push((key, format!("{:?} {:?}", message.operation(), message.fields().to_value())));
                        }
                        Event::Cancelled(key) => calls.retain(|(known, _)| *known != key),
                        _ => {}
                    }
                }

                if peer.wants_input() || peer.is_closing() {
                    break;
                }

                // Only when it is full, which it is at the same message wherever the input is cut.
                take_all(&mut peer, outgoing, &mut responses, &mut output);
            }
        }

        take_all(&mut peer, outgoing, &mut responses, &mut output);
        let error = peer.take_error().map(|error| error.to_string());
        let rest = (!peer.is_closing()).then_some(input.len());
        Self { calls, responses, output, error, rest }
    }
}

fn take_all(peer: &mut Connection, outgoing: [u64; 2], responses: &mut Vec<String>, output: &mut Vec<u8>) {
    for id in outgoing {
        while let Ok(Some(message)) = peer.take_response(id) {
            responses.push(format!("{id} {:?} {:?}", message.is_final(), message.into_fields().to_value()));
        }
    }

    let mut bytes = Vec::new();
    peer.take_output(&mut bytes);
    peer.handle_written(bytes.len());
    output.append(&mut bytes);
}

/// Two sides and what happens between them, in an order that the bytes say.
pub fn connection(data: &[u8]) {
    let mut pair = Pair::new();

    // As the driver does it; without that, two sides that know nothing of windows.
    if data.first().is_some_and(|first| first & 0x80 == 0) {
        pair.peers[0].connection.announce();
    }

    for step in data.chunks_exact(2).take(400) {
        pair.step(step[0], usize::from(step[1]));
    }

    pair.settle();
}

#[derive(Serialize, Deserialize)]
struct Number {
    number: u64,
}

struct Peer {
    connection: Connection,
    input: BytesMut,
    /// Taken, and not written yet.
    writing: BytesMut,
    /// Calls that came in, and how many responses were sent.
    incoming: Vec<(CallKey, u64)>,
    /// Calls that went out, and how many responses came.
    outgoing: Vec<(u64, u64)>,
}

impl Peer {
    fn new(side: Side) -> Self {
        Self {
            connection: Connection::new(side, settings()),
            input: BytesMut::new(),
            writing: BytesMut::new(),
            incoming: Vec::new(),
            outgoing: Vec::new(),
        }
    }

    fn read(&mut self, now: Instant) {
        while let Some(event) = self.connection.poll_event(&mut self.input, now) {
            match event {
                Event::Call { key, .. } => self.incoming.push((key, 0)),
                Event::Cancelled(key) => {
                    self.incoming.retain(|(known, _)| *known != key);
                    assert!(!self.connection.is_wanted(key));
                }
                _ => {}
            }
        }
    }

    fn respond(&mut self, which: usize, how: How) {
        if self.incoming.is_empty() {
            return;
        }

        let index = which % self.incoming.len();
        let (key, sent) = &mut self.incoming[index];
        let number = Number { number: *sent };

        let result = match how {
            How::Intermediate => match self.connection.has_room(*key) {
                Ok(true) => self.connection.respond(*key, false, &number),
                Ok(false) => return,
                Err(error) => Err(error),
            },
            How::Final => self.connection.respond(*key, true, &number),
            How::Failure => {
                let failure = async_container_protocol::Failure::new("Fuzz", "x").with_fields(&number).unwrap();
                self.connection.fail(*key, &failure)
            }
        };

        *sent += 1;

        match result {
            Ok(()) if matches!(how, How::Intermediate) => {}
            Ok(()) | Err(SendError::Cancelled) => drop(self.incoming.swap_remove(index)),
            Err(error) => panic!("{error}"),
        }
    }

    /// Takes a response of a call. Returns whether there was anything.
    fn take(&mut self, which: usize) -> bool {
        if self.outgoing.is_empty() {
            return false;
        }

        let index = which % self.outgoing.len();
        let (id, taken) = &mut self.outgoing[index];

        match self.connection.take_response(*id) {
            Ok(None) => false,
            Ok(Some(message)) => {
                let last = message.is_final();
                let fields = match message.failure() {
                    Some(failure) if failure.class() == "Fuzz" => failure.fields().clone(),
                    Some(failure) => {
                        assert_eq!(failure.class(), "TooManyCalls", "nothing else is refused");
                        failure.fields().with("number", taken).unwrap()
                    }
                    None => message.into_fields(),
                };
                assert_eq!(fields.get::<u64>("number").unwrap(), Some(*taken), "in order, and none is missing");
                *taken += 1;

                if last {
                    self.forget(index);
                }

                true
            }
            Err(CallError::TimedOut | CallError::NotTaken(_) | CallError::ConnectionClosed) => {
                self.forget(index);
                true
            }
            Err(error) => panic!("{error}"),
        }
    }

    fn forget(&mut self, which: usize) {
        if !self.outgoing.is_empty() {
            let (id, _) = self.outgoing.swap_remove(which % self.outgoing.len());
            self.connection.forget(id);
        }
    }
}

#[derive(Clone, Copy)]
enum How {
    Intermediate,
    Final,
    Failure,
}

struct Pair {
    peers: [Peer; 2],
    now: Instant,
}

impl Pair {
    fn new() -> Self {
        Self { peers: [Peer::new(Side::Connected), Peer::new(Side::Accepted)], now: Instant::now() }
    }

    fn step(&mut self, step: u8, argument: usize) {
        let side = usize::from(step & 1);
        let now = self.now;
        let peer = &mut self.peers[side];

        match step >> 1 & 15 {
            0 | 1 => match peer.connection.call("x", &()) {
                Ok(id) => peer.outgoing.push((id, 0)),
                Err(CallError::TooManyCalls { .. } | CallError::ConnectionClosed) => {}
                Err(error) => panic!("{error}"),
            },
            2 | 3 => peer.respond(argument, How::Intermediate),
            4 => peer.respond(argument, How::Final),
            5 => peer.respond(argument, How::Failure),
            6 => peer.forget(argument),
            7 | 8 => drop(peer.take(argument)),
            9 | 10 => drop(self.carry(side, argument)),
            11 => drop(self.carry(side, usize::MAX)),
            12 => peer.connection.handle_blocked(now),
            13 => {
                if let Some((id, _)) = peer.outgoing.get(argument % peer.outgoing.len().max(1)) {
                    peer.connection.set_deadline(*id, now + Duration::from_millis(argument as u64 * 20));
                }
            }
            14 => self.advance(Duration::from_millis(argument as u64 * 10)),
            // The rare ends.
            _ => match argument {
                0..8 => peer.connection.finish(),
                8..16 => peer.connection.close(),
                16..32 => self.advance(Duration::from_secs(40)),
                32..48 => peer.connection.announce(),
                _ => drop(self.carry(side, usize::MAX)),
            },
        }
    }

    /// Lets so many bytes of one side reach the other. Returns whether there were any.
    fn carry(&mut self, side: usize, bytes: usize) -> bool {
        let now = self.now;
        let (left, right) = self.peers.split_at_mut(1);
        let (from, to) = if side == 0 { (&mut left[0], &mut right[0]) } else { (&mut right[0], &mut left[0]) };

        if from.writing.is_empty() {
            let mut buffer = Vec::new();
            from.connection.take_output(&mut buffer);
            from.writing.extend_from_slice(&buffer);
        }

        // A side that takes no more does not keep the other from writing only because this test has no socket between.
        if !to.connection.wants_input() && !to.connection.is_closing() {
            to.read(now);
            return !from.writing.is_empty();
        }

        let count = bytes.min(from.writing.len());
        to.input.extend_from_slice(&from.writing[..count]);
        from.writing.advance(count);
        from.connection.handle_written(count);
        to.read(now);
        assert!(to.connection.take_error().is_none(), "one side does not understand the other");
        count > 0
    }

    fn advance(&mut self, time: Duration) {
        self.now += time;

        for peer in &mut self.peers {
            if peer.connection.poll_timeout().is_some_and(|timeout| timeout <= self.now) {
                peer.connection.handle_timeout(self.now);
                peer.connection.take_error();
                assert!(peer.connection.poll_timeout().is_none_or(|timeout| timeout > self.now), "what is due is done");
            }
        }
    }

    /// Answers everything, takes everything, and looks whether anything is left.
    fn settle(&mut self) {
        for round in 0.. {
            assert!(round < 2_000, "it does not come to an end");

            // Both have answers and calls for each other, of each more than may wait, and neither reads on. A socket would
            // then take no more of either, and the connection is given up in time.
            if round == 1_000 {
                let now = self.now;
                self.peers.iter_mut().for_each(|peer| peer.connection.handle_blocked(now));
                self.advance(Duration::from_secs(40));
            }

            let mut busy = false;

            for side in 0..2 {
                busy |= self.carry(side, usize::MAX);
                let (now, peer) = (self.now, &mut self.peers[side]);
                peer.read(now);
                busy |= !peer.incoming.is_empty() || peer.connection.has_output() || !peer.writing.is_empty();
                peer.respond(0, How::Final);

                for which in 0..peer.outgoing.len() {
                    busy |= peer.take(which);
                }
            }

            if self.peers.iter().any(|peer| peer.connection.is_closing()) {
                for peer in &mut self.peers {
                    peer.connection.close();

                    while !peer.outgoing.is_empty() {
                        assert!(peer.take(0), "what is closed has come to an end");
                    }
                }

                break;
            }

            if !busy && self.peers.iter().all(|peer| peer.input.is_empty()) {
                break;
            }
        }

        for peer in &mut self.peers {
            assert!(peer.outgoing.is_empty(), "every call came to an end");
            assert_eq!(peer.connection.poll_timeout(), None, "nothing is waited for");
        }
    }
}
