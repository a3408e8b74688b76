//! The place of one child in a container.

use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use rustix::process::Pid;

use crate::cgroup::Cgroup;
use crate::container::{Key, ProbesOfChild};
use crate::exits::{Exits, Reason, cause_of, seconds};
use crate::lifecycle::{Failure, Lifecycle, State};
use crate::notify::link::{LinkWriter, Topic};
use crate::policy::PolicyChild;
use crate::process::Process;
use crate::spec::Service;
use crate::status::ChildStatus;
use crate::thread::Thread;
use crate::time::{FAR, after};

/// What a child is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// It is being started in place of another one, as part of a new generation.
    Incoming,
    /// It is being started in place of one that somebody wants replaced, and that works until this one is ready.
    Succeeding,
    /// It does its work.
    Active,
    /// Another one has taken its place, or it has failed to take another one's.
    Draining,
}

/// The place of one child.
pub(crate) struct Slot {
    pub service: Rc<Service>,
    pub index: u32,
    pub generation: u64,
    pub phase: Phase,
    pub name: String,
    pub lifecycle: Lifecycle,
    pub process: Option<Process>,
    /// The thread of the root that runs it, if it is one.
    pub thread: Option<Thread>,
    /// Where its processes run, if it has one of its own.
    pub cgroup: Option<Cgroup>,
    pub status: Option<String>,
    /// Why the process is being replaced, if somebody asked for it.
    pub reason: Option<Reason>,
    /// Where what was found about its process is kept, if somebody has looked.
    pub incident: Option<String>,
    /// The same, if somebody has looked because it had not ended although it was asked to. It counts only if it is killed, and
    /// nobody has looked before.
    pub late_incident: Option<String>,
    /// How its processes ended.
    pub exits: Exits,
    /// How long its last process that became ready took to do so.
    pub time_to_ready: Option<Duration>,
    /// The child that it was started in place of, and when it takes over at the latest.
    pub succeeds: Option<(Key, Instant)>,
    /// The child that takes, or took, its place while it is or was running.
    pub heir: Option<Key>,
    /// Restarts of those before it in its place.
    pub restarts_before: u64,
    /// What linked children were last told of its state and process.
    pub shown: Option<(State, Option<Pid>)>,
    /// The probes of its process.
    pub probes: Option<Box<ProbesOfChild>>,
    /// True until all children that it depends on are ready.
    pub blocked: bool,
    /// When its process will be too old, or asked to be replaced.
    pub recycle_at: Option<Instant>,
    /// Why its process asked to be replaced, if it did.
    pub recycle_reason: Option<String>,
    /// The earliest timer that the container holds for it.
    pub armed: Option<Instant>,
    /// True while it waits for its actions to be carried out.
    pub pending: bool,
}

impl Slot {
    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let recycle_at = self.recycle_at.filter(|_| self.lifecycle.state() == State::Ready);
        let probes = self.probes.as_ref().filter(|_| self.lifecycle.is_up());
        let probe_at = probes.and_then(|probes| probes.poll_timeout(&self.service.probes));
        let output_at = self.process.as_ref().and_then(Process::paused_until);
        let succeeds_at = self.succeeds.map(|(_, at)| at);
        [self.lifecycle.poll_timeout(), recycle_at, probe_at, output_at, succeeds_at].into_iter().flatten().min()
    }

    /// The child is ready: from now on it ages.
    pub(crate) fn age(&mut self, now: Instant) {
        if let Some(process) = &mut self.process
            && !std::mem::replace(&mut process.was_ready, true)
        {
            self.time_to_ready = Some(now.saturating_duration_since(process.started));
        }
        if let Some(thread) = &mut self.thread
            && !std::mem::replace(&mut thread.was_ready, true)
        {
            self.time_to_ready = Some(now.saturating_duration_since(thread.started));
        }
        self.recycle_reason = None;
        self.recycle_at =
            self.service.maximum_age.map(|age| after(now, age.min(FAR).mul_f64(0.9 + 0.2 * fastrand::f64())));
    }

    /// Why its process is, or was, being killed.
    pub(crate) fn failure(&self) -> Option<String> {
        let failure = self.lifecycle.failure()?;
        let probe = self.probes.as_ref().and_then(|probes| probes.last_failure());
        Some(match (failure, probe) {
            (Failure::Startup { .. }, Some((probe, reason))) => format!("{failure}, {probe}: {reason}"),
            _ => failure.to_string(),
        })
    }

    /// Why its process is about to be killed, while somebody is to look at it.
    pub(crate) fn condemned(&self) -> Option<String> {
        if !self.lifecycle.is_examined() {
            return None;
        }
        self.failure().or_else(|| {
            let overstay = self.lifecycle.overstay()?.as_secs_f64();
            Some(format!("still there {overstay:.1} s after it was asked to stop (grace period)"))
        })
    }

    /// Why its process ended, as far as that is not by itself.
    pub(crate) fn take_reason(&mut self, failure: Option<String>, asked: bool, failed: bool) -> Reason {
        let cause = |cause: &str| cause.to_owned();
        match (failure, self.reason.take()) {
            (Some(text), _) => Reason { text, cause: cause(self.lifecycle.failure().map_or("failure", cause_of)) },
            (None, Some(reason)) => reason,
            (None, None) => {
                let cause = cause(if asked {
                    "stop"
                } else if failed {
                    "failure"
                } else {
                    "exit"
                });
                Reason { text: String::new(), cause }
            }
        }
    }

    pub(crate) fn as_policies_see_it<'slot>(&'slot self, process: Option<&Process>) -> PolicyChild<'slot> {
        let process = process.or(self.process.as_ref());
        PolicyChild {
            name: &self.name,
            service: &self.service.name,
            instance: self.index,
            generation: self.generation,
            process_id: process.map_or(0, |process| process.pid.as_raw_nonzero().get().unsigned_abs()),
            restarts: self.restarts(),
        }
    }

    /// How many times a process was started in its place again.
    pub(crate) fn restarts(&self) -> u64 {
        self.restarts_before + self.lifecycle.restarts()
    }

    /// Its name, as linked children are told it: while two have the same place, only one of them can have its name.
    fn shown_name(&self) -> String {
        match (self.succeeds, self.heir) {
            (Some(_), _) => format!("{} (new)", self.name),
            (None, Some(_)) if self.phase == Phase::Draining => format!("{} (old)", self.name),
            _ => self.name.clone(),
        }
    }

    /// True if linked children know it by this name.
    pub(crate) fn is_shown_as(&self, generation: u64, name: &str) -> bool {
        self.generation == generation && name.starts_with(&self.name) && self.shown_name() == name
    }

    pub(crate) fn topic(&self, key: Key) -> Topic {
        Topic::Child { key, generation: self.generation, name: self.shown_name() }
    }

    /// The process's end of the line to a linked child.
    pub(crate) fn link(&mut self) -> Option<&mut LinkWriter> {
        self.process.as_mut()?.link.as_mut()
    }

    /// Lends the line out, so that it can be written while all children are looked at.
    pub(crate) fn take_link(&mut self) -> Option<LinkWriter> {
        self.process.as_mut()?.link.take()
    }

    pub(crate) fn return_link(&mut self, link: LinkWriter) {
        if let Some(process) = &mut self.process {
            process.link = Some(link);
        }
    }

    /// What there is to say about the child.
    pub(crate) fn status(&self, now: (Instant, SystemTime)) -> ChildStatus {
        let (state, next_start) = match self.lifecycle.state() {
            State::New if self.blocked => ("blocked", None),
            State::Held => ("held", None),
            State::Starting if self.lifecycle.was_ready() => ("unready", None),
            State::New | State::Starting => ("starting", None),
            State::Ready => ("ready", None),
            State::Stopping => ("stopping", None),
            State::Waiting { until } => ("waiting", seconds(now.1 + until.saturating_duration_since(now.0))),
            State::Stopped(_) => ("stopped", None),
        };
        ChildStatus {
            name: self.shown_name(),
            service: self.service.name.clone(),
            instance: self.index,
            generation: self.generation,
            process_id: self.process.as_ref().map(|process| process.pid.as_raw_nonzero().get().unsigned_abs()),
            state: state.to_owned(),
            status: self.status.clone(),
            restarts: self.restarts(),
            last_exit: self.exits.last.clone(),
            last_exit_at: self.exits.last_at.and_then(seconds),
            last_exit_cause: self.exits.last_cause.clone(),
            last_incident: self.exits.last_incident.clone(),
            condemned: self.condemned(),
            kill_at: self.lifecycle.kill_at().and_then(|at| seconds(now.1 + at.saturating_duration_since(now.0))),
            exits: self.exits.by_cause.clone(),
            time_to_ready: self.time_to_ready.map(|time| time.as_secs_f64()),
            failures: self.lifecycle.failures(),
            next_start,
        }
    }
}

/// A child, as those see it who choose among all.
pub(crate) struct Child<'slot>(pub &'slot Slot);

impl Child<'_> {
    pub(crate) fn generation(&self) -> u64 {
        self.0.generation
    }

    pub(crate) fn phase(&self) -> Phase {
        self.0.phase
    }

    /// Its service and number, which it shares with those that it replaces.
    pub(crate) fn place(&self) -> (&str, u32) {
        (&self.0.service.name, self.0.index)
    }

    pub(crate) fn is_linked(&self) -> bool {
        self.0.service.linked
    }

    pub(crate) fn state(&self) -> State {
        self.0.lifecycle.state()
    }
}
