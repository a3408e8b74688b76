//! Children that are threads of the root.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use super::{Container, Event, Key};
use crate::error::SpawnError;
use crate::exit::ExitStatus;
use crate::instance::{Instance, child_title};
use crate::lifecycle::Action;
use crate::spec::Start;
use crate::thread::{News, Thread, What};
use crate::threads::Outcome;

/// What the process of such an instance would have ended with.
const FAILED: ExitStatus = ExitStatus::Exited(1);
const PANICKED: ExitStatus = ExitStatus::Exited(101);

impl Container {
    pub(super) fn act_on_thread(&mut self, key: Key, action: Action) {
        match action {
            Action::Spawn => self.spawn_thread(key),
            Action::Interrupt => {
                if let Some(slot) = self.slots.get(&key)
                    && let Some(thread) = &slot.thread
                {
                    tracing::debug!(child = slot.name, "stopping child");
                    thread.instance.begin_shutdown();
                }
            }
            // Whoever would look at it would look at the root.
            Action::Examine => {
                if let Some(slot) = self.slots.get_mut(&key) {
                    slot.lifecycle.handle_examined(Instant::now());
                }
            }
            Action::Kill => self.give_up_thread(key),
            // These come of processes alone, which the kernel may hold.
            Action::Overdue | Action::Abandon => {}
        }
    }

    fn spawn_thread(&mut self, key: Key) {
        let started = self.start_thread(key);
        let now = Instant::now();
        let Some(slot) = self.slots.get_mut(&key) else { return };
        match started {
            Ok(thread) => {
                tracing::info!(
                    child = slot.name,
                    generation = slot.generation,
                    "child started in a thread of the root"
                );
                slot.thread = Some(thread);
                slot.reason = None;
                let again = slot.lifecycle.has_run() || slot.succeeds.is_some();
                slot.lifecycle.handle_spawned(now);
                self.policies.statistics.spawned(again, now);
                self.policies.child_spawned(&slot.as_policies_see_it(None), now);
            }
            Err(error) => self.spawn_failed(key, &error, now),
        }
    }

    fn start_thread(&mut self, key: Key) -> Result<Thread, SpawnError> {
        let Some((slot, Start::Thread(work))) = self.slots.get(&key).map(|slot| (slot, &slot.service.start)) else {
            return Err(SpawnError::System { step: "start a thread", source: std::io::ErrorKind::Unsupported.into() });
        };
        let service = &slot.service;
        let sockets = service.listeners.iter().filter_map(|(name, _)| Some((name, self.listeners.get(name)?)));
        let listeners: Result<BTreeMap<String, OwnedFd>, _> =
            sockets.map(|(name, listener)| Ok((name.clone(), listener.as_fd().try_clone_to_owned()?))).collect();
        let listeners = listeners.map_err(|source| SpawnError::System { step: "copy a socket", source })?;
        let title = child_title(&self.application, &service.name, slot.index);
        let voice = self.voices.voice(key);
        let instance = Instance::in_root(service.name.clone(), slot.index, title, listeners, voice.clone());
        Thread::start(work, instance, voice, service.health_check_timeout)
    }

    /// A thread said something.
    pub(super) fn handle_news(&mut self, news: News) {
        let News { key, run, what } = news;
        let now = Instant::now();
        let Some(slot) = self.slots.get_mut(&key) else { return };
        // One that was given up may go on after all, but nothing depends on it any more.
        if slot.thread.as_ref().is_none_or(|thread| thread.run != run) {
            return;
        }
        match what {
            What::Ready => {
                slot.lifecycle.handle_message(now);
                if slot.lifecycle.handle_ready(now) {
                    let after = slot.thread.as_ref().map(|thread| now - thread.started);
                    tracing::info!(child = slot.name, ?after, "child is ready");
                    slot.age(now);
                    self.events.push_back(Event::Ready { generation: slot.generation });
                    self.take_over(key);
                }
            }
            What::Healthy => {
                slot.lifecycle.handle_message(now);
            }
            What::Status(status) => {
                tracing::debug!(child = slot.name, status, "child status");
                slot.lifecycle.handle_message(now);
                slot.status = Some(status);
                slot.shown = None;
            }
            What::Recycle(reason) => self.wants_recycling(key, reason, now),
            What::Ended(outcome) => {
                let (status, words) = match outcome {
                    Outcome::Success => (ExitStatus::Exited(0), "ended".to_owned()),
                    Outcome::Failure(error) => (FAILED, error),
                    Outcome::Panic => (PANICKED, "panicked".to_owned()),
                };
                self.end_thread(key, status, &words);
            }
        }
        self.touch(key);
    }

    fn end_thread(&mut self, key: Key, status: ExitStatus, words: &str) {
        // Whichever of the two has ended.
        self.take_over(key);
        self.let_heir_take_over(key);
        if let Some(thread) = self.slots.get_mut(&key).and_then(|slot| slot.thread.take()) {
            self.conclude(key, None, status, words, thread.started);
        }
    }

    /// Goes on without a thread that does not end: it ends with the root, which therefore has to.
    fn give_up_thread(&mut self, key: Key) {
        let Some(slot) = self.slots.get(&key).filter(|slot| slot.thread.is_some()) else { return };
        let reason = slot.failure().unwrap_or_else(|| "it did not end within its grace period".to_owned());
        tracing::error!(
            child = slot.name,
            reason,
            "leaving thread behind: a thread cannot be killed, it ends with the root"
        );
        self.events.push_back(Event::ThreadHung { name: slot.name.clone() });
        self.end_thread(key, FAILED, "left behind in its thread");
    }
}
