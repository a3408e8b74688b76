//! The life of one child as a state machine: no process, no clock, no I/O.
//!
//! A [`Lifecycle`] is told what happened (`handle_*`, with the time as an argument) and asked what to
//! do ([`poll_action`](Lifecycle::poll_action)) and when to be woken at the latest
//! ([`poll_timeout`](Lifecycle::poll_timeout), to be answered by
//! [`handle_timeout`](Lifecycle::handle_timeout)). After every `handle_*` all actions must be taken and
//! carried out, in order. Carrying out [`Action::Spawn`] is answered by
//! [`handle_spawned`](Lifecycle::handle_spawned) or
//! [`handle_spawn_failed`](Lifecycle::handle_spawn_failed) before anything else is told.
//!
//! What it promises, whatever happens in whatever order:
//! - there is never more than one process: `Spawn` comes only when the last process is known to have ended;
//! - once [`handle_stop`](Lifecycle::handle_stop) was called, nothing is spawned any more;
//! - a child that was asked to end is killed at its deadline, unless it ended before; stopping comes to an end even if
//!   the kernel does not let go of the process;
//! - start-up and health-check time-outs hold whatever else is going on.

use std::collections::VecDeque;
use std::fmt;
use std::time::{Duration, Instant};

use crate::backoff::Backoff;
use crate::exit::ExitStatus;
use crate::probe::{ProbeFailure, ProbeKind};
use crate::spec::Restart;
use crate::time::after;

/// How long a process that was killed may take to end. One that takes longer is held by the kernel, as in a call to a device
/// that does not answer, or in a frozen cgroup.
const KILL_LIMIT: Duration = Duration::from_secs(5);

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Start a process.
    Spawn,
    /// Ask the process to end, by its stop signal.
    Interrupt,
    /// Have somebody look at the process before it is killed, and answer by [`handle_examined`](Lifecycle::handle_examined),
    /// at once if there is nobody. It is killed without an answer, too, when the time for it is over. One that was asked to end
    /// has until then to do so, whatever the answer.
    Examine,
    /// End the process, by SIGKILL.
    Kill,
    /// Say that the process was killed, but has not ended: the kernel holds it.
    Overdue,
    /// Forget the process, which was killed and has not ended, so that stopping comes to an end.
    Abandon,
}

/// Where a child stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Not started yet, or about to be.
    New,
    /// It runs, but has not said that it is ready.
    Starting,
    /// It runs and is ready.
    Ready,
    /// It was asked to end, or killed, but has not ended yet.
    Stopping,
    /// It ended, or could not be started, and will be started at this time.
    Waiting {
        /// When.
        until: Instant,
    },
    /// It has ended, or was not started, and waits for others to end as well.
    Held,
    /// It ended and will not be started again.
    Stopped(End),
}

/// How a child came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It was asked to.
    Asked,
    /// By itself, successfully.
    Success,
    /// By itself, with a failure.
    Failure,
}

impl State {
    /// True while there is a process.
    pub fn is_running(self) -> bool {
        matches!(self, State::Starting | State::Ready | State::Stopping)
    }
}

/// What follows once a stopping process has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    /// Nothing: it was asked to stop.
    Stop,
    /// Another process at once: it was asked to be replaced.
    Replace,
    /// Another process once others have ended, too.
    Hold,
    /// What would follow if it had failed by itself: it was killed for what it did not do.
    Fail,
}

/// Why a process was, or is about to be, killed or replaced although nobody asked to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failure {
    /// It was not ready in time.
    Startup {
        /// The limit that it exceeded.
        timeout: Duration,
    },
    /// It was ready, and then said nothing for too long.
    HealthCheck {
        /// The limit that it exceeded.
        timeout: Duration,
    },
    /// It said itself that it hangs.
    Reported,
    /// A probe failed too often.
    Probe {
        /// Which one.
        kind: ProbeKind,
        /// How many attempts in a row failed.
        attempts: u32,
        /// How the last one did.
        failure: ProbeFailure,
    },
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Startup { timeout } => write!(formatter, "not ready within {timeout:?} (start-up time-out)"),
            Failure::HealthCheck { timeout } => {
                write!(formatter, "silent for {timeout:?} (health check)")
            }
            Failure::Probe { kind, attempts, failure } => {
                write!(formatter, "{kind} failed {attempts} times, at last: {failure}")
            }
            Failure::Reported => formatter.write_str("asked to be treated as hanging (watchdog trigger)"),
        }
    }
}

/// What the end of a process means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    /// True if it was a failure.
    pub failed: bool,
    /// Whether there is a restart, where that is not for the restart policy to say.
    pub restart: Option<bool>,
}

impl From<ExitStatus> for Exit {
    fn from(status: ExitStatus) -> Self {
        Exit { failed: !status.success(), restart: None }
    }
}

/// When to act although nothing happened.
#[derive(Clone, Copy, Debug, Default)]
struct Timers {
    /// When the child is not ready by then, it has failed to start.
    startup: Option<Instant>,
    /// When the child, being ready, says nothing until then, it hangs.
    health: Option<Instant>,
    /// When nobody has looked by then at the child, which is about to be killed, it is killed all the same.
    examination: Option<Instant>,
    /// When the child has not ended by then although it was asked to, somebody is to look at it.
    look: Option<Instant>,
    /// When the child has not ended by then although it was asked to, it is killed.
    grace: Option<Instant>,
    /// When the child has not ended by then although it was killed, it is said, or given up.
    overdue: Option<Instant>,
}

impl Timers {
    fn earliest(&self) -> Option<Instant> {
        let Timers { startup, health, examination, look, grace, overdue } = *self;
        [startup, health, examination, look, grace, overdue].into_iter().flatten().min()
    }
}

/// What the life of a child depends on.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Whether it is started again once it has ended.
    pub restart: Restart,
    /// How long to wait before it is.
    pub backoff: Backoff,
    /// How long it may take to become ready.
    pub startup_timeout: Option<Duration>,
    /// How long it may say nothing once it is ready.
    pub health_check_timeout: Option<Duration>,
    /// How long somebody may look at a process that is about to be killed for what it did not do. Nothing, if nobody is to. For
    /// one that was asked to end, this is the last part of its grace period, at most half of it.
    pub examination: Duration,
    /// How long it may take to end when it is replaced.
    pub grace: Duration,
    /// True if it counts as ready as soon as it runs.
    pub ready_when_spawned: bool,
}

/// The life of one child.
#[derive(Debug)]
pub struct Lifecycle {
    settings: Settings,
    state: State,
    then: Then,
    timers: Timers,
    /// True once SIGKILL was asked for.
    killed: bool,
    /// Since when the child is ready.
    ready_since: Option<Instant>,
    /// Attempts in a row that came to nothing.
    failures: u32,
    /// Why the process is being ended, if that was decided here.
    failure: Option<Failure>,
    /// When the process was asked to end.
    asked: Option<Instant>,
    /// How long ago that was when it was found that somebody has to look at it.
    overstay: Option<Duration>,
    /// Processes started beyond the first.
    restarts: u64,
    spawned: bool,
    random: fastrand::Rng,
    actions: VecDeque<Action>,
}

impl Lifecycle {
    /// A child that has not been started. `seed` decides the jitter of its back-off.
    pub fn new(settings: Settings, seed: u64) -> Self {
        Lifecycle {
            settings,
            state: State::New,
            then: Then::Stop,
            timers: Timers::default(),
            killed: false,
            ready_since: None,
            failures: 0,
            failure: None,
            asked: None,
            overstay: None,
            restarts: 0,
            spawned: false,
            random: fastrand::Rng::with_seed(seed),
            actions: VecDeque::new(),
        }
    }

    /// Where the child stands.
    pub fn state(&self) -> State {
        self.state
    }

    /// How many times it was started again.
    pub fn restarts(&self) -> u64 {
        self.restarts
    }

    /// How many attempts in a row came to nothing.
    pub fn failures(&self) -> u32 {
        self.failures
    }

    /// What the process is, or was last, being killed for.
    pub fn failure(&self) -> Option<Failure> {
        self.failure
    }

    /// How long ago the process was asked to end when it was found that it has not, so late that somebody has to look at it.
    pub fn overstay(&self) -> Option<Duration> {
        self.overstay
    }

    /// When the process will be killed, while it was asked to end and somebody is to look at it because it has not: until then
    /// it may end by itself.
    pub fn kill_at(&self) -> Option<Instant> {
        self.overstay.and(self.timers.grace)
    }

    /// True if somebody was to look at the process because it had not ended although it was asked to, and then it was not killed.
    pub fn is_spared(&self) -> bool {
        self.overstay.is_some() && !self.killed
    }

    /// How long it may take to end when it is replaced.
    pub fn grace(&self) -> Duration {
        self.settings.grace
    }

    /// The next thing to do, if there is one.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// True if there is something to do.
    pub fn has_actions(&self) -> bool {
        !self.actions.is_empty()
    }

    /// When to call [`handle_timeout`](Self::handle_timeout) at the latest.
    pub fn poll_timeout(&self) -> Option<Instant> {
        match self.state {
            State::Waiting { until } => Some(until),
            State::Starting | State::Ready | State::Stopping => self.timers.earliest(),
            State::New | State::Held | State::Stopped(_) => None,
        }
    }

    /// True if a process was started before.
    pub fn has_run(&self) -> bool {
        self.spawned
    }

    /// True if it was ready, whether it is now or not.
    pub fn was_ready(&self) -> bool {
        self.ready_since.is_some()
    }

    /// When its process, if it was ready, will have been so for long enough for its end to be no failure to start.
    pub fn healthy_at(&self) -> Option<Instant> {
        self.ready_since.map(|since| self.settings.backoff.healthy_at(since))
    }

    /// True if it runs and nobody has asked it to end.
    pub fn is_up(&self) -> bool {
        matches!(self.state, State::Starting | State::Ready)
    }

    /// The child is wanted.
    pub fn handle_start(&mut self) {
        if self.state == State::New && self.actions.is_empty() {
            self.actions.push_back(Action::Spawn);
        }
    }

    /// A process was started.
    pub fn handle_spawned(&mut self, now: Instant) {
        self.restarts += u64::from(self.spawned);
        self.spawned = true;
        self.killed = false;
        self.failure = None;
        self.asked = None;
        self.overstay = None;
        self.ready_since = None;
        self.state = State::Starting;
        self.timers =
            Timers { startup: self.settings.startup_timeout.map(|timeout| after(now, timeout)), ..Timers::default() };
        if self.settings.ready_when_spawned {
            self.handle_ready(now);
        }
    }

    /// No process could be started. `transient` is for what may pass by itself, such as EAGAIN: it is
    /// tried again whatever the restart policy.
    pub fn handle_spawn_failed(&mut self, now: Instant, transient: bool) {
        // Unlike a child that ran, the first attempt that fails is no reason to try again at once.
        self.failures = self.failures.max(1);
        if transient || self.settings.restart != Restart::Never {
            self.wait(now);
        } else {
            self.state = State::Stopped(End::Failure);
        }
    }

    /// The child said that it is ready. True if it was not before.
    pub fn handle_ready(&mut self, now: Instant) -> bool {
        let became_ready = self.state == State::Starting;
        if became_ready {
            self.state = State::Ready;
            self.ready_since = Some(now);
            self.timers.startup = None;
        }
        self.handle_message(now);
        became_ready
    }

    /// The child said that it is not ready for now, as while it reloads; its start-up limit holds anew.
    pub fn handle_unready(&mut self, now: Instant) {
        if self.state == State::Ready {
            self.state = State::Starting;
            self.timers.health = None;
            self.timers.startup = self.settings.startup_timeout.map(|timeout| after(now, timeout));
        }
    }

    /// The child was found not to be ready for now, through no word of its own: it may take any time, but must not be
    /// silent for longer than before. True if it was ready.
    pub fn handle_suspended(&mut self) -> bool {
        let was_ready = self.state == State::Ready;
        if was_ready {
            self.state = State::Starting;
            self.timers.startup = None;
        }
        was_ready
    }

    /// The child said anything: it lives. What it says before it is ready does not prolong its start.
    pub fn handle_message(&mut self, now: Instant) {
        // The limit holds for one that was ready and was found not to be for now.
        if self.state == State::Ready || (self.state == State::Starting && self.timers.health.is_some()) {
            self.timers.health = self.settings.health_check_timeout.map(|timeout| after(now, timeout));
        }
    }

    /// The child wants at least so long from now to become ready. Its start-up limit never becomes shorter by that.
    pub fn handle_extension(&mut self, now: Instant, time: Duration) {
        if let (State::Starting, Some(deadline), Some(wanted)) =
            (self.state, &mut self.timers.startup, now.checked_add(time))
        {
            *deadline = wanted.max(*deadline);
        }
    }

    /// The child was found to be in a state that it must not go on in: it is killed.
    pub fn handle_failed(&mut self, now: Instant, failure: Failure) {
        if self.is_up() {
            self.fail(now, failure);
        }
    }

    /// The process ended.
    pub fn handle_exited(&mut self, now: Instant, exit: impl Into<Exit>) {
        let then = match self.state {
            State::Starting | State::Ready => Then::Fail,
            State::Stopping => self.then,
            State::New | State::Waiting { .. } | State::Held | State::Stopped(_) => return,
        };
        let Exit { failed, restart } = exit.into();
        let healthy = self.ready_since.is_some_and(|since| self.settings.backoff.is_healthy(now - since));
        if healthy {
            self.failures = 0;
        }
        self.timers = Timers::default();
        let restart = restart.unwrap_or(match self.settings.restart {
            Restart::Always => true,
            Restart::OnFailure => failed,
            Restart::Never => false,
        });
        match then {
            Then::Stop => self.state = State::Stopped(End::Asked),
            Then::Replace => self.respawn(now),
            Then::Hold => self.state = State::Held,
            Then::Fail if restart => self.respawn(now),
            Then::Fail => self.state = State::Stopped(if failed { End::Failure } else { End::Success }),
        }
    }

    /// The child is to end, within `grace`, and not to be started again. Asked for a second time, a
    /// shorter grace counts.
    pub fn handle_stop(&mut self, now: Instant, grace: Duration) {
        self.actions.retain(|action| *action != Action::Spawn);
        match self.state {
            State::New | State::Waiting { .. } | State::Held => self.state = State::Stopped(End::Asked),
            State::Starting | State::Ready => self.interrupt(now, grace, Then::Stop),
            State::Stopping => {
                self.then = Then::Stop;
                if self.killed {
                    // It may have been overdue before anybody wanted it to stop.
                    self.timers.overdue.get_or_insert(now + KILL_LIMIT);
                } else {
                    let deadline = after(now, grace);
                    self.timers.grace = Some(self.timers.grace.map_or(deadline, |earlier| earlier.min(deadline)));
                    // One that was looked at already has no timer for it any more.
                    let look = self.look_at(now, grace);
                    self.timers.look = self.timers.look.map(|earlier| look.map_or(earlier, |look| look.min(earlier)));
                    self.kill_if_late(now);
                }
            }
            State::Stopped(_) => {}
        }
    }

    /// The process is to be replaced by another one: asked to end, killed when it does not, started again.
    pub fn handle_replace(&mut self, now: Instant) {
        if matches!(self.state, State::Starting | State::Ready) {
            self.interrupt(now, self.settings.grace, Then::Replace);
        }
    }

    /// The child is to end, as others are, and to be started again only when all of them have ended: when
    /// [`handle_release`](Self::handle_release) is called. Gives when it would have been started if it is not running.
    pub fn handle_hold(&mut self, now: Instant) -> Option<Instant> {
        match self.state {
            State::New | State::Waiting { .. } => {
                let due = if let State::Waiting { until } = self.state { until } else { now };
                self.actions.retain(|action| *action != Action::Spawn);
                self.state = State::Held;
                Some(due)
            }
            State::Starting | State::Ready => {
                self.interrupt(now, self.settings.grace, Then::Hold);
                None
            }
            State::Stopping => {
                if self.then != Then::Stop {
                    self.then = Then::Hold;
                }
                None
            }
            State::Held | State::Stopped(_) => None,
        }
    }

    /// All others have ended, too: the child is started at this time.
    pub fn handle_release(&mut self, now: Instant, at: Instant) {
        if self.state == State::Held {
            if at > now {
                self.state = State::Waiting { until: at };
            } else {
                self.state = State::New;
                self.actions.push_back(Action::Spawn);
            }
        }
    }

    /// The limit that the child has exceeded at this time, if any: what [`handle_timeout`](Self::handle_timeout) will kill it for.
    pub fn exceeded(&self, now: Instant) -> Option<Failure> {
        let due = |timer: Option<Instant>| timer.is_some_and(|at| at <= now);
        match self.state {
            State::Starting if due(self.timers.startup) => {
                self.settings.startup_timeout.map(|timeout| Failure::Startup { timeout })
            }
            State::Starting | State::Ready if due(self.timers.health) => {
                self.settings.health_check_timeout.map(|timeout| Failure::HealthCheck { timeout })
            }
            _ => None,
        }
    }

    /// The limit that the child has exceeded is to hold once more, from now on.
    pub fn handle_reprieve(&mut self, now: Instant) {
        match self.exceeded(now) {
            Some(Failure::Startup { timeout }) => self.timers.startup = Some(after(now, timeout)),
            Some(Failure::HealthCheck { timeout }) => self.timers.health = Some(after(now, timeout)),
            Some(Failure::Reported | Failure::Probe { .. }) | None => {}
        }
    }

    /// True while the process is about to be killed, and waits for somebody to have looked at it.
    pub fn is_examined(&self) -> bool {
        self.timers.examination.is_some()
    }

    /// Whoever was to look at the process has done so, or there is nobody.
    pub fn handle_examined(&mut self, now: Instant) {
        if self.is_examined() && self.failure.is_some() {
            self.kill(now);
        }
        self.timers.examination = None;
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        if let Some(failure) = self.exceeded(now) {
            return self.fail(now, failure);
        }
        match self.state {
            State::Waiting { until } if until <= now => {
                self.state = State::New;
                self.actions.push_back(Action::Spawn);
            }
            State::Stopping => self.kill_if_late(now),
            State::New | State::Starting | State::Ready | State::Waiting { .. } | State::Held | State::Stopped(_) => {}
        }
    }

    fn interrupt(&mut self, now: Instant, grace: Duration, then: Then) {
        self.state = State::Stopping;
        self.then = then;
        self.asked = Some(now);
        self.timers = Timers { grace: Some(after(now, grace)), look: self.look_at(now, grace), ..Timers::default() };
        if grace.is_zero() {
            self.kill_if_late(now);
        } else {
            self.actions.push_back(Action::Interrupt);
        }
    }

    /// When somebody is to look at the process, if it has not ended by then although it was asked to: so that it is killed when its
    /// grace period is over, and not later, it is before that.
    fn look_at(&self, now: Instant, grace: Duration) -> Option<Instant> {
        let limit = self.settings.examination.min(grace / 2);
        (!limit.is_zero()).then(|| after(now, grace - limit))
    }

    fn kill_if_late(&mut self, now: Instant) {
        if [self.timers.grace, self.timers.examination].into_iter().flatten().any(|at| at <= now) {
            self.kill(now);
        }
        if self.timers.look.is_some_and(|at| at <= now) {
            self.timers.look = None;
            self.timers.examination = self.timers.grace;
            self.overstay = self.asked.map(|asked| now - asked);
            self.actions.push_back(Action::Examine);
        }
        if self.timers.overdue.is_some_and(|at| at <= now) {
            self.timers.overdue = None;
            if self.then == Then::Stop {
                self.state = State::Stopped(End::Asked);
                self.actions.push_back(Action::Abandon);
            } else {
                self.actions.push_back(Action::Overdue);
            }
        }
    }

    fn kill(&mut self, now: Instant) {
        self.killed = true;
        self.timers.grace = None;
        self.timers.examination = None;
        self.timers.look = None;
        self.timers.overdue = Some(now + KILL_LIMIT);
        self.actions.push_back(Action::Kill);
    }

    fn fail(&mut self, now: Instant, failure: Failure) {
        self.failure = Some(failure);
        self.state = State::Stopping;
        self.then = Then::Fail;
        self.timers = Timers::default();
        if self.settings.examination.is_zero() {
            self.kill(now);
        } else {
            self.timers.examination = Some(after(now, self.settings.examination));
            self.actions.push_back(Action::Examine);
        }
    }

    fn respawn(&mut self, now: Instant) {
        let delay = self.settings.backoff.delay(self.failures, self.random.f64());
        if delay.is_zero() {
            self.failures += 1;
            self.state = State::New;
            self.actions.push_back(Action::Spawn);
        } else {
            self.wait(now);
        }
    }

    fn wait(&mut self, now: Instant) {
        let delay = self.settings.backoff.delay(self.failures, self.random.f64());
        self.failures = self.failures.saturating_add(1);
        self.state = State::Waiting { until: after(now, delay) };
    }
}
