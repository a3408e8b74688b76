//! Commands that are looked after in every way there is, for the tests: `acs-commands SCENARIO [ARGUMENT]`
//!
//! `acs-commands tell FIELD...` is itself a command to be looked after: it sends each field to the socket that
//! `NOTIFY_SOCKET` names, as a datagram of its own. `acs-commands say FIELD...` then waits until all was heard, as
//! whoever speaks for another process has to.

#![forbid(unsafe_code)]

use std::{
    io, io::IoSlice, mem::MaybeUninit, os::fd::AsFd as _, os::unix::net::UnixDatagram, process::ExitCode,
    time::Duration,
};

use async_container_supervisor::{Application, Command, Readiness, Restart, Service};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let scenario = arguments.next().unwrap_or_default();
    if scenario == "say" || scenario == "tell" {
        let barrier = (scenario == "say").then(|| "BARRIER=1".to_owned());
        return match arguments.chain(barrier).try_for_each(|field| tell(&field)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("cannot notify: {error}");
                ExitCode::FAILURE
            }
        };
    }
    let argument = arguments.next().unwrap_or_default();
    let application = Application::new("commands");
    let by_socket = |command| Service::command("speaker", command).count(1).readiness(Readiness::NotifySocket);
    let application = match scenario.as_str() {
        // Each instance says that it is ready and ends at once.
        "brief" => {
            let command = Command::new("/proc/self/exe").arguments(["tell", "READY=1"]);
            let count = argument.parse().unwrap_or(1);
            application.service(by_socket(command).count(count).restart(Restart::Never))
        }
        // Runs a script that may notify.
        "speaks" => application.service(by_socket(shell(argument)).startup_timeout(LONG)),
        "speaks-as" => {
            let user = arguments.next().unwrap_or_default();
            application.service(by_socket(shell(argument).user(user)).startup_timeout(LONG))
        }
        "speaks-soon" => application.service(by_socket(shell(argument)).startup_timeout(SHORT)),
        "speaks-again" => application.service(by_socket(shell(argument)).health_check_timeout(SHORT)),
        other => {
            eprintln!("there is no scenario {other:?}");
            return ExitCode::from(2);
        }
    };
    application.run()
}

const SHORT: Duration = Duration::from_millis(500);
const LONG: Duration = Duration::from_secs(60);

/// A script, which finds this program as `$0`.
fn shell(script: String) -> Command {
    let program = std::env::current_exe().expect("the path of this program");
    Command::new("sh").argument("-c").argument(script).argument(program)
}

fn tell(field: &str) -> io::Result<()> {
    let path = std::env::var_os("NOTIFY_SOCKET").ok_or_else(|| io::Error::other("NOTIFY_SOCKET is not set"))?;
    let socket = UnixDatagram::unbound()?;
    socket.connect(path)?;
    if field != "BARRIER=1" && field != "FDSTORE=1" {
        return socket.send(field.as_bytes()).map(drop);
    }
    let (read, write) = rustix::pipe::pipe()?;
    let passed = [write.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&passed));
    sendmsg(&socket, &[IoSlice::new(field.as_bytes())], &mut control, SendFlags::empty())?;
    drop(write);
    // Ends when nobody has the other end any more.
    rustix::io::read(&read, &mut [0; 1])?;
    println!("{field} was heard");
    Ok(())
}
