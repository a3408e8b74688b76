//! The operations of a supervisor, as a peer without our library sees them.

mod common;

use async_container_protocol::{CallError, Operations, Settings, class};
use async_container_supervisor_server::{ChildState, RootState, Server, Signal};
use common::{Lines, RootRequest, TestRoot, TestServer};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;

fn class_of(answer: &Value) -> &str {
    assert_eq!((&answer["finished"], &answer["failed"]), (&json!(true), &json!(true)), "{answer}");
    answer["error"]["class"].as_str().unwrap()
}

#[tokio::test]
async fn ping_and_unknown_operations() {
    let server = TestServer::start(Server::new());
    let mut client = server.lines().await;
    let answer = client.ask(json!({"id": 2, "do": "ping"})).await;
    assert_eq!((&answer["id"], &answer["process_id"]), (&json!(2), &json!(std::process::id())));
    assert!(answer["version"].is_string() && answer["uptime"].as_f64().unwrap() >= 0.0);
    assert_eq!(class_of(&client.ask(json!({"id": 4, "do": "dance"})).await), class::UNKNOWN_OPERATION);
    server.stop().await.unwrap();
    assert_eq!(client.hear().await, Value::Null);
}

#[tokio::test]
async fn worker_appears_in_status_and_goes_with_its_connection() {
    let server = TestServer::start(Server::new());
    let mut client = server.lines().await;
    assert_eq!(
        client.ask(json!({"id": 2, "do": "status"})).await,
        json!({"id": 2, "finished": true, "connections": []})
    );

    let mut worker = server.lines().await;
    let id = worker.register("one").await;
    let status = client.ask(json!({"id": 4, "do": "status"})).await;
    let process_id = std::process::id();
    let state = json!({"process_id": process_id, "name": "one"});
    assert_eq!(status["connections"], json!([{"connection_id": id, "process_id": process_id, "state": state}]));

    drop(worker);
    wait_until(&mut client, 0).await;
}

/// Asks until so many workers are connected.
async fn wait_until(client: &mut Lines, workers: usize) -> Value {
    loop {
        let status = client.ask(json!({"id": 100, "do": "status"})).await;

        if status["connections"].as_array().unwrap().len() == workers {
            return status["connections"].clone();
        }
    }
}

#[tokio::test]
async fn registering_twice_updates_the_state_and_leaves_no_phantom() {
    let server = TestServer::start(Server::new());
    let mut worker = server.lines().await;
    let id = worker.register("one").await;
    let again = worker.ask(json!({"id": 4, "do": "register", "state": {"name": "two", "extra": [1]}})).await;
    assert_eq!(again["connection_id"], json!(id));

    let mut client = server.lines().await;
    let connections = wait_until(&mut client, 1).await;
    let state = json!({"process_id": std::process::id(), "name": "two", "extra": [1]});
    assert_eq!(connections[0]["state"], state);
    drop(worker);
    wait_until(&mut client, 0).await;
}

#[tokio::test]
async fn process_id_is_what_the_kernel_says() {
    let server = TestServer::start(Server::new());
    let mut worker = server.lines().await;
    let wrong = worker.ask(json!({"id": 2, "do": "register", "state": {"process_id": 1}})).await;
    assert_eq!(class_of(&wrong), class::PERMISSION_DENIED);
    let odd = worker.ask(json!({"id": 2, "do": "register", "state": {"process_id": "me"}})).await;
    assert_eq!(class_of(&odd), class::INVALID_PARAMETERS);
    let none = worker.ask(json!({"id": 4, "do": "register"})).await;
    assert_eq!(none["error"]["message"], "the parameter 'state' is missing");
    let list = worker.ask(json!({"id": 4, "do": "register", "state": [1]})).await;
    assert_eq!(class_of(&list), class::INVALID_PARAMETERS);

    worker.ask(json!({"id": 6, "do": "register", "state": {"name": "x"}})).await;
    let connections = wait_until(&mut worker, 1).await;
    assert_eq!(connections[0]["state"]["process_id"], std::process::id());
}

#[tokio::test]
async fn state_that_is_too_large_is_refused() {
    let server = TestServer::start(Server::new());
    let mut worker = server.lines().await;
    let answer = worker.ask(json!({"id": 2, "do": "register", "state": {"x": "x".repeat(70_000)}})).await;
    assert_eq!(class_of(&answer), class::INVALID_PARAMETERS);
    let half = "x".repeat(40_000);
    worker.ask(json!({"id": 2, "do": "register", "state": {"x": half}})).await;
    let answer = worker.ask(json!({"id": 2, "do": "register", "state": {"y": half}})).await;
    assert_eq!(class_of(&answer), class::INVALID_PARAMETERS);
}

#[tokio::test]
async fn forward_passes_everything_on_but_the_id() {
    let server = TestServer::start(Server::new());
    let mut worker = server.lines().await;
    let id = worker.register("one").await;
    let mut client = server.lines().await;
    client
        .say(json!({"id": 7, "do": "forward", "connection_id": id, "operation": {"id": 999, "do": "work", "x": {"id": 1}}}))
        .await;
    let call = worker.hear().await;
    assert_eq!(call, json!({"id": 3, "do": "work", "x": {"id": 1}}));
    worker.say(json!({"part": 1, "id": 3})).await;
    worker.say(json!({"part": 2, "id": 3})).await;
    worker.say(json!({"id": 3, "finished": true, "sum": 3})).await;
    assert_eq!(client.hear().await, json!({"id": 7, "part": 1}));
    assert_eq!(client.hear().await, json!({"id": 7, "part": 2}));
    assert_eq!(client.hear().await, json!({"id": 7, "finished": true, "sum": 3}));

    client.say(json!({"id": 9, "do": "forward", "connection_id": id, "operation": {"do": "work"}})).await;
    assert_eq!(worker.hear().await["id"], 5);
    let error = json!({"class": "Odd", "message": "m", "backtrace": ["a"]});
    worker.say(json!({"id": 5, "finished": true, "failed": true, "error": error})).await;
    assert_eq!(client.hear().await, json!({"id": 9, "finished": true, "failed": true, "error": error}));
}

#[tokio::test]
async fn forward_without_what_it_needs_fails_at_once() {
    let server = TestServer::start(Server::new());
    let mut worker = server.lines().await;
    let id = worker.register("one").await;
    let mut client = server.lines().await;
    let cases = [
        (json!({"operation": {"do": "x"}}), class::INVALID_PARAMETERS),
        (json!({"connection_id": 5, "operation": {"do": "x"}}), class::INVALID_PARAMETERS),
        (json!({"connection_id": id}), class::INVALID_PARAMETERS),
        (json!({"connection_id": id, "operation": "x"}), class::INVALID_PARAMETERS),
        (json!({"connection_id": id, "operation": {"x": 1}}), class::INVALID_PARAMETERS),
        (json!({"connection_id": id, "operation": {"do": 5}}), class::INVALID_PARAMETERS),
        (json!({"connection_id": "nobody", "operation": {"do": "x"}}), class::CONNECTION_NOT_FOUND),
    ];

    for (mut call, expected) in cases {
        call["id"] = 2.into();
        call["do"] = "forward".into();
        let answer = client.ask(call.clone()).await;
        assert_eq!(class_of(&answer), expected, "{call}");
    }
}

#[tokio::test]
async fn forward_ends_when_the_worker_goes() {
    let server = TestServer::start(Server::new());
    let mut worker = server.lines().await;
    let id = worker.register("one").await;
    let mut client = server.lines().await;
    let forward = json!({"id": 2, "do": "forward", "connection_id": id, "operation": {"do": "x"}});
    client.say(forward.clone()).await;
    worker.hear().await;
    worker.say(json!({"id": 3, "part": 1})).await;
    assert_eq!(client.hear().await, json!({"id": 2, "part": 1}));
    drop(worker);
    assert_eq!(class_of(&client.hear().await), class::CONNECTION_CLOSED);
    wait_until(&mut client, 0).await;
    assert_eq!(class_of(&client.ask(forward).await), class::CONNECTION_NOT_FOUND);
}

#[tokio::test]
async fn forward_passes_cancellation_on() {
    let server = TestServer::start(Server::new());
    let mut worker = server.lines().await;
    let id = worker.register("one").await;
    let forward = json!({"id": 2, "do": "forward", "connection_id": id, "operation": {"do": "x"}});
    let mut client = server.lines().await;
    client.say(forward.clone()).await;
    worker.hear().await;
    client.say(json!({"id": 2, "cancel": true})).await;
    assert_eq!(worker.hear().await, json!({"id": 3, "cancel": true}));
    // A worker that was too late to stop.
    worker.say(json!({"id": 3, "finished": true})).await;
    assert_eq!(client.ask(json!({"id": 4, "do": "ping"})).await["id"], 4);

    client.say(forward).await;
    worker.hear().await;
    drop(client);
    assert_eq!(worker.hear().await, json!({"id": 5, "cancel": true}));
}

#[tokio::test]
async fn restart_answers_before_the_signal() {
    let (root, mut requests) = TestRoot::new(true);
    let server = TestServer::start(Server::new().root(root));
    let mut client = server.lines().await;

    for (name, signal) in [
        (None, Signal::Int),
        (Some("INT"), Signal::Int),
        (Some("HUP"), Signal::Hup),
        (Some("TERM"), Signal::Term),
        (Some("USR1"), Signal::Usr1),
        (Some("SIGUSR2"), Signal::Usr2),
    ] {
        let answer = client.ask(json!({"id": 2, "do": "restart", "signal": name})).await;
        assert_eq!(answer, json!({"id": 2, "finished": true}));
        assert_eq!(requests.recv().await, Some(RootRequest::Signal(signal)));
    }

    for signal in [json!("KILL"), json!("int"), json!(9)] {
        let answer = client.ask(json!({"id": 2, "do": "restart", "signal": signal})).await;
        assert_eq!(class_of(&answer), class::INVALID_PARAMETERS);
    }

    assert!(requests.is_empty());
}

#[tokio::test]
async fn children_and_readiness_come_from_the_root() {
    let server = TestServer::start(Server::new().root(TestRoot::new(true).0));
    let mut client = server.lines().await;
    assert_eq!(class_of(&client.ask(json!({"id": 2, "do": "children"})).await), class::NOT_SUPPORTED);
    assert_eq!(class_of(&client.ask(json!({"id": 2, "do": "ready"})).await), class::NOT_SUPPORTED);

    let child = |name: &str, state: &str| ChildState { name: name.into(), state: state.into(), ..Default::default() };
    let state = RootState {
        process_id: 7,
        generation: 1,
        children: vec![child("web-0", "ready"), child("web-1", "starting")],
        ..Default::default()
    };
    let root = TestRoot::new(true).0.with_state(state);
    let server = TestServer::start(Server::new().root(root.clone()));
    let mut client = server.lines().await;
    let children = client.ask(json!({"id": 2, "do": "children"})).await;
    assert_eq!((&children["process_id"], &children["children"][1]["state"]), (&json!(7), &json!("starting")));
    let not_yet =
        json!({"id": 2, "finished": true, "ready": false, "generation": 1, "reloads": 0, "waiting": ["web-1"]});
    assert_eq!(client.ask(json!({"id": 2, "do": "ready"})).await, not_yet);

    client.say(json!({"id": 4, "do": "ready", "wait": true})).await;
    client.say(json!({"id": 6, "do": "ready", "wait": true, "reloads": 0})).await;
    assert_eq!(client.ask(json!({"id": 2, "do": "ready"})).await, not_yet, "the others wait");
    root.set_state(|state| {
        state.ready = true;
        state.children[1].state = "ready".into();
    });
    let ready = client.hear().await;
    assert_eq!((&ready["id"], &ready["ready"], &ready["waiting"]), (&json!(4), &json!(true), &json!([])));
    root.set_state(|state| {
        state.reloading = true;
        state.reloads = 1;
    });
    assert_eq!(client.ask(json!({"id": 2, "do": "ready"})).await["reloads"], 1);
    root.set_state(|state| {
        state.reloading = false;
        state.reload_error = Some("web-1 did not start".into());
    });
    let reloaded = client.hear().await;
    assert_eq!((&reloaded["id"], &reloaded["reload_error"]), (&json!(6), &json!("web-1 did not start")));

    client.say(json!({"id": 8, "do": "ready", "wait": true, "reloads": 1})).await;
    let wrong = client.ask(json!({"id": 2, "do": "ready", "reloads": "x"})).await;
    assert_eq!(class_of(&wrong), class::INVALID_PARAMETERS);
}

#[tokio::test]
async fn application_has_operations_of_its_own() {
    let server = Server::new();
    let workers = server.workers();
    let counted = workers.clone();
    let server = server
        .operation("count", move |_| {
            let workers = counted.clone();
            async move { Ok(json!({"count": workers.all().len()})) }
        })
        .operations(Operations::new().streaming("relay", move |_, responder| {
            let worker = workers.all().into_iter().next();
            async move {
                let call = worker.unwrap().client().call("x", &());
                responder.relay(call);
            }
        }));
    let server = TestServer::start(server);
    let mut worker = server.lines().await;
    worker.register("one").await;
    let mut client = server.lines().await;
    assert_eq!(client.ask(json!({"id": 2, "do": "count"})).await["count"], 1);
    client.say(json!({"id": 4, "do": "relay"})).await;
    assert_eq!(worker.hear().await, json!({"id": 3, "do": "x"}));
    worker.say(json!({"id": 3, "finished": true, "y": 5})).await;
    assert_eq!(client.hear().await, json!({"id": 4, "finished": true, "y": 5}));
}

#[tokio::test]
async fn garbage_costs_its_own_connection_and_no_other() {
    let server = TestServer::start(Server::new().settings(Settings::default().frame_limit(1 << 16)));
    let mut worker = server.lines().await;
    worker.register("one").await;
    let garbage: [&[u8]; 6] = [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x00\x00\x00\x00",
        b"\x7f\xff\xff\xff",
        b"\x00\x00\x00\x02\xff\xff",
        b"{\"id\":1,\"do\":\n",
        &[b'{'; 70_000],
    ];

    for bytes in garbage {
        let mut client = tokio::net::UnixStream::connect(&server.path).await.unwrap();
        tokio::io::AsyncWriteExt::write_all(&mut client, bytes).await.unwrap();
        let mut rest = Vec::new();
        let _ = client.read_to_end(&mut rest).await;
    }

    // A state with text that is not UTF-8 must not reach anybody's status.
    let mut client = tokio::net::UnixStream::connect(&server.path).await.unwrap();
    let register = b"\x83\xa2id\x02\xa2do\xa8register\xa5state\x81\xa4name\xa2\xff\xfe";
    let frame = [&(register.len() as u32).to_be_bytes()[..], register].concat();
    tokio::io::AsyncWriteExt::write_all(&mut client, &frame).await.unwrap();
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).await.unwrap();
    assert!(String::from_utf8_lossy(&answer).contains(class::INVALID_MESSAGE));
    assert_eq!(wait_until(&mut worker, 1).await[0]["state"]["name"], "one");
}

#[tokio::test]
async fn client_that_never_reads_stops_nobody() {
    let server = TestServer::start(Server::new());
    let mut worker = server.lines().await;
    worker.register("one").await;
    let deaf = tokio::net::UnixStream::connect(&server.path).await.unwrap();
    let calls = b"{\"id\":1,\"do\":\"status\"}\n".repeat(1000);

    // As much as it can get rid of.
    while let Ok(count) = deaf.try_write(&calls) {
        assert!(count > 0);
        tokio::task::yield_now().await;
    }

    // Before the deaf one would be given up.
    let others = async {
        for _ in 0..100 {
            wait_until(&mut worker, 1).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(20), others).await.unwrap();
}

#[tokio::test]
async fn many_workers_keep_the_order_in_which_they_came() {
    let server = TestServer::start(Server::new());
    let mut workers = Vec::new();
    let mut ids = Vec::new();

    for number in 0..50 {
        let mut worker = server.lines().await;
        ids.push(worker.register(&format!("worker-{number}")).await);
        workers.push(worker);
    }

    let client = server.client().await;
    let status = client.call("status", &()).await.unwrap().to_json();
    let listed: Vec<_> =
        status["connections"].as_array().unwrap().iter().map(|one| one["connection_id"].clone()).collect();
    assert_eq!(listed, ids);
    assert!(ids.iter().all(|id| id.len() == 36), "UUIDs");
    let unknown = client.call("forward", &json!({"connection_id": "x", "operation": {"do": "x"}})).await.unwrap_err();
    assert!(matches!(unknown, CallError::Failed(failure) if failure.class() == class::CONNECTION_NOT_FOUND));
}

#[tokio::test]
async fn one_process_is_replaced_on_request() {
    let process_id = std::process::id();
    let child = ChildState { name: "web#1".to_owned(), process_id: Some(process_id), ..ChildState::default() };
    let (root, mut requests) = TestRoot::new(true);
    let root = root.with_state(RootState { children: vec![child], ..RootState::default() });
    let server = TestServer::start(Server::new().root(root));
    let (mut client, mut worker) = (server.lines().await, server.lines().await);
    let id = worker.register("web").await;

    let answer = client.ask(json!({"id": 2, "do": "replace", "connection_id": id, "reason": "too old"})).await;
    assert_eq!(answer, json!({"id": 2, "finished": true, "process_id": process_id}));
    assert_eq!(requests.recv().await.unwrap(), RootRequest::Replace(process_id, "too old".to_owned()));

    for (parameters, class) in [
        (json!({}), class::INVALID_PARAMETERS),
        (json!({"connection_id": id, "process_id": process_id}), class::INVALID_PARAMETERS),
        (json!({"connection_id": "nobody"}), class::CONNECTION_NOT_FOUND),
        (json!({"process_id": 1}), class::NOT_SUPPORTED),
    ] {
        let mut call = json!({"id": 4, "do": "replace"});
        call.as_object_mut().unwrap().extend(parameters.as_object().unwrap().clone());
        assert_eq!(class_of(&client.ask(call).await), class);
    }
    assert!(requests.try_recv().is_err(), "nothing else was asked for");
    server.stop().await.unwrap();
}

#[tokio::test]
async fn a_root_that_does_not_tell_is_asked_for_workers_only() {
    let (root, mut requests) = TestRoot::new(true);
    let server = TestServer::start(Server::new().root(root));
    let (mut client, mut worker) = (server.lines().await, server.lines().await);
    worker.register("web").await;
    assert_eq!(
        class_of(&client.ask(json!({"id": 2, "do": "replace", "process_id": 1})).await),
        class::CONNECTION_NOT_FOUND
    );
    let process_id = std::process::id();
    let answer = client.ask(json!({"id": 4, "do": "replace", "process_id": process_id})).await;
    assert_eq!(answer["process_id"], process_id);
    assert_eq!(requests.recv().await.unwrap(), RootRequest::Replace(process_id, "asked for".to_owned()));
    server.stop().await.unwrap();
}
