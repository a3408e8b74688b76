//! Whoever starts the root is told how it is: by a service manager's socket, a file, or a pipe.

use std::{io, os::unix::net::UnixDatagram, time::Duration};

use async_container_supervisor_tests::{Dir, Signal, proc};
use rustix::net::sockopt::set_socket_passcred;

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
