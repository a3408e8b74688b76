//! The shell around the lifecycles: processes, pipes and timers, and one loop that waits for all of them.

mod cgroups;
mod end;
mod examination;
mod notices;
mod outputs;
mod probes;
mod restart;
mod succession;
mod threads;
mod timers;
mod words;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap, HashSet, VecDeque};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::time::{Duration, Instant};

use rustix::event::epoll;
use rustix::process::{Pid, Signal};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

pub(crate) use self::cgroups::require_limits;
use self::cgroups::{cause_of_death, want_of_processes};
use self::notices::Notices;
pub(crate) use self::outputs::Captured;
use self::probes::Attempts;
pub(crate) use self::probes::ProbesOfChild;
use self::restart::Regroup;
use self::timers::{sleep_until, watch_clock};
use self::words::{log_kill, next_try, pid_of};
use crate::cgroup::{Shortage, Tree};
use crate::clock::ClockWatch;
use crate::error::{CgroupError, SpawnError};
use crate::exit::ExitStatus;
use crate::exits::Exits;
use crate::instance::child_name;
use crate::lifecycle::{Action, End, Lifecycle, State};
use crate::links::Links;
use crate::listener::Listener;
use crate::notify::link::Topic;
use crate::notify::server::Server;
use crate::orphans::Orphans;
use crate::output::Stream;
use crate::policies::Policies;
use crate::poller::{Source, poll, register, unregister};
use crate::process::{NamedSocket, Process};
use crate::reaper::Reaper;
use crate::slot::{Child, Phase, Slot};
use crate::spec::{Readiness, Service, Start, Strategy};
use crate::status::RootStatus;
use crate::sys::signal;
use crate::sys::spawn::Spawner;
use crate::sys::watch::watch;
use crate::thread::Voices;

/// What became of a child, for the one who runs the container.
#[derive(Debug, PartialEq)]
pub(crate) enum Event {
    /// It is ready.
    Ready { generation: u64 },
    /// One was ready, and is not for now.
    Unready,
    /// A process of it failed, or could not be started.
    Failed { generation: u64, reason: String },
    /// It ended and will not be started again.
    Stopped { generation: u64 },
    /// An essential child ended by itself.
    EssentialEnded { name: String, status: ExitStatus, failed: bool },
    /// An instance ended because its configuration is wrong.
    Misconfigured { reason: String },
    /// A thread of the root hangs.
    ThreadHung { name: String },
    /// A policy wants everything to be stopped.
    GiveUp { reason: String },
}

pub(crate) type Key = u64;

/// Children of any number of services and generations, all supervised by one loop.
pub(crate) struct Container {
    application: String,
    epoll: AsyncFd<OwnedFd>,
    spawner: Spawner,
    listeners: BTreeMap<String, Listener>,
    slots: BTreeMap<Key, Slot>,
    next_key: Key,
    processes: HashMap<Pid, Key>,
    timers: BinaryHeap<Reverse<(Instant, Key)>>,
    pending: VecDeque<Key>,
    events: VecDeque<Event>,
    root: RootStatus,
    links: Links,
    notices: Notices,
    attempts: Attempts,
    /// Nothing where the system does not tell.
    clock: Option<ClockWatch>,
    voices: Voices,
    orphans: Orphans,
    reaper: Reaper,
    /// Where children have cgroups of their own, or why they have none.
    cgroups: Result<Tree, CgroupError>,
    shortage: Shortage,
    /// True if something may have been left behind since the last look.
    orphans_due: bool,
    /// True if there ever were any.
    had_orphans: bool,
    policies: Policies,
    strategy: Strategy,
    /// Children that are stopped together, to be started together.
    regroups: Vec<Regroup>,
    /// True if there are children whose dependencies may not be ready.
    blocked: bool,
    /// True if some children could not be asked to stop yet, because others need them until they have ended.
    stop_again: bool,
    /// How many times in a row there was something to read.
    busy: u32,
}

/// After how many times of finding something to read others have their turn.
const BUSY_TURNS: u32 = 8;

impl Container {
    pub(crate) fn new(
        application: String,
        listeners: BTreeMap<String, Listener>,
        policies: Policies,
        strategy: Strategy,
        cgroups: Result<Tree, CgroupError>,
    ) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let clock = watch_clock(&epoll).inspect_err(|error| tracing::debug!(%error, "cannot watch the clock")).ok();
        Ok(Container {
            application,
            epoll: watch(epoll, Interest::READABLE)?,
            spawner: Spawner::new(),
            listeners,
            slots: BTreeMap::new(),
            next_key: 0,
            processes: HashMap::new(),
            timers: BinaryHeap::new(),
            pending: VecDeque::new(),
            events: VecDeque::new(),
            root: RootStatus::default(),
            links: Links::default(),
            notices: Notices::default(),
            attempts: Attempts::default(),
            clock,
            voices: Voices::default(),
            orphans: Orphans::default(),
            reaper: Reaper::default(),
            cgroups,
            shortage: Shortage::new(),
            orphans_due: false,
            had_orphans: false,
            policies,
            strategy,
            regroups: Vec::new(),
            blocked: false,
            stop_again: false,
            busy: 0,
        })
    }

    /// Adds an instance of the service, as part of the generation. It is started by [`start_unblocked`](Self::start_unblocked).
    pub(crate) fn add(
        &mut self,
        service: &Rc<Service>,
        index: u32,
        generation: u64,
        phase: Phase,
        grace: Duration,
    ) -> Key {
        let key = self.next_key;
        self.next_key += 1;
        let lifecycle = Lifecycle::new(service.settings(grace), fastrand::u64(..));
        let slot = Slot {
            service: Rc::clone(service),
            index,
            generation,
            phase,
            name: child_name(&service.name, index),
            lifecycle,
            process: None,
            thread: None,
            cgroup: None,
            status: None,
            reason: None,
            incident: None,
            late_incident: None,
            exits: Exits::default(),
            time_to_ready: None,
            succeeds: None,
            heir: None,
            restarts_before: 0,
            shown: None,
            probes: None,
            blocked: true,
            recycle_at: None,
            recycle_reason: None,
            armed: None,
            pending: false,
        };
        self.slots.insert(key, slot);
        self.touch(key);
        self.blocked = true;
        key
    }

    /// True if there is a socket of this name.
    pub(crate) fn has_listener(&self, name: &str) -> bool {
        self.listeners.contains_key(name)
    }

    /// Adds a socket for services that want one of this name.
    pub(crate) fn add_listener(&mut self, name: String, listener: Listener) {
        self.listeners.insert(name, listener);
    }

    /// Has children there for something else.
    pub(crate) fn set_phase(&mut self, which: impl Fn(&Child<'_>) -> bool, phase: Phase) {
        for key in self.keys(which) {
            if let Some(slot) = self.slots.get_mut(&key) {
                slot.phase = phase;
            }
        }
    }

    /// Starts children whose dependencies are ready. To be called once all services of a generation were added.
    pub(crate) fn start_unblocked(&mut self) {
        let unready: HashSet<(u64, &str)> = self
            .slots
            .values()
            .filter(|slot| !matches!(slot.lifecycle.state(), State::Ready | State::Stopped(End::Success)))
            .map(|slot| (slot.generation, slot.service.name.as_str()))
            .collect();
        let is_unready = |slot: &Slot, name: &String| unready.contains(&(slot.generation, name.as_str()));
        let (free, waiting): (Vec<_>, Vec<_>) = self
            .slots
            .iter()
            .filter(|(_, slot)| slot.blocked)
            .partition(|(_, slot)| !slot.service.dependencies.iter().any(|name| is_unready(slot, name)));
        self.blocked = !waiting.is_empty();
        let free: Vec<Key> = free.into_iter().map(|(key, _)| *key).collect();
        for key in free {
            if let Some(slot) = self.slots.get_mut(&key) {
                slot.blocked = false;
                slot.lifecycle.handle_start();
            }
            self.touch(key);
        }
    }

    /// Asks children to end, each within its grace period or, if it is given, this one.
    pub(crate) fn stop(&mut self, which: impl Fn(&Child<'_>) -> bool, grace: Duration) {
        let keys = self.keys(which);
        self.stop_keys(keys, grace);
    }

    fn stop_keys(&mut self, keys: impl IntoIterator<Item = Key>, grace: Duration) {
        let now = Instant::now();
        for key in keys {
            let Some(slot) = self.slots.get_mut(&key) else {
                continue;
            };
            let grace = if grace.is_zero() { grace } else { slot.service.graceful_stop.unwrap_or(grace) };
            slot.lifecycle.handle_stop(now, grace);
            if let State::Stopped(_) = slot.lifecycle.state() {
                self.remove(key);
            } else {
                self.touch(key);
            }
        }
    }

    /// Asks children to end that no other child depends on any more, and those that do not run. To be called again when
    /// some have ended, as [`has_more_to_stop`](Self::has_more_to_stop) says. With `linked_last`, linked children count as
    /// something that all others depend on: they may still be asked how those are doing.
    pub(crate) fn stop_in_order(&mut self, which: impl Fn(&Child<'_>) -> bool, grace: Duration, linked_last: bool) {
        self.policies.stopping |= linked_last;
        let alive = || self.slots.values().filter(|slot| !matches!(slot.lifecycle.state(), State::Stopped(_)));
        let needed: HashSet<(u64, String)> = alive()
            .flat_map(|slot| slot.service.dependencies.iter().map(|name| (slot.generation, name.clone())))
            .collect();
        let others = linked_last && alive().any(|slot| !slot.service.linked);
        let may_stop = |slot: &Slot| {
            !(needed.contains(&(slot.generation, slot.service.name.clone())) || (others && slot.service.linked))
        };
        // One that does not run would be started again, and so would one that is ending to be replaced: they are told
        // at once, whoever depends on them. Being told again changes nothing, since the earlier deadline counts.
        let is_up = |slot: &Slot| matches!(slot.lifecycle.state(), State::Starting | State::Ready);
        let candidates: Vec<(Key, bool)> = self
            .slots
            .iter()
            .filter(|(_, slot)| which(&Child(slot)))
            .map(|(key, slot)| (*key, may_stop(slot) || !is_up(slot)))
            .collect();
        self.stop_again = candidates.iter().any(|(_, may_stop)| !may_stop);
        self.stop_keys(candidates.into_iter().filter(|(_, may_stop)| *may_stop).map(|(key, _)| key), grace);
    }

    /// True if children were left out by [`stop_in_order`](Self::stop_in_order).
    pub(crate) fn has_more_to_stop(&self) -> bool {
        self.stop_again
    }

    /// True if any of the children is not over yet.
    pub(crate) fn any(&self, which: impl Fn(&Child<'_>) -> bool) -> bool {
        self.slots.values().any(|slot| which(&Child(slot)))
    }

    /// The generations of those children, oldest first.
    pub(crate) fn generations(&self, which: impl Fn(&Child<'_>) -> bool) -> Vec<u64> {
        let generations: BTreeSet<u64> =
            self.slots.values().filter(|slot| which(&Child(slot))).map(|slot| slot.generation).collect();
        generations.into_iter().collect()
    }

    /// How many of the children there are.
    pub(crate) fn count(&self, which: impl Fn(&Child<'_>) -> bool) -> usize {
        self.slots.values().filter(|slot| which(&Child(slot))).count()
    }

    /// The names of those children.
    pub(crate) fn names(&self, which: impl Fn(&Child<'_>) -> bool) -> Vec<&str> {
        self.slots.values().filter(|slot| which(&Child(slot))).map(|slot| slot.name.as_str()).collect()
    }

    /// Tells linked children what the root is doing.
    pub(crate) fn set_root(&mut self, root: RootStatus) {
        let root = RootStatus { spared: std::mem::take(&mut self.root.spared), ..root };
        if self.root != root {
            self.root = root;
            self.links.changed(&mut self.slots, &Topic::Root);
        }
    }

    /// Collects processes that became children of this one when their parent ended. To be called only
    /// where every other child is one that the container started.
    pub(crate) fn reap_orphans(&mut self) {
        while let Some(pid) = signal::ended_child() {
            match self.processes.get(&pid) {
                Some(key) => self.handle_exit(*key),
                None if self.attempts.own(pid) => self.handle_probe_exit(pid),
                // It hides those behind it until it is collected.
                None if self.reaper.awaits(pid) => return self.reap_hidden_orphans(),
                None => {
                    signal::reap_orphan(pid);
                    self.orphans_due = true;
                    self.had_orphans = true;
                }
            }
        }
    }

    /// Where there are many orphans, they must not become more and more while their turn does not come. To find them means
    /// to look at all children, though.
    fn reap_hidden_orphans(&mut self) {
        if !self.had_orphans {
            return;
        }
        for pid in signal::children() {
            if !self.is_own(pid) {
                self.orphans_due |= signal::reap_orphan(pid);
            }
        }
    }

    /// True if the container started the process.
    fn is_own(&self, pid: Pid) -> bool {
        self.processes.contains_key(&pid) || self.attempts.own(pid) || self.reaper.has(pid)
    }

    /// What happens next. May be dropped at any time without loss.
    pub(crate) async fn next(&mut self) -> Event {
        loop {
            if let Some(reason) = self.policies.take_give_up() {
                return Event::GiveUp { reason };
            }
            if let Some(event) = self.events.pop_front() {
                if self.blocked && matches!(event, Event::Ready { .. } | Event::Stopped { .. }) {
                    self.start_unblocked();
                }
                return event;
            }
            if let Some(key) = self.pending.pop_front() {
                if self.act(key) {
                    self.reaper.flush();
                    // Starting many takes a while: signals must be heard, and exits seen, in between.
                    tokio::task::yield_now().await;
                    let descriptors = poll(self.epoll.get_ref());
                    self.handle_descriptors(descriptors);
                }
                continue;
            }
            if std::mem::take(&mut self.orphans_due) {
                let mut orphans = std::mem::take(&mut self.orphans);
                orphans.sweep(|pid| self.is_own(pid));
                self.orphans = orphans;
                self.tidy_cgroups();
            }
            self.links.flush(&mut self.slots, &self.root);
            self.reaper.flush();
            let deadline = self.timers.peek().map(|Reverse((at, _))| tokio::time::Instant::from_std(*at));
            tokio::select! {
                biased;
                ready = self.epoll.readable() => match ready {
                    Ok(mut ready) => {
                        let descriptors = poll(ready.get_inner());
                        // The epoll descriptor becomes readable once only, however much there is: it may
                        // be waited for again when it was seen empty.
                        let is_idle = descriptors.is_empty();
                        if is_idle {
                            ready.clear_ready();
                        }
                        drop(ready);
                        self.handle_descriptors(descriptors);
                        // However much there is to read, nobody's time is over later for it, and signals are heard:
                        // waiting for what is there already gives nothing back to the runtime.
                        self.fire_timers();
                        self.busy = if is_idle { 0 } else { self.busy + 1 };
                        if self.busy == BUSY_TURNS {
                            self.busy = 0;
                            tokio::task::yield_now().await;
                        }
                    }
                    Err(error) => tracing::error!(%error, "cannot wait for children"),
                },
                answer = self.attempts.next() => self.handle_answer(answer),
                news = self.voices.next() => self.handle_news(news),
                () = sleep_until(deadline) => self.fire_timers(),
                () = self.reaper.collected() => self.reap_orphans(),
            }
        }
    }

    fn keys(&self, which: impl Fn(&Child<'_>) -> bool) -> Vec<Key> {
        self.slots.iter().filter(|(_, slot)| which(&Child(slot))).map(|(key, _)| *key).collect()
    }

    fn handle_descriptors(&mut self, descriptors: Vec<(Key, Source)>) {
        for (key, source) in descriptors {
            match source {
                Source::Exit => self.handle_exit(key),
                Source::Notify => self.handle_notify(key),
                Source::Link => self.links.unblocked(),
                Source::Notices => self.handle_notices(),
                Source::Clock => self.handle_clock_set(),
                Source::Stdout => self.handle_output(key, Stream::Stdout),
                Source::Stderr => self.handle_output(key, Stream::Stderr),
                Source::Probe => {
                    if let Some(pid) = i32::try_from(key).ok().and_then(Pid::from_raw) {
                        self.handle_probe_exit(pid);
                    }
                }
            }
        }
    }

    /// Carries out the next action of a child. True if a process was started.
    fn act(&mut self, key: Key) -> bool {
        let Some(slot) = self.slots.get_mut(&key) else {
            return false;
        };
        slot.pending = false;
        let action = slot.lifecycle.poll_action();
        let mut spawned = false;
        if let (Start::Thread(_), Some(action)) = (&slot.service.start, action) {
            self.act_on_thread(key, action);
            self.touch(key);
            return action == Action::Spawn;
        }
        match (action, &slot.process) {
            (Some(Action::Spawn), _) => {
                self.spawn(key);
                spawned = true;
            }
            (Some(Action::Interrupt), Some(process)) => {
                tracing::debug!(child = slot.name, pid = pid_of(process), signal = ?slot.service.stop_signal, "stopping child");
                process.signal(slot.service.stop_signal);
                // A stopped process would hear it only once it is continued.
                process.signal(Signal::CONT);
            }
            (Some(Action::Kill), Some(process)) => {
                log_kill(slot, process);
                process.signal(Signal::KILL);
                self.kill_cgroup(key);
            }
            (Some(Action::Overdue), Some(process)) => {
                tracing::error!(
                    child = slot.name,
                    pid = pid_of(process),
                    doing = process.activity(),
                    "child was killed, but the kernel does not let go of it: waiting"
                );
            }
            (Some(Action::Abandon), _) => self.abandon(key),
            (Some(Action::Interrupt | Action::Kill | Action::Overdue), None) | (Some(Action::Examine) | None, _) => {}
        }
        self.touch(key);
        if action == Some(Action::Examine) {
            self.examine(key);
        }
        spawned
    }

    fn spawn(&mut self, key: Key) {
        let cgroup = self.open_cgroup(key);
        let Some(slot) = self.slots.get_mut(&key) else {
            return;
        };
        let sockets: Vec<NamedSocket<'_>> = slot
            .service
            .listeners
            .iter()
            .filter_map(|(name, _)| Some(NamedSocket { name, socket: self.listeners.get(name)?.as_fd() }))
            .collect();
        let notify_socket = self.notices.server.as_ref().filter(|_| slot.service.readiness == Readiness::NotifySocket);
        let notify_socket = notify_socket.map(Server::address);
        let result = cgroup.and_then(|cgroup| {
            let (cgroup, spawner) = (cgroup.as_ref().map(AsFd::as_fd), &mut self.spawner);
            let service = &slot.service;
            let process =
                Process::start(spawner, &self.application, service, slot.index, &sockets, notify_socket, cgroup)?;
            register(self.epoll.get_ref(), key, process)
        });
        let now = Instant::now();
        match result {
            Ok(process) => {
                tracing::info!(
                    child = slot.name,
                    pid = pid_of(&process),
                    generation = slot.generation,
                    "child started"
                );
                self.processes.insert(process.pid, key);
                self.root.forget(pid_of(&process).unsigned_abs());
                slot.process = Some(process);
                slot.reason = None;
                slot.incident = None;
                slot.late_incident = None;
                let again = slot.lifecycle.has_run() || slot.succeeds.is_some();
                slot.lifecycle.handle_spawned(now);
                self.policies.statistics.spawned(again, now);
                self.policies.child_spawned(&slot.as_policies_see_it(None), now);
                if slot.lifecycle.state() == State::Ready {
                    slot.age(now);
                    self.events.push_back(Event::Ready { generation: slot.generation });
                    self.take_over(key);
                }
                let Some(slot) = self.slots.get(&key) else { return };
                if slot.service.linked {
                    self.links.opened(&mut self.slots, key);
                }
                self.begin_probes(key, now);
            }
            Err(error) => self.spawn_failed(key, &error, now),
        }
    }

    fn spawn_failed(&mut self, key: Key, error: &SpawnError, now: Instant) {
        let Some(slot) = self.slots.get_mut(&key) else { return };
        let reason = format!("cannot start: {error}");
        slot.lifecycle.handle_spawn_failed(now, error.is_transient());
        self.policies.statistics.failed(now);
        tracing::error!(
            child = slot.name,
            %error,
            attempt = slot.lifecycle.failures(),
            next_try = %next_try(slot.lifecycle.state(), now),
            "cannot start child"
        );
        slot.exits.note(reason.clone(), "spawn");
        let reason = format!("{}: {reason}", slot.name);
        self.events.push_back(Event::Failed { generation: slot.generation, reason });
        self.take_over(key);
        self.report_stopped(key);
    }

    /// Goes on without a process that cannot be ended.
    fn abandon(&mut self, key: Key) {
        let Some(slot) = self.slots.get_mut(&key) else { return };
        if let Some(process) = slot.process.take() {
            tracing::error!(
                child = slot.name,
                pid = pid_of(&process),
                doing = process.activity(),
                "leaving child behind: it was killed, but the kernel does not let go of it"
            );
            unregister(self.epoll.get_ref(), &process);
            self.processes.remove(&process.pid);
            self.links.closed(key);
        }
        self.report_stopped(key);
    }

    fn handle_exit(&mut self, key: Key) {
        let Some(slot) = self.slots.get_mut(&key) else {
            return;
        };
        let ended = slot.process.as_ref().and_then(|process| signal::exit_status(&process.pidfd).ok().flatten());
        let Some(status) = ended else {
            return;
        };
        self.end_probes(key);
        // What it said before it ended counts.
        self.handle_notify(key);
        self.handle_notices();
        self.finish_outputs(key);
        // Whichever of the two has ended.
        self.take_over(key);
        self.let_heir_take_over(key);
        let Some(slot) = self.slots.get_mut(&key) else {
            return;
        };
        let Some(process) = slot.process.take() else {
            return;
        };
        // Its number, and so its group's, stays taken until it is reaped.
        process.signal(Signal::KILL);
        let is_clear = self.clear_cgroup(key);
        let Some(slot) = self.slots.get_mut(&key) else {
            return;
        };
        unregister(self.epoll.get_ref(), &process);
        self.processes.remove(&process.pid);
        self.links.closed(key);
        if slot.service.kills_descendants && !is_clear {
            self.orphans.retire(process.mark.clone());
        }
        self.orphans_due = true;

        let words = status.to_string();
        self.conclude(key, Some(&process), status, &words, process.started);
        self.reaper.collect(process.pid, process.pidfd);
    }

    /// After anything that may have changed a child: arranges its actions and timers, and tells who listens.
    fn touch(&mut self, key: Key) {
        let Some(slot) = self.slots.get_mut(&key) else {
            return;
        };
        if slot.probes.is_some() && !slot.lifecycle.is_up() {
            self.end_probes(key);
        }
        let Some(slot) = self.slots.get_mut(&key) else {
            return;
        };
        if slot.lifecycle.has_actions() && !slot.pending {
            slot.pending = true;
            self.pending.push_back(key);
        }
        self.arm(key);
        let Some(slot) = self.slots.get_mut(&key) else {
            return;
        };
        let shown = (slot.lifecycle.state(), slot.process.as_ref().map(|process| process.pid));
        if slot.shown.replace(shown) != Some(shown) {
            let topic = slot.topic(key);
            self.links.changed(&mut self.slots, &topic);
        }
    }
}
