//! The exchange of async-container-supervisor 0.10 (Ruby), byte by byte: what its workers and clients write is understood,
//! and what they read is what they know how to read. The order of fields is of no meaning to them.

mod common;

use async_container_protocol::Settings;
use async_container_supervisor_server::{Server, Signal};
use common::{RootRequest, TestRoot, TestServer};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
};

/// One end of a socket, that says and expects exact bytes.
struct Peer(UnixStream);

impl Peer {
    async fn connect(server: &TestServer) -> Self {
        Self(UnixStream::connect(&server.path).await.unwrap())
    }

    async fn writes(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.write_all(bytes.as_ref()).await.unwrap();
    }

    /// Reads as much as is expected.
    async fn reads(&mut self, expected: &str) {
        let mut bytes = vec![0; expected.len()];
        let read = self.0.read_exact(&mut bytes).await;
        let text = String::from_utf8_lossy(&bytes);
        assert!(read.is_ok() && text == expected, "expected {expected}, read {text}");
    }

    async fn reads_line(&mut self) -> String {
        let mut line = Vec::new();

        while line.last() != Some(&b'\n') {
            line.push(self.0.read_u8().await.unwrap());
        }

        String::from_utf8(line).unwrap()
    }

    async fn reads_the_end(&mut self) {
        let mut rest = Vec::new();
        // What it sent after what was wrong may turn the end into a reset.
        let _ = self.0.read_to_end(&mut rest).await;
        assert_eq!(String::from_utf8_lossy(&rest), "");
    }

    /// Registers as the original's worker does, and gives the connection id.
    async fn registers(&mut self, process_id: u32) -> String {
        self.writes(format!("{{\"id\":2,\"do\":\"register\",\"state\":{{\"process_id\":{process_id}}}}}\n")).await;
        let line = self.reads_line().await;
        let id = line.strip_prefix("{\"id\":2,\"finished\":true,\"connection_id\":\"");
        let id = id.and_then(|rest| rest.strip_suffix("\"}\n")).unwrap_or_else(|| panic!("{line}"));
        assert!(id.len() == 36 && id.split('-').map(str::len).eq([8, 4, 4, 4, 12]), "a UUID: {id}");
        id.to_owned()
    }
}

async fn application() -> (TestServer, Peer, String, Peer) {
    let server = TestServer::start(Server::new());
    let mut worker = Peer::connect(&server).await;
    let id = worker.registers(std::process::id()).await;
    let client = Peer::connect(&server).await;
    (server, worker, id, client)
}

#[tokio::test]
async fn register_and_status() {
    let (_server, _worker, id, mut client) = application().await;
    client.writes("{\"id\":2,\"do\":\"status\"}\n").await;
    let process_id = std::process::id();
    let expected = format!(
        "{{\"id\":2,\"finished\":true,\"connections\":[{{\"connection_id\":\"{id}\",\"process_id\":{process_id},\
         \"state\":{{\"process_id\":{process_id}}}}}]}}\n"
    );
    client.reads(&expected).await;
}

#[tokio::test]
async fn forward_with_responses_on_the_way() {
    let (_server, mut worker, id, mut client) = application().await;
    let forward = format!(
        "{{\"operation\":{{\"do\":\"memory_sample\",\"duration\":10}},\"connection_id\":\"{id}\",\"id\":2,\"do\":\"forward\"}}\n"
    );
    client.writes(forward).await;
    worker.reads("{\"id\":3,\"do\":\"memory_sample\",\"duration\":10}\n").await;
    worker.writes("{\"id\":3,\"progress\":0.5}\n{\"id\":3,\"progress\":1.0}\n").await;
    client.reads("{\"id\":2,\"progress\":0.5}\n{\"id\":2,\"progress\":1.0}\n").await;
    worker.writes("{\"id\":3,\"data\":\"{\\\"total\\\":7}\",\"finished\":true}\n").await;
    client.reads("{\"id\":2,\"data\":\"{\\\"total\\\":7}\",\"finished\":true}\n").await;
}

#[tokio::test]
async fn failing_call_keeps_its_error() {
    let (_server, mut worker, id, mut client) = application().await;
    let forward = format!(
        "{{\"id\":2,\"do\":\"forward\",\"connection_id\":\"{id}\",\"operation\":{{\"do\":\"memory_dump\"}}}}\n"
    );
    client.writes(forward).await;
    worker.reads("{\"id\":3,\"do\":\"memory_dump\"}\n").await;
    let error =
        "{\"class\":\"ArgumentError\",\"message\":\"Buffered output not supported!\",\"backtrace\":[\"a.rb:1\"]}";
    worker.writes(format!("{{\"id\":3,\"failed\":true,\"finished\":true,\"error\":{error}}}\n")).await;
    client.reads(&format!("{{\"id\":2,\"failed\":true,\"finished\":true,\"error\":{error}}}\n")).await;

    client.writes("{\"id\":4,\"do\":\"forward\",\"connection_id\":\"x\",\"operation\":{\"do\":\"y\"}}\n").await;
    client
        .reads(
            "{\"id\":4,\"finished\":true,\"failed\":true,\"error\":{\"class\":\"ConnectionNotFound\",\
             \"message\":\"no worker has the connection id 'x'\"}}\n",
        )
        .await;
}

#[tokio::test]
async fn stale_response_is_answered_by_nothing() {
    let (_server, mut worker, id, mut client) = application().await;
    let forward =
        format!("{{\"id\":2,\"do\":\"forward\",\"connection_id\":\"{id}\",\"operation\":{{\"do\":\"slow\"}}}}\n");
    client.writes(forward).await;
    worker.reads("{\"id\":3,\"do\":\"slow\"}\n").await;
    client.writes("{\"id\":2,\"cancel\":true}\n").await;
    worker.reads("{\"id\":3,\"cancel\":true}\n").await;
    worker.writes("{\"id\":3,\"late\":true}\n{\"id\":3,\"finished\":true}\n{\"id\":999,\"finished\":true}\n").await;
    // The next that each of them reads is the answer to what it asks next.
    worker.writes("{\"id\":4,\"do\":\"nonsense\"}\n").await;
    let unknown = "\"finished\":true,\"failed\":true,\"error\":{\"class\":\"UnknownOperation\",\
                   \"message\":\"there is no operation 'nonsense'\"}}\n";
    worker.reads(&format!("{{\"id\":4,{unknown}")).await;
    client.writes("{\"id\":6,\"do\":\"nonsense\"}\n").await;
    client.reads(&format!("{{\"id\":6,{unknown}")).await;
}

#[tokio::test]
async fn restart_is_answered_before_the_signal() {
    let (root, mut requests) = TestRoot::new(true);
    let server = TestServer::start(Server::new().root(root));
    let mut client = Peer::connect(&server).await;
    client.writes("{\"signal\":\"INT\",\"id\":2,\"do\":\"restart\"}\n").await;
    client.reads("{\"id\":2,\"finished\":true}\n").await;
    assert_eq!(requests.recv().await, Some(RootRequest::Signal(Signal::Int)));
}

/// Each kind of malformed input: what is answered, and that the connection, and it alone, ends.
#[tokio::test]
async fn malformed_input() {
    let server = TestServer::start(Server::new().settings(Settings::default().frame_limit(1000)));
    let mut bystander = Peer::connect(&server).await;
    let process_id = std::process::id();
    bystander.registers(process_id).await;

    let invalid = |id: &str, message: &str| {
        format!(
            "{{\"id\":{id},\"finished\":true,\"failed\":true,\"error\":{{\"class\":\"InvalidMessage\",\
             \"message\":\"the peer sent an invalid message: {message}\"}}}}\n"
        )
    };
    let deep = format!("{{\"id\":1,\"do\":\"x\",\"a\":{}}}\n", "[".repeat(200));
    let long = format!("{{\"id\":1,\"do\":\"{}", "x".repeat(2000));

    let cases: [(&[u8], Option<String>); 10] = [
        (b"{\"id\":1,\"do\":7}\n", Some(invalid("1", "'do' has to be a string"))),
        (b"{\"id\":1,\"finished\":\"yes\"}\n", Some(invalid("1", "'finished' has to be a boolean"))),
        (b"{\"do\":\"status\"}\n", None),
        (b"{\"id\":\"a\",\"do\":\"status\"}\n", None),
        (b"{\"id\":1,\"do\":\"status\"\n", Some(String::new())),
        (b"{\"id\":1,\"do\":\"status\"} {\"id\":2}\n", Some(String::new())),
        (b"{\"id\":1,\"do\":\"\xff\"}\n", Some(String::new())),
        (b"{nonsense}\n", None),
        (deep.as_bytes(), Some(String::new())),
        // A line without an end, which is never read to its end.
        (long.as_bytes(), None),
    ];

    for (input, answer) in cases {
        let shown = String::from_utf8_lossy(input);
        let mut peer = Peer::connect(&server).await;
        peer.writes(input).await;

        match answer {
            // In words of whoever reads the JSON.
            Some(answer) if answer.is_empty() => {
                let line = peer.reads_line().await;
                let start = invalid("1", "");
                let start = start.strip_suffix("\"}}\n").unwrap();
                assert!(line.starts_with(start), "{shown}: {line}");
            }
            Some(answer) => peer.reads(&answer).await,
            None => {}
        }

        peer.reads_the_end().await;
    }

    // A beginning of a line, and then the end of the connection.
    let mut peer = Peer::connect(&server).await;
    peer.writes("{\"id\":1,\"do\":\"sta").await;
    peer.0.shutdown().await.unwrap();
    peer.reads_the_end().await;

    bystander.writes("{\"id\":4,\"do\":\"status\"}\n").await;
    let status = bystander.reads_line().await;
    assert!(status.starts_with("{\"id\":4,\"finished\":true,\"connections\":[{\"connection_id\":"), "{status}");
    assert_eq!(status.matches("connection_id").count(), 1, "{status}");
}
