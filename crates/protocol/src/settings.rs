//! The bounds of a connection.

use std::time::Duration;

use crate::frame::MAXIMUM_LIMIT;

const FRAME_LIMIT: usize = 16 << 20;
const CALLS_LIMIT: usize = 1024;
const QUEUE_LIMIT: usize = 64;
const BACKLOG_LIMIT: usize = 1 << 20;
const WRITE_STALL: Duration = Duration::from_secs(30);
const READ_STALL: Duration = Duration::from_secs(3);

/// What one connection may cost, in memory and in time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    pub(crate) frame_limit: usize,
    pub(crate) calls_limit: usize,
    pub(crate) queue_limit: usize,
    pub(crate) backlog_limit: usize,
    pub(crate) write_stall: Duration,
    pub(crate) read_stall: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            frame_limit: FRAME_LIMIT,
            calls_limit: CALLS_LIMIT,
            queue_limit: QUEUE_LIMIT,
            backlog_limit: BACKLOG_LIMIT,
            write_stall: WRITE_STALL,
            read_stall: READ_STALL,
        }
    }
}

impl Settings {
    /// How large a message may be, in bytes, in both directions. Default is 16 MiB.
    pub fn frame_limit(mut self, bytes: usize) -> Self {
        self.frame_limit = bytes.clamp(1, MAXIMUM_LIMIT);
        self
    }

    /// How many calls may be under way in each direction. Default is 1024.
    pub fn calls_limit(mut self, calls: usize) -> Self {
        self.calls_limit = calls.max(1);
        self
    }

    /// How many messages of one call may wait to be written, and how many that came may wait to be taken: the window that
    /// the peer is told. Default is 64.
    pub fn queue_limit(mut self, messages: usize) -> Self {
        self.queue_limit = messages.max(1);
        self
    }

    /// How many bytes may wait to be written before streams wait, how many bytes of final answers before calls wait, and
    /// how many bytes of calls before nothing more is read. Default is 1 MiB.
    pub fn backlog_limit(mut self, bytes: usize) -> Self {
        self.backlog_limit = bytes.max(1);
        self
    }

    /// How long a peer may read nothing while something waits to be written to it, before the connection is closed.
    /// Default is 30 s.
    pub fn write_stall(mut self, duration: Duration) -> Self {
        self.write_stall = duration;
        self
    }

    /// How long a call whose responses nobody takes may hold up others on its connection before it is given up. It holds up
    /// none if the peer knows of windows, or as long as it is the only one. Default is 3 s.
    pub fn read_stall(mut self, duration: Duration) -> Self {
        self.read_stall = duration;
        self
    }
}
