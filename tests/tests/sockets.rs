//! Sockets that the root binds or is given, and that its children inherit.

use std::{
    collections::BTreeSet,
    fs, io,
    net::{TcpListener, TcpStream, UdpSocket},
    os::unix::net::{UnixDatagram, UnixStream},
    path::Path,
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
    time::Duration,
};

use async_container_supervisor_tests::{Dir, Program, Signal, proc};

const LIMIT: Duration = Duration::from_secs(60);

/// Where the listener of that name is, as the `which`-th one that says so.
fn address(program: &mut Program, name: &str) -> io::Result<String> {
    let line = program.wait_for_stderr(&format!("listening listener=\"{name}\""), LIMIT)?;
    let address = line.split("address=\"").nth(1).and_then(|rest| rest.split('"').next());
    address.map(str::to_owned).ok_or_else(|| io::Error::other(line.clone()))
}

fn echo(mut stream: impl io::Read + io::Write) -> io::Result<()> {
    let mut answer = [0; 4];
    stream.write_all(b"ping")?;
    stream.read_exact(&mut answer)?;
    assert_eq!(&answer, b"ping");
    Ok(())
}

/// The sockets that a process has open.
fn sockets(pid: u32) -> io::Result<BTreeSet<String>> {
    let links = fs::read_dir(format!("/proc/{pid}/fd"))?.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    Ok(links.map(|link| link.to_string_lossy().into_owned()).filter(|link| link.starts_with("socket:")).collect())
}

/// Sends a datagram to one of several instances, and takes the answer.
fn answers(send: impl Fn() -> io::Result<()>, receive: impl Fn(&mut [u8]) -> io::Result<usize>) -> io::Result<()> {
    let mut answer = [0; 100];
    send()?;
    let length = receive(&mut answer)?;
    assert_eq!(&answer[..length], b"ping");
    Ok(())
}

#[test]
fn sockets_of_every_kind_outlive_a_generation() -> io::Result<()> {
    let dir = Dir::new()?;
    let mut program = dir.example("acs-fixture")?.arg("sockets").start()?;
    let six = address(&mut program, "six")?;
    let udp = address(&mut program, "udp")?;
    let udp = udp.strip_prefix("udp:").unwrap_or(&udp).to_owned();
    assert_eq!(address(&mut program, "datagram")?, "unix-datagram:datagram.sock");
    program.wait_for_stderr("all children are ready", LIMIT)?;
    program.wait_for_stderr("listener \"udp\" is a UDP socket, not a TCP socket", LIMIT)?;
    program.wait_for_stderr("there is no listener named \"nothing\"", LIMIT)?;

    let client = UdpSocket::bind("127.0.0.1:0")?;
    client.set_read_timeout(Some(LIMIT))?;
    client.connect(&udp)?;
    let local = UnixDatagram::bind(dir.file("client.sock"))?;
    local.set_read_timeout(Some(LIMIT))?;
    local.connect(dir.file("datagram.sock"))?;
    let ask = || -> io::Result<()> {
        answers(|| client.send(b"ping").map(drop), |answer| client.recv(answer))?;
        // Answered by its path, so relative to the directory of the children.
        answers(|| local.send(b"ping").map(drop), |answer| local.recv(answer))
    };
    echo(TcpStream::connect(&six)?)?;
    ask()?;
    program.signal(Signal::HUP)?;
    program.wait_for("the old generation to end", LIMIT, || {
        // No datagram is lost; of connections, these instances would drop some.
        ask()?;
        let text = fs::read_to_string(dir.file("acs-fixture-1.stderr"))?;
        Ok((text.matches("child stopped").count() == 2).then_some(()))
    })?;
    ask()?;
    echo(TcpStream::connect(&six)?)?;
    program.signal(Signal::TERM)?;
    assert!(program.wait(LIMIT)?.success());
    assert!(!dir.file("datagram.sock").exists());
    Ok(())
}

#[test]
fn sockets_are_taken_over_from_whoever_started_the_root() -> io::Result<()> {
    let dir = Dir::new()?;
    let mut program = dir.example("acs-fixture")?.arg("activates").start()?;
    let outer = address(&mut program, "echo")?;
    program.wait_for_stderr("all children are ready", LIMIT)?;
    let text = program.stderr();
    // Both the outer and the inner one say where they listen.
    assert_eq!(text.matches(&format!("listening listener=\"echo\" address=\"{outer}\"")).count(), 2, "{text}");
    assert!(text.contains("address=\"unix:outer.sock\" inherited=true"), "{text}");
    assert!(text.contains("name=\"stray\" known=\"echo, unix\""), "{text}");
    assert!(text.contains("started with a socket that no service listens on"), "{text}");
    echo(TcpStream::connect(&outer)?)?;
    echo(UnixStream::connect(dir.file("outer.sock"))?)?;
    assert!(!dir.file("own.sock").exists());

    // The guardian, which they were meant for, does not keep them, and the variables that named them are gone.
    let inner: Vec<_> = program.descendants()?;
    let guardian = inner.iter().find(|process| process.arguments().get(1).is_some_and(|it| it == "activated"));
    let guardian = guardian.ok_or_else(|| io::Error::other("there is no inner guardian"))?.pid;
    let below = proc::descendants(guardian)?;
    let (root, worker) = (&below[0], &below[1]);
    assert_eq!(root.parent, guardian);
    let of_worker = sockets(worker.pid)?;
    assert!(!of_worker.is_disjoint(&sockets(root.pid)?));
    // It may not have come to closing its own yet.
    program.wait_for("the guardian to close the sockets", LIMIT, || {
        Ok(of_worker.is_disjoint(&sockets(guardian)?).then_some(()))
    })?;

    // The inner one ends, and leaves the file of the socket, which is the outer one's, in its place.
    proc::process(guardian).map(|process| process.signal(Signal::TERM)).transpose()?;
    program.wait_for("the second inner application", LIMIT, || {
        let text = fs::read_to_string(dir.file("acs-fixture-1.stderr"))?;
        Ok((text.matches("inherited=true").count() == 4).then_some(()))
    })?;
    echo(UnixStream::connect(dir.file("outer.sock"))?)?;
    echo(TcpStream::connect(&outer)?)?;
    program.signal(Signal::TERM)?;
    assert!(program.wait(LIMIT)?.success());
    assert!(!dir.file("outer.sock").exists());
    Ok(())
}

#[test]
fn a_socket_of_the_wrong_kind_is_refused() -> io::Result<()> {
    let dir = Dir::new()?;
    let mut program = dir.example("acs-fixture")?.arg("activates-wrongly").start()?;
    assert_eq!(program.wait(LIMIT)?.code(), Some(1));
    let text = program.stderr();
    assert!(
        text.contains("cannot use the socket \"echo\" that this program was started with: it is a UDP socket"),
        "{text}"
    );
    assert!(text.contains("exited with status 73"), "{text}");
    Ok(())
}

/// A port of the loopback interface that was free a moment ago.
fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

#[test]
fn systemd_activates_an_application() -> io::Result<()> {
    const ACTIVATE: &str = "systemd-socket-activate";
    let there = Command::new(ACTIVATE).arg("--version").stdout(Stdio::null()).status();
    if !there.is_ok_and(|status| status.success()) {
        eprintln!("skipped: {ACTIVATE}, of systemd, is not installed");
        return Ok(());
    }
    let dir = Dir::new()?;
    let socket = dir.file("systemd.sock");
    let tcp = format!("127.0.0.1:{}", free_port()?);
    let fixture = async_container_supervisor_tests::example("acs-fixture")?;
    let mut program = dir
        .command(ACTIVATE)
        .args(["--listen", &tcp, "--listen"])
        .arg(&socket)
        .args(["--listen", &dir.file("spare.sock").to_string_lossy(), "--fdname=echo:unix:spare"])
        .arg(fixture)
        .arg("activated")
        .start()?;
    // It starts the program for the first connection, which is answered all the same.
    let listens = |path: &Path| UnixStream::connect(path).is_ok();
    let (first, spare) = (dir.file("systemd.sock"), dir.file("spare.sock"));
    program.wait_for("systemd to listen", LIMIT, || Ok((first.exists() && spare.exists()).then_some(())))?;
    program.wait_for("the sockets", LIMIT, || Ok(listens(&first).then_some(())))?;
    echo(TcpStream::connect(&tcp)?)?;
    echo(UnixStream::connect(&socket)?)?;
    let text = program.stderr();
    assert!(text.contains(&format!("listening listener=\"echo\" address=\"{tcp}\" inherited=true")), "{text}");
    assert!(text.contains("name=\"spare\" known=\"echo, unix\""), "{text}");
    program.signal(Signal::HUP)?;
    program.wait_for_stderr("the new generation is ready", LIMIT)?;
    echo(TcpStream::connect(&tcp)?)?;
    program.signal(Signal::TERM)?;
    assert!(program.wait(LIMIT)?.success());
    assert!(socket.exists(), "the file is not the application's");
    Ok(())
}

const CONNECTIONS: usize = 10_000;
const RELOADS: usize = 10;
const CLIENTS: usize = 4;

#[test]
fn ten_thousand_connections_are_answered_during_ten_reloads() -> io::Result<()> {
    let dir = Dir::new()?;
    let mut program = dir.example("demo")?.args(["--workers", "2"]).start()?;
    let address = address(&mut program, "echo")?;
    program.wait_for_stderr("all children are ready", LIMIT)?;
    let (answered, reloaded) = (AtomicUsize::new(0), AtomicBool::new(false));
    let client = || -> io::Result<()> {
        // Some of them beyond the number, if the reloads take longer.
        while answered.load(Ordering::Relaxed) < CONNECTIONS || !reloaded.load(Ordering::Relaxed) {
            echo(TcpStream::connect(&address)?)?;
            answered.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    };
    thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(client)).collect();
        let reloads = (1..=RELOADS).try_for_each(|reload| {
            program.signal(Signal::HUP)?;
            // The old ones have answered what they accepted, and ended by themselves.
            program.wait_for("the end of the old generation", LIMIT, || {
                let text = fs::read_to_string(dir.file("demo-1.stderr"))?;
                Ok((text.matches("child stopped").count() == reload * 3).then_some(()))
            })?;
            // A share of the connections for every generation.
            program.wait_for("connections", LIMIT, || {
                let enough = answered.load(Ordering::Relaxed) >= CONNECTIONS / RELOADS * reload;
                Ok((enough || clients.iter().any(thread::ScopedJoinHandle::is_finished)).then_some(()))
            })
        });
        reloaded.store(true, Ordering::Relaxed);
        for client in clients {
            client.join().expect("a client does not panic")?;
        }
        reloads
    })?;
    let text = program.stderr();
    assert_eq!(text.matches("the new generation is ready").count(), RELOADS, "{text}");
    assert!(!text.contains("child failed") && !text.contains("SIGKILL"), "{text}");
    eprintln!("{} connections were answered", answered.into_inner());
    program.signal(Signal::TERM)?;
    assert!(program.wait(LIMIT)?.success());
    Ok(())
}
