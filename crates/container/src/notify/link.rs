//! The line between the root and a child that it trusts with requests, such as a supervisor.
//!
//! Down, on a pipe of its own, the root tells the state of all children, one JSON object a line, and
//! again whatever changes. Up, on the notify pipe, the child asks for children to be replaced.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::fs::OFlags;
use rustix::io::Errno;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::unix::pipe;
use tokio::sync::watch;

use super::{ExaminedRequest, Message, Notify, ReplaceRequest, Request};
use crate::status::{Status, Update};

/// The variable that names the descriptor of the pipe from the root.
pub(crate) const LINK_PIPE: &str = "ASYNC_CONTAINER_LINK";

/// What has changed since the child was last told.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Topic {
    Root,
    Child { key: u64, generation: u64, name: String },
}

/// The root's end. It never blocks and never grows: what a slow child has not read yet is remembered as
/// topics, of which only the latest state will be told.
pub(crate) struct LinkWriter {
    pipe: OwnedFd,
    topics: BTreeSet<Topic>,
    /// The rest of what the pipe had no room for.
    unsent: Vec<u8>,
}

impl LinkWriter {
    /// The pipe must not block.
    pub(crate) fn new(pipe: OwnedFd) -> Self {
        LinkWriter { pipe, topics: BTreeSet::new(), unsent: Vec::new() }
    }

    pub(crate) fn changed(&mut self, topic: Topic) {
        self.topics.insert(topic);
    }

    /// Writes what the pipe takes. True if everything is said.
    pub(crate) fn flush(&mut self, tell: impl Fn(&Topic) -> Update) -> bool {
        loop {
            if self.unsent.is_empty() {
                let mut batch = Vec::new();
                while let Some(topic) = (batch.len() < 16 * 1024).then(|| self.topics.pop_first()).flatten() {
                    if serde_json::to_writer(&mut batch, &tell(&topic)).is_ok() {
                        batch.push(b'\n');
                    }
                }
                if batch.is_empty() {
                    return true;
                }
                self.unsent = batch;
            }
            match rustix::io::write(&self.pipe, &self.unsent) {
                Ok(length) => {
                    self.unsent.drain(..length);
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return false,
                // The child has closed it. Its exit, if that was why, is noticed elsewhere.
                Err(_) => {
                    self.unsent.clear();
                    self.topics.clear();
                    return true;
                }
            }
        }
    }
}

impl AsFd for LinkWriter {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }
}

/// The child's end, see [`Service::linked`](crate::Service::linked).
#[derive(Clone, Debug)]
pub struct Link {
    status: watch::Receiver<Status>,
}

impl Link {
    /// Listens to the root from now on. To be called on the runtime.
    pub(crate) fn new(pipe: OwnedFd) -> io::Result<Link> {
        rustix::fs::fcntl_setfl(&pipe, OFlags::NONBLOCK)?;
        let pipe = pipe::Receiver::from_owned_fd(pipe)?;
        let (sender, status) = watch::channel(Status::default());
        tokio::spawn(listen(pipe, sender));
        Ok(Link { status })
    }

    /// What the root said last. It is complete once [`RootStatus::generation`](crate::RootStatus::generation) is not 0.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// Asks the root to replace a child.
    ///
    /// # Errors
    /// When the root cannot be told.
    pub fn replace(&self, replacement: &Replacement) -> io::Result<()> {
        let process_id =
            i32::try_from(replacement.process_id).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        let request = Request::Replace(ReplaceRequest {
            process_id,
            reason: replacement.reason.clone(),
            cause: replacement.cause.clone(),
            incident: replacement.incident.clone(),
            start_first: replacement.start_first.map(|limit| u64::try_from(limit.as_millis()).unwrap_or(u64::MAX)),
        });
        Notify::open().send(&Message { request: Some(request), ..Message::default() })
    }

    /// Tells the root that a child has been looked at which is about to be killed, see
    /// [`ChildStatus::condemned`](crate::ChildStatus::condemned), and where what was found is kept, if it is.
    ///
    /// # Errors
    /// When the root cannot be told.
    pub fn examined(&self, process_id: u32, incident: Option<&str>) -> io::Result<()> {
        let process_id = i32::try_from(process_id).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        let request = ExaminedRequest { process_id, incident: incident.map(str::to_owned) };
        Notify::open().send(&Message { request: Some(Request::Examined(request)), ..Message::default() })
    }
}

/// A wish to have a child replaced, see [`Link::replace`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replacement {
    process_id: u32,
    reason: String,
    cause: Option<String>,
    incident: Option<String>,
    start_first: Option<Duration>,
}

impl Replacement {
    /// The child that has this process id is to be stopped, and started again once it has ended. The reason goes to the
    /// root's log and to the child's status: a phrase without a full stop.
    pub fn new(process_id: u32, reason: impl Into<String>) -> Self {
        Replacement { process_id, reason: reason.into(), cause: None, incident: None, start_first: None }
    }

    /// The reason in a word, by which such ends are counted in [`ChildStatus::exits`](crate::ChildStatus::exits). Letters,
    /// digits and `_`; at most 32.
    ///
    /// Default is `request`.
    pub fn cause(mut self, cause: impl Into<String>) -> Self {
        self.cause = Some(cause.into());
        self
    }

    /// Where what was found about the process is kept, for the child's status.
    ///
    /// Default is nowhere.
    pub fn incident(mut self, incident: impl Into<String>) -> Self {
        self.incident = Some(incident.into());
        self
    }

    /// The new process is to be started first, and the old one to be stopped when that is ready, when that has failed, or
    /// after this time, whichever comes first. So no work stays undone meanwhile, but there are two processes.
    ///
    /// Default is that the old one is stopped first.
    pub fn start_first(mut self, limit: Duration) -> Self {
        self.start_first = Some(limit);
        self
    }
}

async fn listen(pipe: pipe::Receiver, sender: watch::Sender<Status>) {
    let mut lines = BufReader::new(pipe).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        match serde_json::from_str::<Update>(&line) {
            Ok(update) => sender.send_modify(|status| status.apply(update)),
            Err(error) => tracing::warn!(%error, "the root said something that is not understood"),
        }
    }
}
