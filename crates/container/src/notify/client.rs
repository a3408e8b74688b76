//! The child's side: how a process tells the one that started it how it is.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use rustix::fs::OFlags;

use super::message::{RecycleRequest, Request};
use super::socket::{self, Socket};
use super::{Message, NOTIFY_LOG, NOTIFY_PIPE, NOTIFY_SOCKET};
use crate::sys::inherit;

/// Tells the process that started this one how it is.
///
/// The first of these that there is, is used:
/// 1. the pipe that `NOTIFY_PIPE` names by its descriptor: a JSON object a line;
/// 2. the socket of a service manager that `NOTIFY_SOCKET` names: the fields of sd_notify(3);
/// 3. the file that `NOTIFY_LOG` names: a JSON object a line, appended;
/// 4. the log of this program.
#[derive(Debug)]
pub struct Notify {
    channel: Channel,
}

#[derive(Debug)]
enum Channel {
    Pipe(OwnedFd),
    Socket(Socket),
    Log(PathBuf),
    Console,
}

impl Notify {
    /// The channel that this process was started with. A variable that names a pipe or socket is taken out of the
    /// environment, so that programs started from here do not speak in its name.
    pub fn open() -> &'static Notify {
        static NOTIFY: OnceLock<Notify> = OnceLock::new();
        NOTIFY.get_or_init(|| {
            let channel =
                open(NOTIFY_PIPE, inherit::take_variable(NOTIFY_PIPE), |value| Ok(Channel::Pipe(open_pipe(value)?)))
                    .or_else(|| {
                        open(NOTIFY_SOCKET, inherit::take_variable(NOTIFY_SOCKET), |value| {
                            Ok(Channel::Socket(Socket::new(value.as_ref())?))
                        })
                    })
                    .or_else(|| std::env::var_os(NOTIFY_LOG).map(|path| Channel::Log(path.into())))
                    .unwrap_or(Channel::Console);
            Notify { channel }
        })
    }

    /// Says that this process is ready.
    ///
    /// # Errors
    /// When the channel is broken: the process at its other end is gone, or does not read.
    pub fn ready(&self) -> io::Result<()> {
        self.send(&Message { ready: Some(true), ..Message::default() })
    }

    /// Says that this process lives.
    ///
    /// # Errors
    /// See [`ready`](Self::ready).
    pub fn healthy(&self) -> io::Result<()> {
        self.send(&Message { healthy: Some(true), ..Message::default() })
    }

    /// Says that this process is about to load its configuration anew.
    ///
    /// # Errors
    /// See [`ready`](Self::ready).
    pub fn reloading(&self) -> io::Result<()> {
        let status = Some("Reloading...".to_owned());
        self.send(&Message { ready: Some(false), reloading: Some(true), status, ..Message::default() })
    }

    /// Says that this process is about to start its children anew.
    ///
    /// # Errors
    /// See [`ready`](Self::ready).
    pub fn restarting(&self) -> io::Result<()> {
        let status = Some("Restarting...".to_owned());
        self.send(&Message { ready: Some(false), reloading: Some(true), status, ..Message::default() })
    }

    /// Says that this process is about to end.
    ///
    /// # Errors
    /// See [`ready`](Self::ready).
    pub fn stopping(&self) -> io::Result<()> {
        self.send(&Message { stopping: Some(true), ..Message::default() })
    }

    /// Says what this process is doing.
    ///
    /// # Errors
    /// See [`ready`](Self::ready).
    pub fn status(&self, text: impl Into<String>) -> io::Result<()> {
        self.send(&Message { status: Some(text.into()), ..Message::default() })
    }

    /// Asks for more time: what is under way may take so long from now before a time-out expires.
    ///
    /// # Errors
    /// See [`ready`](Self::ready).
    pub fn extend_timeout(&self, time: Duration) -> io::Result<()> {
        let microseconds = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.send(&Message { extend_timeout_usec: Some(microseconds), ..Message::default() })
    }

    /// Asks for another process in the place of this one.
    pub(crate) fn recycle(&self, reason: String) -> io::Result<()> {
        let request = Request::Recycle(RecycleRequest { reason });
        self.send(&Message { request: Some(request), ..Message::default() })
    }

    /// Says which process a service manager is to take for the main one from now on.
    ///
    /// # Errors
    /// See [`ready`](Self::ready).
    pub fn main_process(&self, process_id: u32) -> io::Result<()> {
        self.send(&Message { main_process_id: Some(process_id), ..Message::default() })
    }

    /// Has a service manager keep a copy of the descriptor, and hand it to the next start of the service under this name. At
    /// most 255 ASCII characters without control characters and `:`, see `FDNAME=` of sd_notify(3).
    ///
    /// # Errors
    /// When it cannot be sent, when the name cannot be one, or when no service manager listens.
    pub fn store(&self, name: &str, descriptor: impl AsFd) -> io::Result<()> {
        let valid = |character: char| character.is_ascii() && !character.is_ascii_control() && character != ':';
        if name.is_empty() || name.len() > 255 || !name.chars().all(valid) {
            let complaint =
                format!("{name:?} is no name for a stored descriptor: use 1 to 255 ASCII characters without ':'");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, complaint));
        }
        self.socket()?.send_with(format!("FDSTORE=1\nFDNAME={name}\n").as_bytes(), descriptor.as_fd())
    }

    /// Waits until a service manager has taken everything that was said before, such as before this process ends.
    ///
    /// # Errors
    /// When it does not come to that in time, or no service manager listens.
    pub fn barrier(&self, timeout: Duration) -> io::Result<()> {
        self.socket()?.barrier(timeout)
    }

    fn socket(&self) -> io::Result<&Socket> {
        match &self.channel {
            Channel::Socket(socket) => Ok(socket),
            Channel::Pipe(_) | Channel::Log(_) | Channel::Console => {
                Err(io::Error::new(io::ErrorKind::Unsupported, "no service manager listens: NOTIFY_SOCKET is not set"))
            }
        }
    }

    /// Says what went wrong.
    ///
    /// # Errors
    /// See [`ready`](Self::ready).
    pub fn error(&self, text: impl Into<String>) -> io::Result<()> {
        let message = Message { status: Some(text.into()), errno: Some(-1), ..Message::default() };
        match &self.channel {
            Channel::Console => {
                tracing::error!(status = message.status, "notify");
                Ok(())
            }
            _ => self.send(&message),
        }
    }

    /// Sends any message, by a single system call, so that those of several threads never mix.
    ///
    /// # Errors
    /// See [`ready`](Self::ready); and when the channel has no room for a message of this length.
    pub fn send(&self, message: &Message) -> io::Result<()> {
        match &self.channel {
            Channel::Pipe(pipe) => {
                let line = json_line(message)?;
                match rustix::io::retry_on_intr(|| rustix::io::write(pipe, &line))? {
                    length if length == line.len() => Ok(()),
                    _ => Err(io::Error::new(io::ErrorKind::WriteZero, "the message was written in part only")),
                }
            }
            Channel::Socket(_) => self.send_datagram(&socket::encode(message)?),
            Channel::Log(path) => {
                OpenOptions::new().create(true).append(true).open(path)?.write_all(&json_line(message)?)
            }
            Channel::Console => {
                tracing::info!(message = %String::from_utf8_lossy(json_line(message)?.trim_ascii()), "notify");
                Ok(())
            }
        }
    }

    /// The message as a datagram, if a service manager is at the other end.
    pub(crate) fn datagram(&self, message: &Message) -> io::Result<Option<Vec<u8>>> {
        match &self.channel {
            Channel::Socket(_) => socket::encode(message).map(Some),
            Channel::Pipe(_) | Channel::Log(_) | Channel::Console => Ok(None),
        }
    }

    /// Sends a datagram as it is, if a service manager is at the other end.
    pub(crate) fn send_datagram(&self, datagram: &[u8]) -> io::Result<()> {
        match &self.channel {
            Channel::Socket(socket) if !datagram.is_empty() => socket.send(datagram),
            _ => Ok(()),
        }
    }

    /// True if anybody but the log is told.
    pub(crate) fn is_connected(&self) -> bool {
        !matches!(self.channel, Channel::Console)
    }

    /// The pipe, if there is one: its other end is closed when the root has ended.
    pub(crate) fn pipe(&self) -> Option<BorrowedFd<'_>> {
        match &self.channel {
            Channel::Pipe(pipe) => Some(pipe.as_fd()),
            Channel::Socket(_) | Channel::Log(_) | Channel::Console => None,
        }
    }
}

/// What the variable leads to, or nothing and a complaint.
fn open(name: &str, value: Option<String>, open: impl FnOnce(&str) -> io::Result<Channel>) -> Option<Channel> {
    let value = value?;
    open(&value)
        .inspect_err(|error| tracing::error!(variable = name, value, %error, "cannot open the notify channel"))
        .ok()
}

fn open_pipe(number: &str) -> io::Result<OwnedFd> {
    let number = number.parse().map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "not a file descriptor"))?;
    let pipe = inherit::take(number)?;
    // A root that does not read must not hold up the work.
    rustix::fs::fcntl_setfl(&pipe, OFlags::NONBLOCK)?;
    Ok(pipe)
}

fn json_line(message: &Message) -> io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    Ok(line)
}
