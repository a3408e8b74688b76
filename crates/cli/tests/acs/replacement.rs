use serde_json::json;

use crate::application::{Application, Ended, State, eventually};

#[test]
fn without_waiting_the_root_is_signalled() {
    let application = Application::start(State::default());
    assert!(application.acs(["reload"]).text().starts_with("reload requested"));
    assert!(application.acs(["restart"]).text().starts_with("restart requested"));
    assert_eq!(application.json(["reload"]), json!({"signal": "HUP"}));
    eventually(|| application.signals() == ["HUP", "INT", "HUP"]);
}

#[test]
fn a_reload_is_seen_through() {
    // The supervisor is replaced with the rest, while the reload is being waited for.
    let application = Application::start_with(State::default(), |_, state| {
        state.send_modify(|state| (state.supervisor, state.ready) = (1, false));
    });
    let child = application.command(["reload", "--wait", "--format", "json"]).spawn().unwrap();
    eventually(|| application.signals() == ["HUP"]);
    // It has connected to the new one.
    eventually(|| application.followers() == 2);
    application.change(|state| (state.generation, state.reloads, state.ready) = (2, 1, true));

    let ended = Ended::new(child.wait_with_output().unwrap());
    let expected = json!({"signal": "HUP", "generation": 2, "previous_generation": 1, "reloads": 1, "ready": true});
    assert_eq!(serde_json::from_str::<serde_json::Value>(ended.text()).unwrap(), expected);
}

#[test]
fn a_reload_is_told_to_people() {
    let application = Application::start_with(State::default(), |_, state| {
        state.send_modify(|state| (state.generation, state.reloads, state.supervisor) = (2, 1, 1));
    });
    assert_eq!(application.acs(["reload", "--wait"]).text(), "reloaded: generation 2 is ready\n");
}

#[test]
fn a_reload_that_fails_says_why() {
    let application = Application::start_with(State::default(), |_, state| {
        state.send_modify(|state| (state.reloads, state.reload_error) = (1, Some("web#1 exited with status 1".into())));
    });
    let ended = application.acs(["reload", "--wait"]);
    assert_eq!(ended.error(1), "ReloadFailed: web#1 exited with status 1; generation 1 goes on\n");
    // Its error is remembered, and is not that of the next one.
    let ended = application.acs(["--timeout", "1.5s", "reload", "--wait"]);
    assert!(ended.error(124).contains("the reload goes on"));
}

#[test]
fn an_application_that_is_restarted_meanwhile_is_no_reload() {
    let application = Application::start_with(State::default(), |_, state| {
        state.send_modify(|state| (state.root, state.supervisor) = (5, 1));
    });
    let ended = application.acs(["reload", "--wait"]);
    let error = ended.error(1);
    assert!(error.starts_with("ReloadFailed: the application was restarted meanwhile"), "{error}");
}

#[test]
fn a_restart_is_seen_through() {
    let application = Application::start_with(State::default(), |_, state| {
        state.send_modify(|state| (state.root, state.supervisor, state.ready) = (0, 1, false));
    });
    let child = application.command(["restart", "--wait"]).spawn().unwrap();
    eventually(|| application.signals() == ["INT"]);
    // The new supervisor has not heard from the new root, then has, and then everything is ready.
    application.change(|state| state.root = 5);
    eventually(|| application.followers() == 2);
    application.change(|state| state.ready = true);
    let ended = Ended::new(child.wait_with_output().unwrap());
    assert_eq!(ended.text(), format!("restarted: root 5 is ready, in place of {}\n", std::process::id()));
}

#[test]
fn an_application_that_is_not_started_again_is_told() {
    let mut application = Application::start(State::default());
    let child = application.command(["restart", "--wait", "--timeout", "3s"]).spawn().unwrap();
    eventually(|| application.signals() == ["INT"]);
    application.stop();
    let ended = Ended::new(child.wait_with_output().unwrap());
    assert!(ended.error(124).contains("is there a service manager?"), "{ended:?}");
}

#[test]
fn a_root_that_does_not_go_is_told() {
    let application = Application::start(State::default());
    let ended = application.acs(["restart", "--wait", "--timeout", "1.5s"]);
    assert!(ended.error(124).contains("still running"), "{ended:?}");
}

#[test]
fn without_a_link_to_the_root_nothing_is_signalled() {
    let application = Application::start(State { supported: false, ..State::default() });
    for command in ["reload", "restart"] {
        let ended = application.acs([command, "--wait"]);
        assert!(ended.error(1).starts_with("NotSupported: ") && ended.stderr.contains("not with --wait"), "{ended:?}");
    }
    assert!(application.signals().is_empty());
}
