//! One attempt of a probe: a program, or a connection.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::process::{Pid, Signal};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::{Check, ProbeFailure, Target};
use crate::command::Command;
use crate::error::SpawnError;
use crate::orphans::MARK;
use crate::sys::signal;
use crate::sys::spawn::{Plan, Spawned, Spawner};

/// The variable that tells a program the process that it is to look at, as systemd calls it.
const MAINPID: &str = "MAINPID";

/// The longest status line that is read of an answer.
const STATUS_LINE_LIMIT: usize = 1024;
/// How much of the rest of an answer is read, in bytes.
const REST_LIMIT: u64 = 64 << 10;
/// How long that may take.
const REST_TIMEOUT: Duration = Duration::from_secs(1);

/// How an attempt ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Success,
    Failure(ProbeFailure),
    /// The root itself lacks what it needs for it, and nothing is known about the child.
    Unknown(String),
}

/// A program that was started as a probe.
pub(crate) struct ProbeProcess {
    pub pid: Pid,
    pub pidfd: OwnedFd,
    /// What its descendants have in their environment.
    pub mark: String,
}

impl ProbeProcess {
    /// Starts the program for the child with this process.
    pub(crate) fn start(spawner: &mut Spawner, command: &Command, child: &str, pid: Pid) -> Result<Self, SpawnError> {
        let mark = format!("{child}?{:016x}", fastrand::u64(..));
        let prepared = command.prepare(&[(MARK, mark.clone()), (MAINPID, pid.as_raw_nonzero().to_string())])?;
        let stdio = command.open_stdio()?;
        let plan = Plan {
            program: prepared.program,
            arguments: prepared.arguments,
            environment: prepared.environment,
            directory: prepared.directory,
            descriptors: Vec::new(),
            stdio: stdio.each_ref().map(|file| file.as_ref().map(AsFd::as_fd)),
            limits: prepared.limits,
            nice: prepared.nice,
            umask: prepared.umask,
            credentials: prepared.credentials,
            cgroup: None,
            process_id_at: Vec::new(),
        };
        let Spawned { pid, pidfd } = spawner.spawn(plan)?;
        Ok(ProbeProcess { pid, pidfd, mark })
    }

    /// Ends it and its group. It must not have been reaped.
    pub(crate) fn kill(&self) {
        if let Err(error) = signal::send_group(&self.pidfd, self.pid, Signal::KILL) {
            tracing::error!(pid = self.pid.as_raw_nonzero().get(), %error, "cannot kill a probe");
        }
    }
}

/// What it means that the program could not be started.
pub(crate) fn not_started(error: &SpawnError) -> Outcome {
    match error {
        error if error.is_transient() => Outcome::Unknown(error.to_string()),
        SpawnError::Open { source, .. } | SpawnError::System { source, .. } => {
            Outcome::Failure(ProbeFailure::NotStarted(source.kind()))
        }
        SpawnError::Command(_) | SpawnError::Cgroup(_) => {
            Outcome::Failure(ProbeFailure::NotStarted(io::ErrorKind::NotFound))
        }
    }
}

/// Connects, and asks if there is something to ask. There is no limit of time in here.
pub(crate) async fn connect(check: Check) -> Outcome {
    let result = match &check {
        Check::Tcp(target) => TcpStream::connect(target.resolved()).await.map(|_| Outcome::Success),
        Check::Http { target, path } => get(target, path).await,
        Check::Exec(_) => return Outcome::Unknown("a program is not connected to".to_owned()),
    };
    result.unwrap_or_else(|error| match error.raw_os_error() {
        Some(libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::ENOBUFS | libc::EADDRNOTAVAIL) => {
            Outcome::Unknown(error.to_string())
        }
        _ => Outcome::Failure(ProbeFailure::Connection(error.kind())),
    })
}

/// An HTTP/1.1 GET. Nothing but the status line of the answer matters.
async fn get(target: &Target, path: &str) -> io::Result<Outcome> {
    let mut stream = TcpStream::connect(target.resolved()).await?;
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {}\r\nUser-Agent: async-container\r\nAccept: */*\r\nConnection: close\r\n\r\n",
        target.address
    );
    stream.write_all(request.as_bytes()).await?;
    let mut line = Vec::with_capacity(128);
    let mut buffer = [0; 128];
    loop {
        if let Some(end) = line.iter().position(|byte| *byte == b'\n') {
            tokio::spawn(hear_out(stream));
            return Ok(judge(&line[..end]));
        }
        if line.len() >= STATUS_LINE_LIMIT {
            return Ok(Outcome::Failure(ProbeFailure::NotHttp));
        }
        match stream.read(&mut buffer).await? {
            0 if line.is_empty() => return Err(io::ErrorKind::UnexpectedEof.into()),
            0 => return Ok(Outcome::Failure(ProbeFailure::NotHttp)),
            length => line.extend_from_slice(&buffer[..length]),
        }
    }
}

/// Reads what nobody needs: a server that is hung up on while it writes its answer complains of a connection that was reset.
async fn hear_out(stream: TcpStream) {
    let mut rest = stream.take(REST_LIMIT);
    let _ = tokio::time::timeout(REST_TIMEOUT, tokio::io::copy(&mut rest, &mut tokio::io::sink())).await;
}

/// What a status line says, such as `HTTP/1.1 200 OK`.
fn judge(line: &[u8]) -> Outcome {
    let text = String::from_utf8_lossy(line);
    let mut words = text.trim_end().splitn(3, ' ');
    let version = words.next().is_some_and(|version| version.starts_with("HTTP/1."));
    match words.next().filter(|status| version && status.len() == 3).and_then(|status| status.parse::<u16>().ok()) {
        Some(200..=399) => Outcome::Success,
        Some(status) => Outcome::Failure(ProbeFailure::Status(status)),
        None => Outcome::Failure(ProbeFailure::NotHttp),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::Probe;
    use tokio::net::TcpListener;

    #[test]
    fn status_lines_are_judged() {
        for (line, outcome) in [
            ("HTTP/1.1 200 OK\r", Outcome::Success),
            ("HTTP/1.0 302", Outcome::Success),
            ("HTTP/1.1 404 Not Found\r", Outcome::Failure(ProbeFailure::Status(404))),
            ("HTTP/1.1 100 Continue", Outcome::Failure(ProbeFailure::Status(100))),
            ("HTTP/1.1 20x OK", Outcome::Failure(ProbeFailure::NotHttp)),
            ("HTTP/2 200", Outcome::Failure(ProbeFailure::NotHttp)),
            ("SSH-2.0-OpenSSH_9.2", Outcome::Failure(ProbeFailure::NotHttp)),
            ("", Outcome::Failure(ProbeFailure::NotHttp)),
        ] {
            assert_eq!(judge(line.as_bytes()), outcome, "{line}");
        }
    }

    /// The outcome when the other end reads the request and answers so.
    async fn asked(answer: &'static [u8]) -> (String, Outcome) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let probe = Probe::http(listener.local_addr().unwrap().to_string(), "/health?a=b");
        probe.validate().unwrap();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                request.push(stream.read_u8().await.unwrap());
            }
            for byte in answer {
                stream.write_all(&[*byte]).await.unwrap();
            }
            String::from_utf8(request).unwrap()
        });
        let outcome = connect(probe.check).await;
        (server.await.unwrap_or_default(), outcome)
    }

    #[tokio::test(flavor = "current_thread")]
    async fn an_endpoint_is_asked_in_plain_http() {
        let (request, outcome) = asked(b"HTTP/1.1 204 No Content\r\n\r\n").await;
        assert_eq!(outcome, Outcome::Success);
        assert!(request.starts_with("GET /health?a=b HTTP/1.1\r\nHost: 127.0.0.1:"), "{request}");
        assert_eq!(asked(b"HTTP/1.1 503 Busy\r\n\r\n").await.1, Outcome::Failure(ProbeFailure::Status(503)));
        assert_eq!(asked(b"220 smtp").await.1, Outcome::Failure(ProbeFailure::NotHttp));
        let closed = Outcome::Failure(ProbeFailure::Connection(io::ErrorKind::UnexpectedEof));
        assert_eq!(asked(b"").await.1, closed);
        assert_eq!(asked(&[b'x'; 4096]).await.1, Outcome::Failure(ProbeFailure::NotHttp));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_server_is_not_hung_up_on_in_the_middle_of_its_answer() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let probe = Probe::http(listener.local_addr().unwrap().to_string(), "/");
        probe.validate().unwrap();
        let (judged, known) = tokio::sync::oneshot::channel();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await?;
            stream.write_all(b"HTTP/1.1 200 OK\r\n").await?;
            let _ = known.await;
            for part in ["Content-Length: 4096\r\n\r\n", &"x".repeat(4096)] {
                stream.write_all(part.as_bytes()).await?;
            }
            stream.shutdown().await?;
            // The request, and then the end.
            stream.read_to_end(&mut Vec::new()).await
        });
        assert_eq!(connect(probe.check).await, Outcome::Success);
        judged.send(()).unwrap();
        assert!(server.await.unwrap().is_ok());
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_port_is_open_or_not() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let probe = Probe::tcp(listener.local_addr().unwrap().to_string());
        probe.validate().unwrap();
        assert_eq!(connect(probe.check.clone()).await, Outcome::Success);
        drop(listener);
        let refused = Outcome::Failure(ProbeFailure::Connection(io::ErrorKind::ConnectionRefused));
        assert_eq!(connect(probe.check).await, refused);
    }
}
