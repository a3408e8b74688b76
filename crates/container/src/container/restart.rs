//! Restarts for other reasons than the end of the child itself.

use std::rc::Rc;
use std::time::{Duration, Instant};

use super::{Container, Key};
use crate::exits::Reason;
use crate::lifecycle::State;
use crate::slot::{Phase, Slot};
use crate::spec::Strategy;

/// How long a child that is too old waits for others of its service to be ready, before it looks again.
const RECYCLE_PAUSE: Duration = Duration::from_millis(500);

/// How long a child that asked to be replaced waits for its successor to be ready.
const SUCCESSOR_LIMIT: Duration = Duration::from_secs(60);

/// Children that are stopped together, because one of them failed, to be started together.
pub(super) struct Regroup {
    members: Vec<Key>,
    /// When the one that failed would have been started.
    not_before: Instant,
}

impl Container {
    /// A child asks to be replaced. It is not while it is about to take another one's place, or to lose its own.
    pub(super) fn wants_recycling(&mut self, key: Key, reason: String, now: Instant) {
        let Some(slot) = self.slots.get_mut(&key).filter(|slot| slot.recycle_reason.is_none()) else { return };
        // Processes that want it as soon as they are ready must not follow each other without a pause.
        let Some(at) = slot.lifecycle.healthy_at() else { return };
        slot.recycle_at = Some(at.max(now));
        slot.recycle_reason = Some(reason);
        self.recycle(key, now);
        self.touch(key);
    }

    /// Replaces a child that is too old, or asked for it, unless too many of its service are missing for that reason.
    pub(super) fn recycle(&mut self, key: Key, now: Instant) {
        let Some(slot) = self.slots.get(&key) else { return };
        if slot.recycle_at.is_none_or(|at| at > now) || slot.lifecycle.state() != State::Ready {
            return;
        }
        let same = |other: &&Slot| other.phase == slot.phase && Rc::ptr_eq(&other.service, &slot.service);
        let is_missing = |other: &&Slot| other.lifecycle.state() != State::Ready || other.heir.is_some();
        let missing = self.slots.values().filter(same).filter(is_missing).count();
        // Before its generation has taken over, nobody else can take its place.
        let may = missing < slot.service.recycle_at_once && slot.phase == Phase::Active;
        let Some(slot) = self.slots.get_mut(&key) else { return };
        if let (true, Some(text)) = (may, slot.recycle_reason.clone()) {
            slot.recycle_at = None;
            tracing::info!(child = slot.name, reason = text, "replacing child: it asked for it");
            slot.reason = Some(Reason { text, cause: "recycle".to_owned() });
            self.succeed(key, SUCCESSOR_LIMIT);
        } else if may {
            let age = slot.process.as_ref().map_or(Duration::ZERO, |process| now - process.started);
            slot.recycle_at = None;
            let text = format!("older than {:?}", slot.service.maximum_age.unwrap_or(age));
            slot.reason = Some(Reason { text, cause: "age".to_owned() });
            tracing::info!(child = slot.name, ?age, "replacing child: it is too old");
            slot.lifecycle.handle_replace(now);
        } else {
            slot.recycle_at = Some(now + RECYCLE_PAUSE);
        }
    }

    /// What the failure of a child means for the others.
    pub(super) fn regroup(&mut self, key: Key) {
        let Some(failed) = self.slots.get(&key) else { return };
        if self.strategy == Strategy::OneForOne || self.policies.stopping || failed.service.linked {
            return;
        }
        // Children were given their keys in the order of their start.
        let affected = |other: Key, slot: &Slot| {
            let state = slot.lifecycle.state();
            let concerned = self.strategy == Strategy::OneForAll || other >= key;
            concerned
                && slot.phase == failed.phase
                && !slot.service.linked
                && !slot.blocked
                && !matches!(state, State::Stopped(_))
        };
        let members: Vec<Key> =
            self.slots.iter().filter(|(other, slot)| affected(**other, slot)).map(|(key, _)| *key).collect();
        let now = Instant::now();
        tracing::warn!(child = failed.name, strategy = ?self.strategy, children = members.len(), "restarting children together");
        let reason = Reason { text: format!("{} failed", failed.name), cause: "group".to_owned() };
        let mut not_before = now;
        for member in &members {
            let Some(slot) = self.slots.get_mut(member) else { continue };
            if *member != key {
                slot.reason = Some(reason.clone());
            }
            if let Some(due) = slot.lifecycle.handle_hold(now) {
                not_before = not_before.max(due);
            }
            self.touch(*member);
        }
        self.regroups.push(Regroup { members, not_before });
        self.release();
    }

    /// Starts groups again of which all have ended.
    pub(super) fn release(&mut self) {
        let now = Instant::now();
        let regroups = std::mem::take(&mut self.regroups);
        for regroup in regroups {
            let running = |key: &Key| self.slots.get(key).is_some_and(|slot| slot.lifecycle.state().is_running());
            if regroup.members.iter().any(running) {
                self.regroups.push(regroup);
                continue;
            }
            for key in regroup.members {
                if let Some(slot) = self.slots.get_mut(&key) {
                    slot.lifecycle.handle_release(now, regroup.not_before);
                }
                self.touch(key);
            }
        }
    }
}
