//! Drivers and clients over real sockets.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    os::unix::net::UnixStream as BlockingStream,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_container_protocol::{
    CallError, Client, ConnectError, ConnectionError, Driver, Failure, Fields, Handler, NoOperations, Operations,
    Outcome, Request, Responder, Settings, Side, Socket, class, endpoint,
};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    sync::{mpsc, oneshot},
};

/// What handlers report to their test.
#[derive(Debug, PartialEq)]
enum Report {
    Started,
    Dropped,
    Cancelled,
    Sent(u64),
}

struct ReportDrop(mpsc::UnboundedSender<Report>);

impl Drop for ReportDrop {
    fn drop(&mut self) {
        let _ = self.0.send(Report::Dropped);
    }
}

#[derive(Serialize, Deserialize, Debug, PartialEq)]
struct Number {
    number: u64,
}

fn operations() -> (Operations, mpsc::UnboundedReceiver<Report>) {
    let (reports, receiver) = mpsc::unbounded_channel();
    let (for_hang, for_cancel, for_flood) = (reports.clone(), reports.clone(), reports);

    let operations = Operations::new()
        .immediate("now", |request: &Request| Ok(request.fields().clone()))
        .operation("echo", |request: Request| async move { Ok(request.into_fields()) })
        .operation("later", |request: Request| async move {
            tokio::task::yield_now().await;
            Ok(request.into_fields())
        })
        .typed("double", |Number { number }| async move { Ok(Number { number: number * 2 }) })
        .streaming("count", |request, responder| async move {
            for number in 0..request.require::<u64>("to").unwrap() {
                if responder.send(&Number { number }).await.is_err() {
                    return;
                }
            }
            responder.finish(&Number { number: 99 });
        })
        .streaming("hang", move |_, responder| {
            let report = ReportDrop(for_hang.clone());
            async move {
                report.0.send(Report::Started).unwrap();
                std::future::pending::<()>().await;
                drop(responder);
            }
        })
        .streaming("listen", move |_, responder| {
            let reports = for_cancel.clone();
            async move {
                // In a task of its own, which dropping the handler does not reach.
                tokio::spawn(async move {
                    reports.send(Report::Started).unwrap();
                    responder.cancelled().await;
                    reports.send(Report::Cancelled).unwrap();
                });
                std::future::pending::<()>().await;
            }
        })
        .streaming("flood", move |_, responder| {
            let reports = for_flood.clone();
            async move {
                let chunk = Fields::empty().with("chunk", &"x".repeat(1 << 16)).unwrap();
                for number in 0.. {
                    if responder.send_fields(&chunk).await.is_err() {
                        return;
                    }
                    let _ = reports.send(Report::Sent(number));
                }
            }
        })
        .operation("fail", |_| async move {
            Err::<(), _>(Failure::new("Teapot", "short").with_fields(&Number { number: 5 }).unwrap())
        })
        .operation("io", |_| async move { Ok(Number { number: std::fs::read("/does/not/exist")?.len() as u64 }) })
        .immediate("panic now", |_| -> Result<(), Failure> { panic!("now") })
        .operation("panic", |_| async move {
            if true {
                panic!("at once")
            }
            Ok(())
        })
        .operation("panic later", |_| async move {
            tokio::task::yield_now().await;
            if true {
                panic!("later")
            }
            Ok(())
        })
        .streaming("silent", |_, _| async {})
        .streaming("call back", |_, responder| async move {
            let answer = responder.peer().call("echo", &Number { number: 8 }).await.unwrap();
            responder.finish_fields(&answer);
        });

    (operations, receiver)
}

fn pair() -> (Client, mpsc::UnboundedReceiver<Report>) {
    let (here, reports) = raw(Settings::default());
    let (client, driver) = Driver::new(Socket::from(here), Side::Connected, operations().0, Settings::default());
    driver.spawn();
    (client, reports)
}

/// The accepting side, and the bare socket to it.
fn raw(settings: Settings) -> (UnixStream, mpsc::UnboundedReceiver<Report>) {
    let (here, there) = UnixStream::pair().unwrap();
    let (operations, reports) = operations();
    let (_, driver) = Driver::new(Socket::from(there), Side::Accepted, operations, settings);
    driver.spawn();
    (here, reports)
}

fn failure(result: Result<Fields, CallError>) -> Failure {
    match result {
        Err(CallError::Failed(failure)) => failure,
        other => panic!("expected a failure, got {other:?}"),
    }
}

#[tokio::test]
async fn handlers_of_all_kinds_answer() {
    let (client, _) = pair();

    for operation in ["now", "echo", "later"] {
        let answer = client.call(operation, &Number { number: 7 }).await.unwrap();
        assert_eq!(answer.deserialize::<Number>().unwrap(), Number { number: 7 });
    }

    assert_eq!(client.call("double", &Number { number: 7 }).await.unwrap().get("number").unwrap(), Some(14));
    assert_eq!(client.call("call back", &()).await.unwrap().get("number").unwrap(), Some(8));
}

#[tokio::test]
async fn failures_have_a_class() {
    let (client, _) = pair();
    let unknown = failure(client.call("nothing", &()).await);
    assert_eq!((unknown.class(), unknown.message()), (class::UNKNOWN_OPERATION, "there is no operation 'nothing'"));
    let missing = failure(client.call("double", &()).await);
    assert_eq!((missing.class(), missing.message()), (class::INVALID_PARAMETERS, "missing field `number`"));
    let wrong = failure(client.call("double", &serde_json::json!({"number": "x"})).await);
    assert_eq!(wrong.class(), class::INVALID_PARAMETERS);
    assert!(wrong.message().starts_with("'number': "), "{wrong}");
    let own = failure(client.call("fail", &()).await);
    assert_eq!((own.class(), own.fields().get("number").unwrap()), ("Teapot", Some(5)));
    assert_eq!(failure(client.call("io", &()).await).class(), class::INTERNAL);
    let silent = failure(client.call("silent", &()).await);
    assert_eq!(silent.message(), "the handler ended without an answer");
}

/// All operations behind a hook that refuses one of them, and tells how the others end.
#[tokio::test]
async fn hook_refuses_calls_and_sees_how_they_end() {
    let (here, there) = UnixStream::pair().unwrap();
    let (operations, mut reports) = operations();
    let (sender, mut outcomes) = mpsc::unbounded_channel();
    let handler = operations.behind(move |request: &Request, responder: &mut Responder| {
        let (operation, sender, first) = (request.operation().to_owned(), sender.clone(), sender.clone());
        responder.when_over(move |_| first.send("over".to_owned()).unwrap());
        responder.when_over(move |outcome| {
            let outcome = match outcome {
                Outcome::Finished => "finished",
                Outcome::Failed(failure) => failure.class(),
                Outcome::Cancelled => "cancelled",
                _ => "?",
            };
            sender.send(format!("{operation}: {outcome}")).unwrap();
        });

        match request.operation() {
            "io" => Err(Failure::new(class::PERMISSION_DENIED, "not that one")),
            _ => Ok(()),
        }
    });
    let (_, driver) = Driver::new(there, Side::Accepted, handler, Settings::default());
    driver.spawn();
    let (client, driver) = Driver::new(here, Side::Connected, NoOperations, Settings::default());
    driver.spawn();
    let mut outcome = async || {
        assert_eq!(outcomes.recv().await.unwrap(), "over", "in the order in which they were left");
        outcomes.recv().await.unwrap()
    };

    client.call("echo", &()).await.unwrap();
    assert_eq!(outcome().await, "echo: finished");
    client.call("later", &Number { number: 7 }).await.unwrap();
    assert_eq!(outcome().await, "later: finished");
    assert_eq!(failure(client.call("io", &()).await).class(), class::PERMISSION_DENIED);
    assert_eq!(outcome().await, "io: PermissionDenied");
    failure(client.call("fail", &()).await);
    assert_eq!(outcome().await, "fail: Teapot");
    failure(client.call("silent", &()).await);
    assert_eq!(outcome().await, "silent: Internal");
    failure(client.call("panic later", &()).await);
    assert_eq!(outcome().await, "panic later: Internal");
    let hanging = client.call("hang", &());
    client.call("echo", &()).await.unwrap();
    assert_eq!(outcome().await, "echo: finished");
    drop(hanging);
    assert_eq!(outcome().await, "hang: cancelled");
    reports.close();
}

#[tokio::test]
async fn panic_costs_one_call_and_nothing_else() {
    let (client, _) = pair();
    let hanging = client.call("hang", &());

    for operation in ["panic now", "panic", "panic later"] {
        let failure = failure(client.call(operation, &()).await);
        assert_eq!((failure.class(), failure.message()), (class::INTERNAL, "the handler panicked"));
    }

    client.call("echo", &()).await.unwrap();
    drop(hanging);
}

#[tokio::test]
async fn intermediate_responses_come_in_order() {
    let (client, _) = pair();
    let mut call = client.call("count", &serde_json::json!({"to": 1000}));

    for expected in 0..1000 {
        assert_eq!(call.next().await.unwrap().unwrap().get("number").unwrap(), Some(expected));
    }

    assert!(call.next().await.unwrap().is_none());
    assert!(call.next().await.unwrap().is_none());
    assert_eq!(call.finish().await.unwrap().get("number").unwrap(), Some(99));

    let skipped = client.call("count", &serde_json::json!({"to": 1000})).await.unwrap();
    assert_eq!(skipped.get("number").unwrap(), Some(99));
}

#[tokio::test]
async fn many_calls_at_once_do_not_mix() {
    let (client, _) = pair();
    let calls: Vec<_> = (0..1000).map(|number| (number, client.call("later", &Number { number }))).collect();

    for (number, call) in calls {
        assert_eq!(call.await.unwrap().get("number").unwrap(), Some(number));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_tasks_on_several_threads() {
    let (client, _) = pair();
    let tasks: Vec<_> = (0..16)
        .map(|task| {
            let client = client.clone();
            tokio::spawn(async move {
                for number in 0..500 {
                    let number = task * 1000 + number;
                    let operation = ["now", "echo", "later"][number as usize % 3];
                    let answer = client.call(operation, &Number { number }).await.unwrap();
                    assert_eq!(answer.get("number").unwrap(), Some(number));
                }
            })
        })
        .collect();

    for task in tasks {
        task.await.unwrap();
    }
}

/// Everything at its tightest: buffers that hold a part of a message, queues of two, pauses after each answer. Nothing may
/// be lost, mixed up, or left waiting for a wake-up that does not come.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tight_bounds_lose_nothing() {
    for size in [1, 7, 37, 300, 1, 7, 37, 300] {
        let (here, there) = tokio::io::duplex(size);
        let settings = Settings::default().queue_limit(2);
        // On one side only: two that will not read before they are read have nothing but their time to wait for.
        let (_, driver) = Driver::new(there, Side::Accepted, operations().0, settings.clone().backlog_limit(50));
        driver.spawn();
        let (client, driver) = Driver::new(here, Side::Connected, operations().0, settings);
        driver.spawn();
        let work = (0..8).map(|task| tokio::spawn(work(client.clone(), task)));
        let all = async {
            for task in work.collect::<Vec<_>>() {
                task.await.unwrap();
            }
        };
        tokio::time::timeout(Duration::from_secs(60), all).await.expect("nothing waits for ever");
    }
}

/// Calls of all kinds, some of them dropped before their end.
async fn work(client: Client, task: u64) {
    let mut random = task + 1;

    for number in 0..100 {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);

        match random >> 60 {
            0..4 => drop(client.call("later", &Number { number })),
            4..7 => {
                let mut count = client.call("count", &serde_json::json!({"to": 10}));
                for expected in 0..(random >> 56) & 15 {
                    match count.next().await.unwrap() {
                        Some(part) => assert_eq!(part.get("number").unwrap(), Some(expected)),
                        None => assert!(expected >= 10),
                    }
                }
            }
            7..9 => {
                let answer = client.call("call back", &()).await.unwrap();
                assert_eq!(answer.get("number").unwrap(), Some(8));
            }
            kind => {
                let operation = ["now", "echo", "later"][kind as usize % 3];
                let answer = client.call(operation, &Number { number }).await.unwrap();
                assert_eq!(answer.get("number").unwrap(), Some(number));
            }
        }
    }
}

#[tokio::test]
async fn dropped_call_drops_the_handler() {
    let (client, mut reports) = pair();
    let call = client.call("hang", &());
    assert_eq!(reports.recv().await, Some(Report::Started));
    drop(call);
    assert_eq!(reports.recv().await, Some(Report::Dropped));
    let call = client.call("listen", &());
    assert_eq!(reports.recv().await, Some(Report::Started));
    drop(call);
    assert_eq!(reports.recv().await, Some(Report::Cancelled));
}

#[tokio::test(start_paused = true)]
async fn time_out_cancels_and_a_late_answer_is_ignored() {
    let (client, mut reports) = pair();
    let result = client.call("hang", &()).timeout(Duration::from_secs(5)).await;
    assert!(matches!(result, Err(CallError::TimedOut)));
    assert_eq!(reports.recv().await, Some(Report::Started));
    assert_eq!(reports.recv().await, Some(Report::Dropped));
    client.call("echo", &()).timeout(Duration::from_secs(5)).await.unwrap();
}

/// Makes a call that nobody waits for, and gives what came of it as soon as that is known.
fn call_then(client: &Client, operation: &str, parameters: &Fields) -> oneshot::Receiver<Result<Fields, CallError>> {
    let (sender, receiver) = oneshot::channel();
    client.call_then(operation, parameters, Duration::from_secs(5), move |end| drop(sender.send(end)));
    receiver
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_call_is_given_to_who_does_not_wait() {
    let (client, mut reports) = pair();
    let number = |number| Fields::new(&Number { number }).unwrap();
    let answer = call_then(&client, "double", &number(21)).await.unwrap().unwrap();
    assert_eq!(answer.deserialize::<Number>().unwrap(), Number { number: 42 });
    let failure = call_then(&client, "fail", &Fields::empty()).await.unwrap();
    assert!(matches!(failure, Err(CallError::Failed(failure)) if failure.class() == "Teapot"));
    // More than may wait to be taken: they are passed over, and the sender is told that they were.
    let to = 1000;
    let end = call_then(&client, "count", &Fields::empty().with("to", &to).unwrap()).await.unwrap().unwrap();
    assert_eq!(end.deserialize::<Number>().unwrap(), Number { number: 99 });

    let hanging = call_then(&client, "hang", &Fields::empty());
    assert_eq!(reports.recv().await, Some(Report::Started));
    assert!(matches!(hanging.await.unwrap(), Err(CallError::TimedOut)));
    assert_eq!(reports.recv().await, Some(Report::Dropped), "it is told that nobody wants it any more");

    client.call_then("echo", &Fields::empty(), Duration::from_secs(5), |_| panic!("whoever wanted it"));
    client.call("echo", &()).await.expect("the connection goes on");

    let hanging = call_then(&client, "hang", &Fields::empty());
    assert_eq!(reports.recv().await, Some(Report::Started));
    client.close();
    assert!(matches!(hanging.await.unwrap(), Err(CallError::ConnectionClosed)));
    let late = call_then(&client, "echo", &Fields::empty()).await.unwrap();
    assert!(matches!(late, Err(CallError::ConnectionClosed)));
}

#[tokio::test(start_paused = true)]
async fn a_connection_lasts_until_the_last_call_that_nobody_waits_for() {
    let (here, mut reports) = raw(Settings::default());
    let (client, driver) = Driver::new(Socket::from(here), Side::Connected, NoOperations, Settings::default());
    let driver = tokio::spawn(driver);
    let answer = call_then(&client, "later", &Fields::new(&Number { number: 7 }).unwrap());
    let end = call_then(&client, "listen", &Fields::empty());
    drop(client);
    assert_eq!(answer.await.unwrap().unwrap().get::<u64>("number").unwrap(), Some(7));
    assert_eq!(reports.recv().await, Some(Report::Started));
    assert!(!driver.is_finished());
    assert!(matches!(end.await.unwrap(), Err(CallError::TimedOut)));
    assert_eq!(reports.recv().await, Some(Report::Cancelled));
    driver.await.unwrap().unwrap();
}

#[tokio::test]
async fn closing_fails_calls_and_drops_handlers() {
    let (client, mut reports) = pair();
    let call = client.call("hang", &());
    assert_eq!(reports.recv().await, Some(Report::Started));
    client.close();
    client.closed().await;
    assert!(matches!(call.await, Err(CallError::ConnectionClosed)));
    assert!(matches!(client.call("echo", &()).await, Err(CallError::ConnectionClosed)));
    assert_eq!(reports.recv().await, Some(Report::Dropped));
    client.closed().await;
}

#[tokio::test]
async fn last_handle_closes_the_connection_after_what_was_said() {
    let (mut here, there) = UnixStream::pair().unwrap();
    let (client, driver) = Driver::new(there, Side::Connected, NoOperations, Settings::default());
    let driver = tokio::spawn(driver);
    let other = client.clone();
    let call = client.call("x", &());
    drop(client);
    drop(other);
    let mut buffer = vec![0; 64];
    let count = here.read(&mut buffer).await.unwrap();
    assert!(count > 0, "a call keeps the connection");
    drop(call);
    let mut rest = Vec::new();
    here.read_to_end(&mut rest).await.unwrap();
    assert_eq!(rest, b"\x00\x00\x00\x0d\x82\xa2id\x02\xa6cancel\xc3");
    driver.await.unwrap().unwrap();
}

#[tokio::test]
async fn dropped_driver_closes_the_connection() {
    let (here, there) = UnixStream::pair().unwrap();
    let (client, driver) = Driver::new(there, Side::Connected, NoOperations, Settings::default());
    let call = client.call("x", &());
    drop(driver);
    client.closed().await;
    assert!(matches!(call.await, Err(CallError::ConnectionClosed)));
    drop(here);
}

/// Also to a call that takes its time: what ends a connection is that the peer takes no more.
#[tokio::test]
async fn half_closed_peer_still_gets_its_answers() {
    let lines = "{\"id\":1,\"do\":\"echo\",\"a\":1}\n{\"id\":3,\"do\":\"wait\",\"a\":2}\n";
    let frames = b"\0\0\0\x0d\x82\xa2id\x01\xa2do\xa4echo\0\0\0\x0d\x82\xa2id\x03\xa2do\xa4wait";

    for (calls, answers) in [
        (lines.as_bytes(), ["{\"id\":1,\"finished\":true,\"a\":1}\n", "{\"id\":3,\"finished\":true,\"a\":2}\n"]),
        (
            frames,
            ["\0\0\0\x0f\u{82}\u{a2}id\x01\u{a8}finished\u{c3}", "\0\0\0\x0f\u{82}\u{a2}id\x03\u{a8}finished\u{c3}"],
        ),
    ] {
        let (mut here, there) = UnixStream::pair().unwrap();
        let released = Arc::new(tokio::sync::Notify::new());
        let release = released.clone();
        let operations = Operations::new()
            .operation("echo", |request: Request| async move { Ok(request.into_fields()) })
            .operation("wait", move |request: Request| {
                let released = released.clone();
                async move {
                    released.notified().await;
                    Ok(request.into_fields())
                }
            });
        let (_, driver) = Driver::new(Socket::from(there), Side::Accepted, operations, Settings::default());
        let driver = tokio::spawn(driver);
        here.write_all(calls).await.unwrap();
        here.shutdown().await.unwrap();
        let mut answer = vec![0; answers[0].chars().count()];
        here.read_exact(&mut answer).await.unwrap();
        release.notify_one();
        here.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer.iter().map(|byte| char::from(*byte)).collect::<String>(), answers.concat());
        driver.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn half_closed_peer_that_leaves_is_noticed() {
    let (mut here, mut reports) = raw(Settings::default());
    here.write_all(b"{\"id\":1,\"do\":\"hang\"}\n").await.unwrap();
    here.shutdown().await.unwrap();
    assert_eq!(reports.recv().await, Some(Report::Started));
    drop(here);
    assert_eq!(reports.recv().await, Some(Report::Dropped));
}

#[tokio::test]
async fn call_that_comes_with_its_cancellation_does_not_begin() {
    let (mut here, mut reports) = raw(Settings::default());
    here.write_all(b"{\"id\":1,\"do\":\"hang\"}\n{\"id\":1,\"cancel\":true}\n{\"id\":3,\"do\":\"now\"}\n")
        .await
        .unwrap();
    here.shutdown().await.unwrap();
    let mut answer = String::new();
    here.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, "{\"id\":3,\"finished\":true}\n");
    assert_eq!(reports.recv().await, None, "nothing was started");
}

#[tokio::test]
async fn garbage_is_answered_and_closed() {
    let (mut here, _reports) = raw(Settings::default());
    here.write_all(b"{\"id\":1,\"do\":7}\nmore of the same, which is never read\n").await.unwrap();
    let mut answer = String::new();
    here.read_to_string(&mut answer).await.unwrap();
    let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
    assert_eq!(answer["error"]["class"], class::INVALID_MESSAGE);
}

#[tokio::test]
async fn driver_says_what_was_wrong() {
    type Check = fn(ConnectionError) -> bool;
    let cases: [(&[u8], Check); 3] = [
        (b"\x00\x00\x00\x05\x81", |error| matches!(error, ConnectionError::Truncated(5))),
        (b"\x7f\x00\x00\x00", |error| matches!(error, ConnectionError::Frame(_))),
        (b"\x00\x00\x00\x01\xc0", |error| matches!(error, ConnectionError::Message(_))),
    ];

    for (bytes, expected) in cases {
        let (mut here, there) = UnixStream::pair().unwrap();
        let (_client, driver) = Driver::new(there, Side::Accepted, NoOperations, Settings::default());
        here.write_all(bytes).await.unwrap();
        here.shutdown().await.unwrap();
        let error = driver.await.unwrap_err();
        assert!(expected(error));
    }
}

#[tokio::test]
async fn producer_waits_for_its_reader_while_others_are_served() {
    let (mut here, mut reports) = raw(Settings::default());
    here.write_all(b"{\"id\":2,\"do\":\"flood\"}\n").await.unwrap();
    let mut sent = 0;

    // Until nothing more fits anywhere: the producer has come to rest when its reports stop for good, which only time
    // can tell. What counts is the bound.
    while let Ok(Some(report)) = tokio::time::timeout(Duration::from_millis(200), reports.recv()).await {
        assert_eq!(report, Report::Sent(sent));
        sent += 1;
    }

    assert!(sent < 64, "{sent} chunks of 64 KiB went into nothing");

    let mut buffer = vec![0; 1 << 20];
    let mut received = 0;

    while received < 16 << 20 {
        received += here.read(&mut buffer).await.unwrap();
    }

    drop(here);
}

#[tokio::test]
async fn calls_that_were_read_before_a_pause_are_answered_after_it() {
    // So small a backlog that reading pauses after every other answer, while the socket takes all of them at once.
    let (mut here, _reports) = raw(Settings::default().backlog_limit(50));
    const CALLS: usize = 500;

    let calls: String = (0..CALLS).map(|id| format!("{{\"id\":{id},\"do\":\"now\"}}\n")).collect();
    here.write_all(calls.as_bytes()).await.unwrap();
    let mut lines = tokio::io::BufReader::new(here);

    for id in 0..CALLS {
        let mut line = String::new();
        let read = tokio::io::AsyncBufReadExt::read_line(&mut lines, &mut line);
        tokio::time::timeout(Duration::from_secs(10), read).await.expect("none is forgotten").unwrap();
        assert!(line.starts_with(&format!("{{\"id\":{id},")));
    }
}

#[tokio::test(start_paused = true)]
async fn peer_that_never_reads_is_left_after_its_time() {
    let (mut here, there) = UnixStream::pair().unwrap();
    let (operations, _reports) = operations();
    let (_client, driver) = Driver::new(there, Side::Accepted, operations, Settings::default());
    here.write_all(b"{\"id\":2,\"do\":\"flood\"}\n").await.unwrap();
    let before = tokio::time::Instant::now();
    assert!(matches!(driver.await, Err(ConnectionError::Stalled(_))));
    assert_eq!(before.elapsed().as_secs(), 30);
}

#[tokio::test(start_paused = true)]
async fn responses_that_nobody_takes_hold_up_no_other_call() {
    let (client, mut reports) = pair();
    let mut flood = client.call("flood", &());
    let before = tokio::time::Instant::now();

    for _ in 0..200 {
        client.call("echo", &()).await.unwrap();
    }

    let mut sent = 0;

    while let Ok(Some(_)) = tokio::time::timeout(Duration::from_secs(3600), reports.recv()).await {
        sent += 1;
    }

    assert_eq!(sent, 64, "its sender waits");

    for number in 0..1000 {
        assert!(flood.next().await.unwrap().is_some(), "{number}");
        client.call("echo", &()).await.unwrap();
    }

    // Time passes only when nothing else is left to do.
    assert_eq!(before.elapsed().as_secs(), 3600);
}

/// As a peer does it that knows nothing of windows.
#[tokio::test(start_paused = true)]
async fn responses_that_nobody_takes_cost_their_call_alone() {
    let (there, mut here) = UnixStream::pair().unwrap();
    let (client, driver) = Driver::new(Socket::from(there), Side::Connected, NoOperations, Settings::default());
    driver.spawn();
    let mut flood = client.call("flood", &());
    let before = tokio::time::Instant::now();
    here.write_all(&b"\0\0\0\x05\x81\xa2id\x02".repeat(100)).await.unwrap();
    // It comes behind more than may wait, so it is read when the flood is given up.
    let other = client.call("x", &());
    here.write_all(b"\0\0\0\x0f\x82\xa2id\x04\xa8finished\xc3").await.unwrap();
    other.await.unwrap();
    assert_eq!(before.elapsed().as_secs(), 3);
    let mut responses = 0;
    let error = loop {
        match flood.next().await {
            Ok(Some(_)) => responses += 1,
            Ok(None) => panic!("it never ends"),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, CallError::NotTaken(_)), "{error}");
    assert_eq!(responses, 64);
}

/// A client, and the reports of the operations that it reaches through somebody in between. What that one has under way in
/// either direction is counted by nobody, so that it has to hold by itself.
fn relayed() -> (Client, Client, mpsc::UnboundedReceiver<Report>) {
    let (worker, there) = UnixStream::pair().unwrap();
    let (operations, reports) = operations();
    let (worker, driver) = Driver::new(Socket::from(worker), Side::Connected, operations, Settings::default());
    driver.spawn();
    let (to_worker, driver) = Driver::new(Socket::from(there), Side::Accepted, NoOperations, Settings::default());
    driver.spawn();

    struct Between(Client);

    impl Handler for Between {
        fn call(&self, request: Request, responder: Responder) -> Option<async_container_protocol::BoxFuture> {
            responder.relay(self.0.call_fields(request.operation(), request.fields()));
            None
        }
    }

    let (here, there) = UnixStream::pair().unwrap();
    let (_, driver) = Driver::new(Socket::from(there), Side::Accepted, Between(to_worker), Settings::default());
    driver.spawn();
    let (client, driver) = Driver::new(Socket::from(here), Side::Connected, NoOperations, Settings::default());
    driver.spawn();
    (client, worker, reports)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn relay_keeps_order_whoever_carries_it() {
    let (client, _worker, _reports) = relayed();
    let tasks: Vec<_> = (0..20)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move {
                let mut call = client.call("count", &BTreeMap::from([("to", 2000)]));
                let mut expected = 0;

                while let Some(fields) = call.next().await.unwrap() {
                    assert_eq!(fields.get::<u64>("number").unwrap(), Some(expected));
                    expected += 1;
                }

                assert_eq!(expected, 2000);
                assert_eq!(call.finish().await.unwrap().get::<u64>("number").unwrap(), Some(99));
                assert_eq!(failure(client.call("fail", &()).await).class(), "Teapot");
            })
        })
        .collect();

    for task in tasks {
        task.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn relay_that_nobody_reads_holds_up_no_other() {
    let (client, _worker, mut reports) = relayed();
    let mut flood = client.call("flood", &());
    let before = tokio::time::Instant::now();
    let mut sent = 0;

    while let Ok(Some(_)) = tokio::time::timeout(Duration::from_secs(3600), reports.recv()).await {
        sent += 1;
        client.call("echo", &()).await.unwrap();
    }

    // So many wait at either end of the relay, and one is in its hands.
    assert!((64..=129).contains(&sent), "{sent}");

    for _ in 0..1000 {
        assert!(flood.next().await.unwrap().is_some());
    }

    client.call("echo", &()).await.unwrap();
    assert_eq!(before.elapsed().as_secs(), 3600);
}

#[tokio::test]
async fn relay_passes_the_end_on_in_both_directions() {
    let (client, worker, mut reports) = relayed();
    let call = client.call("hang", &());
    assert_eq!(reports.recv().await, Some(Report::Started));
    drop(call);
    assert_eq!(reports.recv().await, Some(Report::Dropped), "the caller wants it no more");

    let call = client.call("hang", &());
    assert_eq!(reports.recv().await, Some(Report::Started));
    worker.close();
    assert_eq!(failure(call.await).class(), class::CONNECTION_CLOSED);
    assert_eq!(reports.recv().await, Some(Report::Dropped));
    assert_eq!(failure(client.call("echo", &()).await).class(), class::CONNECTION_CLOSED);

    let (client, _worker, mut reports) = relayed();
    let call = client.call("hang", &());
    assert_eq!(reports.recv().await, Some(Report::Started));
    client.close();
    assert_eq!(reports.recv().await, Some(Report::Dropped), "the caller is gone");
    assert!(matches!(call.await, Err(CallError::ConnectionClosed)));
}

#[tokio::test(start_paused = true)]
async fn idle_connection_sets_no_timer() {
    let (client, _reports) = pair();
    client.call("echo", &()).timeout(Duration::from_secs(60)).await.unwrap();
    let polls = Arc::new(AtomicUsize::new(0));
    let (here, there) = UnixStream::pair().unwrap();
    let (idle, mut driver) = Driver::new(here, Side::Connected, NoOperations, Settings::default());
    let counted = polls.clone();
    let task = tokio::spawn(std::future::poll_fn(move |cx| {
        counted.fetch_add(1, Ordering::Relaxed);
        std::pin::Pin::new(&mut driver).poll(cx)
    }));
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(polls.load(Ordering::Relaxed), 1);
    drop(there);
    task.await.unwrap().unwrap();
    idle.closed().await;
}

#[tokio::test]
async fn large_messages_pass_in_both_directions() {
    let (client, _reports) = pair();
    let text = "x".repeat(15 << 20);
    let answer = client.call("echo", &serde_json::json!({ "text": text })).await.unwrap();
    assert_eq!(answer.get::<String>("text").unwrap().map(|text| text.len()), Some(15 << 20));
    let error = client.call("echo", &serde_json::json!({ "text": "x".repeat(17 << 20) })).await.unwrap_err();
    assert!(matches!(error, CallError::Encode(_)), "{error}");
    client.call("echo", &()).await.unwrap();
}

#[tokio::test]
async fn answer_that_cannot_be_sent_fails_the_call() {
    let (here, there) = UnixStream::pair().unwrap();
    let operations = Operations::new()
        .immediate("large", |_| Ok(serde_json::json!({"text": "x".repeat(1000)})))
        .immediate("number", |_| Ok(5));
    let (_, driver) = Driver::new(there, Side::Accepted, operations, Settings::default().frame_limit(500));
    driver.spawn();
    let (client, driver) = Driver::new(here, Side::Connected, NoOperations, Settings::default());
    driver.spawn();
    assert_eq!(failure(client.call("large", &()).await).class(), class::INTERNAL);
    assert_eq!(failure(client.call("number", &()).await).class(), class::INTERNAL);
}

#[tokio::test]
async fn what_follows_an_answer_outlives_the_caller() {
    let (here, there) = UnixStream::pair().unwrap();
    let (done, mut finished) = mpsc::unbounded_channel();
    let operations = Operations::new().streaming("restart", move |_, responder| {
        let done = done.clone();
        async move {
            tokio::task::yield_now().await;
            let peer = responder.peer();
            responder.finish(&()).flushed().await;
            peer.closed().await;
            tokio::task::yield_now().await;
            done.send(()).unwrap();
        }
    });
    let (_, driver) = Driver::new(there, Side::Accepted, operations, Settings::default());
    driver.spawn();
    let (client, driver) = Driver::new(here, Side::Connected, NoOperations, Settings::default());
    driver.spawn();
    client.call("restart", &()).await.unwrap();
    drop(client);
    assert_eq!(finished.recv().await, Some(()));
}

#[tokio::test]
async fn connect_says_what_is_wrong() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(endpoint::DEFAULT_SOCKET);
    assert!(matches!(Client::connect(&path).await, Err(ConnectError::NotFound { path: named }) if named == path));

    let listener = UnixListener::bind(&path).unwrap();
    let client = Client::connect(&path).await.unwrap();
    let (accepted, _) = listener.accept().await.unwrap();
    let credentials = endpoint::Credentials::of(&accepted).unwrap();
    assert_eq!(credentials.process_id, Some(std::process::id()));
    drop((accepted, listener));
    client.closed().await;
    assert!(matches!(Client::connect(&path).await, Err(ConnectError::Stale { .. })));

    let long = directory.path().join("x".repeat(endpoint::PATH_LIMIT));
    let error = Client::connect(&long).await.unwrap_err();
    assert!(matches!(&error, ConnectError::PathTooLong(error) if error.limit == endpoint::PATH_LIMIT));
    assert!(error.to_string().contains("107"), "{error}");

    let name = endpoint::PATH_LIMIT - directory.path().as_os_str().len() - 1;
    let longest = directory.path().join("x".repeat(name));
    let _listener = UnixListener::bind(&longest).unwrap();
    Client::connect(&longest).await.unwrap();
}

#[tokio::test]
async fn connect_waits_while_the_backlog_is_full() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let socket = tokio::net::UnixSocket::new_stream().unwrap();
    socket.bind(&path).unwrap();
    let listener = socket.listen(1).unwrap();
    let connecting: Vec<_> = (0..8).map(|_| tokio::spawn(endpoint_connect(path.clone()))).collect();

    for _ in 0..8 {
        listener.accept().await.unwrap();
    }

    for task in connecting {
        task.await.unwrap().unwrap();
    }
}

async fn endpoint_connect(path: std::path::PathBuf) -> Result<UnixStream, ConnectError> {
    endpoint::connect(&path).await
}

#[test]
fn blocking_peer_in_another_language() {
    let (mut here, there) = BlockingStream::pair().unwrap();
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            there.set_nonblocking(true).unwrap();
            let stream = UnixStream::from_std(there).unwrap();
            let (_, driver) = Driver::new(stream, Side::Accepted, operations().0, Settings::default());
            driver.await.unwrap();
        });
    });
    here.write_all(b"\x00\x00\x00\x10\x83\xa2id\x02\xa2do\xa4echo\xa1a\x05").unwrap();
    let mut answer = [0; 22];
    here.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"\x00\x00\x00\x12\x83\xa2id\x02\xa8finished\xc3\xa1a\x05");
    drop(here);
    thread.join().unwrap();
}
