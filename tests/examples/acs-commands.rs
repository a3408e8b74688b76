//! Commands that are looked after in every way there is, for the tests: `acs-commands SCENARIO [ARGUMENT]`
//!
//! `acs-commands tell FIELD...` is itself a command to be looked after: it sends each field to the socket that
//! `NOTIFY_SOCKET` names, as a datagram of its own. `acs-commands say FIELD...` then waits until all was heard, as
//! whoever speaks for another process has to.

#![forbid(unsafe_code)]

use std::{
    io,
    io::{BufRead as _, BufReader, IoSlice, Write as _},
    mem::MaybeUninit,
    net::TcpListener,
    os::fd::AsFd as _,
    os::unix::net::UnixDatagram,
    path::Path,
    process::ExitCode,
    time::Duration,
};

use async_container_supervisor::{Application, Command, Probe, Readiness, Restart, Service, container::Stdio};
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
    if scenario == "serve" {
        return serve(&argument).map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS);
    }
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
        "speaks-soon" => application.service(by_socket(shell(argument)).startup_timeout(MEDIUM)),
        "speaks-again" => application.service(by_socket(shell(argument)).health_check_timeout(MEDIUM)),
        // A server at the address, which listens once there is a file `open`, and is well until there is a file `bad`.
        "starts-late" => application
            .service(server(&argument).startup_probe(quick(Probe::tcp(argument.as_str())).failure_threshold(1))),
        "never-starts" => application.service(
            Service::command("server", sleeper())
                .count(1)
                .startup_probe(quick(Probe::tcp(argument)))
                .startup_timeout(SHORT),
        ),
        "turns-bad" => application
            .service(server(&argument).readiness_probe(quick(Probe::http(argument.as_str(), "/health"))))
            .supervisor(|it| it),
        "turns-bad-for-good" => application.service(
            server(&argument)
                .startup_probe(quick(Probe::http(argument.as_str(), "/health")))
                .liveness_probe(quick(Probe::http(argument.as_str(), "/health")).failure_threshold(2)),
        ),
        // A child that is asked by a script.
        "asked" => application
            .service(Service::command("asked", sleeper()).count(1).startup_probe(quick(Probe::exec(shell(argument))))),
        "hanging-probe" => {
            let probe = quick(Probe::exec(shell(argument))).timeout(SHORT).failure_threshold(1);
            application.service(Service::command("asked", sleeper()).count(1).liveness_probe(probe))
        }
        "patient-probe" => {
            let probe = quick(Probe::exec(shell(argument))).timeout(LONG);
            application.service(Service::command("asked", sleeper()).count(1).liveness_probe(probe))
        }
        "probe-nowhere" => {
            application.service(Service::command("asked", sleeper()).liveness_probe(Probe::tcp(argument)))
        }
        // What it writes is logged.
        "writes" => {
            let command = shell(argument).stdout(Stdio::Log).stderr(Stdio::Log);
            application.service(Service::command("writer", command).count(1).restart(Restart::Never))
        }
        // One that writes without end, and one that says nothing.
        "noisy" => application
            .service(
                Service::command("noisy", Command::new("yes").argument("x".repeat(200)).stdout(Stdio::Log)).count(1),
            )
            .service(Service::command("quiet", sleeper()).count(1)),
        other => {
            eprintln!("there is no scenario {other:?}");
            return ExitCode::from(2);
        }
    };
    application.run()
}

const SHORT: Duration = Duration::from_millis(500);
/// Enough for a shell and this program to start on a machine that has a lot else to do.
const MEDIUM: Duration = Duration::from_secs(2);
const LONG: Duration = Duration::from_secs(60);

/// A script, which finds this program as `$0`.
fn shell(script: String) -> Command {
    let program = std::env::current_exe().expect("the path of this program");
    Command::new("sh").argument("-c").argument(script).argument(program)
}

fn sleeper() -> Command {
    Command::new("sleep").argument("1000000")
}

fn server(address: &str) -> Service {
    let program = std::env::current_exe().expect("the path of this program");
    Service::command("server", Command::new(program).arguments(["serve", address])).count(1)
}

/// A probe that does not keep the tests waiting.
fn quick(probe: Probe) -> Probe {
    probe.period(Duration::from_millis(20)).timeout(LONG)
}

/// A server that answers every connection with what the file `bad` says, if there is one.
fn serve(address: &str) -> io::Result<()> {
    while !Path::new("open").exists() {
        std::thread::sleep(Duration::from_millis(1));
    }
    let listener = TcpListener::bind(address)?;
    for stream in listener.incoming() {
        let mut stream = stream?;
        let mut request = BufReader::new(&mut stream);
        let mut line = String::new();
        // A probe may connect and ask nothing.
        if request.read_line(&mut line).unwrap_or(0) == 0 {
            continue;
        }
        while request.read_line(&mut line).is_ok_and(|length| length > 2) {}
        let answer = if Path::new("bad").exists() { "503 Service Unavailable" } else { "200 OK" };
        let _ = write!(stream, "HTTP/1.1 {answer}\r\nContent-Length: 0\r\n\r\n");
    }
    Ok(())
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
