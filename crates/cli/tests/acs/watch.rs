use std::{
    io::{BufRead, BufReader},
    process::{Child, ChildStdout, Command},
};

use serde_json::{Value, json};

use crate::application::{Application, Ended, State};

/// `acs watch`, read line by line.
struct Watch {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Watch {
    fn start(application: &Application, arguments: &[&str]) -> Self {
        let mut child = application.command(arguments).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Self { child, lines }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        line
    }

    fn document(&mut self) -> Value {
        let line = self.line();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
    }

    fn interrupt(self) -> Ended {
        let status = Command::new("kill").args(["-INT", &self.child.id().to_string()]).status().unwrap();
        assert!(status.success());
        Ended::new(self.child.wait_with_output().unwrap())
    }
}

fn happens(application: &Application, event: &Value) {
    application.change(|state| state.events.push(event.clone()));
}

#[test]
fn events_are_printed_until_interrupted() {
    let application = Application::start(State::default());
    let mut watch = Watch::start(&application, &["--format", "json", "watch"]);
    let register = json!({"event": "register", "at": 1.5, "name": "web", "process_id": 7, "connection_id": "aaaa-1"});
    happens(&application, &register);
    assert_eq!(watch.document(), register);
    let leak = json!({"event": "leak", "at": 2.5, "name": "web", "current_size": 2048});
    happens(&application, &leak);
    assert_eq!(watch.document(), leak);
    assert_eq!(watch.interrupt().error(130), "interrupted\n");
}

#[test]
fn events_are_chosen_by_name_and_shown_to_people() {
    let application = Application::start(State::default());
    happens(&application, &json!({"event": "register", "at": 1.5, "name": "web", "process_id": 7}));
    happens(
        &application,
        &json!({"event": "restart", "at": 1_767_225_600.25, "process_id": 7, "reason": "too\u{1b}old"}),
    );
    let mut watch = Watch::start(&application, &["watch", "restart", "leak"]);
    assert_eq!(watch.line(), "2026-01-01T00:00:00.250Z  restart   pid 7  too\u{fffd}old\n");
    assert_eq!(watch.interrupt().error(130), "interrupted\n");
}

#[test]
fn watching_goes_on_with_the_next_supervisor() {
    let application = Application::start(State::default());
    happens(&application, &json!({"event": "register", "at": 1.5}));
    let mut watch = Watch::start(&application, &["--format", "json", "watch"]);
    assert_eq!(watch.document()["event"], "register");
    application.change(|state| state.supervisor += 1);
    let gap = watch.document();
    assert_eq!((&gap["event"], &gap["count"]), (&json!("lost"), &Value::Null));
    assert_eq!(watch.document()["event"], "register");
    watch.interrupt();
}

#[test]
fn watching_ends_with_the_application() {
    let mut application = Application::start(State::default());
    happens(&application, &json!({"event": "register", "at": 1.5}));
    let mut watch = Watch::start(&application, &["watch"]);
    watch.line();
    application.stop();
    let ended = Ended::new(watch.child.wait_with_output().unwrap());
    assert!(ended.error(3).starts_with("no supervisor listens at "), "{ended:?}");
}

#[test]
fn an_unknown_event_is_an_error() {
    let application = Application::start(State::default());
    let ended = application.acs(["watch", "nonsense"]);
    assert_eq!(ended.error(1), "InvalidParameters: there is no event 'nonsense'\n");
}
