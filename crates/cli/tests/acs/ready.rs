use crate::application::{Application, Ended, State, eventually};

fn starting() -> State {
    State { ready: false, waiting: vec!["web#1".into(), "web#2".into()], ..State::default() }
}

#[test]
fn everything_is_ready() {
    let application = Application::start(State::default());
    assert_eq!(application.acs(["ready"]).text(), "ready\n");
    assert_eq!(application.json(["ready"])["ready"], true);
    assert_eq!(application.acs(["ready", "--timeout", "0"]).text(), "ready\n");
}

#[test]
fn it_becomes_ready() {
    let application = Application::start(starting());
    let child = application.command(["ready"]).spawn().unwrap();
    // The connection, and the call that waits.
    eventually(|| application.followers() == 2);
    application.change(|state| state.ready = true);
    assert_eq!(Ended::new(child.wait_with_output().unwrap()).text(), "ready\n");
}

#[test]
fn it_does_not_become_ready_in_time() {
    let application = Application::start(starting());
    for time in ["0", "100ms"] {
        let ended = application.acs(["ready", "--timeout", time]);
        let error = ended.error(124);
        assert!(error.ends_with(" s: not everything is ready, waiting for web#1, web#2\n"), "{error}");
    }
}

#[test]
fn there_never_was_a_supervisor() {
    let ended = Application::absent().acs(["ready", "--timeout", "100ms"]);
    assert!(ended.error(3).starts_with("no supervisor listens at ./supervisor.ipc"));
}

#[test]
fn the_supervisor_comes_later() {
    let mut application = Application::absent();
    let child = application.command(["ready", "--timeout", "60s"]).spawn().unwrap();
    application.listen();
    assert_eq!(Ended::new(child.wait_with_output().unwrap()).text(), "ready\n");
}

#[test]
fn the_supervisor_is_replaced_meanwhile() {
    let application = Application::start(starting());
    let child = application.command(["ready"]).spawn().unwrap();
    eventually(|| application.followers() == 2);
    application.change(|state| state.supervisor += 1);
    eventually(|| application.followers() == 2);
    application.change(|state| state.ready = true);
    assert_eq!(Ended::new(child.wait_with_output().unwrap()).text(), "ready\n");
}

#[test]
fn the_supervisor_goes_for_good() {
    let mut application = Application::start(starting());
    let child = application.command(["ready", "--timeout", "3s"]).spawn().unwrap();
    eventually(|| application.followers() == 2);
    application.stop();
    let ended = Ended::new(child.wait_with_output().unwrap());
    assert!(ended.error(124).contains("waiting for web#1, web#2"), "there was one: {ended:?}");
}

#[test]
fn a_supervisor_that_cannot_tell_says_so() {
    let application = Application::start(State { supported: false, ..State::default() });
    let ended = application.acs(["ready"]);
    assert_eq!(
        ended.error(1),
        "NotSupported: the supervisor has no link to a root; it cannot be told whether everything is ready\n"
    );
}
