use std::io::Read;

use crate::application::{Application, Ended, State};

#[test]
fn nobody_was_ever_there() {
    let ended = Application::absent().acs(["status"]);
    assert_eq!(
        ended.error(3),
        "no supervisor listens at ./supervisor.ipc: there is no such file; is the application running in another \
         directory? use --socket\n"
    );
}

#[test]
fn a_stale_file_is_told() {
    let mut application = Application::start(State::default());
    application.stop();
    for command in ["status", "workers", "ping", "reload", "restart"] {
        let ended = application.acs([command]);
        let error = ended.error(3);
        assert!(error.starts_with("no supervisor listens at ./supervisor.ipc: the file there is stale"), "{error}");
    }
}

#[test]
fn a_file_that_is_no_socket_is_told() {
    let application = Application::absent();
    std::fs::write(application.socket(), "").unwrap();
    let ended = application.acs(["ping"]);
    assert!(ended.error(3).contains("the file there is not a socket"));
}

#[test]
fn the_socket_may_be_elsewhere() {
    let (application, elsewhere) = (Application::start(State::default()), Application::absent());
    let socket = application.socket();
    let socket = socket.to_str().unwrap();
    elsewhere.acs(["--socket", socket, "ping"]).text();
    elsewhere.acs(["ping", "--socket", socket]).text();

    let run = |variable: &str, arguments: &[&str]| {
        Ended::new(elsewhere.command(arguments).env("ACS_SOCKET", variable).output().unwrap())
    };
    run(socket, &["ping"]).text();
    // What is said explicitly counts more, and what is empty says nothing.
    assert!(run(socket, &["--socket", "other.ipc", "ping"]).error(3).contains(" ./other.ipc:"));
    assert!(run("", &["ping"]).error(3).contains(" ./supervisor.ipc:"));
}

#[test]
fn usage() {
    let application = Application::start(State::default());
    application.acs(["nonsense"]).error(2);
    application.acs(["call", "job"]).error(2);
    application.acs(["call", "job", "echo", "novalue"]).error(2);
    application.acs(["call", "job", "echo", "id=1"]).error(2);
    application.acs(["--timeout", "soon", "ping"]).error(2);
    application.acs(["--format", "yaml", "ping"]).error(2);
    application.acs([]).error(2);
    assert_eq!(application.acs(["call", "job", "echo", "a=1", "a=2"]).error(2), "the parameter 'a' is given twice\n");

    let path = "x".repeat(200);
    assert!(application.acs(["--socket", &path, "ping"]).error(2).contains("200 bytes long"));
}

#[test]
fn help_and_version() {
    let application = Application::absent();
    let ended = application.acs(["--help"]);
    for command in ["status", "workers", "ping", "call", "restart", "reload", "ready"] {
        assert!(ended.text().contains(&format!("\n  {command} ")), "{}", ended.text());
    }
    let version = concat!("acs ", env!("CARGO_PKG_VERSION"), "\n");
    assert_eq!(application.acs(["--version"]).text(), version);
}

#[test]
fn a_supervisor_that_does_not_answer_is_not_waited_for_for_ever() {
    let application = Application::absent();
    // It listens, and that is all it does.
    let _listener = std::os::unix::net::UnixListener::bind(application.socket()).unwrap();
    for command in ["status", "workers", "ping", "reload", "restart", "ready"] {
        let ended = application.acs(["--timeout", "50ms", command]);
        assert!(ended.error(124).contains(": whoever listens at ./supervisor.ipc has not answered; "), "{ended:?}");
    }
}

#[test]
fn what_was_given_up_is_not_done_by_the_next_supervisor() {
    let application = Application::absent();
    // Connections wait for whoever listens next, and what was written into them does, too.
    let listener = std::os::unix::net::UnixListener::bind(application.socket()).unwrap();
    let commands: [&[&str]; 5] =
        [&["restart"], &["reload"], &["replace", "web#1"], &["call", "supervisor", "restart"], &["reload", "--wait"]];
    for command in commands {
        let ended = Ended::new(application.command(["--timeout", "50ms"]).args(command).output().unwrap());
        ended.error(124);
        let mut asked = Vec::new();
        listener.accept().unwrap().0.read_to_end(&mut asked).unwrap();
        let asked = String::from_utf8_lossy(&asked);
        assert!(asked.contains("ping") && !asked.contains("restart") && !asked.contains("replace"), "{asked:?}");
    }
}

#[test]
fn a_peer_that_is_no_supervisor_is_told() {
    let application = Application::absent();
    let listener = std::os::unix::net::UnixListener::bind(application.socket()).unwrap();
    let _peer = std::thread::spawn(move || while listener.accept().is_ok() {});
    for command in ["ping", "status", "watch", "restart", "reload"] {
        let ended = application.acs([command]);
        let error = ended.error(1);
        assert!(
            error.starts_with("ConnectionClosed: whoever listens at ./supervisor.ipc closed the connection"),
            "{error}"
        );
    }
    // A supervisor that is replaced again and again may become ready in the end.
    let ended = application.acs(["ready", "--timeout", "100ms"]);
    assert!(ended.error(124).contains("whoever listens at ./supervisor.ipc has not answered"), "{ended:?}");
}
