//! Restarts workers that do not answer.

mod metrics;
mod workers;

use std::time::{Duration, Instant};

use serde::Serialize;

use self::workers::{Health, Workers};
use crate::{
    Action, Answer, Call, CallFailure, Destination, Diagnosis, Family, Monitor, Restart, Status, Worker,
    monitor::validate_interval, restarts::Restarts, turns,
};

const DEFAULT_INTERVAL: Duration = Duration::from_secs(5);
const DEFAULT_WARN_AFTER: Duration = Duration::from_secs(1);
const DEFAULT_DUMP_AFTER: Duration = Duration::from_secs(5);
const DEFAULT_RESTART_AFTER: Duration = Duration::from_secs(30);
/// Not long: what hangs may hold a port or a lock that the new worker waits for, and does no work meanwhile.
const DEFAULT_START_FIRST: Duration = Duration::from_secs(10);

/// The time between two looks at thresholds is not shorter.
const SHORTEST_STEP: Duration = Duration::from_millis(1);

/// How long a thread dump may take; less where the process would be restarted meanwhile, but not less than this.
const DUMP_TIMEOUT: Duration = Duration::from_secs(10);
const SHORTEST_DUMP_TIMEOUT: Duration = Duration::from_secs(1);

/// So long after the new worker has had its time to start, a restart that was asked for, of a worker that is still there and silent,
/// is asked for again.
const COOLDOWN: Duration = Duration::from_secs(30);

/// Nobody's id. A call of it goes the way of all calls but for the worker's part, and so shows what that takes.
const NOBODY: &str = "";

/// Asks every worker for a `ping` in each interval, and watches how long the answer takes.
///
/// A worker answers from the runtime that does its work, so the round trip includes the lag of its executor: one that
/// computes without ever waiting, or blocks all its threads, answers late, or never. By thresholds, one that does not answer
///
/// 1. is [warned](Self::warn_after) of, in the log and by an event `health`;
/// 2. is asked for a [thread dump](Self::dump_after), which also a process that is stuck may be able to give;
/// 3. is [restarted](Self::restart_after), [one at a time](Self::restarts_at_once), and
///    [another one is started first](Self::start_first).
///
/// What the supervisor itself takes for a call, and until it makes it, is measured as well, and subtracted. While that is above half of the
/// first threshold, as on a host that is overloaded or was suspended, no worker is judged: it is not their silence.
///
/// An event `health` has `connection_id`, `process_id`, `name`, `state` (`slow`, or `well` when it answers again) and
/// `round_trip` in seconds, so far or in the end.
///
/// # Status
///
/// Under the key `health`; times are in seconds:
///
/// ```json
/// {
///   "warn_after": 1.0, "dump_after": 5.0, "restart_after": 30.0, "supervisor_lag": 0.0001,
///   "workers": [
///     {"connection_id": "8c1f", "process_id": 4242, "name": "web", "state": "well",
///      "round_trip": 0.0003, "maximum_round_trip": 0.0104, "answers": 17, "silent_for": null}
///   ]
/// }
/// ```
///
/// `round_trip` is that of the last answer, null before the first; `silent_for` how long an answer has been missing, null
/// if none is.
pub struct HealthMonitor {
    settings: Settings,
    workers: Workers,
    /// The numbers of those that owed an answer at the last check: few, so that a check need not look at each worker.
    silent: Vec<u64>,
    /// When the call of nobody was made that has not come back.
    probe: Option<Instant>,
    /// What the supervisor takes for a call.
    lag: Duration,
    last_check: Option<Instant>,
    /// Restarts that were asked for.
    asked: Restarts<()>,
    /// What is to be told at once.
    news: Vec<Action>,
}

struct Settings {
    interval: Duration,
    warn_after: Duration,
    dump_after: Option<Duration>,
    dump_to: Destination,
    restart_after: Option<Duration>,
    restarts_at_once: usize,
    start_first: Option<Duration>,
}

impl Settings {
    /// After this time a restart that did not help is asked for again.
    fn cooldown(&self) -> Duration {
        COOLDOWN.saturating_add(self.start_first.unwrap_or_default())
    }

    /// What cannot be, or cannot have been meant.
    fn validate(&self) -> Result<(), String> {
        validate_interval(self.interval)?;
        let Self { warn_after, dump_after, restart_after, restarts_at_once, .. } = self;

        if warn_after.is_zero() {
            return Err("warn_after is zero: every answer would be late; the default is 1 second".to_owned());
        }

        if *restarts_at_once == 0 {
            return Err("restarts_at_once is 0: no worker could be restarted; use no_restart() for that".to_owned());
        }

        let Some(restart_after) = restart_after else { return Ok(()) };

        if restart_after < warn_after {
            return Err(format!(
                "restart_after is {restart_after:?}, and warn_after {warn_after:?}: a worker would be gone before it is warned of; \
                 choose a shorter warn_after"
            ));
        }

        match dump_after {
            Some(dump_after) if restart_after < dump_after => Err(format!(
                "restart_after is {restart_after:?}, and dump_after {dump_after:?}: a worker would be gone before its threads are \
                 dumped; choose a shorter dump_after, or no_dump()"
            )),
            _ => Ok(()),
        }
    }
}

impl Default for HealthMonitor {
    fn default() -> Self {
        Self {
            settings: Settings {
                interval: DEFAULT_INTERVAL,
                warn_after: DEFAULT_WARN_AFTER,
                dump_after: Some(DEFAULT_DUMP_AFTER),
                dump_to: Destination::Log,
                restart_after: Some(DEFAULT_RESTART_AFTER),
                restarts_at_once: 1,
                start_first: Some(DEFAULT_START_FIRST),
            },
            workers: Workers::default(),
            silent: Vec::new(),
            probe: None,
            lag: Duration::ZERO,
            last_check: None,
            asked: Restarts::default(),
            news: Vec::new(),
        }
    }
}

impl HealthMonitor {
    /// A monitor with the default thresholds.
    pub fn new() -> Self {
        Self::default()
    }

    /// The time between two calls of a worker; it has to be one millisecond at least. A worker that has not answered is not called again. All
    /// workers have their turns within it, in ten parts: so often thresholds are looked at.
    ///
    /// Default is 5 seconds.
    pub fn interval(mut self, interval: Duration) -> Self {
        self.settings.interval = interval;
        self
    }

    /// How long an answer may take before that is told.
    ///
    /// Default is 1 second.
    pub fn warn_after(mut self, time: Duration) -> Self {
        self.settings.warn_after = time;
        self
    }

    /// How long an answer may take before a thread dump is made, and where that goes. It is looked at ten times in an
    /// [interval](Self::interval).
    ///
    /// Default is 5 seconds, and the log.
    pub fn dump_after(mut self, time: Duration, destination: Destination) -> Self {
        self.settings.dump_after = Some(time);
        self.settings.dump_to = destination;
        self
    }

    /// Makes no thread dumps.
    pub fn no_dump(mut self) -> Self {
        self.settings.dump_after = None;
        self
    }

    /// How long an answer may take before the worker is to be restarted. It is looked at at each check. Where the root kills what has
    /// said nothing for a time, as it does with code of the own program after 30 seconds by default, that comes first unless this is
    /// shorter than half of it.
    ///
    /// Default is 30 seconds.
    pub fn restart_after(mut self, time: Duration) -> Self {
        self.settings.restart_after = Some(time);
        self
    }

    /// Restarts no worker.
    pub fn no_restart(mut self) -> Self {
        self.settings.restart_after = None;
        self
    }

    /// How many workers may be about to be restarted at once; it has to be one at least. Such a restart lasts until another worker is
    /// ready in the place of the old one, as [`restarted`](Monitor::restarted) says. When many are silent, the reason is probably not in
    /// them.
    ///
    /// Default is 1.
    pub fn restarts_at_once(mut self, workers: usize) -> Self {
        self.settings.restarts_at_once = workers;
        self
    }

    /// How long the worker is left to go on at most while another one is started to take its place, so that this is not empty until the
    /// old one has ended, which one that hangs may do only when it is killed. If the new one fails, the old one is stopped at once;
    /// where the root cannot start it first, the old one is. A restart that is asked for once more, as the worker is still there and
    /// silent 30 seconds after this time, waits for no new one.
    ///
    /// Choose [`stop_first`](Self::stop_first) where a worker holds something that another one cannot start without, such as a port
    /// that it binds itself or a lock.
    ///
    /// Default is 10 seconds.
    pub fn start_first(mut self, limit: Duration) -> Self {
        self.settings.start_first = Some(limit);
        self
    }

    /// Has each worker stopped before another one is started in its place.
    pub fn stop_first(mut self) -> Self {
        self.settings.start_first = None;
        self
    }

    /// Takes out of the account what was not the workers' time: this thread was not run when it was due.
    fn forgive(&mut self, now: Instant) {
        let Some(last) = self.last_check.replace(now) else { return };
        let late = now.saturating_duration_since(last).saturating_sub(self.settings.interval.saturating_mul(2));
        if late > self.settings.warn_after {
            tracing::warn!(?late, "this supervisor did not run for a while: nobody's silence in that time counts");
            for health in self.workers.iter_mut() {
                health.silent_since = health.silent_since.map(|since| (since + late).min(now));
            }
            self.probe = self.probe.map(|since| (since + late).min(now));
        }
    }

    /// What the supervisor takes, as far as is known by now.
    fn own_lag(&self, now: Instant) -> Duration {
        self.probe.map_or(self.lag, |since| self.lag.max(now.saturating_duration_since(since)))
    }

    fn judge(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let cooldown = self.settings.cooldown();
        self.asked.forget(now, cooldown.saturating_mul(2), |()| false);
        if self.own_lag(now) > self.settings.warn_after / 2 {
            tracing::warn!(lag = ?self.own_lag(now), "this supervisor is slow itself: nobody is judged");
            return;
        }
        let settings = &self.settings;
        for number in &self.silent {
            let Some(health) = self.workers.get_mut(*number) else { continue };
            let Some(since) = health.silent_since else { continue };
            let silence = now.saturating_duration_since(since);
            let (process_id, name) = (health.worker.process_id, &health.worker.name);
            if silence >= settings.warn_after && !health.is_slow {
                health.is_slow = true;
                tracing::warn!(process_id, name, ?silence, "a worker does not answer");
                actions.push(health.event("slow", silence));
            }
            if settings.dump_after.is_some_and(|after| silence >= after) && !health.was_dumped {
                health.was_dumped = true;
                let left = settings.restart_after.map_or(DUMP_TIMEOUT, |after| after.saturating_sub(silence));
                let timeout = left.clamp(SHORTEST_DUMP_TIMEOUT, DUMP_TIMEOUT);
                let dump = Diagnosis::new(process_id, "thread_dump").timeout(timeout);
                actions.push(Action::Diagnose(dump.to(settings.dump_to.clone())));
            }
            if settings.restart_after.is_some_and(|after| silence >= after) {
                let before = self.asked.get(process_id).map(|asked| now.saturating_duration_since(asked.at));
                let may = match before {
                    None => self.asked.count() < settings.restarts_at_once,
                    Some(before) => before >= cooldown,
                };
                if may {
                    tracing::warn!(process_id, name, ?silence, "asking for a restart of a worker that does not answer");
                    let reason = format!("no answer for {:.1} s", silence.as_secs_f64());
                    let restart = Restart::new(process_id, reason);
                    actions.push(Action::Restart(match (before, settings.start_first) {
                        (Some(_), _) => restart.urgent(),
                        (None, Some(limit)) => restart.start_first(limit),
                        (None, None) => restart,
                    }));
                    self.asked.insert(process_id, now, ());
                }
            }
        }
    }

    /// Calls those that owe no answer.
    fn call(&mut self, now: Instant, actions: &mut Vec<Action>) {
        let patience = self.settings.restart_after.unwrap_or(DEFAULT_RESTART_AFTER).max(self.settings.interval);
        let patience = patience.saturating_add(self.settings.interval.saturating_mul(2));
        if self.probe.is_none() {
            self.probe = Some(now);
            actions.push(Action::Call(Call::new(NOBODY, "ping").timeout(patience)));
        }
        let Self { workers, silent, .. } = self;
        actions.reserve(workers.next_turn());
        silent.retain(|number| workers.get_mut(*number).is_some_and(|health| health.silent_since.is_some()));
        workers.take_turns(self.settings.interval, now, |health| {
            if health.asked.is_none() {
                health.asked = Some(now);
                if health.silent_since.is_none() {
                    health.silent_since = Some(now);
                    silent.push(health.number);
                }
                let call = Call::new(&health.worker.id, "ping").tag(health.number).timeout(patience);
                actions.push(Action::Call(call));
            }
        });
    }

    fn hear(&mut self, call: &Call, answer: &Result<Answer, CallFailure>, now: Instant) {
        if call.worker_id() == NOBODY {
            if let Some(since) = self.probe.take() {
                self.lag = now.saturating_duration_since(since);
            }
            return;
        }
        let lag = self.own_lag(now);
        let Some(health) = self.workers.get_mut(call.get_tag()) else { return };
        let asked = health.asked.take();
        // That it knows no such operation is an answer; that there was none, or that nobody is there any more, is not.
        let is_answer = match answer {
            Ok(_) => true,
            Err(failure) => !matches!(
                failure.class.as_str(),
                "TimedOut" | "ConnectionClosed" | "ConnectionNotFound" | "Cancelled" | "TooManyCalls"
            ),
        };
        let Some(since) = health.silent_since.filter(|_| is_answer) else { return };
        // Of many that are asked, some wait for others to be asked, which the call of nobody does not.
        let waited = call.made_at().zip(asked).map(|(made, asked)| made.saturating_duration_since(asked));
        let own = waited.map_or(lag, |waited| lag.max(waited));
        let round_trip = now.saturating_duration_since(since).saturating_sub(own);
        health.silent_since = None;
        health.answers += 1;
        health.round_trip = Some(round_trip);
        health.maximum_round_trip = health.maximum_round_trip.max(round_trip);
        health.was_dumped = false;
        let is_late = round_trip >= self.settings.warn_after;
        let (process_id, name) = (health.worker.process_id, &health.worker.name);
        if is_late && !health.is_slow {
            tracing::warn!(process_id, name, ?round_trip, "a worker was slow to answer");
            self.news.push(health.event("slow", round_trip));
        }
        if health.is_slow || is_late {
            tracing::info!(process_id, name, ?round_trip, "a worker answers again");
            self.news.push(health.event("well", round_trip));
        }
        health.is_slow = false;
    }
}

impl Monitor for HealthMonitor {
    fn name(&self) -> &str {
        "health"
    }

    fn interval(&self) -> Duration {
        (self.settings.interval / workers::PARTS).max(SHORTEST_STEP)
    }

    fn validate(&self) -> Result<(), String> {
        self.settings.validate()
    }

    fn register(&mut self, worker: &Worker) {
        self.workers.register(worker);
    }

    fn remove(&mut self, worker: &Worker) {
        self.workers.remove(&worker.id);
        // It was stopped, or has gone otherwise, if none of its connections is left.
        if self.asked.get(worker.process_id).is_some()
            && self.workers.iter().all(|health| health.worker.process_id != worker.process_id)
        {
            self.asked.ended(worker.process_id);
        }
    }

    fn restarted(&mut self, restart: &Restart) {
        self.asked.over(restart.process_id);
    }

    fn answered(&mut self, call: &Call, answer: Result<Answer, CallFailure>) {
        self.hear(call, &answer, call.answered_at().unwrap_or_else(Instant::now));
    }

    fn react(&mut self, _: Instant) -> Vec<Action> {
        std::mem::take(&mut self.news)
    }

    fn check(&mut self, now: Instant) -> Vec<Action> {
        let mut actions = std::mem::take(&mut self.news);
        self.forgive(now);
        self.judge(now, &mut actions);
        self.call(now, &mut actions);
        actions
    }

    fn metrics(&self) -> Vec<Family> {
        metrics::families(&self.report())
    }

    fn status(&self) -> Status {
        Box::new(self.report())
    }
}

impl HealthMonitor {
    /// How all of them are now.
    fn report(&self) -> HealthStatus {
        let now = Instant::now();
        let mut workers: Vec<&Health> = self.workers.iter().collect();
        workers.sort_unstable_by_key(|health| health.number);
        let workers = workers.into_iter().map(|health| {
            let silence = health.silent_since.map(|since| now.saturating_duration_since(since));
            WorkerStatus {
                connection_id: health.worker.id.clone(),
                process_id: health.worker.process_id,
                name: health.worker.name.clone(),
                state: if health.is_slow { "slow" } else { "well" },
                round_trip: health.round_trip.map(|time| time.as_secs_f64()),
                maximum_round_trip: health.maximum_round_trip.as_secs_f64(),
                answers: health.answers,
                silent_for: silence.map(|time| time.as_secs_f64()),
            }
        });
        HealthStatus {
            warn_after: self.settings.warn_after.as_secs_f64(),
            dump_after: self.settings.dump_after.map(|time| time.as_secs_f64()),
            restart_after: self.settings.restart_after.map(|time| time.as_secs_f64()),
            supervisor_lag: self.own_lag(now).as_secs_f64(),
            workers: workers.collect(),
        }
    }
}

#[derive(Serialize)]
struct HealthStatus {
    warn_after: f64,
    dump_after: Option<f64>,
    restart_after: Option<f64>,
    supervisor_lag: f64,
    #[serde(serialize_with = "turns::serialize")]
    workers: Vec<WorkerStatus>,
}

#[derive(Serialize)]
struct WorkerStatus {
    connection_id: String,
    process_id: u32,
    name: String,
    state: &'static str,
    round_trip: Option<f64>,
    maximum_round_trip: f64,
    answers: u64,
    silent_for: Option<f64>,
}

#[derive(Serialize)]
struct HealthEvent {
    connection_id: String,
    process_id: u32,
    name: String,
    state: &'static str,
    round_trip: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    /// The number of the first worker.
    const A: u64 = 0;

    fn worker(id: &str, process_id: u32) -> Worker {
        Worker { id: id.into(), process_id, name: "web".into() }
    }

    /// Checks, and answers those calls at once that are of these.
    fn check(monitor: &mut HealthMonitor, now: Instant, answering: &[&str]) -> Vec<Action> {
        let mut others = Vec::new();
        for action in monitor.check(now) {
            match action {
                Action::Call(call) if answering.contains(&call.worker_id()) => {
                    let failure = CallFailure::new("UnknownOperation", "it knows no ping, and answers all the same");
                    monitor.hear(&call, &Err(failure), now + Duration::from_millis(2));
                }
                Action::Call(_) => {}
                action => others.push(action),
            }
        }
        others
    }

    fn monitor() -> HealthMonitor {
        let mut monitor = HealthMonitor::new().interval(SECOND);
        monitor.register(&worker("a", 7));
        monitor.register(&worker("b", 8));
        monitor
    }

    #[test]
    fn what_cannot_be_meant_is_said_with_what_would_be_right() {
        let new = HealthMonitor::new;
        assert_eq!(new().validate(), Ok(()));
        assert_eq!(new().restart_after(SECOND).no_dump().validate(), Ok(()));
        assert_eq!(
            new().warn_after(60 * SECOND).dump_after(60 * SECOND, Destination::Log).no_restart().validate(),
            Ok(())
        );
        for (bad, expected) in [
            (new().interval(Duration::ZERO), "interval is 0ns, and has to be 1ms at least"),
            (new().warn_after(Duration::ZERO), "warn_after is zero"),
            (new().restarts_at_once(0), "restarts_at_once is 0: no worker could be restarted; use no_restart()"),
            (new().restart_after(SECOND / 2), "restart_after is 500ms, and warn_after 1s: "),
            (new().restart_after(3 * SECOND), "restart_after is 3s, and dump_after 5s: "),
        ] {
            let problem = bad.validate().unwrap_err();
            assert!(problem.starts_with(expected), "{problem}");
        }
    }

    #[test]
    fn never_is_a_time() {
        let never = HealthMonitor::new().interval(SECOND).restart_after(Duration::MAX);
        let (mut monitor, start) = (never, Instant::now());
        monitor.register(&worker("a", 7));
        for second in 0..100 {
            let actions = check(&mut monitor, start + second * SECOND, &[NOBODY]);
            assert!(!actions.iter().any(|action| matches!(action, Action::Restart(_))));
        }
        assert!(monitor.workers.get_mut(A).unwrap().is_slow);
        HealthMonitor::new().interval(Duration::MAX).check(start);
    }

    #[test]
    fn who_answers_is_left_alone() {
        let (mut monitor, start) = (monitor(), Instant::now());
        for second in 0..100 {
            assert_eq!(check(&mut monitor, start + second * SECOND, &[NOBODY, "a", "b"]), []);
        }
        assert_eq!(monitor.workers.get_mut(A).unwrap().answers, 100);
    }

    #[test]
    fn silence_is_told_looked_into_and_ended() {
        let (mut monitor, start) = (monitor(), Instant::now());
        let mut seen = Vec::new();
        for second in 0..=45 {
            for action in check(&mut monitor, start + second * SECOND, &[NOBODY, "b"]) {
                seen.push((second, action));
            }
        }
        let what: Vec<_> = seen
            .iter()
            .map(|(second, action)| match action {
                Action::Event(event) => (*second, event.name().to_owned()),
                Action::Diagnose(diagnosis) => (*second, diagnosis.operation().to_owned()),
                Action::Restart(restart) => (*second, format!("{} {}", restart.process_id, restart.reason)),
                action => panic!("{action:?}"),
            })
            .collect();
        let expected = [(1, "health"), (5, "thread_dump"), (30, "7 no answer for 30.0 s")];
        assert_eq!(what, expected.map(|(second, text)| (second, text.to_owned())));
    }

    #[test]
    fn the_next_one_has_its_turn_when_another_one_is_ready_in_the_place_of_the_one_before() {
        let (mut monitor, start) = (monitor().no_dump(), Instant::now());
        let mut second = 0;
        let mut next = |monitor: &mut HealthMonitor, until| {
            let mut seconds = second..=until;
            second = until + 1;
            seconds.find_map(|second| {
                check(monitor, start + second * SECOND, &[NOBODY]).into_iter().find_map(|action| match action {
                    Action::Restart(restart) => Some((second, restart)),
                    _ => None,
                })
            })
        };
        let Some((30, first)) = next(&mut monitor, 30) else { panic!("the first one is restarted") };
        monitor.remove(&worker("a", 7));
        assert_eq!(next(&mut monitor, 50), None, "nobody is in its place");
        monitor.restarted(&first);
        assert_eq!(next(&mut monitor, 51).map(|(second, restart)| (second, restart.process_id)), Some((51, 8)));
    }

    #[test]
    fn a_dump_comes_before_the_restart() {
        for (after, timeout) in [(30, 10), (9, 4), (5, 1)] {
            let (mut monitor, start) = (monitor().restart_after(after * SECOND), Instant::now());
            let mut actions = (0..=5).flat_map(|second| check(&mut monitor, start + second * SECOND, &[NOBODY, "b"]));
            let dump = actions.find_map(|action| match action {
                Action::Diagnose(diagnosis) => Some(diagnosis.get_timeout()),
                _ => None,
            });
            assert_eq!(dump, Some(timeout * SECOND));
        }
    }

    /// When which worker is to be restarted, whether at once, and how long another one may take to start first, while none answers.
    fn restarts(monitor: HealthMonitor, seconds: u32) -> Vec<(u32, u32, bool, Option<Duration>)> {
        let (mut monitor, start) = (monitor.no_dump(), Instant::now());
        let mut restarts = Vec::new();
        for second in 0..=seconds {
            for action in check(&mut monitor, start + second * SECOND, &[NOBODY]) {
                if let Action::Restart(restart) = action {
                    restarts.push((second, restart.process_id, restart.urgent, restart.start_first));
                }
            }
        }
        restarts
    }

    #[test]
    fn one_at_a_time_is_restarted_and_again_if_that_does_not_help() {
        let expected = [(30, 7, false, Some(10 * SECOND)), (70, 7, true, None)];
        assert_eq!(restarts(monitor(), 75), expected, "and the second time waits for no new one");
    }

    #[test]
    fn another_one_is_started_first_for_as_long_as_is_wished_or_not_at_all() {
        let expected = [(30, 7, false, Some(60 * SECOND)), (120, 7, true, None)];
        assert_eq!(restarts(monitor().start_first(60 * SECOND), 125), expected, "not asked again while it may take");
        assert_eq!(restarts(monitor().stop_first(), 65), [(30, 7, false, None), (60, 7, true, None)]);
        assert_eq!(restarts(monitor().start_first(Duration::MAX), 125), [(30, 7, false, Some(Duration::MAX))]);
    }

    #[test]
    fn nobody_is_judged_while_the_supervisor_is_slow_itself() {
        let (mut monitor, start) = (monitor(), Instant::now());
        for second in 0..=60 {
            assert_eq!(check(&mut monitor, start + second * SECOND, &[]), [], "not even the call of nobody came back");
        }
        assert!(monitor.own_lag(start + 60 * SECOND) >= 60 * SECOND);
    }

    #[test]
    fn the_time_until_it_was_asked_is_not_its_time() {
        let (mut monitor, start) = (monitor(), Instant::now());
        let millisecond = Duration::from_millis(1);
        check(&mut monitor, start, &[NOBODY]);
        let call = Call::new("a", "ping").tag(A).made(start + 500 * millisecond);
        monitor.hear(&call, &Err(CallFailure::new("UnknownOperation", "")), start + 503 * millisecond);
        assert_eq!(monitor.workers.get_mut(A).unwrap().round_trip, Some(3 * millisecond));
    }

    #[test]
    fn the_time_in_which_the_supervisor_did_not_run_is_not_theirs() {
        let (mut monitor, start) = (monitor(), Instant::now());
        assert_eq!(check(&mut monitor, start, &[NOBODY]), []);
        let resumed = start + 3600 * SECOND;
        let actions = check(&mut monitor, resumed, &[NOBODY]);
        assert!(!actions.iter().any(|action| matches!(action, Action::Restart(_))), "{actions:?}");
    }

    #[test]
    fn who_answers_late_was_slow_and_is_well() {
        let (mut monitor, start) = (monitor(), Instant::now());
        let call = Call::new("a", "ping").tag(A);
        check(&mut monitor, start, &[NOBODY, "b"]);
        monitor.hear(&call, &Err(CallFailure::new("UnknownOperation", "")), start + 3 * SECOND);
        let states: Vec<String> = monitor.react(start).iter().map(|action| format!("{action:?}")).collect();
        assert_eq!(states.len(), 2, "slow and well: {states:?}");
        assert!(monitor.workers.get_mut(A).unwrap().maximum_round_trip > 2 * SECOND);
    }
}
