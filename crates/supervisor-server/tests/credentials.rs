//! Who is let in. These start processes of other users and namespaces, which only root can; as anyone else they pass
//! without a look.

mod common;

use std::{
    io::{BufRead, BufReader, Write},
    os::unix::{fs::PermissionsExt, net::UnixStream, process::CommandExt},
    process::{Command, Output},
};

use async_container_supervisor_server::Server;
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
        (Server::new().allow_user(NOBODY), true),
        (Server::new().allow_group(NOBODY), true),
        (Server::new().allow_user(NOBODY - 1).allow_group(NOBODY - 1), false),
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
