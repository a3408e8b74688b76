//! A running process of a child: its pidfd and its pipes.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Instant;

use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use rustix::process::{Pid, Signal};

use crate::command::{Command, Prepared};
use crate::container::Captured;
use crate::entry::ENTRY;
use crate::error::SpawnError;
use crate::instance::{child_name, child_title};
use crate::listener::inherited::{LISTEN_FDNAMES, LISTEN_FDS, LISTEN_PID};
use crate::notify::link::{LINK_PIPE, LinkWriter};
use crate::notify::{LineReader, NOTIFY_PIPE, NOTIFY_SOCKET};
use crate::orphans::MARK;
use crate::output::Output;
use crate::spec::{Service, Start};
use crate::sys::signal;
use crate::sys::spawn::{FIRST_DESCRIPTOR, PROCESS_ID_DIGITS, Plan, Spawned, Spawner};

/// The variables of sd_watchdog_enabled(3).
pub(crate) const WATCHDOG_USEC: &str = "WATCHDOG_USEC";
pub(crate) const WATCHDOG_PID: &str = "WATCHDOG_PID";

/// A process that was started for a child.
pub(crate) struct Process {
    pub pid: Pid,
    pub pidfd: OwnedFd,
    pub notify: Option<LineReader>,
    pub link: Option<LinkWriter>,
    /// Streams that are captured.
    pub outputs: Vec<Captured>,
    pub started: Instant,
    /// What its descendants have in their environment, see [`crate::orphans`].
    pub mark: String,
    /// True once it wrote something that was no message: that is logged once.
    pub garbled: bool,
    /// True once it was ready.
    pub was_ready: bool,
}

/// A socket under the name by which children know it.
pub(crate) struct NamedSocket<'fd> {
    pub name: &'fd str,
    pub socket: BorrowedFd<'fd>,
}

impl Process {
    /// Starts an instance of the service.
    pub(crate) fn start(
        spawner: &mut Spawner,
        application: &str,
        service: &Service,
        index: u32,
        sockets: &[NamedSocket<'_>],
        notify_socket: Option<&Path>,
        cgroup: Option<BorrowedFd<'_>>,
    ) -> Result<Process, SpawnError> {
        let mut descriptors: Vec<BorrowedFd<'_>> = sockets.iter().map(|named| named.socket).collect();
        let mark = format!("{}@{:016x}", child_name(&service.name, index), fastrand::u64(..));
        let mut variables: Vec<(&str, String)> = vec![(MARK, mark.clone())];
        if !sockets.is_empty() {
            let names: Vec<&str> = sockets.iter().map(|named| named.name).collect();
            variables.push((LISTEN_FDS, sockets.len().to_string()));
            variables.push((LISTEN_FDNAMES, names.join(":")));
            variables.push((LISTEN_PID, "0".repeat(PROCESS_ID_DIGITS)));
        }

        if let Some(path) = notify_socket {
            variables.push((NOTIFY_SOCKET, path.to_string_lossy().into_owned()));
            if let Some(timeout) = service.health_check_timeout {
                variables.push((WATCHDOG_USEC, timeout.as_micros().to_string()));
                variables.push((WATCHDOG_PID, "0".repeat(PROCESS_ID_DIGITS)));
            }
        }
        let notify = service.notifies().then(pipe).transpose()?;
        if let Some((_, write)) = &notify {
            variables.push((NOTIFY_PIPE, (FIRST_DESCRIPTOR + descriptors.len() as i32).to_string()));
            descriptors.push(write.as_fd());
        }
        let link = service.linked.then(pipe).transpose()?;
        if let Some((read, _)) = &link {
            variables.push((LINK_PIPE, (FIRST_DESCRIPTOR + descriptors.len() as i32).to_string()));
            descriptors.push(read.as_fd());
        }

        let prepared = prepare(application, service, index, &mut variables)?;
        let patched = variables.iter().filter(|(name, _)| [LISTEN_PID, WATCHDOG_PID].contains(name));
        let process_id_at = patched.filter_map(|(name, _)| prepared.position(name)).collect();
        let mut stdio = Default::default();
        let mut outputs = Vec::new();
        if let Start::Command(command) = &service.start {
            stdio = command.open_stdio()?;
            for (number, stream) in command.captured() {
                let (read, write) = pipe()?;
                rustix::fs::fcntl_setfl(&read, OFlags::NONBLOCK).map_err(refused("arrange a pipe"))?;
                stdio[number] = Some(write);
                outputs.push(Captured { output: Output::new(stream, read), paused: None });
            }
        }
        let plan = Plan {
            program: prepared.program,
            arguments: prepared.arguments,
            environment: prepared.environment,
            directory: prepared.directory,
            descriptors,
            stdio: stdio.each_ref().map(|file| file.as_ref().map(AsFd::as_fd)),
            limits: prepared.limits,
            nice: prepared.nice,
            umask: prepared.umask,
            credentials: prepared.credentials,
            cgroup,
            process_id_at,
        };
        let started = Instant::now();
        let Spawned { pid, pidfd } = spawner.spawn(plan)?;
        let notify = notify.map(|(read, _)| read);
        let link = link.map(|(_, write)| write);
        for pipe in notify.iter().chain(&link) {
            rustix::fs::fcntl_setfl(pipe, OFlags::NONBLOCK).map_err(refused("arrange a pipe"))?;
        }
        Ok(Process {
            pid,
            pidfd,
            notify: notify.map(LineReader::new),
            link: link.map(LinkWriter::new),
            outputs,
            started,
            mark,
            garbled: false,
            was_ready: false,
        })
    }

    /// What the process is doing, as the kernel has it: its state, and where it waits.
    pub(crate) fn activity(&self) -> String {
        let read = |name: &str| std::fs::read_to_string(format!("/proc/{}/{name}", self.pid.as_raw_nonzero()));
        let status = read("status").unwrap_or_default();
        let state = status.lines().find_map(|line| line.strip_prefix("State:")).map_or("gone", str::trim);
        match read("wchan") {
            Ok(place) if !place.is_empty() && place != "0" => format!("{state} in {place}"),
            _ => state.to_owned(),
        }
    }

    /// When a stream of it is to be read again that is not for now.
    pub(crate) fn paused_until(&self) -> Option<Instant> {
        self.outputs.iter().filter_map(|captured| captured.paused).min()
    }

    /// Sends the signal to the process and its group. The process must not have been reaped.
    pub(crate) fn signal(&self, signal: Signal) {
        if let Err(error) = signal::send_group(&self.pidfd, self.pid, signal) {
            tracing::error!(pid = self.pid.as_raw_nonzero().get(), ?signal, %error, "cannot send a signal");
        }
    }
}

fn prepare(
    application: &str,
    service: &Service,
    index: u32,
    variables: &mut Vec<(&'static str, String)>,
) -> Result<Prepared, SpawnError> {
    let name = child_name(&service.name, index);
    Ok(match &service.start {
        Start::Command(command) => command.prepare(variables)?,
        Start::Entry(_) | Start::Thread(_) => {
            let title = child_title(application, &service.name, index);
            variables.push((ENTRY, name));
            Command::prepare_again(&title, variables)?
        }
    })
}

/// A pipe, read end first, that no other program inherits.
fn pipe() -> Result<(OwnedFd, OwnedFd), SpawnError> {
    rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(refused("make a pipe"))
}

fn refused(step: &'static str) -> impl Fn(Errno) -> SpawnError {
    move |error| SpawnError::System { step, source: error.into() }
}
