//! What the root knows about its children, as it tells it to linked ones.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The state of the root and all of its children.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Status {
    /// The root itself.
    pub root: RootStatus,
    /// Every child, by generation and name.
    pub children: BTreeMap<(u64, String), ChildStatus>,
}

impl Status {
    /// Takes over a piece of news.
    pub(crate) fn apply(&mut self, update: Update) {
        match update {
            Update::Root(root) => self.root = root,
            Update::Child(child) => {
                let child = *child;
                self.children.insert((child.generation, child.name.clone()), child);
            }
            Update::Removed { generation, name } => {
                self.children.remove(&(generation, name));
            }
        }
    }
}

/// The state of the root.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootStatus {
    /// Its process id.
    pub process_id: u32,
    /// The generation of children that is active, from 1.
    pub generation: u64,
    /// True while a new generation is being started.
    pub reloading: bool,
    /// How many attempts to start a new generation have ended.
    pub reloads: u64,
    /// Why the last of them failed, if it did.
    pub reload_error: Option<String>,
    /// True if every child of the active generation is ready.
    pub ready: bool,
    /// How long a child may take to end that has no [grace period](crate::Service::graceful_stop) of its own.
    #[serde(default)]
    pub graceful_stop: Duration,
    /// Processes that somebody was to look at because they had not ended in time ([`ChildStatus::kill_at`]), and that ended by
    /// themselves after all; the latest ones.
    #[serde(default)]
    pub spared: VecDeque<u32>,
}

impl RootStatus {
    /// How many processes are remembered to have been spared.
    const SPARED: usize = 256;

    /// A process ended by itself at the last moment.
    pub(crate) fn spare(&mut self, process_id: u32) {
        self.spared.truncate(Self::SPARED - 1);
        self.spared.push_front(process_id);
    }

    /// A process was started: what is known of its number is of another one.
    pub(crate) fn forget(&mut self, process_id: u32) {
        self.spared.retain(|spared| *spared != process_id);
    }
}

/// The state of one child.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ChildStatus {
    /// Its name, such as `worker#1`. While one is replaced by another that is started first, they are `worker#1 (new)` and,
    /// once that is ready, `worker#1 (old)`.
    pub name: String,
    /// Its service.
    pub service: String,
    /// Which of the service's instances it is, from 1.
    pub instance: u32,
    /// The generation that it belongs to.
    pub generation: u64,
    /// Its process, while it has one.
    pub process_id: Option<u32>,
    /// `starting`, `ready`, `unready`, `blocked`, `held`, `waiting`, `stopping` or `stopped`.
    pub state: String,
    /// What it says that it is doing.
    pub status: Option<String>,
    /// How many times it was started again.
    pub restarts: u64,
    /// How its last process ended, and why.
    pub last_exit: Option<String>,
    /// When that was, in seconds since 1970.
    pub last_exit_at: Option<f64>,
    /// Why it ended, in a word: a key of [`exits`](Self::exits).
    pub last_exit_cause: Option<String>,
    /// The directory with what was found about its last process before that ended, if somebody looked. If that was done twice,
    /// it is that of why the process was to end, not of why it did not. Until all is in it, its name ends in `.partial`.
    pub last_incident: Option<String>,
    /// Why its process is about to be killed, while a linked child is to
    /// [look at it](crate::Link::examined).
    pub condemned: Option<String>,
    /// When it will be killed, in seconds since 1970, if that is because it has not ended although it was asked to: it may still
    /// do so until then. Others are killed once they were looked at.
    pub kill_at: Option<f64>,
    /// How many of its processes ended, by cause: `exit` and `failure` of themselves, `spawn` could not be started,
    /// `startup`, `health_check`, `probe` and `watchdog` were killed for what they did not do, `age` and `group` were
    /// replaced by the root, `recycle` [asked](crate::Instance::recycle) for it, `stop` was asked to end; others were replaced at the request of a linked child, which
    /// names the cause, such as `memory`.
    pub exits: BTreeMap<String, u64>,
    /// How long its process, or the last one before it that became ready, took for that; in seconds.
    pub time_to_ready: Option<f64>,
    /// How many attempts in a row have come to nothing, which is what the back-off grows by.
    pub failures: u32,
    /// While it is waiting: when it will be started, in seconds since 1970.
    pub next_start: Option<f64>,
}

/// A piece of news from the root.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Update {
    Root(RootStatus),
    Child(Box<ChildStatus>),
    Removed { generation: u64, name: String },
}
