//! The process that owns all children, as far as a supervisor has to do with it.

use std::{collections::BTreeMap, fmt, io, os::fd::OwnedFd, path::Path, str::FromStr, time::Duration};

use rustix::process::{Pid, PidfdFlags, getppid, pidfd_open};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::process;

/// What a supervisor asks of the root controller.
///
/// [`ParentProcess`] is the default: a parent that understands signals and no more. An application whose root understands
/// more implements this over the channel that it has to it.
pub trait Root: Send + Sync + 'static {
    /// Sends a signal to the root controller.
    fn signal(&self, signal: Signal) -> Result<(), RootError>;

    /// Asks for a process to be replaced by a fresh one. [`RootError::Unsupported`] where the root cannot do that: the
    /// supervisor then signals the process itself, and leaves it to the root to notice that it ended.
    fn replace(&self, replacement: &Replacement) -> Result<(), RootError>;

    /// What the root tells of itself and its children, if it does.
    fn state(&self) -> Option<watch::Receiver<RootState>>;

    /// Tells the root that a child has been looked at that it is about to kill ([`ChildState::condemned`]), and where what was
    /// found is kept.
    fn examined(&self, process_id: u32, incident: Option<&Path>) -> Result<(), RootError> {
        let _ = (process_id, incident);
        Err(RootError::Unsupported)
    }

    /// Whether a signal would reach the root. It is asked before `restart` is answered, because the answer goes before the
    /// signal.
    fn check(&self) -> Result<(), RootError> {
        Ok(())
    }
}

/// A wish of the supervisor's to have a process replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Replacement {
    /// The process to replace.
    pub process_id: u32,
    /// Why, for people.
    pub reason: String,
    /// Why, in a word: the name of the monitor that wants it.
    pub cause: String,
    /// Where what was found about the old process is kept, if somebody has looked at it.
    pub incident: Option<String>,
    /// Whether the new process is to be started first, and how long the old one then goes on at most. A root that cannot do
    /// that stops the old one first.
    pub start_first: Option<Duration>,
}

/// Whether a process is a child of the root, which it can replace; nothing if it does not tell of its children, or has not yet.
pub(crate) fn is_child(root: &dyn Root, process_id: u32) -> Option<bool> {
    let state = root.state()?;
    let state = state.borrow();
    let is_told = state.process_id > 0 || !state.children.is_empty();
    is_told.then(|| state.children.iter().any(|child| child.process_id == Some(process_id)))
}

/// The place of a child's process, which the root fills again when that has ended.
pub(crate) struct Place {
    state: watch::Receiver<RootState>,
    service: String,
    instance: u32,
    /// Whose it was.
    process_id: u32,
}

impl Place {
    /// Nothing if the root does not tell of its children, or the process is none of them.
    pub(crate) fn of(root: &dyn Root, process_id: u32) -> Option<Self> {
        let state = root.state()?;
        let found = state.borrow().children.iter().find(|child| child.process_id == Some(process_id)).cloned();
        let ChildState { service, instance, .. } = found?;
        Some(Self { state, service, instance, process_id })
    }

    /// Waits until the root has seen the end of the process.
    pub(crate) async fn left(&self) {
        let is_there = |child: &ChildState| child.process_id == Some(self.process_id);

        if self.state.clone().wait_for(|state| !state.children.iter().any(is_there)).await.is_err() {
            // The root is gone, and tells no more.
            std::future::pending().await
        }
    }

    /// Waits until another process is ready there, or until none is to be expected soon.
    pub(crate) async fn settled(self) {
        let Self { mut state, service, instance, process_id } = self;
        // The process is ready; or the place is gone, given up, or waits for its next attempt.
        let is_filled = |child: &ChildState| child.is_ready() && child.process_id != Some(process_id);
        let is_expected = |child: &ChildState| !matches!(child.state.as_str(), "waiting" | "stopped");
        let is_settled = |state: &RootState| {
            let here = |child: &&ChildState| child.service == service && child.instance == instance;
            let mut here = state.children.iter().filter(here);
            here.clone().any(is_filled) || !here.any(is_expected)
        };

        // It is closed if the root is gone, and then nobody fills the place.
        drop(state.wait_for(is_settled).await);
    }
}

/// Why the root could not be asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RootError {
    /// The root cannot do that.
    #[error("the root controller does not support this")]
    Unsupported,
    /// The root is gone, and this process belongs to somebody else now.
    #[error("the root controller (process {process_id}) is gone")]
    Gone {
        /// Its process id while it was there.
        process_id: u32,
    },
    /// It could not be reached.
    #[error("the root controller cannot be reached")]
    Unreachable(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl From<io::Error> for RootError {
    fn from(error: io::Error) -> Self {
        Self::Unreachable(error.into())
    }
}

/// A signal to the root controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Signal {
    /// Stop, so that whoever manages the root starts it anew.
    Int,
    /// Replace all children by a new generation.
    Hup,
    /// Stop.
    Term,
    /// For the application.
    Usr1,
    /// For the application.
    Usr2,
}

impl Signal {
    const ALL: [(Self, &'static str, rustix::process::Signal); 5] = [
        (Self::Int, "INT", rustix::process::Signal::INT),
        (Self::Hup, "HUP", rustix::process::Signal::HUP),
        (Self::Term, "TERM", rustix::process::Signal::TERM),
        (Self::Usr1, "USR1", rustix::process::Signal::USR1),
        (Self::Usr2, "USR2", rustix::process::Signal::USR2),
    ];

    /// Its name, without `SIG`.
    pub fn name(self) -> &'static str {
        self.row().1
    }

    fn row(self) -> (Self, &'static str, rustix::process::Signal) {
        Self::ALL[self as usize]
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

impl FromStr for Signal {
    type Err = UnknownSignal;

    fn from_str(name: &str) -> Result<Self, UnknownSignal> {
        let short = name.strip_prefix("SIG").unwrap_or(name);

        Self::ALL
            .into_iter()
            .find(|row| row.1 == short)
            .map(|row| row.0)
            .ok_or_else(|| UnknownSignal { name: name.to_owned() })
    }
}

/// No signal for the root has that name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{name}' is no signal for the root controller: use INT, HUP, TERM, USR1 or USR2")]
pub struct UnknownSignal {
    name: String,
}

/// What a root controller tells of itself.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RootState {
    /// Its process id.
    pub process_id: u32,
    /// Which generation of children is in charge.
    pub generation: u64,
    /// How many attempts at a new generation have ended, well or not.
    pub reloads: u64,
    /// Whether such an attempt is under way.
    pub reloading: bool,
    /// Why the last one failed, if it did.
    pub reload_error: Option<String>,
    /// Whether all children are ready.
    pub ready: bool,
    /// The children.
    pub children: Vec<ChildState>,
    /// Processes of children that were about to be killed because they had not ended in time ([`ChildState::kill_at`]), and then
    /// ended by themselves; the latest ones.
    #[serde(skip)]
    pub spared: Vec<u32>,
}

/// What a root controller tells of one child.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ChildState {
    /// Its name, unique among the children.
    pub name: String,
    /// The service of which it is an instance.
    pub service: String,
    /// Which instance, from 1.
    pub instance: u32,
    /// The generation that it belongs to.
    pub generation: u64,
    /// Its process id, while it has one.
    pub process_id: Option<u32>,
    /// `starting`, `ready`, `unready`, `blocked`, `held`, `waiting`, `stopping` or `stopped`.
    pub state: String,
    /// How often it was started again.
    pub restarts: u64,
    /// How it ended the last time, and why.
    pub last_exit: Option<String>,
    /// When that was, in seconds since 1970, with a fraction.
    pub last_exit_at: Option<f64>,
    /// Why it ended, in a word: a key of [`exits`](Self::exits).
    pub last_exit_cause: Option<String>,
    /// The directory with what was found about its last process before that was ended, if somebody looked. If that was done
    /// twice, it is that of why the process was to end, not of why it did not. Until all is in it, its name ends in `.partial`.
    pub last_incident: Option<String>,
    /// Why its process is about to be killed, while the root waits for the supervisor to look at it.
    pub condemned: Option<String>,
    /// When it is killed, in seconds since 1970, if that is because it has not ended although it was asked to: it may still do so
    /// until then. Others are killed once they were looked at.
    pub kill_at: Option<f64>,
    /// How many of its processes ended, by cause. What monitors have replaced counts under the name of the monitor.
    pub exits: BTreeMap<String, u64>,
    /// How long its process, or the last one before it that became ready, took for that; in seconds.
    pub time_to_ready: Option<f64>,
    /// How many attempts in a row have come to nothing, which is what the pause before the next one grows by.
    pub failures: u32,
    /// When it is started again, while it waits for that: in seconds since 1970, with a fraction.
    pub next_start: Option<f64>,
}

impl ChildState {
    /// Whether it does its work.
    pub fn is_ready(&self) -> bool {
        self.state == "ready"
    }
}

/// The process that started this one, as root controller: it takes signals, and replaces children that end.
///
/// The parent is the one at the time of [`new`](Self::new), by a handle. If it has ended since, this process was given to
/// another parent, PID 1 or whoever else collects orphans, which must not get its signals.
#[derive(Debug)]
pub struct ParentProcess {
    parent: Option<(Pid, OwnedFd)>,
}

impl ParentProcess {
    /// The parent of now. Create it early.
    pub fn new() -> Self {
        let parent = getppid().and_then(|parent| {
            let handle = pidfd_open(parent, PidfdFlags::empty()).ok()?;
            // If it ended in between, the number may be someone else's, and so is the handle.
            (getppid() == Some(parent)).then_some((parent, handle))
        });

        Self { parent }
    }

    fn parent(&self) -> Result<&OwnedFd, RootError> {
        match &self.parent {
            Some((parent, handle)) if getppid() == Some(*parent) => Ok(handle),
            Some((parent, _)) => Err(RootError::Gone { process_id: parent.as_raw_nonzero().get() as u32 }),
            None => Err(io::Error::new(io::ErrorKind::NotFound, "there was no parent process to be seen").into()),
        }
    }
}

impl Default for ParentProcess {
    fn default() -> Self {
        Self::new()
    }
}

impl Root for ParentProcess {
    fn signal(&self, signal: Signal) -> Result<(), RootError> {
        Ok(process::send(self.parent()?, signal.row().2)?)
    }

    fn replace(&self, _: &Replacement) -> Result<(), RootError> {
        Err(RootError::Unsupported)
    }

    fn state(&self) -> Option<watch::Receiver<RootState>> {
        None
    }

    fn check(&self) -> Result<(), RootError> {
        self.parent().map(|_| ())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn child(instance: u32, process_id: Option<u32>, state: &str) -> ChildState {
        ChildState { service: "web".into(), instance, process_id, state: state.into(), ..ChildState::default() }
    }

    #[tokio::test]
    async fn a_place_is_settled_once_another_process_is_ready_there_or_none_is_to_be_expected() {
        let other = child(2, Some(9), "ready");
        for (children, expected) in [
            (vec![child(1, Some(7), "ready")], false),
            (vec![child(1, Some(7), "stopping")], false),
            (vec![child(1, None, "starting")], false),
            (vec![child(1, None, "held")], false),
            (vec![child(1, Some(8), "starting")], false),
            (vec![child(1, Some(7), "stopping"), child(1, Some(8), "starting")], false),
            (vec![child(1, Some(8), "ready")], true),
            (vec![child(1, Some(7), "stopping"), child(1, Some(8), "ready")], true),
            (vec![child(1, None, "waiting")], true),
            (vec![child(1, None, "stopped")], true),
            (vec![], true),
        ] {
            let children = children.into_iter().chain([other.clone()]).collect();
            let (_sender, state) = watch::channel(RootState { children, ..RootState::default() });
            let place = Place { state: state.clone(), service: "web".into(), instance: 1, process_id: 7 };
            let settled = tokio::time::timeout(Duration::ZERO, place.settled()).await;
            assert_eq!(settled.is_ok(), expected, "{:?}", state.borrow().children);
        }
    }
}
