use serde_json::{Value, json};

use crate::application::{Application, State};

fn monitored() -> State {
    let this = std::process::id();
    State {
        children: json!([
            {"name": "web#1", "service": "web", "instance": 1, "generation": 1, "process_id": this, "state": "ready",
             "restarts": 2, "last_exit": "status 1", "next_start": null},
            {"name": "web#2", "service": "web", "instance": 2, "generation": 1, "process_id": null, "state": "waiting",
             "restarts": 7, "last_exit": "signal 11", "next_start": 4e9},
        ]),
        monitors: vec![
            json!({"memory": {
                "maximum_size_limit": 500 << 20, "total_size": 45 << 20,
                "host": {"total_size": 8u64 << 30, "available_size": 4u64 << 30},
                "processes": [{"process_id": this, "name": "web", "sample_count": 3, "current_size": 45 << 20,
                               "maximum_size": 50 << 20, "maximum_size_limit": 500 << 20}],
            }}),
            json!({"process": {"root_process_id": 1, "processes": [
                {"process_id": this, "parent_process_id": 1, "process_group_id": 1, "processor_utilization": 0.125,
                 "total_size": 40 << 20, "virtual_size": 1 << 30, "resident_size": 44 << 20, "processor_time": 1.5,
                 "elapsed_time": 192.0, "command": "web --serve"},
            ]}}),
            json!({"queue": {"depth": 5, "names": ["a", "b"]}}),
            json!({"broken": {"error": {"class": "Internal", "message": "it panicked"}}}),
        ],
        ..State::default()
    }
}

#[test]
fn status_shows_everything_to_people() {
    let application = Application::start(monitored());
    let ended = application.acs(["status"]);
    let text = ended.text();
    let this = std::process::id();

    let lines = [
        &format!("supervisor 9.9.9, pid {this}, up 3 min 12 s"),
        &format!("root pid {this}, generation 1, ready"),
        "Monitor memory: 45.0 MiB in use, limit 500.0 MiB a process; the host has 4.0 GiB of 8.0 GiB available",
        "Monitor process of root 1",
        "Monitor queue",
        "depth: 5",
        "names: a, b",
        "Monitor broken: Internal: it panicked",
    ];
    for line in lines {
        assert!(text.lines().any(|found| found == line), "{line:?} is missing in\n{text}");
    }

    // The columns of a row, however wide they are.
    let rows: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
    let this = this.to_string();
    let expected = [
        vec!["web#1", &this, "ready", "2", "status", "1", "-"],
        vec![&this, "web#1", "45.0", "MiB", "50.0", "MiB", "500.0", "MiB", "3"],
        vec![&this, "1", "12.5%", "44.0", "MiB", "40.0", "MiB", "1", "s", "3", "min", "12", "s", "web", "--serve"],
        vec!["bbcc0000", "999999998", "job", "-", "-", "-", "connected"],
    ];
    for row in &expected {
        assert!(rows.contains(row), "{row:?} is missing in\n{text}");
    }
    assert!(rows.iter().any(|row| row.starts_with(&["web#2", "-", "waiting", "7", "signal", "11", "in"])), "{text}");
    assert!(!text.contains('\x1b'), "a pipe is no terminal");
}

#[test]
fn status_is_one_document_for_programs() {
    let application = Application::start(monitored());
    let document = application.json(["status"]);
    assert_eq!(document["supervisor"]["version"], "9.9.9");
    assert_eq!(document["root"]["children"][1]["state"], "waiting");
    assert_eq!(document["monitors"]["queue"]["depth"], 5);
    assert_eq!(document["monitors"]["broken"]["error"]["class"], "Internal");
    assert_eq!(document["workers"].as_array().unwrap().len(), 3);
    assert_eq!(document["workers"][0]["connection_id"], "bbcc0000-3");
    assert_eq!(document["workers"][0]["state"]["name"], "job");
}

#[test]
fn status_does_without_a_root() {
    let application = Application::start(State { supported: false, ..State::default() });
    assert_eq!(application.json(["status"])["root"], Value::Null);
    let ended = application.acs(["status"]);
    assert!(!ended.text().contains("root pid"));
}

#[test]
fn status_tells_of_a_reload_that_failed() {
    let state = State { reload_error: Some("web#1 exited".into()), ready: false, ..State::default() };
    let ended = Application::start(state).acs(["status"]);
    assert!(ended.text().contains("generation 1, not ready\nthe last reload failed: web#1 exited\n"));
}

#[test]
fn workers_are_rows() {
    let application = Application::start(monitored());
    let ended = application.acs(["workers"]);
    let rows: Vec<Vec<&str>> = ended.text().lines().map(|line| line.split_whitespace().collect()).collect();
    let this = std::process::id().to_string();
    assert_eq!(rows[0], ["ID", "PID", "NAME", "UPTIME", "MEMORY", "CPU", "STATE"]);
    assert_eq!(rows[1], ["bbcc0000", "999999998", "job", "-", "-", "-", "connected"]);
    assert_eq!(rows[2][..3], ["aaaa0000", &this, "web#1"]);
    // Its uptime is the process's own, which is this test's.
    assert_eq!(rows[2][rows[2].len() - 4..], ["45.0", "MiB", "12.5%", "ready"]);
    assert_eq!(rows[3][2], "web#2");
}

#[test]
fn workers_are_one_document_for_programs() {
    let workers = Application::start(monitored()).json(["workers"]);
    let worker = &workers[1];
    assert_eq!(worker["connection_id"], "aaaa0000-1");
    assert_eq!(worker["process_id"], std::process::id());
    assert_eq!(worker["name"], "web");
    assert_eq!(worker["memory"], 45 << 20);
    assert_eq!(worker["processor_utilization"], 0.125);
    assert_eq!((&worker["child"], &worker["lifecycle"]), (&json!("web#1"), &json!("ready")));
    assert_eq!(worker["state"], json!({"name": "web", "instance": 1}));
    assert!(worker["uptime"].as_f64().unwrap() < 3600.0);
    assert_eq!(workers[0]["memory"], Value::Null);
}

#[test]
fn processes_of_the_same_namespace_are_looked_at() {
    // No monitor has the figures.
    let workers = Application::start(State::default()).json(["workers"]);
    assert!(workers[1]["memory"].as_u64().unwrap() > 100_000, "{workers}");
    // The process that listens is not the one that the supervisor takes for its root: the ids mean something else.
    let state = State { root: 4, supported: true, ..State::default() };
    let workers = Application::start(state).json(["workers"]);
    assert!(workers[1]["memory"].as_u64().is_some(), "the supervisor itself listens: {workers}");
}

#[test]
fn no_workers_are_told() {
    let application = Application::start(State { connections: json!([]), ..State::default() });
    assert_eq!(application.acs(["workers"]).text(), "no workers are connected\n");
    assert_eq!(application.json(["workers"]), json!([]));
}

#[test]
fn names_cannot_control_the_terminal() {
    let connections = json!([{"connection_id": "a", "process_id": 1, "state": {"name": "\u{1b}[2J\nweb"}}]);
    let ended = Application::start(State { connections, ..State::default() }).acs(["workers"]);
    assert!(!ended.text().contains('\x1b') && ended.text().contains("\u{fffd}[2J web"), "{}", ended.text());
}

#[test]
fn ping_measures() {
    let application = Application::start(State::default());
    let document = application.json(["ping"]);
    assert_eq!(document["version"], "9.9.9");
    assert_eq!(document["client_version"], env!("CARGO_PKG_VERSION"));
    assert!(document["round_trip"].as_f64().unwrap() > 0.0);
    let ended = application.acs(["ping"]);
    let beginning = format!("supervisor 9.9.9, pid {}, up 3 min 12 s, answered in ", std::process::id());
    assert!(ended.text().starts_with(&beginning), "{}", ended.text());
}

#[test]
fn color_is_for_terminals_and_for_who_asks() {
    let application = Application::start(monitored());
    assert!(!application.acs(["workers"]).text().contains('\x1b'));
    assert!(application.acs(["--color", "always", "workers"]).text().contains("\x1b[32mready\x1b[0m"));
    assert!(!application.acs(["--color", "never", "workers"]).text().contains('\x1b'));
}
