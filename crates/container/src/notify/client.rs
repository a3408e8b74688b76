//! The child's side.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::OnceLock;

use rustix::fs::OFlags;

use super::{Message, NOTIFY_PIPE};
use crate::sys::inherit;

/// Tells the process that started this one how it is.
///
/// Without such a process the messages go to the log.
#[derive(Debug)]
pub struct Notify {
    pipe: Option<OwnedFd>,
}

impl Notify {
    /// The channel that this process was started with. The variable that names it is taken out of the
    /// environment, so that programs started from here do not speak in its name.
    pub fn open() -> &'static Notify {
        static NOTIFY: OnceLock<Notify> = OnceLock::new();
        NOTIFY.get_or_init(|| {
            let pipe = inherit::take_variable(NOTIFY_PIPE).and_then(|number| match open_pipe(&number) {
                Ok(pipe) => Some(pipe),
                Err(error) => {
                    tracing::error!(variable = NOTIFY_PIPE, value = number, %error, "cannot open the notify pipe");
                    None
                }
            });
            Notify { pipe }
        })
    }

    /// Says that this process is ready.
    ///
    /// # Errors
    /// When the pipe is broken: the process at its other end is gone, or does not read.
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

    /// Says what this process is doing.
    ///
    /// # Errors
    /// See [`ready`](Self::ready).
    pub fn status(&self, text: impl Into<String>) -> io::Result<()> {
        self.send(&Message { status: Some(text.into()), ..Message::default() })
    }

    /// Says that this process is about to end.
    ///
    /// # Errors
    /// See [`ready`](Self::ready).
    pub fn stopping(&self) -> io::Result<()> {
        self.send(&Message { stopping: Some(true), ..Message::default() })
    }

    /// Sends any message, by a single write(2), so that messages of several threads never mix.
    ///
    /// # Errors
    /// See [`ready`](Self::ready).
    pub fn send(&self, message: &Message) -> io::Result<()> {
        let mut line = serde_json::to_vec(message)?;
        line.push(b'\n');
        let Some(pipe) = &self.pipe else {
            tracing::info!(message = %String::from_utf8_lossy(line.trim_ascii()), "notify");
            return Ok(());
        };
        match rustix::io::retry_on_intr(|| rustix::io::write(pipe, &line))? {
            length if length == line.len() => Ok(()),
            _ => Err(io::Error::new(io::ErrorKind::WriteZero, "the message was written in part only")),
        }
    }

    /// True if somebody listens.
    pub(crate) fn is_connected(&self) -> bool {
        self.pipe.is_some()
    }

    /// The pipe, if there is one: its other end is closed when the root has ended.
    pub(crate) fn pipe(&self) -> Option<BorrowedFd<'_>> {
        self.pipe.as_ref().map(AsFd::as_fd)
    }
}

fn open_pipe(number: &str) -> io::Result<OwnedFd> {
    let number = number.parse().map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "not a file descriptor"))?;
    let pipe = inherit::take(number)?;
    // A root that does not read must not hold up the work.
    rustix::fs::fcntl_setfl(&pipe, OFlags::NONBLOCK)?;
    Ok(pipe)
}
