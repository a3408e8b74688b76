//! The contract byte by byte, on one side of a connection without a socket and with a clock of its own.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use async_container_protocol::{
    CallError, CallKey, ConnectionError, EncodeError, Failure, Fields, FrameError, Framing, MAXIMUM_DEPTH,
    MessageError, SendError, Settings, Side, Value, class,
    connection::{Connection, Event},
};
use bytes::BytesMut;
use serde::Serialize;

/// One side, with what it was sent and what it says.
struct Peer {
    connection: Connection,
    input: BytesMut,
    now: Instant,
}

impl Peer {
    fn new(side: Side) -> Self {
        Self::with(side, Settings::default())
    }

    fn with(side: Side, settings: Settings) -> Self {
        Self { connection: Connection::new(side, settings), input: BytesMut::new(), now: Instant::now() }
    }

    fn receive(&mut self, bytes: &[u8]) -> Vec<Event> {
        self.input.extend_from_slice(bytes);
        std::iter::from_fn(|| self.connection.poll_event(&mut self.input, self.now)).collect()
    }

    fn receive_call(&mut self, bytes: &[u8]) -> (CallKey, String, Fields) {
        match self.receive(bytes).pop() {
            Some(Event::Call { key, message }) => (key, message.operation().unwrap().to_owned(), message.fields()),
            other => panic!("expected a call, got {other:?}"),
        }
    }

    fn output(&mut self) -> Vec<u8> {
        let mut output = Vec::new();
        self.connection.take_output(&mut output);
        self.connection.handle_written(output.len());
        output
    }

    fn output_line(&mut self) -> serde_json::Value {
        let output = self.output();
        assert_eq!(output.last(), Some(&b'\n'), "one line, and its end");
        serde_json::from_slice(&output).unwrap()
    }

    fn output_messages(&mut self) -> Vec<serde_json::Value> {
        messages(&self.output())
    }

    fn advance(&mut self, duration: Duration) {
        self.now += duration;
        self.connection.handle_timeout(self.now);
    }
}

fn messages(mut bytes: &[u8]) -> Vec<serde_json::Value> {
    let mut messages = Vec::new();

    while !bytes.is_empty() {
        let length = u32::from_be_bytes(bytes[..4].try_into().unwrap()) as usize;
        let value: Value = rmp_serde::from_slice(&bytes[4..4 + length]).unwrap();
        messages.push(serde_json::to_value(value).unwrap());
        bytes = &bytes[4 + length..];
    }

    messages
}

fn frame(payload: &[u8]) -> Vec<u8> {
    [&(payload.len() as u32).to_be_bytes()[..], payload].concat()
}

fn message(value: serde_json::Value) -> Vec<u8> {
    frame(&rmp_serde::to_vec_named(&value).unwrap())
}

macro_rules! message {
    ($($json:tt)*) => { message(serde_json::json!($($json)*)) };
}

const STATUS: &[u8] = b"\x00\x00\x00\x0f\x82\xa2id\x02\xa2do\xa6status";

#[derive(Serialize)]
struct Progress {
    percent: u8,
}

#[test]
fn call_is_a_length_and_a_map() {
    let mut client = Peer::new(Side::Connected);
    assert_eq!(client.connection.call("status", &()).unwrap(), 2);
    assert_eq!(client.output(), STATUS);
}

#[test]
fn connecting_side_counts_even_and_accepting_side_odd() {
    let mut client = Peer::new(Side::Connected);
    let mut server = Peer::new(Side::Accepted);
    let ids = |peer: &mut Peer| [(); 3].map(|()| peer.connection.call("x", &()).unwrap());
    assert_eq!(ids(&mut client), [2, 4, 6]);
    assert_eq!(ids(&mut server), [3, 5, 7]);
}

#[test]
fn parameters_stand_at_the_top_level() {
    let mut client = Peer::new(Side::Connected);
    client.connection.call("sample", &Progress { percent: 7 }).unwrap();
    assert_eq!(client.output(), b"\x00\x00\x00\x18\x83\xa2id\x02\xa2do\xa6sample\xa7percent\x07");
}

#[test]
fn call_arrives_in_pieces_of_one_byte() {
    let mut server = Peer::new(Side::Accepted);

    for byte in &STATUS[..STATUS.len() - 1] {
        assert!(server.receive(&[*byte]).is_empty());
    }

    let (_, operation, fields) = server.receive_call(&STATUS[STATUS.len() - 1..]);
    assert_eq!(operation, "status");
    assert!(fields.is_empty());
    assert_eq!(server.connection.framing(), Some(Framing::MessagePack));
}

#[test]
fn responses_carry_the_id_and_the_last_one_says_so() {
    let mut server = Peer::new(Side::Accepted);
    let (key, ..) = server.receive_call(STATUS);
    server.connection.respond(key, false, &Progress { percent: 50 }).unwrap();
    assert_eq!(server.output(), b"\x00\x00\x00\x0e\x82\xa2id\x02\xa7percent\x32");
    server.connection.respond(key, true, &()).unwrap();
    assert_eq!(server.output(), b"\x00\x00\x00\x0f\x82\xa2id\x02\xa8finished\xc3");
    assert_eq!(server.connection.respond(key, true, &()), Err(SendError::Cancelled), "it is over");
}

#[test]
fn failure_has_class_message_details_and_fields() {
    let mut server = Peer::new(Side::Accepted);
    let (key, ..) = server.receive_call(STATUS);
    let failure = Failure::new("Teapot", "short and stout")
        .with_details(&serde_json::json!({"backtrace": ["a", "b"]}))
        .unwrap()
        .with_fields(&Progress { percent: 1 })
        .unwrap();
    server.connection.fail(key, &failure).unwrap();
    let output = server.output();
    assert_eq!(
        messages(&output),
        [serde_json::json!({
            "id": 2, "finished": true, "failed": true, "percent": 1,
            "error": {"class": "Teapot", "message": "short and stout", "backtrace": ["a", "b"]},
        })]
    );

    let mut client = Peer::new(Side::Connected);
    let id = client.connection.call("status", &()).unwrap();
    client.receive(&output);
    let received = client.connection.take_response(id).unwrap().unwrap();
    assert_eq!(received.failure().unwrap(), failure);
}

#[test]
fn any_integer_is_an_id() {
    let ids: [(&[u8], serde_json::Value); 6] = [
        (b"\x00", 0.into()),
        (b"\xcf\xff\xff\xff\xff\xff\xff\xff\xff", u64::MAX.into()),
        (b"\xd3\x80\x00\x00\x00\x00\x00\x00\x00", i64::MIN.into()),
        (b"\xcd\x00\x05", 5.into()),
        (b"\xd0\x07", 7.into()),
        (b"\xff", (-1).into()),
    ];

    for (id, expected) in ids {
        let mut server = Peer::new(Side::Accepted);
        let (key, ..) = server.receive_call(&frame(&[b"\x82\xa2id", id, b"\xa2do\xa1x"].concat()));
        server.connection.respond(key, true, &()).unwrap();
        assert_eq!(server.output_messages(), [serde_json::json!({"id": expected, "finished": true})]);
    }
}

#[test]
fn order_of_the_fields_does_not_matter() {
    let mut server = Peer::new(Side::Accepted);
    let (key, operation, fields) =
        server.receive_call(&message!({"a": {"do": "not me", "id": 9}, "do": "x", "b": [1, 2], "id": 4}));
    assert_eq!((key.id(), operation.as_str()), (4.into(), "x"));
    assert_eq!(fields.to_json(), serde_json::json!({"a": {"do": "not me", "id": 9}, "b": [1, 2]}));
}

#[test]
fn id_in_use_fails_and_leaves_the_first_call_alone() {
    let mut server = Peer::new(Side::Accepted);
    let (key, ..) = server.receive_call(STATUS);
    assert!(server.receive(STATUS).is_empty());
    let refusal = &server.output_messages()[0];
    assert_eq!((&refusal["id"], &refusal["error"]["class"]), (&2.into(), &class::DUPLICATE_ID.into()));
    server.connection.respond(key, true, &()).unwrap();
    server.receive_call(STATUS);
}

#[test]
fn same_id_in_both_directions_does_not_collide() {
    let mut client = Peer::new(Side::Connected);
    let id = client.connection.call("ask", &()).unwrap();
    let (key, ..) = client.receive_call(&message!({"id": 2, "do": "ask back"}));
    client.receive(&message!({"id": 2, "finished": true, "answer": 1}));
    assert_eq!(client.connection.take_response(id).unwrap().unwrap().fields().get("answer").unwrap(), Some(1));
    client.connection.respond(key, true, &()).unwrap();
}

#[test]
fn one_call_too_many_fails_in_both_directions() {
    let settings = Settings::default().calls_limit(2);
    let mut server = Peer::with(Side::Accepted, settings.clone());
    let keys = [1, 2].map(|id| server.receive_call(&message!({"id": id, "do": "x"})).0);
    assert!(server.receive(&message!({"id": 3, "do": "x"})).is_empty());
    assert_eq!(server.output_messages()[0]["error"]["class"], class::TOO_MANY_CALLS);
    server.connection.respond(keys[0], true, &()).unwrap();
    server.receive_call(&message!({"id": 4, "do": "x"}));

    let mut client = Peer::with(Side::Connected, settings);
    let first = client.connection.call("x", &()).unwrap();
    client.connection.call("x", &()).unwrap();
    assert!(matches!(client.connection.call("x", &()), Err(CallError::TooManyCalls { limit: 2 })));
    client.receive(&message!({"id": first, "finished": true}));
    assert_eq!(client.connection.call("x", &()).unwrap(), 6, "a call that was not made takes no id");
}

#[test]
fn late_response_is_dropped_and_not_answered() {
    let mut client = Peer::new(Side::Connected);
    let id = client.connection.call("slow", &()).unwrap();
    client.connection.set_deadline(id, client.now + Duration::from_secs(5));
    assert_eq!(client.connection.poll_timeout(), Some(client.now + Duration::from_secs(5)));
    client.output();
    client.advance(Duration::from_secs(5));
    assert!(matches!(client.connection.take_response(id), Err(CallError::TimedOut)));
    assert_eq!(client.output(), b"\x00\x00\x00\x0d\x82\xa2id\x02\xa6cancel\xc3");
    assert!(client.receive(&message!({"id": id, "finished": true})).is_empty());
    assert!(client.receive(&message!({"id": 77})).is_empty());
    assert!(client.output().is_empty());
    assert_eq!(client.connection.poll_timeout(), None, "nothing waits any more");
}

#[test]
fn cancelled_call_gets_nothing_more_and_its_id_is_free() {
    let mut server = Peer::new(Side::Accepted);
    let (key, ..) = server.receive_call(STATUS);
    let cancel = message!({"id": 2, "cancel": true});
    assert!(matches!(server.receive(&cancel)[..], [Event::Cancelled(cancelled)] if cancelled == key));
    assert_eq!(server.connection.respond(key, false, &()), Err(SendError::Cancelled));
    let (again, ..) = server.receive_call(STATUS);
    assert_eq!(server.connection.respond(key, true, &()), Err(SendError::Cancelled), "not in the name of the next");
    server.connection.respond(again, true, &()).unwrap();
    assert!(server.receive(&cancel).is_empty(), "a call that is over cannot be cancelled");
    assert_eq!(server.output_messages().len(), 1);
}

#[test]
fn call_whose_cancellation_comes_with_it_is_not_given() {
    let mut server = Peer::new(Side::Accepted);
    let cancel = message!({"id": 2, "cancel": true});
    let other = message!({"id": 4, "do": "x"});
    let events = server.receive(&[STATUS, &other, &cancel].concat());
    assert!(matches!(&events[..], [Event::Call { key, .. }] if key.id() == 4.into()), "{events:?}");
    assert!(server.output().is_empty(), "there is no answer to a cancellation");

    let mut server = Peer::new(Side::Accepted);
    assert!(server.receive(b"{\"id\":1,\"do\":\"x\"}\n{\"id\":1,\"cancel\":true}\n").is_empty());
    assert!(!server.connection.has_incoming_calls());
    server.receive_call(b"{\"id\":1,\"do\":\"x\"}\n");
}

#[test]
fn call_is_given_if_its_cancellation_comes_later_wherever_that_is_cut() {
    let call = |id: u64, text: &str| message!({"id": id, "do": "x", "text": text});
    let cancel = |id: u64| message!({"id": id, "cancel": true});
    let sent = [
        (2, call(2, &"x".repeat(40))),
        (4, call(4, "cancel")),
        (2, cancel(2)),
        (6, call(6, "")),
        (8, call(8, &"x".repeat(90))),
        (6, cancel(6)),
        (4, cancel(4)),
    ];
    let ends: Vec<usize> = sent
        .iter()
        .scan(0, |end, (_, bytes)| {
            *end += bytes.len();
            Some(*end)
        })
        .collect();
    let bytes = sent.iter().map(|(_, bytes)| &bytes[..]).collect::<Vec<_>>().concat();

    for first in 0..bytes.len() {
        for second in first..bytes.len() {
            let mut server = Peer::new(Side::Accepted);
            let reads = [&bytes[..first], &bytes[first..second], &bytes[second..]];
            let events = reads.map(|read| server.receive(read)).into_iter().flatten();
            let given: BTreeSet<u64> = events
                .filter_map(|event| match event {
                    Event::Call { key, .. } => key.id().to_string().parse().ok(),
                    _ => None,
                })
                .collect();
            // The read with which a message is complete.
            let read = |index: usize| [first, second].iter().filter(|cut| ends[index] > **cut).count();
            let together = [(2, 0, 2), (4, 1, 6), (6, 3, 5)].iter().filter(|(_, call, end)| read(*call) == read(*end));
            let not_given: BTreeSet<u64> = together.map(|(id, ..)| *id).collect();
            assert_eq!(given, &BTreeSet::from([2, 4, 6, 8]) - &not_given, "cut at {first} and {second}");
        }
    }
}

#[test]
fn call_is_not_given_if_its_cancellation_comes_with_it_in_a_later_read() {
    let call = |id: u64| message!({"id": id, "do": "x"});
    let cancel = |id: u64| message!({"id": id, "cancel": true});
    let given = |events: Vec<Event>| events.iter().filter(|event| matches!(event, Event::Call { .. })).count();
    let mut server = Peer::new(Side::Accepted);
    assert_eq!(given(server.receive(&[2, 4, 6, 8].map(call).concat())), 4);
    assert_eq!(given(server.receive(&[call(10), cancel(10)].concat())), 0);

    // Calls wait in the input until a response is taken.
    let mut server = Peer::with(Side::Accepted, Settings::default().queue_limit(1));
    let own = server.connection.call("x", &()).unwrap();
    let response = message!({"id": own});
    assert_eq!(given(server.receive(&[call(2), response, call(4), call(6)].concat())), 1);
    assert!(!server.connection.wants_input());
    assert!(server.connection.take_response(own).unwrap().is_some());
    let events = server.receive(&cancel(4));
    assert!(matches!(&events[..], [Event::Call { key, .. }] if key.id() == 6.into()), "{events:?}");
}

/// Takes the calls that come as a handler does that answers at once.
fn answer_at_once(server: &mut Peer, bytes: &[u8]) -> usize {
    server.input.extend_from_slice(bytes);
    let mut calls = 0;

    while let Some(event) = server.connection.poll_event(&mut server.input, server.now) {
        if let Event::Call { key, .. } = event {
            server.connection.respond(key, true, &()).unwrap();
            calls += 1;
        }
    }

    calls
}

#[test]
fn calls_that_come_together_are_not_refused_before_the_first_are_answered() {
    let settings = Settings::default().calls_limit(2);
    let mut server = Peer::with(Side::Accepted, settings);
    let many: Vec<u8> = (1..=9).flat_map(|id| message!({"id": id, "do": "x"})).collect();
    assert_eq!(answer_at_once(&mut server, &many), 9);
    assert_eq!(answer_at_once(&mut server, &[STATUS; 5].concat()), 5, "each is over when the next one begins");
    assert!(server.output_messages().iter().all(|answer| answer["failed"].is_null()));
}

#[test]
fn calls_before_what_is_broken_are_answered() {
    let mut server = Peer::new(Side::Accepted);
    assert_eq!(answer_at_once(&mut server, &[STATUS, STATUS, &message!({"id": 8, "do": 1}), STATUS].concat()), 2);
    let ids: Vec<_> = server.output_messages().into_iter().map(|answer| answer["id"].clone()).collect();
    assert_eq!(ids, [2, 2, 8]);
    assert!(server.connection.is_closing() && server.connection.take_error().is_some());
}

#[test]
fn call_that_is_dropped_is_cancelled_once() {
    let mut client = Peer::new(Side::Connected);
    let id = client.connection.call("x", &()).unwrap();
    client.output();
    client.connection.forget(id);
    client.connection.forget(id);
    assert_eq!(client.output_messages(), [serde_json::json!({"id": id, "cancel": true})]);
}

#[test]
fn broken_frames_close_the_connection() {
    let limit = 64;
    let cases: [(&[u8], FrameError); 3] = [
        (b"\x00\x00\x00\x00", FrameError::Empty),
        (b"\x00\x00\x00\x41", FrameError::TooLarge { length: 65, limit }),
        (b"\x7a\xff\xff\xff", FrameError::TooLarge { length: 0x7aff_ffff, limit }),
    ];

    for (bytes, expected) in cases {
        let mut server = Peer::with(Side::Accepted, Settings::default().frame_limit(limit));
        assert!(server.receive(bytes).is_empty());
        assert!(server.connection.is_closing());
        assert!(server.output().is_empty(), "there is nobody to answer to");
        assert!(matches!(server.connection.take_error(), Some(ConnectionError::Frame(error)) if error == expected));
        assert!(server.input.capacity() < 1024, "nothing was reserved for it");
    }
}

#[test]
fn frame_of_exactly_the_limit_is_taken() {
    let mut server = Peer::with(Side::Accepted, Settings::default().frame_limit(15));
    server.receive_call(STATUS);
    let mut server = Peer::with(Side::Accepted, Settings::default().frame_limit(14));
    assert!(server.receive(STATUS).is_empty());
    assert!(server.connection.is_closing());
}

#[test]
fn frame_that_is_announced_takes_no_memory_before_it_comes() {
    let mut peer = Peer::new(Side::Accepted);
    let announced = (16u32 << 20).to_be_bytes();
    let before = peer.input.capacity();
    assert!(peer.receive(&announced).is_empty() && peer.receive(b"\x81\xa2id").is_empty());
    assert!(peer.connection.wants_input());
    let capacity = peer.input.capacity();
    assert!(capacity < before + 4096, "{capacity}");
}

#[test]
fn invalid_messages_are_answered_if_they_have_an_id() {
    let type_error = |field, expected| MessageError::Type { field, expected };
    let cases: [(&[u8], MessageError, bool); 13] = [
        (b"\x93\x01\x02\x03", MessageError::NotAMap, false),
        (b"\x01", MessageError::NotAMap, false),
        (b"\x80", MessageError::MissingId, false),
        (b"\x81\xa2do\xa1x", MessageError::MissingId, false),
        (b"\x82\xa2id\x02\xa2do\xa1x\xff", MessageError::Trailing(1), true),
        (b"\x82\xa2id\x02\x05\xa1x", MessageError::KeyNotText, true),
        (b"\x82\xa2id\x02\xa2do\x05", type_error("do", "a string"), true),
        (b"\x82\xa2do\x05\xa2id\x02", type_error("do", "a string"), true),
        (b"\x82\xa2id\xa1x\xa2do\xa1x", type_error("id", "an integer"), false),
        (b"\x82\xa2id\x02\xa8finished\x01", type_error("finished", "a boolean"), true),
        (b"\x82\xa2id\x02\xa1a\xd9\xff", MessageError::Incomplete, true),
        (b"\x83\xa1a\xa2\xff\xfe\xa2id\x02\xa2do\xa1x", MessageError::NotUtf8, true),
        (b"\x82\xa2id\x02\xa1a\xc1", MessageError::UnknownType, true),
    ];

    for (payload, expected, answered) in cases {
        let mut server = Peer::new(Side::Accepted);
        assert!(server.receive(&frame(payload)).is_empty());
        assert!(server.connection.is_closing(), "{expected}");
        let answers = server.output_messages();
        assert_eq!(answers.len(), answered as usize, "{expected}");

        if answered {
            assert_eq!((&answers[0]["id"], &answers[0]["failed"]), (&2.into(), &true.into()));
            assert_eq!(answers[0]["error"]["class"], class::INVALID_MESSAGE);
        }

        let error = server.connection.take_error();
        assert!(matches!(&error, Some(ConnectionError::Message(error)) if *error == expected), "{error:?}");
        assert!(server.receive(STATUS).is_empty(), "nothing more is taken");
    }
}

#[test]
fn nesting_is_bounded() {
    let nested = |depth: usize| {
        let mut payload = b"\x83\xa2id\x02\xa2do\xa1x\xa1a".to_vec();
        payload.extend(vec![0x91; depth]);
        payload.push(0xc0);
        frame(&payload)
    };

    let mut server = Peer::new(Side::Accepted);
    let (_, _, fields) = server.receive_call(&nested(MAXIMUM_DEPTH - 1));
    assert!(fields.to_json()["a"].is_array());
    server.receive(&nested(MAXIMUM_DEPTH));
    assert!(matches!(
        server.connection.take_error(),
        Some(ConnectionError::Message(MessageError::TooDeep { limit: MAXIMUM_DEPTH }))
    ));

    let mut server = Peer::new(Side::Accepted);
    server.receive(&nested(1_000_000));
    assert!(server.connection.is_closing());
}

#[test]
fn counts_that_cannot_be_true_cost_nothing() {
    for header in
        [&b"\xdf\xff\xff\xff\xff"[..], b"\xdd\xff\xff\xff\xff", b"\xdb\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff"]
    {
        let mut server = Peer::new(Side::Accepted);
        server.receive(&frame(&[b"\x82\xa2id\x02\xa1a", header].concat()));
        assert!(matches!(server.connection.take_error(), Some(ConnectionError::Message(MessageError::Incomplete))));
    }

    let mut server = Peer::new(Side::Accepted);
    server.receive(&frame(b"\xdf\xff\xff\xff\xff\xa2id\x02"));
    assert!(server.connection.is_closing());
}

#[test]
fn unknown_fields_and_types_are_taken() {
    let mut server = Peer::new(Side::Accepted);
    let payload = b"\x85\xa2id\x02\xa2do\xa1x\xa1e\xd6\x05\x00\x00\x00\x01\xa1b\xc4\x02\xff\xfe\xa1m\x81\x01\xc0";
    let (key, _, fields) = server.receive_call(&frame(payload));
    assert_eq!(fields.to_json(), serde_json::json!({"e": "AAAAAQ==", "b": "//4=", "m": {"1": null}}));
    server.connection.respond(key, true, &fields).unwrap();
    assert!(server.output().ends_with(&payload[b"\x85\xa2id\x02\xa2do\xa1x".len()..]), "as they were");
}

#[test]
fn large_maps_have_longer_headers() {
    for entries in [15, 16, 70_000] {
        let map: std::collections::BTreeMap<String, u32> = (0..entries).map(|n| (format!("key{n}"), n)).collect();
        let mut client = Peer::new(Side::Connected);
        client.connection.call("x", &map).unwrap();
        let output = client.output();
        let mut server = Peer::new(Side::Accepted);
        let (_, _, fields) = server.receive_call(&output);
        assert_eq!(fields.deserialize::<std::collections::BTreeMap<String, u32>>().unwrap(), map);
    }
}

#[test]
fn message_that_cannot_be_sent_leaves_no_trace() {
    struct Broken;

    impl Serialize for Broken {
        fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
            panic!("a broken value")
        }
    }

    let mut client = Peer::with(Side::Connected, Settings::default().frame_limit(64));
    assert!(client.connection.call("x", &[1, 2]).is_err());
    assert!(client.connection.call("x", &serde_json::json!({"id": 5})).is_err(), "reserved");
    assert!(client.connection.call("x", &serde_json::json!({"a": "x".repeat(64)})).is_err(), "too large");
    let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        client.connection.call("x", &std::collections::BTreeMap::from([("a", Broken)])).is_ok()
    }));
    assert!(panicked.is_err());
    assert!(client.output().is_empty());
    assert_eq!(client.connection.call("status", &()).unwrap(), 2);
    assert_eq!(client.output(), STATUS);
}

#[test]
fn json_lines_by_the_first_byte() {
    let mut server = Peer::new(Side::Accepted);
    let (key, operation, fields) =
        server.receive_call(b"{\"id\":1,\"do\":\"x\",\"a\":[1,-2,2.5,null,{\"b\":\"\xc3\xa9\"}]}\n");
    assert_eq!((operation.as_str(), server.connection.framing()), ("x", Some(Framing::JsonLines)));
    assert_eq!(fields.to_json(), serde_json::json!({"a": [1, -2, 2.5, null, {"b": "é"}]}));
    server.connection.respond_fields(key, true, &fields).unwrap();
    assert_eq!(
        server.output_line(),
        serde_json::json!({"id": 1, "finished": true, "a": [1, -2, 2.5, null, {"b": "é"}]})
    );
    server.connection.call("back", &Progress { percent: 3 }).unwrap();
    assert_eq!(server.output(), b"{\"id\":3,\"do\":\"back\",\"percent\":3}\n");
}

#[test]
fn json_lines_in_pieces_several_at_once_and_blank() {
    let mut server = Peer::new(Side::Accepted);
    let line = b"{\"id\":1,\"do\":\"x\"}";

    for byte in line {
        assert!(server.receive(&[*byte]).is_empty());
    }

    let events = server.receive(b"\r\n\r\n  \n{\"id\":2,\"do\":\"y\"}\n{\"id\":7,\"do\":\"z\"}\n{\"id\":");
    assert_eq!(events.len(), 3);
    assert!(!server.connection.is_closing());
}

#[test]
fn json_carries_binary_as_base64_and_survives_what_it_cannot_express() {
    let mut server = Peer::new(Side::Accepted);
    let (key, ..) = server.receive_call(b"{\"id\":1,\"do\":\"x\"}\n");
    // From a worker that speaks MessagePack: bytes, not a number, and a map whose keys are no strings.
    let mut worker = Peer::new(Side::Accepted);
    let payload = b"\x85\xa2id\x02\xa2do\xa1x\xa1b\xc4\x03abc\xa1f\xcb\x7f\xf8\x00\x00\x00\x00\x00\x00\xa1m\x82\xc0\x01\x91\x02\x03";
    let (_, _, fields) = worker.receive_call(&frame(payload));
    server.connection.respond_fields(key, true, &fields).unwrap();
    assert_eq!(
        server.output_line(),
        serde_json::json!({"id": 1, "finished": true, "b": "YWJj", "f": null, "m": {"null": 1, "[2]": 3}})
    );
}

/// Text within text within text would be twice as long with each level.
#[test]
fn keys_that_are_maps_with_such_keys_take_no_more_room_than_they_should() {
    const DEPTH: usize = 100;
    let nested = [vec![0x81; DEPTH], b"\xa1k".to_vec(), vec![0xc0; DEPTH]].concat();
    let payload = [b"\x83\xa2id\x02\xa2do\xa1x\xa1m".as_slice(), &nested].concat();
    let mut worker = Peer::new(Side::Accepted);
    let (_, _, fields) = worker.receive_call(&frame(&payload));
    let json = fields.to_json();
    assert!(json.to_string().len() < 2 * payload.len(), "{json}");

    // What is a key of the outermost key is there to be read, and what is one of that in the bytes that it came in.
    let payload = b"\x83\xa2id\x02\xa2do\xa1x\xa1m\x81\x82\x07\x01\x81\xa1k\x02\x03\x04";
    let (_, _, fields) = Peer::new(Side::Accepted).receive_call(&frame(payload));
    assert_eq!(fields.to_json(), serde_json::json!({"m": {"{\"7\":1,\"gaFrAg==\":3}": 4}}));
}

#[test]
fn broken_lines_close_the_connection() {
    let cases: [(&[u8], bool); 6] = [
        (b"{\"id\":1,\"do\":}\n", true),
        (b"{\"id\":1,\"do\":\"x\"} trailing\n", true),
        (b"{\"do\":\"x\"}\n", false),
        (b"{\"id\":1.5,\"do\":\"x\"}\n", false),
        (b"{\"id\":1,\"do\":\"\xff\"}\n", true),
        (b"{\n", false),
    ];

    for (line, answered) in cases {
        let mut server = Peer::new(Side::Accepted);
        assert!(server.receive(line).is_empty());
        assert!(server.connection.is_closing(), "{line:?}");

        if answered {
            let answer = server.output_line();
            assert_eq!((&answer["id"], &answer["error"]["class"]), (&1.into(), &class::INVALID_MESSAGE.into()));
        } else {
            assert!(server.output().is_empty(), "{line:?}");
        }
    }

    let mut server = Peer::new(Side::Accepted);
    server.receive(b"{\"id\":1,\"do\":\"x\"}\n[1]\n");
    assert!(server.connection.is_closing(), "a line that is no object");
}

#[test]
fn line_without_an_end_is_refused_at_the_limit() {
    let mut server = Peer::with(Side::Accepted, Settings::default().frame_limit(32));
    assert!(server.receive(&[b"{".as_slice(), &[b' '; 31]].concat()).is_empty());
    assert!(!server.connection.is_closing());
    server.receive(b" ");
    assert!(matches!(
        server.connection.take_error(),
        Some(ConnectionError::Frame(FrameError::LineTooLong { limit: 32 }))
    ));
}

#[test]
fn nested_json_is_bounded() {
    let nested = |depth: usize| {
        let line = format!("{{\"id\":2,\"do\":\"x\",\"a\":{}1{}}}\n", "[".repeat(depth), "]".repeat(depth));
        line.into_bytes()
    };

    // As deep as with MessagePack: what came so can be passed on so.
    let mut server = Peer::new(Side::Accepted);
    let (_, _, fields) = server.receive_call(&nested(MAXIMUM_DEPTH - 1));
    assert!(fields.to_json()["a"].is_array());
    server.connection.call_fields("again", &fields).unwrap();
    let mut other = Peer::new(Side::Accepted);
    let (_, _, again) = other.receive_call(&server.output());
    assert_eq!(again, fields);

    for depth in [MAXIMUM_DEPTH, 1_000_000] {
        let mut server = Peer::new(Side::Accepted);
        server.receive(&nested(depth));
        assert!(server.connection.is_closing());
        let error = server.connection.take_error();
        let is_too_deep = |message: &str| message.contains("nested more than 128 deep");
        assert!(
            matches!(&error, Some(ConnectionError::Message(MessageError::Json(message))) if is_too_deep(message)),
            "{error:?}"
        );
    }
}

#[test]
fn responses_that_nobody_takes_stop_the_reading_then_cost_the_call() {
    let mut client =
        Peer::with(Side::Connected, Settings::default().queue_limit(2).read_stall(Duration::from_secs(10)));
    let slow = client.connection.call("stream", &()).unwrap();
    let other = client.connection.call("x", &()).unwrap();
    client.output();
    let part = message!({"id": slow});
    let all = [part.clone(), part.clone(), part.clone(), message!({"id": other, "finished": true})].concat();
    assert_eq!(client.receive(&all).len(), 2, "back-pressure reaches the producer");
    assert!(!client.connection.wants_input());
    assert_eq!(client.connection.poll_timeout(), Some(client.now + Duration::from_secs(10)));

    client.advance(Duration::from_secs(9));
    assert!(client.connection.take_response(slow).unwrap().is_some());
    assert!(client.connection.wants_input());
    assert_eq!(client.connection.poll_timeout(), None);
    assert_eq!(client.receive(&[]).len(), 1);
    assert!(client.connection.take_response(other).unwrap().is_none());

    client.advance(Duration::from_secs(10));
    assert_eq!(client.receive(&[]).len(), 1, "the others go on");
    assert!(client.connection.take_response(other).unwrap().is_some());
    client.connection.forget(other);
    assert_eq!(client.output_messages(), [serde_json::json!({"id": slow, "cancel": true})]);
    assert!(client.connection.take_response(slow).unwrap().is_some(), "what came is given");
    assert!(client.connection.take_response(slow).unwrap().is_some());
    assert!(matches!(client.connection.take_response(slow), Err(CallError::NotTaken(_))));
}

#[test]
fn only_call_of_a_connection_may_take_its_time() {
    let settings = Settings::default().queue_limit(2).read_stall(Duration::from_secs(3));
    let mut client = Peer::with(Side::Connected, settings);
    let slow = client.connection.call("stream", &()).unwrap();
    client.receive(&message!({"id": slow}).repeat(3));
    client.advance(Duration::from_secs(3600));
    assert_eq!(client.connection.poll_timeout(), None);
    assert!(client.connection.take_response(slow).unwrap().is_some());
    assert_eq!(client.receive(&[]).len(), 1);

    client.connection.call("other", &()).unwrap();
    client.advance(Duration::from_secs(3));
    assert!(client.connection.wants_input(), "now it did hold somebody up");
}

/// Lets all that each of two sides has to say reach the other.
fn exchange(one: &mut Peer, other: &mut Peer) {
    loop {
        let (from_one, from_other) = (one.output(), other.output());

        if from_one.is_empty() && from_other.is_empty() {
            return;
        }

        one.receive(&from_other);
        other.receive(&from_one);
    }
}

#[test]
fn window_is_announced_once_and_answered() {
    let mut client = Peer::with(Side::Connected, Settings::default().queue_limit(5));
    client.connection.announce();
    client.connection.announce();
    let hello = client.output();
    assert_eq!(hello, b"\x00\x00\x00\x0d\x82\xa2id\x00\xa6window\x05");
    let mut server = Peer::new(Side::Accepted);
    assert!(server.receive(&hello.repeat(2)).is_empty());
    assert_eq!(
        server.output_messages(),
        [serde_json::json!({"id": 0, "window": 64})],
        "once, and only because it was told"
    );
    let (key, ..) = server.receive_call(STATUS);
    server.connection.respond(key, true, &()).unwrap();
    assert_eq!(server.output(), b"\x00\x00\x00\x0f\x82\xa2id\x02\xa8finished\xc3", "answers are as they were");

    let mut lines = Peer::new(Side::Accepted);
    lines.receive(b"{\"id\":0,\"window\":5}\n");
    assert_eq!(lines.output_line(), serde_json::json!({"id": 0, "window": 64}), "in lines as well");
}

#[test]
fn call_sends_no_more_than_was_asked_for() {
    let mut server = Peer::new(Side::Accepted);
    server.receive(&message!({"id": 0, "window": 2}));
    server.output();
    let (key, ..) = server.receive_call(STATUS);
    let (other, ..) = server.receive_call(&message!({"id": 4, "do": "x"}));

    for _ in 0..2 {
        assert_eq!(server.connection.has_room(key), Ok(true));
        server.connection.respond(key, false, &()).unwrap();
        server.output();
    }

    assert_eq!(server.connection.has_room(key), Ok(false), "although all of it is written");
    assert_eq!(server.connection.has_room(other), Ok(true));
    server.receive(&message!({"id": 0, "call": 2, "more": 1}));
    assert_eq!(server.connection.has_room(key), Ok(true));
    server.connection.respond(key, false, &()).unwrap();
    server.output();
    assert_eq!(server.connection.has_room(key), Ok(false));

    // What nobody understands is for those who come after us, and none of it adds up to harm.
    for strange in [
        message!({"id": 0}),
        message!({"id": 0, "call": 6, "more": 1}),
        message!({"id": 0, "call": 2}),
        message!({"id": 0, "more": 1}),
        message!({"id": 0, "call": "2", "more": 1}),
        message!({"id": 0, "call": 2, "more": -1}),
        message!({"id": 0, "window": "many"}),
        message!({"id": 0, "finished": true, "weather": "fine"}),
    ] {
        assert!(server.receive(&strange).is_empty());
        assert_eq!(server.connection.has_room(key), Ok(false));
    }

    for _ in 0..2 {
        server.receive(&message!({"id": 0, "call": 2, "more": u64::MAX}));
    }

    assert_eq!(server.connection.has_room(key), Ok(true));
    server.connection.respond(key, true, &()).unwrap();
    assert_eq!(server.connection.has_room(key), Err(SendError::Cancelled));
}

#[test]
fn slow_reader_of_one_call_holds_up_no_other() {
    let settings = Settings::default().queue_limit(4);
    let mut client = Peer::with(Side::Connected, settings.clone());
    let mut server = Peer::with(Side::Accepted, settings);
    client.connection.announce();
    let slow = client.connection.call("stream", &()).unwrap();
    let output = client.output();
    let (key, ..) = server.receive_call(&output);
    let mut sent = 0;

    while server.connection.has_room(key) == Ok(true) {
        server.connection.respond(key, false, &()).unwrap();
        exchange(&mut client, &mut server);
        sent += 1;
    }

    assert_eq!(sent, 4);
    assert!(client.connection.wants_input());
    assert_eq!(client.connection.poll_timeout(), None, "nothing is held up, so nothing is given up");
    assert!(client.connection.take_response(slow).unwrap().is_some());
    exchange(&mut client, &mut server);
    assert_eq!(server.connection.has_room(key), Ok(false), "more is asked for in lots");
    assert!(client.connection.take_response(slow).unwrap().is_some());
    assert_eq!(client.output_messages(), [serde_json::json!({"id": 0, "call": 2, "more": 2})]);

    // One who sends more than that is held up as one who knows nothing of it.
    client.receive(&message!({"id": slow}).repeat(9));
    assert!(!client.connection.wants_input());
    assert_eq!(std::iter::from_fn(|| client.connection.take_response(slow).unwrap()).count(), 5);
    assert!(client.connection.wants_input());
}

#[test]
fn final_response_needs_no_window() {
    let mut server = Peer::new(Side::Accepted);
    server.receive(&message!({"id": 0, "window": 0}));
    let (key, ..) = server.receive_call(STATUS);
    assert_eq!(server.connection.has_room(key), Ok(false));
    server.output();
    server.connection.respond(key, true, &()).unwrap();
    assert_eq!(server.output_messages(), [serde_json::json!({"id": 2, "finished": true})]);
}

#[test]
fn peer_that_was_not_told_is_not_asked_for_more() {
    let mut client = Peer::with(Side::Connected, Settings::default().queue_limit(2));
    client.connection.announce();
    let id = client.connection.call("stream", &()).unwrap();
    client.output();

    for _ in 0..10 {
        client.receive(&message!({"id": id}));
        assert!(client.connection.take_response(id).unwrap().is_some());
    }

    assert!(client.output().is_empty(), "it never said that it understands");
}

/// It was made before the peer knew that there are windows, so it is not asked for more.
#[test]
fn window_that_comes_with_a_call_is_for_those_after_it() {
    let mut server = Peer::with(Side::Accepted, Settings::default().queue_limit(100));
    let window = message!({"id": 0, "window": 1});
    let events = server.receive(&[STATUS, &window, &message!({"id": 4, "do": "x"})].concat());
    let [Event::Call { key: before, .. }, Event::Call { key: after, .. }] = events[..] else { panic!("{events:?}") };

    for _ in 0..2 {
        server.connection.respond(before, false, &()).unwrap();
    }

    server.connection.respond(after, false, &()).unwrap();
    assert_eq!((server.connection.has_room(before), server.connection.has_room(after)), (Ok(true), Ok(false)));
}

#[test]
fn peer_that_sends_no_more_answers_nothing_and_is_answered() {
    let mut server = Peer::new(Side::Accepted);
    let id = server.connection.call("x", &()).unwrap();
    let (key, ..) = server.receive_call(STATUS);
    server.output();
    server.connection.handle_end();
    assert!(matches!(server.connection.take_response(id), Err(CallError::ConnectionClosed)));
    assert!(matches!(server.connection.call("x", &()), Err(CallError::ConnectionClosed)));
    assert!(server.connection.has_incoming_calls() && server.connection.is_wanted(key));
    server.connection.respond(key, true, &()).unwrap();
    assert!(!server.connection.has_incoming_calls());
    assert_eq!(server.output_messages(), [serde_json::json!({"id": 2, "finished": true})]);
}

#[test]
fn producer_waits_for_a_peer_that_does_not_read() {
    let mut server = Peer::with(Side::Accepted, Settings::default().queue_limit(2));
    let (key, ..) = server.receive_call(STATUS);
    assert_eq!(server.connection.has_room(key), Ok(true));
    server.connection.respond(key, false, &()).unwrap();
    server.connection.respond(key, false, &()).unwrap();
    assert_eq!(server.connection.has_room(key), Ok(false));
    let (other, ..) = server.receive_call(&message!({"id": 4, "do": "x"}));
    assert_eq!(server.connection.has_room(other), Ok(true), "each call has a queue of its own");
    server.output();
    assert_eq!(server.connection.has_room(key), Ok(true));
}

#[test]
fn peer_that_calls_without_reading_is_not_read() {
    let mut server = Peer::with(Side::Accepted, Settings::default().backlog_limit(100));

    for _ in 0..1000 {
        for event in server.receive(STATUS) {
            let Event::Call { key, .. } = event else { panic!("{event:?}") };
            server.connection.respond(key, true, &Progress { percent: 1 }).unwrap();
        }
    }

    assert!(!server.connection.wants_input());
    let written = server.output().len();
    assert!(written < 200, "{written} bytes piled up");
    assert!(server.connection.has_held_call());
    assert!(matches!(server.receive(b"")[..], [Event::Call { .. }, ..]));
}

/// Not even to be told that a call with the same id is not finished yet.
#[test]
fn peer_that_calls_without_reading_is_not_refused_either() {
    let mut server = Peer::with(Side::Accepted, Settings::default().backlog_limit(100));
    assert!(answer_at_once(&mut server, &[STATUS; 1000].concat()) < 10);
    assert!(!server.connection.wants_input());
    let written = server.output().len();
    assert!(written < 200, "{written} bytes piled up");
    assert!(answer_at_once(&mut server, b"") > 0, "it has read them");
}

/// Each has more to answer than may wait to be read. While they wait for that, they read what the other has to say, or
/// neither would ever go on.
#[test]
fn two_sides_with_large_answers_do_not_wait_for_each_other() {
    let settings = Settings::default().backlog_limit(1000);
    let mut peers = [Peer::with(Side::Connected, settings.clone()), Peer::with(Side::Accepted, settings)];
    let ids = peers.each_mut().map(|peer| peer.connection.call("x", &()).unwrap());
    let [one, other] = &mut peers;
    let (from_one, from_other) = (one.output(), other.output());
    let keys = [one.receive_call(&from_other).0, other.receive_call(&from_one).0];
    let large = serde_json::json!({"data": "x".repeat(5000)});

    for (peer, key) in peers.iter_mut().zip(keys) {
        peer.connection.respond(key, true, &large).unwrap();
        assert!(peer.connection.wants_input());
    }

    let [one, other] = &mut peers;
    // Calls wait, and may be given up, but what comes behind them is read.
    let second = one.connection.call("second", &()).unwrap();
    let third = one.connection.call("third", &()).unwrap();
    one.connection.forget(second);
    let mut output = Vec::new();
    one.connection.take_output(&mut output);
    assert!(matches!(other.receive(&output)[..], [Event::Response(_)]));
    assert_eq!(other.connection.take_response(ids[1]).unwrap().unwrap().fields().to_json(), large);
    assert!(!other.connection.has_held_call());
    other.output();
    let (key, operation, _) = other.receive_call(b"");
    assert_eq!((key.id().to_string(), &*operation), (third.to_string(), "third"));
}

#[test]
fn peer_that_reads_nothing_for_too_long_is_left() {
    let mut server = Peer::new(Side::Accepted);
    let (key, ..) = server.receive_call(STATUS);
    let (waiting, ..) = server.receive_call(&message!({"id": 4, "do": "x"}));
    server.connection.respond(key, true, &()).unwrap();
    let mut output = Vec::new();
    server.connection.take_output(&mut output);
    server.connection.handle_blocked(server.now);
    server.advance(Duration::from_secs(29));
    server.connection.handle_written(1);
    server.connection.handle_blocked(server.now);
    server.advance(Duration::from_secs(29));
    assert!(!server.connection.is_closed(), "it reads, if slowly");
    server.advance(Duration::from_secs(1));
    assert!(server.connection.is_closed());
    assert!(matches!(server.connection.take_error(), Some(ConnectionError::Stalled(_))));
    assert!(!server.connection.is_wanted(waiting));
}

#[test]
fn closing_ends_the_calls_of_both_directions() {
    let mut client = Peer::new(Side::Connected);
    let answered = client.connection.call("x", &()).unwrap();
    let open = client.connection.call("x", &()).unwrap();
    let (key, ..) = client.receive_call(&message!({"id": 3, "do": "y"}));
    client.receive(&message!({"id": answered, "finished": true}));
    client.connection.close();
    assert!(client.connection.take_response(answered).unwrap().is_some(), "an answer that came is not lost");
    assert!(matches!(client.connection.take_response(open), Err(CallError::ConnectionClosed)));
    assert_eq!(client.connection.respond(key, true, &()), Err(SendError::Cancelled));
    assert!(matches!(client.connection.call("x", &()), Err(CallError::ConnectionClosed)));
}

#[test]
fn relayed_response_keeps_everything_but_its_id() {
    let mut worker_side = Peer::new(Side::Accepted);
    let id = worker_side.connection.call("x", &()).unwrap();
    worker_side.receive(&message!({"a": 1, "id": id, "b": {"id": 3}}));
    worker_side.receive(&message!({"failed": true, "error": {"class": "C", "message": "m", "more": [1]}, "finished": true, "z": 1, "id": id}));

    let mut client_side = Peer::new(Side::Accepted);
    let (key, ..) = client_side.receive_call(&message!({"id": 1234, "do": "forward"}));

    for _ in 0..2 {
        let message = worker_side.connection.take_response(id).unwrap().unwrap();
        client_side.connection.relay(key, &message).unwrap();
    }

    assert_eq!(
        client_side.output_messages(),
        [
            serde_json::json!({"id": 1234, "a": 1, "b": {"id": 3}}),
            serde_json::json!({"id": 1234, "finished": true, "failed": true, "z": 1,
                "error": {"class": "C", "message": "m", "more": [1]}}),
        ]
    );
    assert!(!client_side.connection.is_wanted(key));
}

#[test]
fn nested_map_is_the_body_of_another_call() {
    let mut server = Peer::new(Side::Accepted);
    let (_, _, fields) =
        server.receive_call(&message!({"id": 2, "do": "forward", "operation": {"id": 99, "do": "ping", "x": 1}}));
    let operation = fields.nested("operation").unwrap().unwrap();
    assert_eq!(operation.operation(), Some("ping"));
    server.connection.call_fields("ping", &operation).unwrap();
    assert_eq!(server.output_messages(), [serde_json::json!({"id": 3, "do": "ping", "x": 1})]);
    assert!(fields.nested("other").unwrap().is_none());
}

#[test]
fn reserved_names_are_like_all_others_within_a_field() {
    let state = serde_json::json!({"id": 5, "do": "x", "finished": false, "error": {"id": 1}, "name": "y"});
    let mut server = Peer::new(Side::Accepted);
    let (key, _, fields) = server.receive_call(&message!({"id": 2, "do": "register", "state": state}));
    let kept = fields.nested("state").unwrap().unwrap();
    assert_eq!(kept.to_json(), state);
    assert_eq!(kept.compact(), kept);
    assert_eq!(kept.with("name", "z").unwrap().get("id").unwrap(), Some(5));
    assert_eq!(kept.deserialize::<std::collections::HashMap<String, Value>>().unwrap().len(), 5);
    assert_eq!(Fields::new(&state).unwrap().to_json(), state);

    let nested = Fields::empty().with("state", &kept).unwrap();
    server.connection.respond_fields(key, false, &nested).unwrap();
    server.connection.respond_fields(key, false, &kept).unwrap();
    assert_eq!(server.connection.respond(key, true, &state), Err(EncodeError::Reserved("do".into()).into()));
    assert_eq!(
        server.output_messages(),
        [serde_json::json!({"id": 2, "state": state}), serde_json::json!({"id": 2, "name": "y"})],
        "at the top level, they are left out of what is passed on, and refused of what is new"
    );
}

/// Messages with some bytes changed, cut, or doubled. Whatever comes of them, nothing breaks, and what is taken for a call
/// can be looked at in every way and answered.
#[test]
fn no_bytes_break_anything() {
    let samples = [
        message!({"id": 2, "do": "x", "a": [1, {"b": null, "c": [2.5, "é", -7]}], "z": {"id": 9, "error": true}}),
        message!({"id": 3, "finished": true, "failed": true, "error": {"class": "C", "message": "m", "x": [1]}}),
        frame(b"\x84\xa2id\xcd\x12\x34\xa2do\xa1y\xa1b\xc4\x03\xff\xfe\xfd\xa1e\xc7\x02\x05ab"),
        b"{\"id\":1,\"do\":\"x\",\"a\":{\"b\":[1,2,{\"c\":\"\\u00e9\"}]}}\n".to_vec(),
    ];
    let mut state = 7u64;
    let mut random = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    let (mut calls, mut refused) = (0, 0);

    for round in 0..40_000 {
        let mut bytes = samples[round % samples.len()].clone();

        for _ in 0..random(4) {
            let at = random(bytes.len());
            match random(4) {
                0 => bytes[at] = random(256) as u8,
                1 => bytes[at] ^= 1 << random(8),
                2 => bytes.truncate(at + 1),
                _ => bytes.insert(at, random(256) as u8),
            }
        }

        let mut peer = Peer::with(Side::Accepted, Settings::default().frame_limit(4096));
        let outgoing = peer.connection.call("y", &()).unwrap();

        for event in peer.receive(&bytes) {
            let Event::Call { key, message } = event else { continue };
            let fields = message.fields();
            fields.to_json();
            fields.to_value();
            assert_eq!(fields.compact(), fields);
            peer.connection.respond_fields(key, false, &fields).unwrap();
            peer.connection.relay(key, &message).unwrap();
            calls += 1;
        }

        if let Ok(Some(message)) = peer.connection.take_response(outgoing) {
            message.failure();
        }

        refused += peer.connection.is_closing() as usize;
        peer.output();
    }

    assert!(calls > 5_000 && refused > 5_000, "{calls} {refused}");
}

#[test]
fn million_calls_leave_nothing_behind() {
    let mut client = Peer::new(Side::Connected);
    let mut server = Peer::new(Side::Accepted);

    for _ in 0..1_000_000 / if cfg!(debug_assertions) { 10 } else { 1 } {
        let id = client.connection.call("status", &()).unwrap();
        client.connection.set_deadline(id, client.now + Duration::from_secs(60));
        let (key, ..) = server.receive_call(&client.output());
        server.connection.respond(key, true, &()).unwrap();
        let output = server.output();
        client.receive(&output);
        assert!(client.connection.take_response(id).unwrap().is_some());
        client.connection.forget(id);
    }

    assert_eq!(client.connection.poll_timeout(), None);
    assert!(client.input.capacity() < 16384 && server.input.capacity() < 16384);
}
