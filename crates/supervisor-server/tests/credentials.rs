//! Who is let in. Most of these start processes of other users and namespaces, which only root can; as anyone else they
//! pass without a look.

mod common;

use std::{
    io::{BufRead, BufReader, Write},
    os::unix::{fs::PermissionsExt, net::UnixStream, process::CommandExt},
    process::{Command, Output, Stdio},
};

use async_container_supervisor_server::{Role, Server};
use common::TestServer;
use serde_json::{Value, json};

const NOBODY: u32 = 65534;

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// What the tests start: says what it is told to, and prints what it hears.
#[test]
fn peer_process() {
    let (Some(path), Ok(line)) = (std::env::var_os("TEST_PEER_SOCKET"), std::env::var("TEST_PEER_LINE")) else {
        return;
    };
    let mut stream = UnixStream::connect(path).unwrap();
    writeln!(stream, "{line}").unwrap();
    let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
    println!("\nheard {}", lines.next().map_or(Ok("nothing".into()), |line| line).unwrap());

    if std::env::var_os("TEST_PEER_ENDS").is_none() {
        println!("\nended {}", lines.next().is_none());
        return;
    }

    writeln!(stream, "{}", json!({"id": 4, "do": "status"})).unwrap();
    println!("\nheard {}", lines.next().unwrap().unwrap());
}

/// What a test starts to connect, and leave the connection to a process of its own that passes on what it reads, both ways.
#[test]
#[expect(clippy::zombie_processes, reason = "it is to outlive this process")]
fn peer_process_that_ends() {
    let Some(path) = std::env::var_os("TEST_LEFT_SOCKET") else { return };
    let stream = UnixStream::connect(path).unwrap();
    let passes_on = "cat <&1 >&2 & exec cat";
    Command::new("sh").args(["-c", passes_on]).stdout(std::os::fd::OwnedFd::from(stream)).spawn().unwrap();
}

#[tokio::test]
async fn who_has_ended_is_no_worker_whoever_holds_the_connection() {
    let server = TestServer::start(Server::new());
    let mut command = Command::new("/proc/self/exe");
    command.args(["--exact", "peer_process_that_ends"]).env("TEST_LEFT_SOCKET", &server.path);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut peer = command.spawn().unwrap();
    let (mut to, from) = (peer.stdin.take().unwrap(), peer.stderr.take().unwrap());

    let answers = tokio::task::spawn_blocking(move || {
        assert!(peer.wait().unwrap().success());
        let mut lines = BufReader::new(from).lines();
        let mut ask = |call: Value| -> Value {
            writeln!(to, "{call}").unwrap();
            serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap()
        };
        let answers = [ask(json!({"id": 2, "do": "register", "state": {}})), ask(json!({"id": 4, "do": "status"}))];
        drop(to);
        answers
    });
    let [registered, status] = answers.await.unwrap();
    let error = &registered["error"];
    assert_eq!(error["class"], "PermissionDenied", "{registered}");
    assert!(error["message"].as_str().unwrap().starts_with("the process that connected has ended"), "{error}");
    assert_eq!(status["connections"], json!([]));
}

fn heard(output: &Output) -> Vec<Value> {
    let output = String::from_utf8_lossy(&output.stdout);
    let heard = output.lines().filter_map(|line| line.strip_prefix("heard "));
    heard.map(|line| serde_json::from_str(line).unwrap_or_default()).collect()
}

async fn run(mut command: Command, server: &TestServer, line: Value) -> Output {
    let directory = server.path.parent().unwrap();
    std::fs::set_permissions(directory, PermissionsExt::from_mode(0o755)).unwrap();
    std::fs::set_permissions(&server.path, PermissionsExt::from_mode(0o666)).unwrap();
    command.env("TEST_PEER_SOCKET", &server.path).env("TEST_PEER_LINE", line.to_string());
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

#[tokio::test]
async fn other_users_are_refused_unless_allowed() {
    if !is_root() {
        return;
    }

    let ping = json!({"id": 2, "do": "ping"});
    let cases = [
        (Server::new(), false),
        (Server::new().allow_user(NOBODY, Role::Observe), true),
        (Server::new().allow_group(NOBODY, Role::Work), true),
        (Server::new().allow_user(NOBODY - 1, Role::Operate).allow_group(NOBODY - 1, Role::Operate), false),
    ];

    for (server, allowed) in cases {
        let server = TestServer::start(server);
        // Not by its path, which may lie where that user may not look.
        let mut command = Command::new("/proc/self/exe");
        command.args(["--exact", "peer_process", "--nocapture"]).uid(NOBODY).gid(NOBODY);

        if allowed {
            command.env("TEST_PEER_ENDS", "no");
        }

        let output = run(command, &server, ping.clone()).await;
        let heard = heard(&output);

        if allowed {
            assert!(heard[0]["version"].is_string(), "{output:?}");
        } else {
            assert_eq!(heard[0]["error"]["class"], "PermissionDenied", "{output:?}");
            assert!(String::from_utf8_lossy(&output.stdout).contains("ended true"), "{output:?}");
        }
    }
}

#[tokio::test]
async fn who_is_not_let_in_and_says_no_more_than_half_of_something_is_not_kept() {
    if !is_root() {
        return;
    }

    let server = TestServer::start(Server::new());
    let mut command = Command::new("/proc/self/exe");
    command.args(["--exact", "peer_process", "--nocapture"]).uid(NOBODY).gid(NOBODY);
    // Two bytes: less than the length of a frame has.
    let output =
        tokio::time::timeout(std::time::Duration::from_secs(60), run(command, &server, json!(1))).await.unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).contains("heard nothing"), "{output:?}");
}

/// What the other user is answered, who goes on to ask for the status.
async fn answers(server: Server, line: Value, groups: Option<&str>) -> Vec<Value> {
    let server = TestServer::start(server.operation("count", |_| async { Ok(()) }));
    let peer = ["--exact", "peer_process", "--nocapture"];

    let mut command = match groups {
        Some(groups) => {
            let mut command = Command::new("setpriv");
            let (user, group) = (format!("--reuid={NOBODY}"), format!("--regid={NOBODY}"));
            command.args([&user, &group, &format!("--groups={groups}"), "--"]);
            // What setpriv runs it finds by its path, and that may lie where the user may not look; but not if it is open.
            command.stdin(std::fs::File::open("/proc/self/exe").unwrap()).arg("/proc/self/fd/0");
            command
        }
        None => {
            let mut command = Command::new("/proc/self/exe");
            command.uid(NOBODY).gid(NOBODY);
            command
        }
    };

    command.args(peer).env("TEST_PEER_ENDS", "no");
    heard(&run(command, &server, line).await)
}

#[tokio::test]
async fn other_users_may_do_what_their_roles_include() {
    if !is_root() {
        return;
    }

    let restart = json!({"id": 2, "do": "restart"});
    let register = json!({"id": 2, "do": "register", "state": {"name": "web"}});
    let forward =
        |operation| json!({"id": 2, "do": "forward", "connection_id": "none", "operation": {"do": operation}});
    let (dump, flush, ping) = (forward("memory_dump"), forward("flush"), forward("ping"));
    let count = json!({"id": 2, "do": "count"});
    let denied = Some("PermissionDenied");
    // Whether it gets as far as to find out that there is no such worker, or that this process is no root.
    let (missing, passed) = (Some("ConnectionNotFound"), None);

    let cases = [
        (Role::Observe, &restart, denied, true),
        (Role::Observe, &register, denied, true),
        (Role::Observe, &dump, denied, true),
        (Role::Observe, &flush, denied, true),
        (Role::Observe, &ping, missing, true),
        (Role::Observe, &count, denied, true),
        (Role::Operate, &dump, denied, true),
        (Role::Operate, &flush, missing, true),
        (Role::Operate, &count, passed, true),
        (Role::Operate, &register, denied, true),
        (Role::Diagnose, &dump, missing, true),
        (Role::Diagnose, &restart, denied, true),
        (Role::Work, &register, passed, false),
        (Role::Work, &restart, denied, false),
        (Role::Work, &ping, denied, false),
    ];

    for (role, line, class, may_look) in cases {
        let answers = answers(Server::new().allow_user(NOBODY, role), line.clone(), None).await;
        assert_eq!(answers[0]["error"]["class"].as_str(), class, "{role} {line}: {answers:?}");
        // The connection goes on.
        assert_eq!(answers[1]["connections"].is_array(), may_look, "{role} {line}: {answers:?}");
    }

    let both = Server::new()
        .allow_user(NOBODY, Role::Observe)
        .require("count", Role::Observe)
        .require("flush", Role::Diagnose);
    assert_eq!(answers(both, count, None).await[0], json!({"id": 2, "finished": true}));
    let stricter = Server::new().allow_user(NOBODY, Role::Operate).require("flush", Role::Diagnose);
    let answers = answers(stricter, flush, None).await;
    let message = format!("user {NOBODY} may not do that: 'forward' takes the role 'diagnose'");
    assert_eq!(answers[0]["error"]["message"], message);
}

#[tokio::test]
async fn supplementary_groups_count() {
    let has_setpriv = || Command::new("setpriv").arg("--version").output().is_ok();

    if !is_root() || !has_setpriv() {
        return;
    }

    let ping = json!({"id": 2, "do": "ping"});
    let server = || Server::new().allow_group(4242, Role::Observe);
    let answers_of = |groups| answers(server(), ping.clone(), Some(groups));
    assert!(answers_of("7,4242").await[0]["version"].is_string());
    assert_eq!(answers_of("7").await[0]["error"]["class"], "PermissionDenied");
}

#[tokio::test]
async fn process_in_another_namespace_may_have_an_id_of_its_own() {
    let unshare = || {
        let mut command = Command::new("unshare");
        command.args(["--pid", "--fork", "--"]);
        command
    };

    if !is_root() || !unshare().arg("true").status().is_ok_and(|status| status.success()) {
        return;
    }

    let server = TestServer::start(Server::new());
    let mut command = unshare();
    command.arg(std::env::current_exe().unwrap()).args(["--exact", "peer_process", "--nocapture"]);
    command.env("TEST_PEER_ENDS", "no");
    let register = json!({"id": 2, "do": "register", "state": {"process_id": 1, "name": "inside"}});
    let output = run(command, &server, register).await;
    let heard = heard(&output);
    assert!(heard[0]["connection_id"].is_string(), "{output:?}");
    let connection = &heard[1]["connections"][0];
    assert_eq!(connection["state"]["process_id"], 1, "what it says");
    assert!(connection["process_id"].as_u64() > Some(1), "what is true here: {connection}");
}
