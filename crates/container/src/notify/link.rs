//! The line between the root and a child that it trusts with requests, such as a supervisor.
//!
//! Down, on a pipe of its own, the root tells the state of all children, one JSON object a line, and
//! again whatever changes. Up, on the notify pipe, the child asks for children to be replaced.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::OFlags;
use rustix::io::Errno;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::unix::pipe;
use tokio::sync::watch;

use super::{Message, Notify, ReplaceRequest, Request};
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

    /// Asks the root to replace the child that has this process id. The reason goes to its log and to the child's status.
    ///
    /// # Errors
    /// When the root cannot be told.
    pub fn replace(&self, process_id: u32, reason: &str) -> io::Result<()> {
        let process_id = i32::try_from(process_id).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        let request = Request::Replace(ReplaceRequest { process_id, reason: reason.to_owned() });
        Notify::open().send(&Message { request: Some(request), ..Message::default() })
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
