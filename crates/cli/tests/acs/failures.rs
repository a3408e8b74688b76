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
        application.acs(["--timeout", "50ms", command]).error(124);
    }
}

#[test]
fn a_peer_that_is_no_supervisor_is_told() {
    let application = Application::absent();
    let listener = std::os::unix::net::UnixListener::bind(application.socket()).unwrap();
    let peer = std::thread::spawn(move || drop(listener.accept().unwrap()));
    let ended = application.acs(["ping"]);
    let error = ended.error(1);
    assert!(error.starts_with("ConnectionClosed: ") && error.contains("try again"), "{error}");
    peer.join().unwrap();
}
