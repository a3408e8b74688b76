//! What follows from the end of a child.

use std::time::Instant;

use super::words::{next_try, pid_of};
use super::{Container, Event, Key, cause_of_death, want_of_processes};
use crate::exit::{ExitStatus, exit_code};
use crate::exits::Reason;
use crate::lifecycle::{End, State};
use crate::notify::link::Topic;
use crate::process::Process;
use crate::spec::{Restart, Start};

impl Container {
    /// The process of the child, or its thread, has ended: with this status, in these words.
    pub(super) fn conclude(
        &mut self,
        key: Key,
        process: Option<&Process>,
        status: ExitStatus,
        words: &str,
        started: Instant,
    ) {
        let now = Instant::now();
        let Some(slot) = self.slots.get_mut(&key) else {
            return;
        };
        let asked = slot.lifecycle.state() == State::Stopping && slot.lifecycle.failure().is_none();
        let exit = slot.service.statuses.judge(status);
        if !asked && exit.failed {
            self.policies.statistics.failed(now);
        }
        if !asked && slot.service.essential {
            let name = slot.name.clone();
            self.events.push_back(Event::EssentialEnded { name, status, failed: exit.failed });
        }
        self.policies.child_exited(&slot.as_policies_see_it(process), status, now);
        let failure = slot.failure().or_else(|| cause_of_death(slot)).or_else(|| {
            // Somebody else may have killed it, and the kernel another one that it started.
            let is_lack = !asked && status == ExitStatus::Signaled(libc::SIGKILL) && self.shortage.has_killed();
            is_lack.then(|| "probably out of memory".to_owned())
        });
        // It may have failed for something else, but whoever looks for the reason should know.
        let is_unexplained = failure.is_none() && slot.reason.is_none() && !asked && exit.failed;
        let failure = failure.or_else(|| is_unexplained.then(|| want_of_processes(slot)).flatten());
        // Of other programs nobody knows what they mean by it.
        let is_misconfigured = status == ExitStatus::Exited(exit_code::CONFIGURATION.into())
            && matches!(slot.service.start, Start::Entry(_));
        let said = slot.status.take().filter(|_| is_misconfigured);
        let words = &said.map_or_else(|| words.to_owned(), |said| format!("{words}: {said}"));
        let is_spared = slot.lifecycle.is_spared();
        slot.lifecycle.handle_exited(now, exit);
        let Reason { text, cause } = slot.take_reason(failure, asked, exit.failed);
        let reason = if text.is_empty() { words.clone() } else { format!("{text}, {words}") };
        if !asked && is_misconfigured {
            self.events.push_back(Event::Misconfigured { reason: format!("{} {words}", slot.name) });
        }
        slot.exits.note(reason.clone(), &cause);
        let late_incident = slot.late_incident.take().filter(|_| !is_spared);
        // What was wrong with it, rather than what it did half a grace period later, for which there may have been little time.
        slot.exits.last_incident = slot.incident.take().or(late_incident);
        let pid = process.map(pid_of);
        if let Some(pid) = pid.filter(|_| is_spared) {
            tracing::info!(child = slot.name, pid, "the child ended by itself before it was to be killed");
            self.root.spare(pid.unsigned_abs());
            self.links.changed(&mut self.slots, &Topic::Root);
        }
        let Some(slot) = self.slots.get_mut(&key) else {
            return;
        };
        let after = now - started;
        if asked {
            tracing::info!(child = slot.name, pid, reason, cause, ?after, "child stopped");
        } else {
            // What the end of an essential child ends includes itself.
            let next_try =
                if slot.service.essential { "never".to_owned() } else { next_try(slot.lifecycle.state(), now) };
            if !exit.failed {
                tracing::info!(child = slot.name, pid, reason, cause, ?after, %next_try, "child exited");
            } else {
                tracing::error!(child = slot.name, pid, reason, cause, ?after, %next_try, "child failed");
            }
            if exit.failed || slot.service.restart == Restart::Always {
                self.events.push_back(Event::Failed {
                    generation: slot.generation,
                    reason: format!("{}: {reason}", slot.name),
                });
            }
        }
        self.bequeath(key);
        self.touch(key);
        self.report_stopped(key);
        if !asked && exit.failed {
            self.regroup(key);
        } else if !self.regroups.is_empty() {
            self.release();
        }
    }

    /// If the child is over, says so, and forgets it unless it ended by itself.
    pub(super) fn report_stopped(&mut self, key: Key) {
        let Some(slot) = self.slots.get(&key) else {
            return;
        };
        match slot.lifecycle.state() {
            State::Stopped(End::Asked) => self.remove(key),
            State::Stopped(End::Success | End::Failure) => {
                self.events.push_back(Event::Stopped { generation: slot.generation });
                self.leave_cgroup(key);
            }
            _ => {}
        }
    }

    pub(super) fn remove(&mut self, key: Key) {
        self.leave_cgroup(key);
        if let Some(slot) = self.slots.remove(&key) {
            self.links.changed(&mut self.slots, &slot.topic(key));
            self.events.push_back(Event::Stopped { generation: slot.generation });
        }
    }
}
