//! A simulation of children, for testing policies and settings without processes and without waiting.
//!
//! The lifecycles and policies are the real ones; processes are played by [`Behaviour`]s, and time by a clock that jumps
//! from one event to the next. Equal seeds give equal runs.
//!
//! ```
//! use std::time::Duration;
//! use async_container::testing::{Behaviour, Happening, Simulation};
//! use async_container::{ExitStatus, FailureRate};
//!
//! // Two children that crash a second after each start, under a policy that gives up at the fourth failure in a minute.
//! let crashing = Behaviour::default().exits_after(Duration::from_secs(1), ExitStatus::Signaled(11));
//! let mut simulation = Simulation::new(7)
//!     .policy(FailureRate::new(3, Duration::from_secs(60)))
//!     .children(2, move |_attempt| crashing.clone());
//! simulation.run_for(Duration::from_secs(60));
//!
//! assert!(simulation.given_up().is_some_and(|reason| reason.contains("more than 3")));
//! let failures = simulation.history().iter().filter(|record| matches!(record.happening, Happening::Exited(_))).count();
//! assert!((4..=6).contains(&failures));
//! assert!(simulation.is_over());
//! ```

use std::time::{Duration, Instant};

use crate::exit::ExitStatus;
use crate::lifecycle::{Action, Failure, Lifecycle, Settings, State};
use crate::policies::Policies;
use crate::policy::{Policy, PolicyChild, Verdict};
use crate::spec::Restart;
use crate::statistics::Statistics;

/// How a process behaves from its start on. Default is one that is ready at once, beats for ever, and ends when it is asked to.
#[derive(Clone, Debug)]
pub struct Behaviour {
    cannot_start: bool,
    ready_after: Option<Duration>,
    beats_until: Option<Duration>,
    exits_after: Option<(Duration, ExitStatus)>,
    ignores_stop: bool,
}

impl Default for Behaviour {
    fn default() -> Self {
        Behaviour {
            cannot_start: false,
            ready_after: Some(Duration::ZERO),
            beats_until: None,
            exits_after: None,
            ignores_stop: false,
        }
    }
}

impl Behaviour {
    /// The system refuses to start it, as when there are too many processes.
    pub fn cannot_start(mut self) -> Self {
        self.cannot_start = true;
        self
    }

    /// It is ready so long after its start.
    pub fn ready_after(mut self, time: Duration) -> Self {
        self.ready_after = Some(time);
        self
    }

    /// It never becomes ready.
    pub fn never_ready(mut self) -> Self {
        self.ready_after = None;
        self
    }

    /// It stops beating so long after its start.
    pub fn hangs_after(mut self, time: Duration) -> Self {
        self.beats_until = Some(time);
        self
    }

    /// It ends by itself so long after its start.
    pub fn exits_after(mut self, time: Duration, status: ExitStatus) -> Self {
        self.exits_after = Some((time, status));
        self
    }

    /// It does not end when it is asked to.
    pub fn ignores_stop(mut self) -> Self {
        self.ignores_stop = true;
        self
    }
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// When, since the beginning.
    pub at: Duration,
    /// To which child, from 0.
    pub child: usize,
    /// What.
    pub happening: Happening,
}

/// What can happen to a child.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Happening {
    /// A process was started.
    Spawned,
    /// No process could be started.
    SpawnFailed,
    /// It said that it is ready.
    Ready,
    /// It was asked to end.
    Interrupted,
    /// It was killed, because of a failed check if there was one.
    Killed(Option<Failure>),
    /// It ended.
    Exited(ExitStatus),
}

type Behave = Box<dyn FnMut(u64) -> Behaviour>;

struct Child {
    behave: Behave,
    attempts: u64,
    lifecycle: Lifecycle,
    process: Option<Process>,
}

/// A process that is played.
struct Process {
    behaviour: Behaviour,
    started: Instant,
    ready_at: Option<Instant>,
    next_beat: Option<Instant>,
    /// When it ends, and how.
    exit: Option<(Instant, ExitStatus)>,
}

impl Process {
    fn next_event(&self) -> Option<Instant> {
        [self.ready_at, self.next_beat, self.exit.map(|(at, _)| at)].into_iter().flatten().min()
    }
}

/// Children that are played, under real lifecycles and policies.
pub struct Simulation {
    begin: Instant,
    now: Instant,
    settings: Settings,
    policies: Vec<Box<dyn Policy>>,
    children: Vec<Child>,
    history: Vec<Record>,
    running: Policies,
    given_up: Option<String>,
    grace: Duration,
    seed: u64,
    begun: bool,
}

impl Simulation {
    const GRACE: Duration = Duration::from_secs(10);
    /// How often a healthy process beats within its limit.
    const BEATS: u32 = 2;

    /// No children yet. The seed decides the jitter.
    pub fn new(seed: u64) -> Self {
        let now = Instant::now();
        Simulation {
            begin: now,
            now,
            settings: Settings {
                restart: Restart::default(),
                backoff: crate::Backoff::default(),
                startup_timeout: None,
                health_check_timeout: None,
                grace: Self::GRACE,
                examination: Duration::ZERO,
                ready_when_spawned: false,
            },
            policies: Vec::new(),
            children: Vec::new(),
            history: Vec::new(),
            running: Policies::default(),
            given_up: None,
            grace: Self::GRACE,
            seed,
            begun: false,
        }
    }

    /// The settings of children that are added from now on. Default is to restart always, with the default back-off and
    /// without time-outs.
    pub fn settings(mut self, settings: Settings) -> Self {
        self.grace = settings.grace;
        self.settings = settings;
        self
    }

    /// Adds a policy.
    pub fn policy(mut self, policy: impl Policy + 'static) -> Self {
        self.policies.push(Box::new(policy));
        self
    }

    /// Adds children. `behave` says how the process of each attempt behaves, counted from 1.
    pub fn children<B>(mut self, count: usize, behave: B) -> Self
    where
        B: FnMut(u64) -> Behaviour + Clone + 'static,
    {
        for _ in 0..count {
            let seed = self.seed.wrapping_add(self.children.len() as u64);
            let lifecycle = Lifecycle::new(self.settings, seed);
            self.children.push(Child { behave: Box::new(behave.clone()), attempts: 0, lifecycle, process: None });
        }
        self
    }

    /// Lets so much time pass.
    pub fn run_for(&mut self, time: Duration) {
        self.begin();
        let end = self.now + time;
        while let Some(at) = self.next_event().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            for index in 0..self.children.len() {
                self.step(index);
            }
        }
        self.now = end;
    }

    /// Stops all children.
    pub fn stop(&mut self) {
        self.begin();
        self.running.stopping = true;
        for index in 0..self.children.len() {
            self.children[index].lifecycle.handle_stop(self.now, self.grace);
            self.act(index);
        }
    }

    /// What happened so far.
    pub fn history(&self) -> &[Record] {
        &self.history
    }

    /// Where a child stands.
    ///
    /// # Panics
    /// If there is no such child.
    pub fn state(&self, child: usize) -> State {
        self.children[child].lifecycle.state()
    }

    /// Why a policy has given up, if one has.
    pub fn given_up(&self) -> Option<&str> {
        self.given_up.as_deref()
    }

    /// What the policies see.
    pub fn statistics(&self) -> &Statistics {
        &self.running.statistics
    }

    /// True if all children have ended and will not be started again.
    pub fn is_over(&self) -> bool {
        self.children.iter().all(|child| matches!(child.lifecycle.state(), State::Stopped(_)))
    }

    /// The time of the simulation.
    pub fn now(&self) -> Instant {
        self.now
    }

    fn begin(&mut self) {
        if std::mem::replace(&mut self.begun, true) {
            return;
        }
        self.running = Policies::new(std::mem::take(&mut self.policies), Statistics::default());
        for index in 0..self.children.len() {
            self.children[index].lifecycle.handle_start();
            self.act(index);
        }
    }

    fn next_event(&self) -> Option<Instant> {
        let timers = self.children.iter().filter_map(|child| child.lifecycle.poll_timeout());
        let events = self.children.iter().filter_map(|child| child.process.as_ref()?.next_event());
        timers.chain(events).min()
    }

    /// Lets happen to a child what happens now.
    fn step(&mut self, index: usize) {
        let now = self.now;
        let child = &mut self.children[index];
        if let Some(process) = &mut child.process {
            if process.ready_at.is_some_and(|at| at <= now) {
                process.ready_at = None;
                if child.lifecycle.handle_ready(now) {
                    self.history.push(record(self.begin, now, index, Happening::Ready));
                }
            }
            if process.next_beat.is_some_and(|at| at <= now) {
                let pace = self.settings.health_check_timeout.map(|limit| limit / Self::BEATS);
                let alive =
                    |at: &Instant| process.behaviour.beats_until.is_none_or(|limit| *at < process.started + limit);
                process.next_beat = pace.map(|pace| now + pace).filter(alive);
                child.lifecycle.handle_message(now);
            }
            if let Some((at, status)) = process.exit
                && at <= now
            {
                self.exit(index, status);
            }
        }
        let child = &mut self.children[index];
        if child.lifecycle.poll_timeout().is_some_and(|at| at <= now) {
            if let Some(failure) = child.lifecycle.exceeded(now)
                && self.running.check_failed(&view(index, child), failure, now) == Verdict::Wait
            {
                child.lifecycle.handle_reprieve(now);
            }
            child.lifecycle.handle_timeout(now);
        }
        self.act(index);
    }

    fn act(&mut self, index: usize) {
        while let Some(action) = self.children[index].lifecycle.poll_action() {
            match action {
                Action::Spawn => self.spawn(index),
                Action::Interrupt => {
                    self.record(index, Happening::Interrupted);
                    let now = self.now;
                    if let Some(process) = &mut self.children[index].process
                        && !process.behaviour.ignores_stop
                    {
                        process.exit = Some((now, ExitStatus::Exited(0)));
                    }
                }
                Action::Kill => {
                    let failure = self.children[index].lifecycle.failure();
                    self.record(index, Happening::Killed(failure));
                    let now = self.now;
                    if let Some(process) = &mut self.children[index].process {
                        process.exit = Some((now, ExitStatus::Signaled(libc::SIGKILL)));
                    }
                }
                // Processes that are played end when they are killed.
                Action::Examine | Action::Overdue | Action::Abandon => {}
            }
        }
        if let Some(reason) = self.running.take_give_up() {
            self.given_up = Some(reason);
            self.stop();
        }
    }

    fn spawn(&mut self, index: usize) {
        let now = self.now;
        let child = &mut self.children[index];
        child.attempts += 1;
        let behaviour = (child.behave)(child.attempts);
        if behaviour.cannot_start {
            self.running.statistics.failed(now);
            child.lifecycle.handle_spawn_failed(now, true);
            return self.record(index, Happening::SpawnFailed);
        }
        child.process = Some(Process {
            started: now,
            ready_at: behaviour.ready_after.map(|time| now + time),
            next_beat: self.settings.health_check_timeout.map(|_| now),
            exit: behaviour.exits_after.map(|(time, status)| (now + time, status)),
            behaviour,
        });
        let again = child.lifecycle.has_run();
        child.lifecycle.handle_spawned(now);
        self.running.statistics.spawned(again, now);
        self.running.child_spawned(&view(index, child), now);
        self.record(index, Happening::Spawned);
    }

    fn exit(&mut self, index: usize, status: ExitStatus) {
        let now = self.now;
        let child = &mut self.children[index];
        let asked = child.lifecycle.state() == State::Stopping && child.lifecycle.failure().is_none();
        if !asked && !status.success() {
            self.running.statistics.failed(now);
        }
        self.running.child_exited(&view(index, child), status, now);
        child.process = None;
        child.lifecycle.handle_exited(now, status);
        self.record(index, Happening::Exited(status));
    }

    fn record(&mut self, child: usize, happening: Happening) {
        self.history.push(record(self.begin, self.now, child, happening));
    }
}

fn record(begin: Instant, now: Instant, child: usize, happening: Happening) -> Record {
    Record { at: now - begin, child, happening }
}

fn view(index: usize, child: &Child) -> PolicyChild<'static> {
    PolicyChild {
        name: "simulated",
        service: "simulated",
        instance: index as u32 + 1,
        generation: 1,
        process_id: index as u32 + 1,
        restarts: child.lifecycle.restarts(),
    }
}

impl std::fmt::Debug for Simulation {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Simulation")
            .field("at", &(self.now - self.begin))
            .field("children", &self.children.len())
            .field("given_up", &self.given_up)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn spawns(simulation: &Simulation) -> Vec<Duration> {
        let spawned = |record: &&Record| record.happening == Happening::Spawned;
        simulation.history().iter().filter(spawned).map(|record| record.at).collect()
    }

    #[test]
    fn a_healthy_child_is_left_alone_and_stops_when_asked() {
        let mut simulation = Simulation::new(1).children(3, |_| Behaviour::default());
        simulation.run_for(SECOND * 3600);
        assert_eq!(spawns(&simulation), [Duration::ZERO; 3]);
        simulation.stop();
        simulation.run_for(SECOND);
        assert!(simulation.is_over());
        assert!(simulation.history().iter().all(|record| !matches!(record.happening, Happening::Killed(_))));
    }

    #[test]
    fn a_crash_loop_slows_down() {
        let crash = Behaviour::default().exits_after(Duration::from_millis(1), ExitStatus::Exited(1));
        let mut simulation = Simulation::new(2).children(1, move |_| crash.clone());
        simulation.run_for(SECOND * 3600);
        // At once, 100 ms, 200 ms, …, 30 s, less up to 30 %: hardly more than 120 + 60 in an hour.
        assert!((110..190).contains(&spawns(&simulation).len()), "{}", spawns(&simulation).len());
        // And children that fail together are not started together.
        let crash = Behaviour::default().exits_after(Duration::from_millis(1), ExitStatus::Exited(1));
        let mut simulation = Simulation::new(3).children(20, move |_| crash.clone());
        simulation.run_for(SECOND * 60);
        let mut late: Vec<Duration> = spawns(&simulation).into_iter().filter(|at| *at > SECOND * 20).collect();
        let all = late.len();
        late.dedup();
        assert_eq!(late.len(), all);
    }

    #[test]
    fn a_hang_and_a_slow_start_are_ended_in_time() {
        let settings = Settings {
            startup_timeout: Some(SECOND * 5),
            health_check_timeout: Some(SECOND * 2),
            ..Simulation::new(0).settings
        };
        let mut simulation = Simulation::new(4).settings(settings).children(1, |attempt| match attempt {
            1 => Behaviour::default().never_ready(),
            2 => Behaviour::default().hangs_after(SECOND * 10),
            _ => Behaviour::default(),
        });
        simulation.run_for(SECOND * 60);
        let killed: Vec<(Duration, Option<Failure>)> = simulation
            .history()
            .iter()
            .filter_map(|record| match record.happening {
                Happening::Killed(failure) => Some((record.at, failure)),
                _ => None,
            })
            .collect();
        let startup = Failure::Startup { timeout: SECOND * 5 };
        let health = Failure::HealthCheck { timeout: SECOND * 2 };
        assert_eq!(killed[0], (SECOND * 5, Some(startup)));
        assert_eq!(killed[1].1, Some(health));
        assert!(killed[1].0 > SECOND * 15 && killed[1].0 <= SECOND * 17 + Duration::from_millis(100), "{killed:?}");
        assert_eq!(killed.len(), 2);
    }

    #[test]
    fn who_ignores_the_stop_is_killed_at_the_end_of_the_grace() {
        let mut simulation = Simulation::new(5).children(1, |_| Behaviour::default().ignores_stop());
        simulation.run_for(SECOND);
        simulation.stop();
        simulation.run_for(SECOND * 60);
        assert!(
            simulation
                .history()
                .iter()
                .any(|record| record.at == SECOND * 11 && record.happening == Happening::Killed(None))
        );
        assert!(simulation.is_over());
    }
}
