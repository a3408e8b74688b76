//! The promises of `lifecycle`, checked on random schedules of crashes, hangs, slow starts, failing spawns,
//! signals and requests, with a virtual clock.
//!
//! `LIFECYCLE_SCHEDULES` sets how many schedules are run; the seed of a schedule that breaks a promise is printed.

use std::time::{Duration, Instant};

use async_container::lifecycle::{Action, Exit, Failure, Lifecycle, Settings, State};
use async_container::{Backoff, ExitStatus, Restart};

const STEPS: usize = 80;

/// The default of `Backoff`.
const HEALTHY_AFTER: Duration = Duration::from_secs(10);

/// A process of the simulated world.
#[derive(Debug)]
struct Process {
    started: Instant,
    /// Until when it asked to be given time.
    extended: Option<Instant>,
    /// True while it was found not to be ready, though it said that it is.
    suspended: bool,
    ready_since: Option<Instant>,
    last_message: Instant,
    interrupted: bool,
    killed: Option<Instant>,
    /// By when it must be killed, while somebody is to look at it.
    examined_until: Option<Instant>,
    /// True if it was given no time to end.
    hurried: bool,
}

/// The world around one lifecycle, with its own bookkeeping of what may and must happen.
struct World {
    random: fastrand::Rng,
    settings: Settings,
    lifecycle: Lifecycle,
    now: Instant,
    process: Option<Process>,
    /// By when everything must be over or killed, once it was asked to stop.
    stop_deadline: Option<Instant>,
    /// By when the process must be killed or gone, once it was asked to be replaced.
    replace_deadline: Option<Instant>,
    /// When the last run ended or the last attempt failed.
    last_end: Option<Instant>,
    /// Ends and failed attempts in a row without a healthy run among them.
    short_runs: u32,
    spawns: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut limit = || random.bool().then(|| Duration::from_millis(random.u64(1..4000)));
        let (startup_timeout, health_check_timeout) = (limit(), limit());
        let restarts = [Restart::Always, Restart::Always, Restart::OnFailure, Restart::Never];
        let settings = Settings {
            restart: restarts[random.usize(..restarts.len())],
            backoff: Backoff::new().maximum(Duration::from_secs(5)),
            startup_timeout,
            health_check_timeout,
            examination: Duration::from_millis([0, random.u64(1..3000)][random.usize(..2)]),
            grace: Duration::from_millis(random.u64(0..3000)),
            ready_when_spawned: random.u8(..) < 40,
        };
        World {
            lifecycle: Lifecycle::new(settings, random.u64(..)),
            random,
            settings,
            now: Instant::now(),
            process: None,
            stop_deadline: None,
            replace_deadline: None,
            last_end: None,
            short_runs: 0,
            spawns: 0,
        }
    }

    fn run(&mut self) {
        self.lifecycle.handle_start();
        self.act();
        for _ in 0..STEPS {
            match self.random.u8(0..100) {
                0..45 => self.let_time_pass(),
                45..60 => self.message(),
                60..75 => self.become_ready(),
                75..86 => self.exit(),
                86..87 => self.extend(),
                87..88 => self.fail(),
                88..89 => self.become_unready(),
                89..90 => self.suspend(),
                90..93 => self.replace(),
                93..95 => self.hold(),
                95..97 => self.release(),
                97..98 => self.stop(),
                98..99 => self.examined(),
                _ => self.lifecycle.handle_start(),
            }
            self.act();
            self.check();
        }
        self.stop();
        self.act();
        self.end();
    }

    /// Whatever the process does, stopping comes to an end.
    fn end(&mut self) {
        // Some processes do not end even when they are killed.
        let undead = self.random.u8(..) < 60;
        for _ in 0..6 {
            if !undead && self.process.as_ref().is_some_and(|process| process.killed.is_some()) {
                self.exit();
                self.act();
            }
            if let Some(at) = self.lifecycle.poll_timeout() {
                self.now = self.now.max(at);
                self.lifecycle.handle_timeout(self.now);
                self.act();
            }
            self.check();
        }
        assert!(matches!(self.lifecycle.state(), State::Stopped(_)), "still {:?}", self.lifecycle.state());
        assert!(self.process.is_none());
        assert_eq!(self.lifecycle.poll_timeout(), None);
    }

    fn act(&mut self) {
        while let Some(action) = self.lifecycle.poll_action() {
            match action {
                Action::Spawn => self.spawn(),
                Action::Interrupt => {
                    let process = self.process.as_mut().expect("an interrupt needs a process");
                    assert!(!process.interrupted, "interrupted twice");
                    process.interrupted = true;
                }
                Action::Kill => {
                    let process = self.process.as_mut().expect("a kill needs a process");
                    assert!(process.killed.is_none(), "killed twice");
                    let grace_is_over = [self.stop_deadline, self.replace_deadline].contains(&Some(self.now));
                    assert!(grace_is_over || self.lifecycle.failure().is_some(), "killed before its grace was over");
                    let wanted = self.settings.examination > Duration::ZERO && !process.hurried;
                    assert!(!wanted || process.examined_until.is_some(), "killed, and nobody has looked");
                    process.killed = Some(self.now);
                }
                Action::Examine => {
                    let process = self.process.as_mut().expect("there is nothing to look at");
                    assert!(
                        process.killed.is_none() && process.examined_until.is_none(),
                        "looked at twice, or too late"
                    );
                    process.examined_until = Some(self.now + self.settings.examination);
                    assert!(self.lifecycle.is_examined());
                    // Often there is nobody, and it is answered at once.
                    if self.random.bool() {
                        self.examined();
                    }
                }
                Action::Overdue | Action::Abandon => {
                    let killed = self.process.as_ref().and_then(|process| process.killed);
                    let since = self.now - killed.expect("only who was killed can be overdue");
                    assert!(since >= Duration::from_secs(5), "given {since:?} to end");
                    if action == Action::Abandon {
                        assert!(self.stop_deadline.is_some(), "abandoned although nobody asked to stop");
                        self.process = None;
                    }
                }
            }
        }
    }

    fn spawn(&mut self) {
        assert!(self.process.is_none(), "two processes in one slot");
        assert!(self.stop_deadline.is_none(), "spawned although asked to stop");
        if let Some(end) = self.last_end {
            let full = self.settings.backoff.delay(self.short_runs.saturating_sub(1), 0.0);
            let waited = self.now - end;
            // Chance takes off at most 30 %; the rest is rounding.
            assert!(
                waited >= full.mul_f64(0.699),
                "waited {waited:?} of {full:?} after {} short runs",
                self.short_runs
            );
            assert!(waited <= full, "waited {waited:?}, more than {full:?}");
        }
        self.replace_deadline = None;
        if self.random.u8(..) < 40 {
            // The first attempt that fails is not repeated at once either.
            self.short_runs = self.short_runs.max(1) + 1;
            self.last_end = Some(self.now);
            self.lifecycle.handle_spawn_failed(self.now, self.random.bool());
        } else {
            self.spawns += 1;
            let ready_since = self.settings.ready_when_spawned.then_some(self.now);
            self.process = Some(Process {
                started: self.now,
                extended: None,
                suspended: false,
                ready_since,
                last_message: self.now,
                interrupted: false,
                killed: None,
                examined_until: None,
                hurried: false,
            });
            self.lifecycle.handle_spawned(self.now);
            assert_eq!(self.lifecycle.restarts(), self.spawns - 1);
        }
    }

    fn exit(&mut self) {
        let Some(process) = self.process.take() else { return };
        let status = match (process.killed, self.random.u8(0..3)) {
            (Some(_), _) => ExitStatus::Signaled(9),
            (None, 0) => ExitStatus::Exited(0),
            (None, 1) => ExitStatus::Exited(1),
            (None, _) => ExitStatus::Signaled(11),
        };
        let judged = [None, None, None, Some(true), Some(false)][self.random.usize(..5)];
        let exit = Exit { restart: judged, ..Exit::from(status) };
        let expected = judged.unwrap_or(match self.settings.restart {
            Restart::Always => true,
            Restart::OnFailure => exit.failed,
            Restart::Never => false,
        });
        let by_itself = matches!(self.lifecycle.state(), State::Starting | State::Ready);
        let healthy = process.ready_since.is_some_and(|since| self.now - since >= HEALTHY_AFTER);
        let earlier = if healthy { 0 } else { self.short_runs };
        self.short_runs = earlier + 1;
        self.last_end = Some(self.now);
        let is_spared = self.lifecycle.overstay().is_some() && process.killed.is_none();
        assert_eq!(self.lifecycle.is_spared(), is_spared);
        self.lifecycle.handle_exited(self.now, exit);
        if self.lifecycle.state() == State::Held {
            // It was not its fault.
            self.short_runs = earlier;
        }
        if by_itself {
            assert_eq!(matches!(self.lifecycle.state(), State::New | State::Waiting { .. }), expected, "{exit:?}");
        }
    }

    fn hold(&mut self) {
        if matches!(self.lifecycle.state(), State::Starting | State::Ready) {
            self.replace_deadline = Some(self.now + self.settings.grace);
            self.hurry(self.settings.grace);
        }
        let waiting = matches!(self.lifecycle.state(), State::New | State::Waiting { .. });
        assert_eq!(self.lifecycle.handle_hold(self.now).is_some(), waiting);
    }

    /// What waits for others is started when it is released, and not before.
    fn release(&mut self) {
        if self.lifecycle.state() == State::Held {
            self.last_end = None;
        }
        let at = self.now + Duration::from_millis(self.random.u64(0..2000));
        self.lifecycle.handle_release(self.now, at);
    }

    fn message(&mut self) {
        if let Some(process) = &mut self.process {
            process.last_message = self.now;
            self.lifecycle.handle_message(self.now);
        }
    }

    fn become_ready(&mut self) {
        if let Some(process) = &mut self.process {
            let was_starting = self.lifecycle.state() == State::Starting;
            process.last_message = self.now;
            process.suspended = false;
            if was_starting {
                process.ready_since = Some(self.now);
            }
            assert_eq!(self.lifecycle.handle_ready(self.now), was_starting);
        }
    }

    fn become_unready(&mut self) {
        if let Some(process) = &mut self.process
            && self.lifecycle.state() == State::Ready
        {
            process.started = self.now;
            process.extended = None;
            self.lifecycle.handle_unready(self.now);
            assert_eq!(self.lifecycle.state(), State::Starting);
        }
    }

    fn suspend(&mut self) {
        let was_ready = self.lifecycle.state() == State::Ready;
        assert_eq!(self.lifecycle.handle_suspended(), was_ready);
        if let Some(process) = &mut self.process {
            process.suspended |= was_ready;
        }
    }

    fn extend(&mut self) {
        let time = Duration::from_millis(self.random.u64(0..4000));
        if let Some(process) = &mut self.process
            && self.lifecycle.state() == State::Starting
        {
            process.extended = process.extended.max(Some(self.now + time));
        }
        self.lifecycle.handle_extension(self.now, time);
    }

    /// A check finds it in a state that it must not go on in.
    fn fail(&mut self) {
        let up = self.lifecycle.is_up();
        self.lifecycle.handle_failed(self.now, Failure::Reported);
        self.act();
        if up {
            let process = self.process.as_ref().expect("it was up");
            assert!(process.killed == Some(self.now) || process.examined_until.is_some(), "not killed, nor looked at");
            assert_eq!(self.lifecycle.failure(), Some(Failure::Reported));
        }
    }

    /// Somebody says that they have looked: it is killed then, if it was to be. If it was asked to end, it has its whole grace period.
    fn examined(&mut self) {
        let waiting = self.lifecycle.is_examined() && self.lifecycle.failure().is_some();
        self.lifecycle.handle_examined(self.now);
        assert_eq!(self.lifecycle.has_actions(), waiting);
        assert!(!self.lifecycle.is_examined());
    }

    fn replace(&mut self) {
        if matches!(self.lifecycle.state(), State::Starting | State::Ready) {
            self.replace_deadline = Some(self.now + self.settings.grace);
            self.hurry(self.settings.grace);
        }
        self.lifecycle.handle_replace(self.now);
    }

    fn stop(&mut self) {
        let grace = Duration::from_millis(self.random.u64(0..3000));
        let deadline = self.now + grace;
        self.stop_deadline = Some(self.stop_deadline.map_or(deadline, |earlier| earlier.min(deadline)));
        self.hurry(grace);
        self.lifecycle.handle_stop(self.now, grace);
    }

    fn hurry(&mut self, grace: Duration) {
        if let Some(process) = &mut self.process {
            process.hurried |= grace.is_zero();
        }
    }

    /// To the next deadline, or somewhere before it: the shell never sleeps past one.
    fn let_time_pass(&mut self) {
        let step = Duration::from_millis(self.random.u64(0..6000));
        let target = self.now + step;
        match self.lifecycle.poll_timeout() {
            Some(at) if at <= target => {
                self.now = self.now.max(at);
                self.lifecycle.handle_timeout(self.now);
            }
            _ => {
                self.now = target;
                // A timer that comes too early changes nothing.
                self.lifecycle.handle_timeout(self.now);
            }
        }
    }

    /// The promises that hold at every moment.
    fn check(&self) {
        let state = self.lifecycle.state();
        assert_eq!(state.is_running(), self.process.is_some(), "{state:?}");
        assert!(!self.lifecycle.has_actions());
        if let Some(at) = self.lifecycle.poll_timeout() {
            assert!(at >= self.now, "a deadline was missed");
        }
        let Some(process) = &self.process else {
            if self.stop_deadline.is_some() {
                assert!(matches!(state, State::Stopped(_)), "{state:?} although asked to stop");
            }
            return;
        };
        let ended = process.killed.is_some();
        for deadline in [self.stop_deadline, self.replace_deadline].into_iter().flatten() {
            assert!(ended || self.now < deadline, "not killed at the end of its grace");
        }
        match state {
            State::Starting if !process.suspended => {
                let limit = self.settings.startup_timeout;
                let deadline = limit.map(|limit| process.extended.max(Some(process.started + limit)));
                assert!(deadline.is_none_or(|deadline| Some(self.now) < deadline), "start-up time-out missed");
            }
            State::Starting | State::Ready => {
                let limit = self.settings.health_check_timeout;
                assert!(limit.is_none_or(|limit| self.now < process.last_message + limit), "health check missed");
            }
            State::Stopping => {
                let examined = process.examined_until.is_some();
                assert!(ended || process.interrupted || examined, "stopping without having been told");
                let late = process.examined_until.is_some_and(|until| self.now >= until);
                assert!(ended || !late, "not killed at the end of the time for looking at it");
            }
            State::New | State::Waiting { .. } | State::Held | State::Stopped(_) => unreachable!("there is a process"),
        }
    }
}

#[test]
fn random_schedules_break_no_promise() {
    let schedules = std::env::var("LIFECYCLE_SCHEDULES").ok().and_then(|number| number.parse().ok()).unwrap_or(20_000);
    for seed in 0..schedules {
        let result = std::panic::catch_unwind(|| World::new(seed).run());
        if let Err(panic) = result {
            eprintln!("the schedule with seed {seed} broke a promise");
            std::panic::resume_unwind(panic);
        }
    }
}
