//! Children that somebody wants replaced: one after the other, or the new one first.

use std::rc::Rc;
use std::time::{Duration, Instant};

use rustix::process::Pid;

use super::{Container, Event, Key};
use crate::exits::{REQUEST, Reason, named};
use crate::lifecycle::State;
use crate::notify::ReplaceRequest;
use crate::notify::link::Topic;
use crate::slot::Phase;

/// No successor has longer than this, so that a wish cannot outlast everybody who remembers it.
const SUCCESSION_LIMIT: Duration = Duration::from_secs(3600);

impl Container {
    /// Replaces the child with this process, because somebody asked for it.
    pub(super) fn replace(&mut self, request: ReplaceRequest, by: &str) {
        let ReplaceRequest { process_id, reason, .. } = &request;
        let key = Pid::from_raw(*process_id).and_then(|pid| self.processes.get(&pid).copied());
        let Some((key, slot)) = key.and_then(|key| Some((key, self.slots.get_mut(&key)?))) else {
            tracing::warn!(process_id, reason, by, "asked to replace a process that is no child");
            return;
        };
        let limit = request.start_first.map(Duration::from_millis);
        let cause = named(request.cause.as_deref());
        // What somebody asks for is nobody's fault.
        if cause == REQUEST {
            tracing::info!(child = slot.name, pid = process_id, reason, cause, by, start_first = ?limit, "replacing child");
        } else {
            tracing::warn!(child = slot.name, pid = process_id, reason, cause, by, start_first = ?limit, "replacing child");
        }
        slot.incident = request.incident;
        slot.reason = Some(Reason { text: request.reason, cause });
        match (limit, slot.heir) {
            (Some(limit), _) => self.succeed(key, limit),
            // Asked again, and not to wait any longer.
            (None, Some(heir)) => self.take_over(heir),
            (None, None) => self.replace_alone(key),
        }
    }

    fn replace_alone(&mut self, key: Key) {
        if let Some(slot) = self.slots.get_mut(&key) {
            slot.lifecycle.handle_replace(Instant::now());
            self.touch(key);
        }
    }

    /// Replaces a child, the new one first where there may be two.
    pub(super) fn succeed(&mut self, key: Key, limit: Duration) {
        let Some(slot) = self.slots.get(&key).filter(|slot| slot.heir.is_none()) else { return };
        // Its connections, and what it knows of the others, are not for two.
        let may_be_two = slot.phase == Phase::Active && slot.lifecycle.is_up() && !slot.service.linked;
        if may_be_two && !self.policies.stopping {
            self.begin_succession(key, limit);
        } else {
            self.replace_alone(key);
        }
    }

    /// Starts a child beside the one that it is to take the place of.
    fn begin_succession(&mut self, key: Key, limit: Duration) {
        let Some(old) = self.slots.get(&key) else { return };
        let (service, index, generation) = (Rc::clone(&old.service), old.index, old.generation);
        let (grace, restarts) = (old.lifecycle.grace(), old.restarts());
        let heir = self.add(&service, index, generation, Phase::Succeeding, grace);
        if let Some(old) = self.slots.get_mut(&key) {
            old.heir = Some(heir);
        }
        if let Some(new) = self.slots.get_mut(&heir) {
            new.succeeds = Some((key, Instant::now() + limit.min(SUCCESSION_LIMIT)));
            new.restarts_before = restarts + 1;
        }
        self.start_unblocked();
        self.touch(heir);
    }

    /// If the child was started beside another one, it takes its place now: it is ready, has failed, or has had its time.
    /// In any case the other one was to be replaced, and goes.
    pub(super) fn take_over(&mut self, key: Key) {
        let Some(new) = self.slots.get_mut(&key) else { return };
        let Some((old, _)) = new.succeeds.take() else { return };
        let is_ready = new.lifecycle.state() == State::Ready;
        // It had another name so far.
        let before = Topic::Child { key: Key::MAX, generation: new.generation, name: format!("{} (new)", new.name) };
        let grace = new.lifecycle.grace();
        let is_wanted = self.slots.get(&old).is_some_and(|old| old.phase == Phase::Active);
        if let Some(new) = self.slots.get_mut(&key) {
            new.phase = if is_wanted { Phase::Active } else { Phase::Draining };
            new.shown = None;
        }
        self.links.changed(&mut self.slots, &before);
        if !is_wanted {
            // A new generation has taken over from both.
            return self.stop_keys([key], grace);
        }
        if let Some(slot) = self.slots.get_mut(&old) {
            tracing::info!(child = slot.name, is_ready, "a successor takes over: stopping the old process");
            slot.phase = Phase::Draining;
            slot.shown = None;
        }
        if !is_ready {
            // There was one, and for now there is none.
            self.events.push_back(Event::Unready);
        }
        self.stop_keys([old], grace);
        self.touch(key);
    }

    /// The child ended while another one was being started in its place.
    pub(super) fn let_heir_take_over(&mut self, key: Key) {
        if let Some(heir) = self.slots.get(&key).and_then(|slot| slot.heir) {
            self.take_over(heir);
        }
    }

    /// Whoever took the child's place has its past, too.
    pub(super) fn bequeath(&mut self, key: Key) {
        let Some(slot) = self.slots.get(&key) else { return };
        let Some(heir) = slot.heir else { return };
        let exits = slot.exits.clone();
        if let Some(heir) = self.slots.get_mut(&heir) {
            heir.exits.inherit(&exits);
            heir.shown = None;
        }
        self.touch(heir);
    }
}
