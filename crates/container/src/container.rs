//! The shell around the lifecycles: processes, pipes and timers, and one loop that waits for all of them.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime};

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::process::{Pid, Signal};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::error::SpawnError;
use crate::exit::ExitStatus;
use crate::instance::child_name;
use crate::lifecycle::{Action, End, Lifecycle, State};
use crate::links::Links;
use crate::listener::Listener;
use crate::notify::link::{LinkWriter, Topic};
use crate::notify::{Message, Request};
use crate::orphans::Orphans;
use crate::process::{NamedSocket, Process};
use crate::spec::Service;
use crate::status::{ChildStatus, RootStatus};
use crate::sys::signal;
use crate::sys::spawn::Spawner;
use crate::sys::watch::watch;

/// What became of a child, for the one who runs the container.
#[derive(Debug, PartialEq)]
pub(crate) enum Event {
    /// It is ready.
    Ready { generation: u64 },
    /// A process of it failed, or could not be started.
    Failed { generation: u64, reason: String },
    /// It ended and will not be started again.
    Stopped { generation: u64 },
}

/// Which descriptor of which slot an epoll event is about.
#[derive(Clone, Copy)]
enum Source {
    Exit,
    Notify,
    Link,
}

pub(crate) type Key = u64;

/// The place of one child.
pub(crate) struct Slot {
    service: Rc<Service>,
    index: u32,
    generation: u64,
    name: String,
    lifecycle: Lifecycle,
    process: Option<Process>,
    status: Option<String>,
    /// Why the process is being replaced, if somebody asked for it.
    reason: Option<String>,
    last_exit: Option<String>,
    /// What linked children were last told of its state and process.
    shown: Option<(State, Option<Pid>)>,
    /// The earliest timer that the container holds for it.
    armed: Option<Instant>,
    /// True while it waits for its actions to be carried out.
    pending: bool,
}

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
    orphans: Orphans,
    /// True if something may have been left behind since the last look.
    orphans_due: bool,
}

impl Container {
    pub(crate) fn new(application: String, listeners: BTreeMap<String, Listener>) -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
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
            orphans: Orphans::default(),
            orphans_due: false,
        })
    }

    /// Starts `count` children of the service, as part of the generation.
    pub(crate) fn start(&mut self, service: &Rc<Service>, count: u32, generation: u64, grace: Duration) {
        for index in 1..=count {
            let key = self.next_key;
            self.next_key += 1;
            let mut lifecycle = Lifecycle::new(service.settings(grace), fastrand::u64(..));
            lifecycle.handle_start();
            let slot = Slot {
                service: Rc::clone(service),
                index,
                generation,
                name: child_name(&service.name, index),
                lifecycle,
                process: None,
                status: None,
                reason: None,
                last_exit: None,
                shown: None,
                armed: None,
                pending: false,
            };
            self.slots.insert(key, slot);
            self.touch(key);
        }
    }

    /// Asks children to end, each within its grace period or, if it is given, this one.
    pub(crate) fn stop(&mut self, which: impl Fn(&Child<'_>) -> bool, grace: Duration) {
        let now = Instant::now();
        for key in self.keys(which) {
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

    /// True if any of the children is not over yet.
    pub(crate) fn any(&self, which: impl Fn(&Child<'_>) -> bool) -> bool {
        self.slots.values().any(|slot| which(&Child(slot)))
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
                // It would hide those behind it.
                Some(key) => self.handle_exit(*key),
                None => {
                    signal::reap_orphan(pid);
                    self.orphans_due = true;
                }
            }
        }
    }

    /// What happens next. May be dropped at any time without loss.
    pub(crate) async fn next(&mut self) -> Event {
        loop {
            if let Some(event) = self.events.pop_front() {
                return event;
            }
            if let Some(key) = self.pending.pop_front() {
                if self.act(key) {
                    // Starting many takes a while: signals must be heard, and exits seen, in between.
                    tokio::task::yield_now().await;
                    let descriptors = poll(self.epoll.get_ref());
                    self.handle_descriptors(descriptors);
                }
                continue;
            }
            if std::mem::take(&mut self.orphans_due) {
                self.orphans.sweep(|pid| self.processes.contains_key(&pid));
            }
            self.links.flush(&mut self.slots, &self.root);
            let deadline = self.timers.peek().map(|Reverse((at, _))| tokio::time::Instant::from_std(*at));
            tokio::select! {
                biased;
                ready = self.epoll.readable() => match ready {
                    Ok(mut ready) => {
                        let descriptors = poll(ready.get_inner());
                        // The epoll descriptor becomes readable once only, however much there is: it may
                        // be waited for again when it was seen empty.
                        if descriptors.is_empty() {
                            ready.clear_ready();
                        }
                        drop(ready);
                        self.handle_descriptors(descriptors);
                    }
                    Err(error) => tracing::error!(%error, "cannot wait for children"),
                },
                () = sleep_until(deadline) => self.fire_timers(),
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
            }
            (Some(Action::Interrupt | Action::Kill), None) | (None, _) => {}
        }
        self.touch(key);
        spawned
    }

    fn spawn(&mut self, key: Key) {
        let Some(slot) = self.slots.get_mut(&key) else {
            return;
        };
        let sockets: Vec<NamedSocket<'_>> = slot
            .service
            .listeners
            .iter()
            .filter_map(|(name, _)| Some(NamedSocket { name, socket: self.listeners.get(name)?.as_fd() }))
            .collect();
        let result = Process::start(&mut self.spawner, &self.application, &slot.service, slot.index, &sockets)
            .and_then(|process| register(self.epoll.get_ref(), key, process));
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
                slot.process = Some(process);
                slot.reason = None;
                slot.lifecycle.handle_spawned(now);
                if slot.lifecycle.state() == State::Ready {
                    self.events.push_back(Event::Ready { generation: slot.generation });
                }
                if slot.service.linked {
                    self.links.opened(&mut self.slots, key);
                }
            }
            Err(error) => {
                let reason = format!("cannot start: {error}");
                slot.lifecycle.handle_spawn_failed(now, error.is_transient());
                tracing::error!(
                    child = slot.name,
                    %error,
                    attempt = slot.lifecycle.failures(),
                    next_try = %next_try(slot.lifecycle.state(), now),
                    "cannot start child"
                );
                slot.last_exit = Some(reason.clone());
                self.events.push_back(Event::Failed {
                    generation: slot.generation,
                    reason: format!("{}: {reason}", slot.name),
                });
                self.report_stopped(key);
            }
        }
    }

    fn handle_notify(&mut self, key: Key) {
        let Some(slot) = self.slots.get_mut(&key) else {
            return;
        };
        let Some(process) = &mut slot.process else {
            return;
        };
        let Some(reader) = &mut process.notify else {
            return;
        };
        let lines = reader.read();
        if let Some((line, error)) = lines.garbage
            && !std::mem::replace(&mut process.garbled, true)
        {
            tracing::warn!(
                child = slot.name,
                pid = pid_of(process),
                line,
                error,
                "ignoring what is no message on the notify pipe; further ones will not be logged"
            );
        }
        if lines.closed {
            // Its process may live on without it, as a program does that closes what it does not know.
            tracing::debug!(child = slot.name, pid = pid_of(process), "the notify pipe was closed");
            if let Some(reader) = process.notify.take() {
                let _ = epoll::delete(&self.epoll, &reader);
            }
        }
        for message in lines.messages {
            self.handle_message(key, message);
        }
        self.touch(key);
    }

    fn handle_message(&mut self, key: Key, message: Message) {
        let Some(slot) = self.slots.get_mut(&key) else {
            return;
        };
        let now = Instant::now();
        match message.ready {
            Some(true) => {
                if slot.lifecycle.handle_ready(now)
                    && let Some(process) = &slot.process
                {
                    let after = now - process.started;
                    tracing::info!(child = slot.name, pid = pid_of(process), ?after, "child is ready");
                    self.events.push_back(Event::Ready { generation: slot.generation });
                }
            }
            Some(false) => slot.lifecycle.handle_unready(now),
            None => slot.lifecycle.handle_message(now),
        }
        if let Some(status) = message.status {
            tracing::debug!(child = slot.name, status, "child status");
            slot.status = Some(status);
            slot.shown = None;
        }
        match message.request {
            Some(Request::Replace(request)) if slot.service.linked => {
                let by = slot.name.clone();
                self.replace(request.process_id, request.reason, &by);
            }
            Some(_) => tracing::warn!(child = slot.name, "ignoring a request: the child is not linked"),
            None => {}
        }
    }

    /// Replaces the child with this process, because somebody asked for it.
    fn replace(&mut self, process_id: i32, reason: String, by: &str) {
        let key = Pid::from_raw(process_id).and_then(|pid| self.processes.get(&pid).copied());
        let Some((key, slot)) = key.and_then(|key| Some((key, self.slots.get_mut(&key)?))) else {
            tracing::warn!(process_id, reason, by, "asked to replace a process that is no child");
            return;
        };
        tracing::warn!(child = slot.name, pid = process_id, reason, by, "replacing child");
        slot.reason = Some(reason);
        slot.lifecycle.handle_replace(Instant::now());
        self.touch(key);
    }

    fn handle_exit(&mut self, key: Key) {
        let Some(slot) = self.slots.get_mut(&key) else {
            return;
        };
        if !slot.process.as_ref().is_some_and(|process| signal::has_exited(&process.pidfd).unwrap_or(false)) {
            return;
        }
        // What it said before it ended counts.
        self.handle_notify(key);
        let Some(slot) = self.slots.get_mut(&key) else {
            return;
        };
        let Some(process) = slot.process.take() else {
            return;
        };
        // Its number, and so its group's, stays taken until it is reaped.
        process.signal(Signal::KILL);
        let status = signal::try_reap(&process.pidfd).ok().flatten().unwrap_or(ExitStatus::Unknown);
        unregister(self.epoll.get_ref(), &process);
        self.processes.remove(&process.pid);
        self.links.closed(key);
        self.orphans.retire(process.mark.clone());
        self.orphans_due = true;

        let now = Instant::now();
        let asked = slot.lifecycle.state() == State::Stopping && slot.lifecycle.failure().is_none();
        let failure = slot.lifecycle.failure().map(|failure| failure.to_string());
        slot.lifecycle.handle_exited(now, status);
        let reason = match (failure, slot.reason.take()) {
            (Some(failure), _) => format!("{failure}, {status}"),
            (None, Some(reason)) => format!("{reason}, {status}"),
            (None, None) => status.to_string(),
        };
        slot.last_exit = Some(reason.clone());
        slot.status = None;
        let after = now - process.started;
        if asked {
            tracing::info!(child = slot.name, pid = pid_of(&process), reason, ?after, "child stopped");
        } else {
            let next_try = next_try(slot.lifecycle.state(), now);
            if status.success() {
                tracing::info!(child = slot.name, pid = pid_of(&process), reason, ?after, %next_try, "child exited");
            } else {
                tracing::error!(child = slot.name, pid = pid_of(&process), reason, ?after, %next_try, "child failed");
            }
            if !status.success() || slot.service.restart == crate::spec::Restart::Always {
                self.events.push_back(Event::Failed {
                    generation: slot.generation,
                    reason: format!("{}: {reason}", slot.name),
                });
            }
        }
        self.touch(key);
        self.report_stopped(key);
    }

    /// If the child is over, says so, and forgets it unless it ended by itself.
    fn report_stopped(&mut self, key: Key) {
        let Some(slot) = self.slots.get(&key) else {
            return;
        };
        match slot.lifecycle.state() {
            State::Stopped(End::Asked) => self.remove(key),
            State::Stopped(End::Success | End::Failure) => {
                self.events.push_back(Event::Stopped { generation: slot.generation })
            }
            _ => {}
        }
    }

    fn remove(&mut self, key: Key) {
        if let Some(slot) = self.slots.remove(&key) {
            self.links.changed(&mut self.slots, &slot.topic(key));
            self.events.push_back(Event::Stopped { generation: slot.generation });
        }
    }

    /// After anything that may have changed a child: arranges its actions and timers, and tells who listens.
    fn touch(&mut self, key: Key) {
        let Some(slot) = self.slots.get_mut(&key) else {
            return;
        };
        if slot.lifecycle.has_actions() && !slot.pending {
            slot.pending = true;
            self.pending.push_back(key);
        }
        if let Some(at) = slot.lifecycle.poll_timeout()
            && slot.armed.is_none_or(|armed| at < armed)
        {
            slot.armed = Some(at);
            self.timers.push(Reverse((at, key)));
        }
        let shown = (slot.lifecycle.state(), slot.process.as_ref().map(|process| process.pid));
        if slot.shown.replace(shown) != Some(shown) {
            let topic = slot.topic(key);
            self.links.changed(&mut self.slots, &topic);
        }
    }

    fn fire_timers(&mut self) {
        let now = Instant::now();
        while let Some(Reverse((at, key))) = self.timers.peek().copied()
            && at <= now
        {
            self.timers.pop();
            let Some(slot) = self.slots.get_mut(&key) else {
                continue;
            };
            if slot.armed == Some(at) {
                slot.armed = None;
            }
            // A timer is left where it was when its child lives on, so it may come too early.
            if slot.lifecycle.poll_timeout().is_some_and(|at| at <= now) {
                slot.lifecycle.handle_timeout(now);
            }
            self.touch(key);
        }
    }
}

impl Slot {
    pub(crate) fn topic(&self, key: Key) -> Topic {
        Topic::Child { key, generation: self.generation, name: self.name.clone() }
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
            State::New | State::Starting => ("starting", None),
            State::Ready => ("ready", None),
            State::Stopping => ("stopping", None),
            State::Waiting { until } => {
                let at = now.1 + until.saturating_duration_since(now.0);
                ("waiting", at.duration_since(SystemTime::UNIX_EPOCH).ok().map(|since| since.as_secs_f64()))
            }
            State::Stopped(_) => ("stopped", None),
        };
        ChildStatus {
            name: self.name.clone(),
            service: self.service.name.clone(),
            instance: self.index,
            generation: self.generation,
            process_id: self.process.as_ref().map(|process| process.pid.as_raw_nonzero().get().unsigned_abs()),
            state: state.to_owned(),
            status: self.status.clone(),
            restarts: self.lifecycle.restarts(),
            last_exit: self.last_exit.clone(),
            next_start,
        }
    }
}

/// A child, as those see it who choose among all.
pub(crate) struct Child<'slot>(&'slot Slot);

impl Child<'_> {
    pub(crate) fn generation(&self) -> u64 {
        self.0.generation
    }

    pub(crate) fn is_linked(&self) -> bool {
        self.0.service.linked
    }

    pub(crate) fn state(&self) -> State {
        self.0.lifecycle.state()
    }
}

/// What an epoll event's data says.
fn token(key: Key, source: Source) -> EventData {
    EventData::new_u64(key << 2 | source as u64)
}

/// The descriptors that are ready now.
fn poll(epoll: &OwnedFd) -> Vec<(Key, Source)> {
    let mut events = Vec::with_capacity(64);
    let none = rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 };
    match rustix::io::retry_on_intr(|| epoll::wait(epoll, rustix::buffer::spare_capacity(&mut events), Some(&none))) {
        Ok(_) => {}
        Err(error) => tracing::error!(%error, "cannot poll children"),
    }
    let source = |data: u64| match data & 3 {
        0 => Source::Exit,
        1 => Source::Notify,
        _ => Source::Link,
    };
    events.iter().map(|event| (event.data.u64() >> 2, source(event.data.u64()))).collect()
}

/// Has the process watched. If that is impossible it is ended again.
fn register(epoll: &OwnedFd, key: Key, process: Process) -> Result<Process, SpawnError> {
    let add = |descriptor: BorrowedFd<'_>, source, flags| epoll::add(epoll, descriptor, token(key, source), flags);
    let mut result = add(process.pidfd.as_fd(), Source::Exit, EventFlags::IN);
    if let Some(notify) = &process.notify {
        result = result.and_then(|()| add(notify.as_fd(), Source::Notify, EventFlags::IN));
    }
    if let Some(link) = &process.link {
        // Only that there is room again is news.
        result = result.and_then(|()| add(link.as_fd(), Source::Link, EventFlags::OUT | EventFlags::ET));
    }
    match result {
        Ok(()) => Ok(process),
        Err(error) => {
            process.signal(Signal::KILL);
            let _ = signal::reap(&process.pidfd);
            unregister(epoll, &process);
            Err(SpawnError::System { step: "watch the process", source: error.into() })
        }
    }
}

/// Descriptors would leave the epoll by being closed, were there no copies of them in a child that is just being made.
fn unregister(epoll: &OwnedFd, process: &Process) {
    let descriptors =
        [Some(process.pidfd.as_fd()), process.notify.as_ref().map(AsFd::as_fd), process.link.as_ref().map(AsFd::as_fd)];
    for descriptor in descriptors.into_iter().flatten() {
        let _ = epoll::delete(epoll, descriptor);
    }
}

async fn sleep_until(deadline: Option<tokio::time::Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

fn pid_of(process: &Process) -> i32 {
    process.pid.as_raw_nonzero().get()
}

/// When a child will be started again, for people.
fn next_try(state: State, now: Instant) -> String {
    match state {
        State::New => "at once".to_owned(),
        State::Waiting { until } => format!("in {:.1?}", until.saturating_duration_since(now)),
        _ => "never".to_owned(),
    }
}

fn log_kill(slot: &Slot, process: &Process) {
    let pid = pid_of(process);
    match slot.lifecycle.failure() {
        Some(failure) => {
            tracing::error!(child = slot.name, pid, reason = %failure, "killing child")
        }
        None => tracing::warn!(child = slot.name, pid, "killing child: it did not end within its grace period"),
    }
}
