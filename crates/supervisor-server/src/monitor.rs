//! Monitors at work: each on a thread of its own, so that one that is slow, or panics, is nobody else's trouble.

use std::{
    any::Any,
    collections::{BTreeMap, HashMap, HashSet},
    mem,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use async_container_monitors::{Action, Answer, Call, CallFailure, Event, Monitor, Worker};
use async_container_protocol::{Failure, Fields, class, is_reserved};
use serde::Serialize;
use tokio::sync::{mpsc, watch};

use crate::{error::ServeError, events::Events, schedule::next_check};

/// How long `status` waits for a monitor.
pub(crate) const STATUS_TIMEOUT: Duration = Duration::from_secs(1);

/// How old a status may be that is given without asking the monitor again. It keeps the user's code off the thread that
/// answers calls, and keeps dashboards from keeping the monitor busy.
const STATUS_AGE: Duration = Duration::from_millis(100);

/// An interval of zero would be a busy loop.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(1);

/// All monitors of a supervisor.
pub(crate) struct Monitors(Vec<MonitorHandle>);

impl Monitors {
    /// Starts all of them. What they want done comes out of the channel.
    pub(crate) fn start(
        monitors: Vec<Box<dyn Monitor>>,
        actions: &mpsc::UnboundedSender<Wish>,
        events: &Arc<Events>,
    ) -> Result<Self, ServeError> {
        let mut handles: Vec<MonitorHandle> = Vec::new();

        for monitor in monitors {
            let name = monitor.name().to_owned();

            if handles.iter().any(|other| other.name() == name) {
                return Err(ServeError::DuplicateMonitor(name));
            }

            if is_reserved(&name) {
                return Err(ServeError::MonitorName(name));
            }

            if let Err(event) = events.add_names(monitor.events()) {
                return Err(ServeError::EventName { monitor: name, event });
            }

            handles.push(MonitorHandle::start(name, monitor, actions.clone(), events.clone())?);
        }

        Ok(Self(handles))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &MonitorHandle> {
        self.0.iter()
    }
}

/// Something that a monitor wants done, and that takes more than its own thread.
pub(crate) enum Wish {
    /// What does not concern the monitor any more.
    Action(Action),
    /// A call, with its parameters encoded.
    Call(Call, Fields, ReplyTo),
}

/// Where the answer to a call goes.
pub(crate) struct ReplyTo(Arc<Shared>);

impl ReplyTo {
    pub(crate) fn send(self, call: Call, answer: Result<Fields, Failure>) {
        let mut inbox = self.0.lock();
        inbox.answers.push((call, answer));
        drop(inbox);
        self.0.changed.notify_one();
    }
}

/// A monitor at work. Its thread ends soon after this is dropped.
pub(crate) struct MonitorHandle {
    shared: Arc<Shared>,
    status: watch::Receiver<Report>,
}

struct Shared {
    name: String,
    inbox: Mutex<Inbox>,
    changed: Condvar,
}

/// What waits for the thread.
#[derive(Default)]
struct Inbox {
    changes: BTreeMap<u64, Change>,
    /// The place of each worker's change among these.
    places: HashMap<String, u64>,
    next_place: u64,
    /// What came of calls; as many as the monitor asked for.
    answers: Vec<(Call, Result<Fields, Failure>)>,
    /// The thread is telling the monitor of changes, so its last status knows nothing of them.
    applying: bool,
    /// Workers that the monitor has heard of.
    known: HashSet<String>,
    /// How often its status was asked for.
    requests: u64,
    /// How many of these the thread has seen.
    seen: u64,
    closed: bool,
}

impl Inbox {
    /// Notes a change. While the thread is stuck, these could pile up; so what several changes of one worker come to is
    /// kept as one, and a worker of which the monitor never heard leaves nothing behind.
    fn add(&mut self, change: Change) {
        let id = &change.worker().id;

        if let Some(earlier) = self.places.remove(id) {
            self.changes.remove(&earlier);
        }

        if matches!(change, Change::Register(_)) || self.known.contains(id) {
            self.next_place += 1;
            self.places.insert(id.clone(), self.next_place);
            self.changes.insert(self.next_place, change);
        }
    }

    fn take_changes(&mut self) -> Vec<Change> {
        self.places.clear();
        let changes: Vec<Change> = mem::take(&mut self.changes).into_values().collect();

        for change in &changes {
            match change {
                Change::Register(worker) => self.known.insert(worker.id.clone()),
                Change::Remove(worker) => self.known.remove(&worker.id),
            };
        }

        self.applying = !changes.is_empty();
        changes
    }

    fn take_answers(&mut self) -> Vec<(Call, Result<Fields, Failure>)> {
        let answers = mem::take(&mut self.answers);
        self.applying |= !answers.is_empty();
        answers
    }

    fn is_quiet(&self) -> bool {
        self.changes.is_empty() && self.answers.is_empty()
    }
}

enum Change {
    Register(Worker),
    Remove(Worker),
}

impl Change {
    fn worker(&self) -> &Worker {
        match self {
            Self::Register(worker) | Self::Remove(worker) => worker,
        }
    }
}

/// A status, encoded as one response.
#[derive(Clone)]
struct Report {
    fields: Fields,
    taken: Option<Instant>,
    /// How many requests had come before it was taken.
    request: u64,
}

impl MonitorHandle {
    fn start(
        name: String,
        monitor: Box<dyn Monitor>,
        actions: mpsc::UnboundedSender<Wish>,
        events: Arc<Events>,
    ) -> Result<Self, ServeError> {
        let shared = Arc::new(Shared { name: name.clone(), inbox: Mutex::default(), changed: Condvar::new() });
        let (sender, status) = watch::channel(Report { fields: Fields::empty(), taken: None, request: 0 });
        let loop_ = Loop {
            shared: shared.clone(),
            monitor,
            actions,
            events,
            status: sender,
            check_failure: None,
            has_complained: false,
        };

        std::thread::Builder::new()
            .name(name.clone())
            .spawn(move || loop_.run())
            .map_err(|source| ServeError::Thread { name, source })?;

        Ok(Self { shared, status })
    }

    pub(crate) fn name(&self) -> &str {
        &self.shared.name
    }

    pub(crate) fn register(&self, worker: Worker) {
        self.shared.lock().add(Change::Register(worker));
        self.shared.changed.notify_one();
    }

    pub(crate) fn remove(&self, worker: Worker) {
        self.shared.lock().add(Change::Remove(worker));
        self.shared.changed.notify_one();
    }

    /// Lets the thread end, as soon as the monitor returns from what it is at.
    pub(crate) fn stop(&self) {
        self.shared.lock().closed = true;
        self.shared.changed.notify_one();
    }

    /// What the monitor last said of itself, if that is recent enough to give away.
    pub(crate) fn recent_status(&self) -> Option<Fields> {
        let inbox = self.shared.lock();

        if inbox.applying || !inbox.is_quiet() {
            return None;
        }

        let report = self.status.borrow();
        report.taken.is_some_and(|taken| taken.elapsed() < STATUS_AGE).then(|| report.fields.clone())
    }

    /// Asks the monitor what it has to say of itself.
    pub(crate) fn ask_status(&self) -> StatusRequest<'_> {
        let mut inbox = self.shared.lock();
        inbox.requests += 1;
        let request = inbox.requests;
        drop(inbox);
        self.shared.changed.notify_one();
        StatusRequest { monitor: self, request }
    }

    /// A response that says why there is none from the monitor.
    pub(crate) fn failed_status(&self, failure: &Failure) -> Fields {
        failed_status(&self.shared.name, failure)
    }
}

impl Drop for MonitorHandle {
    fn drop(&mut self) {
        self.stop();
    }
}

/// An answer that a monitor owes.
pub(crate) struct StatusRequest<'a> {
    monitor: &'a MonitorHandle,
    request: u64,
}

impl StatusRequest<'_> {
    pub(crate) async fn answer(self, deadline: tokio::time::Instant) -> Fields {
        let mut status = self.monitor.status.clone();
        let answer = status.wait_for(|report| report.request >= self.request);

        let failure = match tokio::time::timeout_at(deadline, answer).await {
            Ok(Ok(report)) => return report.fields.clone(),
            Ok(Err(_)) => Failure::new(class::INTERNAL, "the thread of this monitor ended"),
            Err(_) => Failure::new(class::TIMED_OUT, "this monitor is busy: its check takes long"),
        };

        self.monitor.failed_status(&failure)
    }
}

#[derive(Serialize)]
struct MonitorEvent<'a> {
    monitor: &'a str,
    #[serde(flatten)]
    fields: &'a (dyn erased_serde::Serialize + Send + Sync),
}

#[derive(Serialize)]
struct FailedStatus<'a> {
    error: FailedStatusError<'a>,
}

#[derive(Serialize)]
struct FailedStatusError<'a> {
    class: &'a str,
    message: &'a str,
}

fn failed_status(name: &str, failure: &Failure) -> Fields {
    let error = FailedStatusError { class: failure.class(), message: failure.message() };
    Fields::empty().with(name, &FailedStatus { error }).unwrap_or_default()
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The thread of a monitor.
struct Loop {
    shared: Arc<Shared>,
    monitor: Box<dyn Monitor>,
    actions: mpsc::UnboundedSender<Wish>,
    events: Arc<Events>,
    status: watch::Sender<Report>,
    /// Why the last check came to nothing.
    check_failure: Option<Failure>,
    /// It was said already that the monitor tells of what it may not.
    has_complained: bool,
}

impl Loop {
    fn run(mut self) {
        let mut due = self.next_check(None);

        loop {
            let Some(request) = self.wait(due) else { return };
            let (changes, answers) = {
                let mut inbox = self.shared.lock();
                (inbox.take_changes(), inbox.take_answers())
            };
            let is_news = !(changes.is_empty() && answers.is_empty());
            self.apply(changes);
            self.tell(answers);

            if is_news && let Ok(actions) = self.guard("react", |monitor| monitor.react(Instant::now())) {
                self.carry_out(actions);
            }

            if Instant::now() >= due {
                self.check();
                due = self.next_check(Some(due));
            }

            self.report(request);
            self.shared.lock().applying = false;
        }
    }

    fn next_check(&mut self, last: Option<Instant>) -> Instant {
        let interval = self.guard("interval", |monitor| monitor.interval());
        let interval = interval.unwrap_or(Duration::from_secs(60)).max(SHORTEST_INTERVAL);
        next_check(last, Instant::now(), SystemTime::now(), interval)
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

            if !inbox.is_quiet() || inbox.requests > inbox.seen || remaining.is_zero() {
                inbox.seen = inbox.requests;
                return Some(inbox.seen);
            }

            inbox = match self.shared.changed.wait_timeout(inbox, remaining) {
                Ok((inbox, _)) => inbox,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
    }

    fn apply(&mut self, changes: Vec<Change>) {
        for change in changes {
            let _ = match &change {
                Change::Register(worker) => self.guard("register", |monitor| monitor.register(worker)),
                Change::Remove(worker) => self.guard("remove", |monitor| monitor.remove(worker)),
            };
        }
    }

    fn tell(&mut self, answers: Vec<(Call, Result<Fields, Failure>)>) {
        for (call, answer) in answers {
            let answer = match answer {
                Ok(fields) => Ok(Answer::new(move |reader| {
                    reader(&mut <dyn erased_serde::Deserializer<'_>>::erase(fields.deserializer()));
                })),
                Err(failure) => Err(CallFailure::new(failure.class(), failure.message())),
            };
            let _ = self.guard("answered", |monitor| monitor.answered(&call, answer));
        }
    }

    fn check(&mut self) {
        match self.guard("check", |monitor| monitor.check(Instant::now())) {
            Ok(actions) => {
                self.check_failure = None;
                self.carry_out(actions);
            }
            Err(failure) => self.check_failure = Some(failure),
        }
    }

    /// Does what can be done here, and passes on the rest. Nobody listens to that only when the server is ending.
    fn carry_out(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Event(event) => self.publish(&event),
                Action::Call(call) => self.call(call),
                action => drop(self.actions.send(Wish::Action(action))),
            }
        }
    }

    fn call(&mut self, call: Call) {
        let reply = ReplyTo(self.shared.clone());
        // Here, so that a value of the user's is encoded on no other thread.
        let encoded = self.guard("parameters", |_| match call.get_parameters() {
            Some(parameters) => Fields::new(parameters),
            None => Ok(Fields::empty()),
        });

        match encoded {
            Ok(Ok(parameters)) => drop(self.actions.send(Wish::Call(call, parameters, reply))),
            Ok(Err(error)) => reply.send(call, Err(Failure::invalid_parameters(error.to_string()))),
            Err(failure) => reply.send(call, Err(failure)),
        }
    }

    /// Here, so that a value of the user's is encoded on no other thread.
    fn publish(&mut self, event: &Event) {
        let (name, events) = (self.shared.name.clone(), self.events.clone());

        let result = self.guard("events", |monitor| {
            if !Events::is_of_monitors(event.name(), monitor.events()) {
                return Err("this monitor does not declare it".to_owned());
            }

            let fields = MonitorEvent { monitor: &name, fields: event.fields() };
            events.publish(event.name(), &fields).map_err(|error| error.to_string())
        });

        if let Ok(Err(error)) = result
            && !std::mem::replace(&mut self.has_complained, true)
        {
            tracing::error!(monitor = name, event = event.name(), error, "an event of a monitor was not sent");
        }
    }

    fn report(&mut self, request: u64) {
        let name = self.shared.name.clone();
        let fields = match &self.check_failure {
            Some(failure) => failed_status(&name, failure),
            None => {
                let encoded = self.guard("status", |monitor| Fields::empty().with(&name, &monitor.status()));
                encoded
                    .and_then(|fields| fields.map_err(|error| Failure::new(class::INTERNAL, error.to_string())))
                    .unwrap_or_else(|failure| failed_status(&name, &failure))
            }
        };

        self.status.send_replace(Report { fields, taken: Some(Instant::now()), request });
    }

    /// Calls the monitor, and survives it. What a panic leaves half done inside of the monitor is its own affair: the next
    /// call comes all the same.
    fn guard<T>(&mut self, what: &'static str, call: impl FnOnce(&mut Box<dyn Monitor>) -> T) -> Result<T, Failure> {
        let monitor = &mut self.monitor;

        catch_unwind(AssertUnwindSafe(|| call(monitor))).map_err(|payload| {
            let message = format!("the monitor panicked in '{what}': {}", panic_message(payload.as_ref()));
            tracing::error!(monitor = self.shared.name, "{message}");
            Failure::new(class::INTERNAL, message)
        })
    }
}

fn panic_message(payload: &(dyn Any + Send)) -> &str {
    payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("without a message")
}
