//! The promises of `lifecycle`, checked on random schedules of crashes, hangs, slow starts, failing spawns,
//! signals and requests, with a virtual clock.
//!
//! `LIFECYCLE_SCHEDULES` sets how many schedules are run; the seed of a schedule that breaks a promise is printed.

use std::time::{Duration, Instant};

use async_container::lifecycle::{Action, Lifecycle, Settings, State};
use async_container::{Backoff, ExitStatus, Restart};

const STEPS: usize = 80;

/// A process of the simulated world.
#[derive(Debug)]
struct Process {
    /// When it has been asked to end.
    interrupted: Option<Instant>,
    killed: Option<Instant>,
    started: Instant,
    ready: bool,
    last_message: Instant,
}

struct World {
    random: fastrand::Rng,
    settings: Settings,
    lifecycle: Lifecycle,
    now: Instant,
    process: Option<Process>,
    stop_asked: Option<(Instant, Duration)>,
    last_spawn: Option<Instant>,
    /// When the last run ended or the last attempt failed, and whether the run was healthy.
    last_end: Option<(Instant, bool)>,
    /// Ends in a row without a healthy run between them.
    short_runs: u32,
    replace_asked: Option<Instant>,
}

/// How late a deadline may be noticed: the world advances time only to the next deadline, so not at all.
const TOLERANCE: Duration = Duration::ZERO;

impl World {
    fn new(seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let optional = |random: &mut fastrand::Rng, low: u64, high: u64| {
            random.bool().then(|| Duration::from_millis(random.u64(low..high)))
        };
        let settings = Settings {
            restart: *random.choice(&[Restart::Always, Restart::Always, Restart::OnFailure, Restart::Never]).unwrap(),
            backoff: Backoff::new().maximum(Duration::from_secs(5)),
            startup_timeout: optional(&mut random, 1, 4000),
            health_check_timeout: optional(&mut random, 1, 4000),
            grace: Duration::from_millis(random.u64(0..3000)),
            ready_when_spawned: random.u8(..) < 40,
        };
        World {
            lifecycle: Lifecycle::new(settings, random.u64(..)),
            random,
            settings,
            now: Instant::now(),
            process: None,
            stop_asked: None,
            last_spawn: None,
            last_end: None,
            short_runs: 0,
            replace_asked: None,
        }
    }

    fn act(&mut self) {
        while let Some(action) = self.lifecycle.poll_action() {
            match action {
                Action::Spawn => self.spawn(),
                Action::Interrupt => {
                    let process = self.process.as_mut().expect("an interrupt needs a process");
                    process.interrupted = Some(self.now);
                }
                Action::Kill => {
                    let process = self.process.as_mut().expect("a kill needs a process");
                    assert!(process.killed.is_none(), "killed twice");
                    process.killed = Some(self.now);
                }
            }
        }
    }

    fn spawn(&mut self) {
        assert!(self.process.is_none(), "two processes in one slot");
        assert!(self.stop_asked.is_none(), "spawned although asked to stop");
        if let Some((end, _)) = self.last_end {
            // The jitter takes off at most 30 %.
            let full = self.settings.backoff.delay(self.short_runs.saturating_sub(1), 0.0);
            let waited = self.now - end;
            assert!(waited >= full.mul_f64(0.69), "waited {waited:?} of {full:?} after {} short runs", self.short_runs);
            assert!(waited <= full + TOLERANCE, "waited {waited:?}, more than {full:?}");
        }
        self.last_spawn = Some(self.now);
        if self.random.u8(..) < 40 {
            let transient = self.random.bool();
            // The first attempt that fails is never retried at once.
            self.short_runs = (self.short_runs + 1).max(2);
            self.last_end = Some((self.now, false));
            self.lifecycle.handle_spawn_failed(self.now, transient);
        } else {
            self.process = Some(Process {
                interrupted: None,
                killed: None,
                started: self.now,
                ready: self.settings.ready_when_spawned,
                last_message: self.now,
            });
            self.replace_asked = None;
            self.lifecycle.handle_spawned(self.now);
        }
    }

    fn exit(&mut self) {
        let Some(process) = self.process.take() else {
            return;
        };
        let status = match (process.killed, self.random.u8(0..3)) {
            (Some(_), _) => ExitStatus::Signaled(9),
            (None, 0) => ExitStatus::Exited(0),
            (None, 1) => ExitStatus::Exited(1),
            (None, _) => ExitStatus::Signaled(11),
        };
        // Whether it was healthy is for the machine to know by itself; here it is followed independently.
        let healthy = self.ready_since.is_some_and(|since| self.now - since >= Duration::from_secs(10));
        self.short_runs = if healthy { 1 } else { self.short_runs + 1 };
        self.last_end = Some((self.now, healthy));
        self.lifecycle.handle_exited(self.now, status);
    }
}
