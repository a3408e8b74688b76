use std::{
    io::{BufRead, BufReader},
    process::Command,
};

use serde_json::{Value, json};

use crate::application::{Application, Ended, State, eventually};

#[test]
fn an_operation_of_a_worker() {
    let application = Application::start(State::default());
    let answer = application.json(["call", "web#2", "echo", "count=3", "text=30s", "list=[1,null]"]);
    assert_eq!(answer, json!({"connection_id": "bbbb0000-2", "count": 3, "text": "30s", "list": [1, null]}));
    assert_eq!(application.json(["call", "job", "echo"])["connection_id"], "bbcc0000-3");
    assert_eq!(application.json(["call", "pid:999999998", "echo"])["connection_id"], "bbcc0000-3");
    assert_eq!(application.json(["call", "aa", "echo"])["connection_id"], "aaaa0000-1");

    let ended = application.acs(["call", "job", "echo", "text=hello"]);
    assert_eq!(ended.text(), "connection_id: bbcc0000-3\ntext: hello\n");
}

#[test]
fn an_operation_of_the_supervisor() {
    let application = Application::start(State::default());
    assert_eq!(application.json(["call", "supervisor", "ping"])["uptime"], 192.5);
    assert_eq!(application.json(["call", "supervisor", "nothing"]), json!({}));
    assert_eq!(application.acs(["call", "supervisor", "nothing"]).text(), "");
}

#[test]
fn a_stream_is_one_document_a_line() {
    let application = Application::start(State::default());
    let ended = application.acs(["--format", "json", "call", "job", "count"]);
    let numbers: Vec<Value> = ended.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(numbers, [json!({"number": 1}), json!({"number": 2}), json!({"number": 3})]);
    assert_eq!(application.acs(["call", "job", "count"]).text(), "number: 1\nnumber: 2\nnumber: 3\n");
}

#[test]
fn a_report_is_shown_as_it_is() {
    let application = Application::start(State::default());
    assert_eq!(application.acs(["call", "job", "report"]).text(), "first\n\tsecond \u{fffd}[31m\n");
}

#[test]
fn an_operation_that_fails() {
    let application = Application::start(State::default());
    let ended = application.acs(["call", "job", "unknown"]);
    assert_eq!(ended.error(1), "UnknownOperation: the worker does not know that\n");
    let ended = application.acs(["call", "supervisor", "unknown"]);
    assert!(ended.error(1).starts_with("UnknownOperation: "));
}

#[test]
fn an_unknown_or_ambiguous_worker_lists_candidates() {
    let application = Application::start(State::default());
    let ended = application.acs(["call", "nobody", "echo"]);
    let error = ended.error(1);
    assert!(error.starts_with("ConnectionNotFound: no worker 'nobody'; there are:\n"), "{error}");
    assert!(error.contains("  bbcc0000  pid 999999998  job\n"), "{error}");

    let ended = application.acs(["call", "bb", "echo"]);
    let error = ended.error(1);
    assert!(
        error.starts_with("AmbiguousWorker: 'bb'") && error.contains("web#2") && !error.contains("web#1"),
        "{error}"
    );
}

/// Tables show them as such numbers.
#[test]
fn the_id_of_a_process_is_said_to_be_one() {
    let application = Application::start(State::default());
    let hint = "'999999998': that is the id of a process, which is named pid:999999998; there are:\n";
    for (command, kind) in [
        (["call", "999999998", "echo"], "worker"),
        (["thread-dump", "--color=never", "999999998"], "worker"),
        (["thread-dump", "--external", "999999998"], "worker or child"),
        (["replace", "--wait", "999999998"], "worker or child"),
    ] {
        let ended = application.acs(command);
        let error = ended.error(1);
        assert!(error.starts_with(&format!("ConnectionNotFound: no {kind} {hint}")), "{error}");
    }
    let ended = application.acs(["replace", "999999997"]);
    assert!(
        ended.error(1).starts_with("ConnectionNotFound: no worker or child '999999997'; there are:\n"),
        "{ended:?}"
    );
}

#[test]
fn what_takes_too_long_is_cancelled() {
    let application = Application::start(State::default());
    let ended = application.acs(["--timeout", "1.5s", "call", "job", "hang"]);
    assert_eq!(ended.error(124), "timed out after 1.5 s: use --timeout to wait longer\n");
    // The worker's operation is the one that has to be ended.
    eventually(|| application.cancelled() == 1);
    assert_eq!(application.hanging(), 1);
}

#[test]
fn an_interrupt_is_passed_on() {
    let application = Application::start(State::default());
    let child = application.command(["call", "supervisor", "hang"]).spawn().unwrap();
    eventually(|| application.hanging() == 1);
    let status = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(status.success());
    let ended = Ended::new(child.wait_with_output().unwrap());
    assert_eq!(ended.error(130), "interrupted\n");
    eventually(|| application.cancelled() == 1);
}

#[test]
fn a_reader_that_has_enough_is_no_failure() {
    let application = Application::start(State::default());
    let mut child =
        application.command(["--format", "json", "call", "job", "count", "to=18446744073709551615"]).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "{\"number\":1}\n");
    let ended = Ended::new(child.wait_with_output().unwrap());
    assert_eq!((ended.status, ended.stderr.as_str()), (0, ""));
}
