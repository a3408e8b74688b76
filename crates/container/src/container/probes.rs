//! The probes of children, at work.

use std::collections::HashMap;
use std::time::Instant;

use rustix::event::epoll;
use rustix::process::Pid;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::{Container, Event, Key, pid_of};
use crate::lifecycle::{Failure, State};
use crate::poller::{END, Source, token};
use crate::probe::attempt::{self, Outcome, ProbeProcess};
use crate::probe::checker::{Checker, Step, Verdict};
use crate::probe::{Check, ProbeFailure, ProbeKind, Probes};
use crate::spec::{Readiness, Service};
use crate::sys::signal;

/// All attempts that are under way.
pub(super) struct Attempts {
    /// Programs, until they were reaped.
    programs: HashMap<Pid, Program>,
    sender: mpsc::UnboundedSender<Answer>,
    /// What connections brought. It holds no more than one answer for each probe of each child.
    answers: mpsc::UnboundedReceiver<Answer>,
}

struct Program {
    process: ProbeProcess,
    /// Whose probe it is, unless it was given up.
    asked_by: Option<(Key, ProbeKind, u64)>,
}

/// How an attempt ended.
pub(super) struct Answer {
    key: Key,
    kind: ProbeKind,
    attempt: u64,
    outcome: Outcome,
}

impl Default for Attempts {
    fn default() -> Self {
        let (sender, answers) = mpsc::unbounded_channel();
        Attempts { programs: HashMap::new(), sender, answers }
    }
}

impl Attempts {
    /// True if the process was started as a probe, and was not reaped yet.
    pub(super) fn own(&self, pid: Pid) -> bool {
        self.programs.contains_key(&pid)
    }

    /// The next answer of a connection.
    pub(super) async fn next(&mut self) -> Answer {
        match self.answers.recv().await {
            Some(answer) => answer,
            // There is a sender here, so this does not happen.
            None => std::future::pending().await,
        }
    }
}

/// The probes of a child that runs, and what is known about its readiness.
pub(crate) struct ProbesOfChild {
    /// True if the child says that it is ready, or does not have to.
    said: bool,
    startup: Option<Task>,
    readiness: Option<Task>,
    liveness: Option<Task>,
}

/// A probe that is asked from time to time.
struct Task {
    checker: Checker,
    /// The attempt that is under way.
    running: Option<Running>,
}

enum Running {
    Program(Pid),
    Connection(JoinHandle<()>),
}

impl Task {
    fn new(now: Instant) -> Option<Self> {
        Some(Task { checker: Checker::new(now), running: None })
    }
}

impl ProbesOfChild {
    /// Those of a process that was just started, if there are any.
    pub(crate) fn new(service: &Service, now: Instant) -> Option<Box<Self>> {
        let probes = &service.probes;
        probes.each().next()?;
        Some(Box::new(ProbesOfChild {
            said: service.readiness == Readiness::Spawned,
            startup: probes.startup.as_ref().and_then(|_| Task::new(now)),
            readiness: probes.readiness.as_ref().filter(|_| probes.startup.is_none()).and_then(|_| Task::new(now)),
            liveness: None,
        }))
    }

    fn task(&mut self, kind: ProbeKind) -> &mut Option<Task> {
        match kind {
            ProbeKind::Startup => &mut self.startup,
            ProbeKind::Readiness => &mut self.readiness,
            ProbeKind::Liveness => &mut self.liveness,
        }
    }

    /// True if nothing speaks against the child's being ready.
    fn allow(&self, probes: &Probes) -> bool {
        let is_up = |task: &Option<Task>| task.as_ref().is_some_and(|task| task.checker.is_up());
        self.said
            && (probes.startup.is_none() || is_up(&self.startup))
            && (probes.readiness.is_none() || is_up(&self.readiness))
    }

    /// When one of them has to be looked at.
    pub(crate) fn poll_timeout(&self, probes: &Probes) -> Option<Instant> {
        let tasks = [
            (&self.startup, &probes.startup),
            (&self.readiness, &probes.readiness),
            (&self.liveness, &probes.liveness),
        ];
        let timeouts = tasks.into_iter().filter_map(|(task, probe)| match (task, probe) {
            // Once it has succeeded it is over.
            (Some(task), Some(_)) if std::ptr::eq(probe, &probes.startup) && task.checker.is_up() => None,
            (Some(task), Some(probe)) => task.checker.poll_timeout(probe),
            _ => None,
        });
        timeouts.min()
    }

    /// The last failure of what the child has to pass in order to be ready.
    pub(crate) fn last_failure(&self) -> Option<(ProbeKind, ProbeFailure)> {
        let tasks = [(ProbeKind::Startup, &self.startup), (ProbeKind::Readiness, &self.readiness)];
        tasks.into_iter().find_map(|(kind, task)| {
            let checker = &task.as_ref()?.checker;
            Some((kind, checker.last_failure.filter(|_| !checker.is_up())?))
        })
    }
}

impl Container {
    /// The child says that it is ready. It is, unless a probe says otherwise.
    pub(super) fn handle_ready(&mut self, key: Key, now: Instant) {
        let Some(slot) = self.slots.get_mut(&key) else {
            return;
        };
        if let Some(probes) = &mut slot.probes {
            probes.said = true;
        }
        slot.lifecycle.handle_message(now);
        self.look_whether_ready(key, now);
    }

    /// The child says that it is not ready for now.
    pub(super) fn handle_unready(&mut self, key: Key, now: Instant) {
        let Some(slot) = self.slots.get_mut(&key) else {
            return;
        };
        if let Some(probes) = &mut slot.probes {
            probes.said = false;
        }
        let was_ready = slot.lifecycle.state() == State::Ready;
        slot.lifecycle.handle_unready(now);
        if was_ready {
            self.events.push_back(Event::Unready);
        }
    }

    fn look_whether_ready(&mut self, key: Key, now: Instant) {
        let Some(slot) = self.slots.get_mut(&key) else {
            return;
        };
        let allowed = slot.probes.as_ref().is_none_or(|probes| probes.allow(&slot.service.probes));
        if allowed
            && slot.lifecycle.handle_ready(now)
            && let Some(process) = &slot.process
        {
            let after = now - process.started;
            tracing::info!(child = slot.name, pid = pid_of(process), ?after, "child is ready");
            slot.age(now);
            self.events.push_back(Event::Ready { generation: slot.generation });
            self.take_over(key);
            self.watch_liveness(key, now);
        }
    }

    /// A process was started for the child.
    pub(super) fn begin_probes(&mut self, key: Key, now: Instant) {
        let Some(slot) = self.slots.get_mut(&key) else {
            return;
        };
        slot.probes = ProbesOfChild::new(&slot.service, now);
        if slot.lifecycle.state() == State::Ready {
            self.watch_liveness(key, now);
        }
    }

    /// The child is ready, from the first time on it has to be alive.
    fn watch_liveness(&mut self, key: Key, now: Instant) {
        if let Some(slot) = self.slots.get_mut(&key)
            && slot.service.probes.liveness.is_some()
            && let Some(probes) = &mut slot.probes
            && probes.liveness.is_none()
        {
            probes.liveness = Task::new(now);
        }
    }

    /// Makes the attempts that are due, and gives up those that take too long.
    pub(super) fn run_probes(&mut self, key: Key, now: Instant) {
        for kind in [ProbeKind::Startup, ProbeKind::Readiness, ProbeKind::Liveness] {
            let Some(slot) = self.slots.get_mut(&key).filter(|slot| slot.lifecycle.is_up()) else {
                return;
            };
            let (Some(probe), Some(probes)) = (slot.service.probes.get(kind), &mut slot.probes) else {
                continue;
            };
            let Some(task) = probes.task(kind) else {
                continue;
            };
            if kind == ProbeKind::Startup && task.checker.is_up() {
                continue;
            }
            match task.checker.handle_timeout(probe, now) {
                Some(Step::Start) => self.try_probe(key, kind),
                Some(Step::Abandon) => {
                    let timeout = probe.timeout;
                    if let Some(running) = task.running.take() {
                        self.abandon_attempt(running);
                    }
                    self.handle_outcome(key, kind, Outcome::Failure(ProbeFailure::TimedOut { timeout }));
                }
                None => {}
            }
        }
    }

    fn try_probe(&mut self, key: Key, kind: ProbeKind) {
        let Some(slot) = self.slots.get_mut(&key) else {
            return;
        };
        let (Some(process), Some(probe), Some(probes)) =
            (&slot.process, slot.service.probes.get(kind), &mut slot.probes)
        else {
            return;
        };
        let Some(task) = probes.task(kind) else {
            return;
        };
        let attempt = task.checker.attempt();
        let Check::Exec(command) = &probe.check else {
            let (check, sender) = (probe.check.clone(), self.attempts.sender.clone());
            task.running = Some(Running::Connection(tokio::spawn(async move {
                let outcome = attempt::connect(check).await;
                let _ = sender.send(Answer { key, kind, attempt, outcome });
            })));
            return;
        };
        let started = ProbeProcess::start(&mut self.spawner, command, &slot.name, process.pid);
        match started.map(|process| (process.pid, process)) {
            Ok((pid, process)) => {
                task.running = Some(Running::Program(pid));
                let number = u64::from(pid.as_raw_nonzero().get().unsigned_abs());
                let token = token(number, Source::Probe);
                if let Err(error) = epoll::add(self.epoll.get_ref(), &process.pidfd, token, END) {
                    // Its end is noticed by SIGCHLD as well.
                    tracing::warn!(child = slot.name, %error, "cannot watch a probe");
                }
                self.attempts.programs.insert(pid, Program { process, asked_by: Some((key, kind, attempt)) });
            }
            Err(error) => self.handle_outcome(key, kind, attempt::not_started(&error)),
        }
    }

    fn abandon_attempt(&mut self, running: Running) {
        match running {
            Running::Connection(task) => task.abort(),
            Running::Program(pid) => {
                if let Some(program) = self.attempts.programs.get_mut(&pid) {
                    program.asked_by = None;
                    program.process.kill();
                }
            }
        }
    }

    /// A program that was started as a probe may have ended.
    pub(super) fn handle_probe_exit(&mut self, pid: Pid) {
        let Some(program) = self.attempts.programs.get(&pid) else {
            return;
        };
        let Some(status) = signal::exit_status(&program.process.pidfd).ok().flatten() else {
            return;
        };
        // What it left behind in its group. Its number is the group's as long as it is not reaped.
        program.process.kill();
        let Some(Program { process, asked_by }) = self.attempts.programs.remove(&pid) else {
            return;
        };
        let _ = epoll::delete(self.epoll.get_ref(), &process.pidfd);
        self.reaper.collect(process.pid, process.pidfd);
        self.orphans.retire(process.mark);
        self.orphans_due = true;
        if let Some((key, kind, attempt)) = asked_by {
            let outcome = match status {
                status if status.success() => Outcome::Success,
                status => Outcome::Failure(ProbeFailure::Ended(status)),
            };
            self.handle_answer(Answer { key, kind, attempt, outcome });
        }
    }

    /// An attempt has ended, but may have been given up before.
    pub(super) fn handle_answer(&mut self, answer: Answer) {
        let Answer { key, kind, attempt, outcome } = answer;
        let probes = self.slots.get_mut(&key).and_then(|slot| slot.probes.as_mut());
        let Some(task) = probes.and_then(|probes| probes.task(kind).as_mut()) else {
            return;
        };
        if task.checker.attempt() == attempt && task.running.take().is_some() {
            self.handle_outcome(key, kind, outcome);
            self.touch(key);
        }
    }

    fn handle_outcome(&mut self, key: Key, kind: ProbeKind, outcome: Outcome) {
        let now = Instant::now();
        let Some(slot) = self.slots.get_mut(&key) else {
            return;
        };
        let (Some(probe), Some(probes)) = (slot.service.probes.get(kind), &mut slot.probes) else {
            return;
        };
        let Some(Task { checker, .. }) = probes.task(kind) else {
            return;
        };
        let verdict = match outcome {
            Outcome::Success => checker.handle_success(probe, now),
            Outcome::Failure(failure) => {
                tracing::debug!(child = slot.name, probe = %kind, %failure, "an attempt of a probe failed");
                checker.handle_failure(probe, now, failure)
            }
            Outcome::Unknown(reason) => {
                tracing::warn!(child = slot.name, probe = %kind, reason, "cannot probe: trying again");
                checker.handle_unknown(probe, now);
                None
            }
        };
        match (kind, verdict) {
            (_, None) => {}
            (ProbeKind::Startup, Some(Verdict::Up)) => {
                probes.readiness = slot.service.probes.readiness.as_ref().and_then(|_| Task::new(now));
                self.look_whether_ready(key, now);
            }
            (ProbeKind::Readiness, Some(Verdict::Up)) => self.look_whether_ready(key, now),
            // How long a start may take is for the start-up time-out to say.
            (ProbeKind::Startup, Some(Verdict::Down { .. })) | (ProbeKind::Liveness, Some(Verdict::Up)) => {}
            (ProbeKind::Readiness, Some(Verdict::Down { attempts, failure })) => {
                if slot.lifecycle.handle_suspended() {
                    tracing::warn!(child = slot.name, %failure, attempts, "child is not ready any more");
                    self.events.push_back(Event::Unready);
                }
            }
            (ProbeKind::Liveness, Some(Verdict::Down { attempts, failure })) => {
                self.fail(key, Failure::Probe { kind, attempts, failure });
            }
        }
    }

    /// Gives up all attempts of a child: it is about to end, or has ended.
    pub(super) fn end_probes(&mut self, key: Key) {
        let Some(probes) = self.slots.get_mut(&key).and_then(|slot| slot.probes.as_mut()) else {
            return;
        };
        let tasks = [&mut probes.startup, &mut probes.readiness, &mut probes.liveness];
        let running: Vec<Running> = tasks.into_iter().flatten().filter_map(|task| task.running.take()).collect();
        running.into_iter().for_each(|running| self.abandon_attempt(running));
    }
}
