//! Whoever starts the root is told how it is: by a service manager's socket, a file, or a pipe.

use std::{
    io,
    os::{fd::AsRawFd as _, unix::net::UnixDatagram},
    time::Duration,
};

use async_container_supervisor_tests::{Dir, Launch, Program, Signal, proc};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, sockopt::set_socket_passcred};

const LIMIT: Duration = Duration::from_secs(30);

fn is_sleeper(process: &proc::Process) -> bool {
    process.arguments().first().is_some_and(|name| name == "sleep")
}

/// A service manager's socket, and the next datagram from it with the process that sent it.
fn receive(socket: &UnixDatagram) -> io::Result<(String, u32)> {
    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};
    let mut buffer = [0; 8192];
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmCredentials(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(socket, &mut [io::IoSliceMut::new(&mut buffer)], &mut control, RecvFlags::empty())?;
    let sender = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmCredentials(credentials) => {
            Some(credentials.pid.as_raw_nonzero().get().cast_unsigned())
        }
        _ => None,
    });
    Ok((String::from_utf8_lossy(&buffer[..received.bytes]).into_owned(), sender.unwrap_or_default()))
}

#[test]
fn a_service_manager_hears_from_the_process_that_it_started() -> io::Result<()> {
    let dir = Dir::new()?;
    let path = dir.file("notify");
    let socket = UnixDatagram::bind(&path)?;
    socket.set_read_timeout(Some(LIMIT))?;
    set_socket_passcred(&socket, true)?;
    let mut program = dir
        .example("commands")?
        .env("NOTIFY_SOCKET", &path)
        .env("WATCHDOG_USEC", "200000")
        .args(["--count", "2", "--", "sleep", "1000000"])
        .start()?;
    let mut heard = Vec::new();
    let mut until = |wanted: &str| -> io::Result<String> {
        loop {
            let (text, sender) = receive(&socket)?;
            // systemd, by default, listens to nobody else.
            assert_eq!(sender, program.pid(), "{text}");
            heard.push(text.clone());
            if text.contains(wanted) {
                return Ok(text);
            }
        }
    };
    assert_eq!(until("READY=1")?, "READY=1\nSTATUS=Running with 2 children.\n");
    until("WATCHDOG=1")?;
    program.signal(Signal::HUP)?;
    let reloading = until("RELOADING=1")?;
    assert!(reloading.contains("\nMONOTONIC_USEC="), "{reloading}");
    assert_eq!(until("READY=1")?, "READY=1\nSTATUS=Running with 2 children.\n");
    // The children are not told where the root's manager is.
    let child = program.descendants()?.into_iter().find(is_sleeper).expect("a child");
    assert_eq!(child.variable("NOTIFY_SOCKET"), None);
    program.signal(Signal::TERM)?;
    until("STOPPING=1")?;
    assert!(program.wait(LIMIT)?.success());
    assert_eq!(heard[0], "STATUS=Initializing controller...\n");
    Ok(())
}

#[test]
fn a_file_is_appended_to() -> io::Result<()> {
    let dir = Dir::new()?;
    let path = dir.file("notify.log");
    let mut program =
        dir.example("commands")?.env("NOTIFY_LOG", &path).args(["--count", "1", "--", "sleep", "1000000"]).start()?;
    let ready = program.wait_for("the line that says so", LIMIT, || {
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        Ok(text.lines().find(|line| line.contains("\"ready\":true")).map(str::to_owned))
    })?;
    assert_eq!(ready, r#"{"ready":true,"status":"Running with 1 children."}"#);
    Ok(())
}

#[test]
fn a_root_below_another_one_is_ready_when_its_children_are() -> io::Result<()> {
    let dir = Dir::new()?;
    let commands = async_container_supervisor_tests::example("commands")?;
    let mut program = dir.example("acs-fixture")?.args(["nested", &commands.display().to_string()]).start()?;
    program.wait_for_stderr("child=\"nested#1\"", LIMIT)?;
    program.wait_for("both roots to be ready", LIMIT, || {
        let text = std::fs::read_to_string(dir.file("acs-fixture-1.stderr"))?;
        Ok((text.matches("all children are ready").count() == 2).then_some(()))
    })?;
    let sleepers = |program: u32| -> io::Result<usize> {
        Ok(proc::descendants(program)?.iter().filter(|process| is_sleeper(process)).count())
    };
    assert_eq!(sleepers(program.pid())?, 2);
    program.signal(Signal::INT)?;
    assert!(program.wait(LIMIT)?.success());
    Ok(())
}

/// What `acs-fixture notify` says, in its order.
const SAID: [&str; 7] = [
    r#"{"ready":true}"#,
    r#"{"healthy":true}"#,
    r#"{"ready":false,"reloading":true,"status":"Reloading..."}"#,
    r#"{"ready":false,"reloading":true,"status":"Restarting..."}"#,
    r#"{"status":"at work"}"#,
    r#"{"status":"out of paper","errno":-1}"#,
    r#"{"stopping":true}"#,
];

#[test]
fn each_message_is_one_write_to_the_pipe_which_comes_before_all_others() -> io::Result<()> {
    let dir = Dir::new()?;
    let manager = UnixDatagram::bind(dir.file("notify"))?;
    manager.set_nonblocking(true)?;
    // Unlike a pipe, it keeps what was written at once apart from what was not.
    let (ours, theirs) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::empty(), None)?;
    let mut program = dir
        .example("acs-fixture")?
        .arg("notify")
        .env("NOTIFY_PIPE", theirs.as_raw_fd().to_string())
        .env("NOTIFY_SOCKET", dir.file("notify"))
        .env("NOTIFY_LOG", dir.file("notify.log"))
        .start()?;
    assert!(program.wait(LIMIT)?.success(), "{}", program.stderr());
    let mut buffer = [0; 4096];
    for expected in SAID {
        let (length, _) = rustix::net::recv(&ours, &mut buffer, RecvFlags::DONTWAIT)?;
        assert_eq!(String::from_utf8_lossy(&buffer[..length]), format!("{expected}\n"));
    }
    assert!(rustix::net::recv(&ours, &mut buffer, RecvFlags::DONTWAIT).is_err());
    assert!(manager.recv(&mut buffer).is_err());
    assert!(!dir.file("notify.log").exists());
    // The pipe's variable does not go on to others; those of channels that were not taken are not touched.
    assert_eq!(program.stdout(), "[false, true, true]\n");
    assert_eq!(program.stderr(), "");
    Ok(())
}

#[test]
fn the_socket_comes_before_the_file_and_the_file_before_the_log() -> io::Result<()> {
    let dir = Dir::new()?;
    let manager = UnixDatagram::bind(dir.file("notify"))?;
    manager.set_nonblocking(true)?;
    let launch = || dir.example("acs-fixture").map(|launch| launch.arg("notify"));
    let run = |launch: Launch| -> io::Result<Program> {
        let mut program = launch.start()?;
        assert!(program.wait(LIMIT)?.success(), "{}", program.stderr());
        Ok(program)
    };

    let file = dir.file("notify.log");
    let program = run(launch()?.env("NOTIFY_SOCKET", dir.file("notify")).env("NOTIFY_LOG", &file))?;
    let mut buffer = [0; 4096];
    let mut heard = Vec::new();
    while let Ok(length) = manager.recv(&mut buffer) {
        heard.push(String::from_utf8_lossy(&buffer[..length]).into_owned());
    }
    assert_eq!(heard.len(), SAID.len(), "{heard:?}");
    assert_eq!(heard[0], "READY=1\n");
    assert_eq!(heard[4..], ["STATUS=at work\n", "STATUS=out of paper\nERRNO=-1\n", "STOPPING=1\n"]);
    assert!(!file.exists());
    assert_eq!(program.stdout(), "[false, false, true]\n");

    let program = run(launch()?.env("NOTIFY_LOG", &file))?;
    assert_eq!(std::fs::read_to_string(&file)?.lines().collect::<Vec<_>>(), SAID);
    assert_eq!(program.stdout(), "[false, false, true]\n");
    assert_eq!(program.stderr(), "");

    let program = run(launch()?)?;
    let log = program.stderr();
    let lines: Vec<&str> = log.lines().collect();
    assert_eq!(lines.len(), SAID.len(), "{log}");
    for (line, said) in lines.iter().zip(SAID) {
        if said.contains("errno") {
            assert!(line.contains(" ERROR ") && line.contains("out of paper"), "{line}");
        } else {
            assert!(line.contains(" INFO ") && line.contains(said), "{line}");
        }
    }
    Ok(())
}
