//! The thread of a monitor: calls it, one thing at a time, and survives what it does.

use std::{
    any::Any,
    collections::BTreeMap,
    mem,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    thread,
    time::{Duration, Instant, SystemTime},
};

use async_container_monitors::{Action, Answer, CallFailure, Diagnosis, Event, Monitor, Restart, Worker};
use async_container_protocol::{Failure, Fields, class};
use serde::Serialize;
use tokio::sync::{mpsc, watch};

use super::{Answered, Asker, Change, Make, ReplyTo, Report, Shared, Wish, busy::Slowness, failed_status};
use crate::{diagnosis::Wanted, events::Events, schedule::next_check};

/// How long a monitor that panicked is left alone. Doubled each time that it panics again before a check came to its end.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Who asked for the status so short a time ago will ask again.
const KEEPS_ASKING: Duration = Duration::from_secs(10);

/// The part of the time that the status may take after each check though nobody asked: 1 in 2,000.
const UNASKED_SHARE: u32 = 2_000;

/// For so many answers there is room the next time as well.
const ANSWERS_KEPT: usize = 128;

/// An interval of zero would be a busy loop.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(1);

#[derive(Serialize)]
struct MonitorEvent<'a> {
    monitor: &'a str,
    #[serde(flatten)]
    fields: &'a (dyn erased_serde::Serialize + Send + Sync),
}

/// The thread of a monitor.
pub(super) struct Loop {
    shared: Arc<Shared>,
    monitor: Box<dyn Monitor>,
    /// Makes it anew, if that is known.
    make: Option<Make>,
    actions: mpsc::UnboundedSender<Wish>,
    events: Arc<Events>,
    status: watch::Sender<Report>,
    /// The workers that are there.
    workers: BTreeMap<String, Worker>,
    /// Those that the monitor was told of, and of whose end it was not.
    told: BTreeMap<String, Worker>,
    /// How it panicked, until a check has come to its end.
    failing: Option<Failing>,
    /// What it is to be told of, and the memory for that.
    answers: Vec<Answered>,
    /// Restarts that are over, and of which it is to be told once it can be called.
    restarts: Vec<Restart>,
    /// How many changes it was told of.
    heard: u64,
    /// The last request for the status that was answered.
    reported: u64,
    /// When the status was asked for, and not only given again.
    asked: Option<Instant>,
    /// How long it took to show the status.
    showing: Duration,
    /// It was said already that the monitor tells of what it may not.
    has_complained: bool,
    /// The time between two checks, as it said last.
    interval: Duration,
    /// What was said of checks that take long.
    slowness: Slowness,
}

/// What is known of a monitor that has panicked.
struct Failing {
    message: String,
    /// How many times in a row.
    panics: u32,
    /// Until when it is not called; `None` once it was begun anew.
    again_at: Option<Instant>,
}

impl Loop {
    pub(super) fn new(
        shared: Arc<Shared>,
        (monitor, make): (Box<dyn Monitor>, Option<Make>),
        actions: mpsc::UnboundedSender<Wish>,
        events: Arc<Events>,
        status: watch::Sender<Report>,
    ) -> Self {
        Self {
            shared,
            monitor,
            make,
            actions,
            events,
            status,
            workers: BTreeMap::new(),
            told: BTreeMap::new(),
            failing: None,
            answers: Vec::new(),
            restarts: Vec::new(),
            heard: 0,
            reported: 0,
            asked: None,
            showing: Duration::ZERO,
            has_complained: false,
            interval: SHORTEST_INTERVAL,
            slowness: Slowness::default(),
        }
    }

    pub(super) fn run(mut self) {
        let mut due = self.next_check(None);

        loop {
            let wake = self.again_at().unwrap_or(due);
            self.shared.alarm.stop();
            let Some(request) = self.wait(wake) else { return };
            self.shared.alarm.set();
            let changes = {
                let mut inbox = self.shared.lock();
                self.heard = inbox.next_place;
                inbox.exchange_answers(&mut self.answers);
                self.restarts.append(&mut inbox.restarts);
                inbox.take_changes()
            };
            let is_change = !changes.is_empty();
            let is_news = is_change || !self.answers.is_empty() || !self.restarts.is_empty();

            if self.again_at().is_some_and(|again_at| again_at <= Instant::now()) {
                self.begin_anew();
                due = self.next_check(None);
            }

            self.apply(changes);
            self.tell();

            if is_news && let Some(actions) = self.guard("react", |monitor| monitor.react(Instant::now())) {
                self.carry_out(actions);
            }

            let is_due = Instant::now() >= due && self.again_at().is_none();
            let mut may_show = false;

            if is_due {
                if !is_news {
                    self.shared.lock().checking_since = Some(Instant::now());
                }

                self.check();
                let checked = due;
                due = self.next_check(Some(checked));
                may_show = self.showing * UNASKED_SHARE <= due.saturating_duration_since(checked);
            }

            let is_asked = request > self.reported;
            if is_asked {
                self.asked = Some(Instant::now());
            }

            // After each check, so that nobody has to wait for one. But to show everything takes the longer the more workers there
            // are: where that is long, it is done only where somebody asks, or keeps asking.
            let keeps_asking = || self.asked.is_some_and(|asked| asked.elapsed() < KEEPS_ASKING);

            if is_asked || is_due && (may_show || keeps_asking()) {
                let begin = Instant::now();
                self.report(request);
                self.showing = begin.elapsed();
            } else if is_change || is_due {
                self.status.send_modify(|report| report.is_current = false);
            }

            self.show_metrics();
            let mut inbox = self.shared.lock();
            inbox.applying = false;
            inbox.checking_since = None;
        }
    }

    fn next_check(&mut self, last: Option<Instant>) -> Instant {
        let interval = self.guard("interval", |monitor| monitor.interval());
        self.interval = interval.unwrap_or(Duration::from_secs(60)).max(SHORTEST_INTERVAL);
        next_check(last, Instant::now(), SystemTime::now(), self.interval)
    }

    /// Until when the monitor is not called.
    fn again_at(&self) -> Option<Instant> {
        self.failing.as_ref()?.again_at
    }

    /// After a panic: makes another monitor, or has this one forget everything, and tells it of all workers.
    fn begin_anew(&mut self) {
        if let Some(failing) = &mut self.failing {
            failing.again_at = None;
            tracing::info!(monitor = self.shared.name, attempt = failing.panics, "starting a monitor again");
        }

        match &mut self.make {
            Some(make) => match catch_unwind(AssertUnwindSafe(make)) {
                Ok(monitor) => {
                    // The old one may panic once more as it goes.
                    let old = mem::replace(&mut self.monitor, monitor);
                    let _ = catch_unwind(AssertUnwindSafe(|| drop(old)));
                    self.told.clear();
                    // It has asked for none.
                    self.restarts.clear();
                }
                Err(payload) => self.failed("making it", payload.as_ref()),
            },
            None => self.forget_all(),
        }

        for worker in self.workers.clone().into_values() {
            self.register(&worker);
        }
    }

    /// Tells the monitor that all workers are gone: also those that ended while it was not called, and also after a panic, so that one
    /// worker that it cannot get rid of does not leave it with all others.
    fn forget_all(&mut self) {
        let mut panic = None;

        for worker in mem::take(&mut self.told).into_values() {
            if let Err(payload) = self.call("remove", |monitor| monitor.remove(&worker)) {
                panic = Some(payload);
            }
        }

        if let Some(payload) = panic {
            self.failed("remove", payload.as_ref());
        }
    }

    fn register(&mut self, worker: &Worker) {
        if self.guard("register", |monitor| monitor.register(worker)).is_some() {
            self.told.insert(worker.id.clone(), worker.clone());
        }
    }

    /// Waits until there is something to do, and says which request for the status that answers. `None` if there will never
    /// be anything to do again.
    fn wait(&self, due: Instant) -> Option<u64> {
        let mut inbox = self.shared.lock();

        loop {
            if inbox.closed {
                return None;
            }

            let remaining = due.saturating_duration_since(Instant::now());
            let gathers_for = inbox.gathers_for().unwrap_or(remaining);
            let is_empty = inbox.changes.is_empty() && inbox.metrics.is_empty() && inbox.restarts.is_empty();
            let is_wanted = !is_empty || inbox.requests > inbox.seen;

            if is_wanted || remaining.is_zero() || gathers_for.is_zero() {
                inbox.seen = inbox.requests;
                return Some(inbox.seen);
            }

            inbox = match self.shared.changed.wait_timeout(inbox, remaining.min(gathers_for)) {
                Ok((inbox, _)) => inbox,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
    }

    /// Gives its metrics to those who want them; nothing, if it panics, or has not come to the end of a check since.
    fn show_metrics(&mut self) {
        let wanted = mem::take(&mut self.shared.lock().metrics);

        if !wanted.is_empty()
            && self.failing.is_none()
            && let Some(metrics) = self.guard("metrics", |monitor| monitor.metrics())
        {
            for sender in wanted {
                // Who has left wants none.
                let _ = sender.send(metrics.clone());
            }
        }
    }

    fn apply(&mut self, changes: Vec<Change>) {
        for change in changes {
            match change {
                Change::Register(worker) => {
                    self.register(&worker);
                    self.workers.insert(worker.id.clone(), worker);
                }
                Change::Remove(worker) => {
                    self.workers.remove(&worker.id);
                    // Until it is begun anew it cannot be told.
                    if self.again_at().is_none() && self.told.remove(&worker.id).is_some() {
                        self.guard("remove", |monitor| monitor.remove(&worker));
                    }
                }
            }
        }
    }

    fn tell(&mut self) {
        let mut answers = mem::take(&mut self.answers);

        for (call, answer) in answers.drain(..) {
            let answer = match answer {
                Ok(fields) => Ok(Answer::new(move |reader| {
                    reader(&mut <dyn erased_serde::Deserializer<'_>>::erase(fields.deserializer()));
                })),
                Err(failure) => Err(CallFailure::new(failure.class(), failure.message())),
            };
            self.guard("answered", |monitor| monitor.answered(&call, answer));
        }

        answers.shrink_to(ANSWERS_KEPT);
        self.answers = answers;

        if self.again_at().is_none() {
            for restart in mem::take(&mut self.restarts) {
                self.guard("restarted", |monitor| monitor.restarted(&restart));
            }
        }
    }

    fn check(&mut self) {
        let begin = Instant::now();

        if let Some(actions) = self.guard("check", |monitor| monitor.check(Instant::now())) {
            self.failing = None;
            self.slowness.check_took(&self.shared.name, begin.elapsed(), self.interval);
            self.carry_out(actions);
        }
    }

    /// Does what can be done here, and passes on the rest. Nobody listens to that only when the server is ending.
    fn carry_out(&mut self, actions: Vec<Action>) {
        let reply = ReplyTo(self.shared.clone());
        let mut calls = Vec::with_capacity(actions.len());

        for action in actions {
            match action {
                Action::Event(event) => self.publish(&event),
                Action::Call(call) => match encode(call.get_parameters()) {
                    Ok(parameters) => calls.push((call, parameters)),
                    Err(error) => reply.send(call, Err(Failure::invalid_parameters(error))),
                },
                Action::Restart(mut restart) => {
                    let diagnosis = restart.diagnosis.take().and_then(|diagnosis| self.wanted(diagnosis));
                    let (cause, asker) = (self.shared.name.clone(), Asker::Monitor(reply.clone()));
                    drop(self.actions.send(Wish::Restart { restart, diagnosis, cause, asker }));
                }
                Action::Diagnose(diagnosis) => {
                    if let Some(wanted) = self.wanted(diagnosis) {
                        drop(self.actions.send(Wish::Diagnose(wanted)));
                    }
                }
                action => tracing::warn!(?action, "a monitor wants something that this supervisor does not know"),
            }
        }

        // Together: for each by itself, the thread that makes them would be woken again.
        if !calls.is_empty() {
            drop(self.actions.send(Wish::Calls(calls, reply)));
        }
    }

    /// A diagnostic with its parameters encoded.
    fn wanted(&mut self, diagnosis: Diagnosis) -> Option<Wanted> {
        let monitor = self.shared.name.clone();

        match encode(diagnosis.get_parameters()) {
            Ok(parameters) => Some(Wanted { diagnosis, parameters, monitor }),
            Err(error) => {
                tracing::error!(monitor, ?diagnosis, error, "the parameters of a diagnostic cannot be sent");
                None
            }
        }
    }

    /// Here, so that a value of the user's is encoded on no other thread.
    fn publish(&mut self, event: &Event) {
        let events = self.events.clone();
        let declared = self.guard("events", |monitor| Events::is_of_monitors(event.name(), monitor.events()));
        let fields = MonitorEvent { monitor: &self.shared.name, fields: event.fields() };

        let error = match declared {
            None => return,
            Some(false) => "this monitor does not declare it".to_owned(),
            Some(true) => match contained(|| events.publish(event.name(), &fields)) {
                Ok(Ok(())) => return,
                Ok(Err(error)) => error.to_string(),
                Err(panic) => panic,
            },
        };

        if !mem::replace(&mut self.has_complained, true) {
            tracing::error!(
                monitor = self.shared.name,
                event = event.name(),
                error,
                "an event of a monitor was not sent"
            );
        }
    }

    /// Has the monitor say what it has to say of itself, in answer to requests up to this one. Of one that has panicked that is told
    /// instead, until a check has come to its end: what was begun anew knows nothing, which looks as if all were well.
    pub(super) fn report(&mut self, request: u64) {
        self.reported = request;
        let name = self.shared.name.clone();
        let encoded = match self.failing {
            Some(_) => None,
            None => self.guard("status", |monitor| Fields::empty().with(&name, &monitor.status())),
        };
        let shown = match encoded {
            Some(Ok(fields)) => Ok(fields),
            Some(Err(error)) => Err(Failure::new(class::INTERNAL, error.to_string())),
            None => {
                Err(self.failing.as_ref().map_or_else(|| Failure::new(class::INTERNAL, "failed"), Failing::describe))
            }
        };
        let fields = shown.unwrap_or_else(|failure| failed_status(&name, &failure));
        let changes = self.heard;
        self.status.send_replace(Report { fields, taken: Some(Instant::now()), is_current: true, request, changes });
    }

    /// Calls the monitor, and survives it. What a panic leaves half done inside of it is not used: nothing is called any more,
    /// until it is begun anew.
    fn guard<T>(&mut self, what: &'static str, call: impl FnOnce(&mut Box<dyn Monitor>) -> T) -> Option<T> {
        if self.again_at().is_some() {
            return None;
        }

        match self.call(what, call) {
            Ok(result) => Some(result),
            Err(payload) => {
                self.failed(what, payload.as_ref());
                None
            }
        }
    }

    /// Calls the monitor, and notes that it is called, so that it is known where it is stuck.
    fn call<T>(&mut self, what: &'static str, call: impl FnOnce(&mut Box<dyn Monitor>) -> T) -> thread::Result<T> {
        let _busy = self.shared.busy.begin(what);
        let monitor = &mut self.monitor;
        catch_unwind(AssertUnwindSafe(|| call(monitor)))
    }

    fn failed(&mut self, what: &'static str, payload: &(dyn Any + Send)) {
        let before = self.failing.as_ref().map_or(0, |failing| failing.panics);
        let pause = FIRST_PAUSE.saturating_mul(1 << before.min(16)).min(LONGEST_PAUSE);
        let panics = before.saturating_add(1);
        let message = format!("the monitor panicked in '{what}': {}", panic_message(payload));
        tracing::error!(monitor = self.shared.name, panics, again_in = ?pause, "{message}");
        self.failing = Some(Failing { message, panics, again_at: Some(Instant::now() + pause) });
    }
}

impl Failing {
    fn describe(&self) -> Failure {
        let next = match self.again_at {
            Some(again_at) => {
                let pause = again_at.saturating_duration_since(Instant::now());
                format!("it is started again in {:.1} s", pause.as_secs_f64())
            }
            None => "it was started again, and has not come to the end of a check yet".to_owned(),
        };
        Failure::new(class::INTERNAL, format!("{}; {next}", self.message))
    }
}

/// Encodes parameters. On the monitor's thread, so that a value of the user's is encoded on no other.
fn encode(parameters: Option<&(dyn erased_serde::Serialize + Send + Sync)>) -> Result<Fields, String> {
    let Some(parameters) = parameters else { return Ok(Fields::empty()) };
    contained(|| Fields::new(parameters))?.map_err(|error| error.to_string())
}

/// Survives a panic of what only shows something, and so leaves nothing half done.
fn contained<T>(show: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(show))
        .map_err(|payload| format!("it panicked while it was encoded: {}", panic_message(payload.as_ref())))
}

fn panic_message(payload: &(dyn Any + Send)) -> &str {
    payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("without a message")
}
