//! Monitors at work: each on a thread of its own, so that one that is slow, or panics, is nobody else's trouble.

mod actor;
mod busy;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    mem,
    pin::pin,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use async_container_monitors::{Call, Family, Monitor, Restart, Worker};
use async_container_protocol::{Failure, Fields, class, is_reserved};
use serde::Serialize;
use tokio::{
    runtime::Handle,
    sync::{mpsc, oneshot, watch},
    task::AbortHandle,
    time::timeout_at,
};

use self::{
    actor::Loop,
    busy::{Alarm, Busy},
};
use crate::{diagnosis::Wanted, error::ServeError, events::Events, restart::Told};

/// How long `status` waits for a monitor.
pub(crate) const STATUS_TIMEOUT: Duration = Duration::from_secs(1);

/// How old a status may be that is given without asking the monitor again. It keeps the user's code off the thread that
/// answers calls, and keeps dashboards from keeping the monitor busy.
const STATUS_AGE: Duration = Duration::from_millis(100);

/// How old it may be while the monitor is asked again: who asks often is not to wait for that each time.
const STATUS_AGE_LIMIT: Duration = Duration::from_millis(300);

/// How many workers have come or gone of which a monitor has not told yet, when a crowd of them comes.
const CROWD: u64 = 16;

/// How long who asks waits for a monitor that has to tell of a crowd, if it told of others a moment ago. Its thread has the least
/// right to a processor, and while thousands of workers come back, a status that is not quite new is better than a late one.
const CROWD_PATIENCE: Duration = Duration::from_millis(5);

/// How long answers are gathered before a monitor is told of them.
const ANSWERS_GATHERED: Duration = Duration::from_millis(5);

/// The niceness of the threads of monitors.
const NICENESS: i32 = 10;

/// Makes a monitor.
pub(crate) type Make = Box<dyn FnMut() -> Box<dyn Monitor> + Send>;

/// Looks whether these can work, and work together, and lets their events be subscribed to.
pub(crate) fn validate<'a>(monitors: impl Iterator<Item = &'a dyn Monitor>, events: &Events) -> Result<(), ServeError> {
    let mut names = HashSet::new();

    for monitor in monitors {
        let name = monitor.name().to_owned();

        if is_reserved(&name) {
            return Err(ServeError::MonitorName(name));
        }

        if let Err(event) = events.add_names(monitor.events()) {
            return Err(ServeError::EventName { monitor: name, event });
        }

        let interval = match monitor.interval().is_zero() {
            true => Err("its interval is zero, and has to be longer: the default is 1 second".to_owned()),
            false => Ok(()),
        };

        if let Err(problem) = monitor.validate().and(interval) {
            return Err(ServeError::Monitor { name, problem });
        }

        if !names.insert(name.clone()) {
            return Err(ServeError::DuplicateMonitor(name));
        }
    }

    Ok(())
}

/// All monitors of a supervisor.
pub(crate) struct Monitors(Vec<MonitorHandle>);

impl Monitors {
    /// Starts all of them. What they want done comes out of the channel.
    pub(crate) fn start(
        monitors: Vec<(Box<dyn Monitor>, Option<Make>)>,
        actions: &mpsc::UnboundedSender<Wish>,
        events: &Arc<Events>,
    ) -> Result<Self, ServeError> {
        let start = |(monitor, make): (Box<dyn Monitor>, _)| {
            let name = monitor.name().to_owned();
            MonitorHandle::start(name, (monitor, make), actions.clone(), events.clone())
        };
        Ok(Self(monitors.into_iter().map(start).collect::<Result<_, _>>()?))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &MonitorHandle> {
        self.0.iter()
    }
}

/// A call, and what came of it.
type Answered = (Call, Result<Fields, Failure>);

/// Something that a monitor wants done, and that takes more than its own thread.
pub(crate) enum Wish {
    /// To have a process replaced, and why, in a word.
    Restart { restart: Restart, diagnosis: Option<Wanted>, cause: String, asker: Asker },
    /// To have a worker look into itself.
    Diagnose(Wanted),
    /// Calls, with their parameters encoded.
    Calls(Vec<(Call, Fields)>, ReplyTo),
}

/// Who wants a process replaced.
pub(crate) enum Asker {
    /// It is told when that is over.
    Monitor(ReplyTo),
    /// It is told what the root was told of it.
    Person(oneshot::Sender<Told>),
}

/// Where answers to calls go, and what comes of restarts.
#[derive(Clone)]
pub(crate) struct ReplyTo(Arc<Shared>);

impl ReplyTo {
    pub(crate) fn send(&self, call: Call, answer: Result<Fields, Failure>) {
        let now = Instant::now();
        let mut inbox = self.0.lock();
        inbox.answers.push((call.answered(now), answer));
        let is_first = inbox.answers.len() == 1;
        if is_first {
            inbox.answers_since = Some(now);
        }
        drop(inbox);

        // The thread knows how long it gathers them.
        if is_first {
            self.0.changed.notify_one();
        }
    }

    /// Tells the monitor that a restart which it asked for is over.
    pub(crate) fn restarted(&self, restart: Restart) {
        self.0.lock().restarts.push(restart);
        self.0.changed.notify_one();
    }

    /// Whether both go to the same monitor.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// A monitor at work. Its thread ends soon after this is dropped.
pub(crate) struct MonitorHandle {
    shared: Arc<Shared>,
    status: watch::Receiver<Report>,
    /// Who notices if it is stuck.
    watching: Option<AbortHandle>,
}

struct Shared {
    name: String,
    inbox: Mutex<Inbox>,
    changed: Condvar,
    /// What the monitor is called for.
    busy: Busy,
    alarm: Alarm,
}

/// What waits for the thread.
#[derive(Default)]
struct Inbox {
    changes: BTreeMap<u64, Change>,
    /// The place of each worker's change among these.
    places: HashMap<String, u64>,
    /// As many changes as were ever noted.
    next_place: u64,
    /// What came of calls; as many as the monitor asked for.
    answers: Vec<Answered>,
    /// When the first of these came.
    answers_since: Option<Instant>,
    /// Restarts that are over; as many as the monitor asked for.
    restarts: Vec<Restart>,
    /// The thread is telling the monitor of changes, so its last status knows nothing of them.
    applying: bool,
    /// Since when it checks.
    checking_since: Option<Instant>,
    /// Workers that the monitor has heard of.
    known: HashSet<String>,
    /// Who wants its metrics; as many as read them at the same time.
    metrics: Vec<oneshot::Sender<Vec<Family>>>,
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

    /// Takes the answers, in exchange for an empty list, whose memory is for the next ones.
    fn exchange_answers(&mut self, answers: &mut Vec<Answered>) {
        debug_assert!(answers.is_empty());
        self.answers_since = None;
        mem::swap(&mut self.answers, answers);
    }

    /// How long the thread goes on gathering answers: to wake for each of a thousand would cost more than what they say.
    fn gathers_for(&self) -> Option<Duration> {
        Some(ANSWERS_GATHERED.saturating_sub(self.answers_since?.elapsed()))
    }

    /// Whether its last status tells of all workers that are there. What a monitor makes of answers may come a moment later.
    fn is_told(&self) -> bool {
        self.changes.is_empty() && !self.applying
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
    /// `None` if there was none yet.
    taken: Option<Instant>,
    /// Whether nothing has happened since that it would tell of.
    is_current: bool,
    /// How many requests had come before it was taken.
    request: u64,
    /// How many changes it tells of.
    changes: u64,
}

impl Report {
    /// None yet.
    fn none() -> Self {
        Self { fields: Fields::empty(), taken: None, is_current: false, request: 0, changes: 0 }
    }
}

impl MonitorHandle {
    fn start(
        name: String,
        monitor: (Box<dyn Monitor>, Option<Make>),
        actions: mpsc::UnboundedSender<Wish>,
        events: Arc<Events>,
    ) -> Result<Self, ServeError> {
        let shared = Arc::new(Shared {
            name: name.clone(),
            inbox: Mutex::default(),
            changed: Condvar::new(),
            busy: Busy::default(),
            alarm: Alarm::new(),
        });
        let (sender, status) = watch::channel(Report::none());
        let mut actor = Loop::new(shared.clone(), monitor, actions, events, sender);

        // Its thread works from its start on.
        shared.alarm.set();
        let runtime = Handle::try_current().ok();
        let watch = busy::watch(Arc::downgrade(&shared));
        let watching = runtime.as_ref().map(|runtime| runtime.spawn(watch).abort_handle());

        std::thread::Builder::new()
            .name(name.clone())
            .spawn(move || {
                // So that a monitor may wait for what is asynchronous.
                let _context = runtime.as_ref().map(Handle::enter);
                // Before anybody can have a claim to go first, so that who asks at once does not wait for its turn.
                actor.report(0);
                yield_to_others();
                actor.run();
            })
            .map_err(|source| ServeError::Thread { name, source })?;

        Ok(Self { shared, status, watching })
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

        if let Some(watching) = &self.watching {
            watching.abort();
        }
    }

    /// What the monitor last said of itself, if that is recent enough to give away. If it is about to be too old, the monitor is asked
    /// again, for the next one.
    pub(crate) fn recent_status(&self) -> Option<Fields> {
        let mut inbox = self.shared.lock();

        if !inbox.is_told() {
            return None;
        }

        let report = self.status.borrow();
        let age = report.taken.filter(|_| report.is_current)?.elapsed();
        // Whoever asks does not have to wait for a check that has just begun: what it will find is not known before anyway.
        let is_checking = inbox.checking_since.is_some_and(|since| since.elapsed() < STATUS_TIMEOUT);

        if !is_checking && age >= STATUS_AGE {
            if age >= STATUS_AGE_LIMIT {
                return None;
            }

            if inbox.requests <= report.request {
                inbox.requests += 1;
                self.shared.changed.notify_one();
            }
        }

        Some(report.fields.clone())
    }

    /// What the monitor said of itself a moment ago, if a crowd has come since.
    fn status_before_a_crowd(&self) -> Option<Fields> {
        let changes = self.shared.lock().next_place;
        let report = self.status.borrow();
        let is_recent = report.taken.is_some_and(|taken| taken.elapsed() < STATUS_TIMEOUT);
        (is_recent && changes - report.changes > CROWD).then(|| report.fields.clone())
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

    /// Asks the monitor for its metrics. There is no answer if it panics, or is stuck.
    pub(crate) fn ask_metrics(&self) -> oneshot::Receiver<Vec<Family>> {
        let (sender, metrics) = oneshot::channel();

        if self.is_stuck() {
            return metrics;
        }

        let mut inbox = self.shared.lock();
        // A monitor that is stuck answers none, and those who asked have left.
        inbox.metrics.retain(|sender| !sender.is_closed());
        inbox.metrics.push(sender);
        drop(inbox);
        self.shared.changed.notify_one();
        metrics
    }

    /// Whether it has been at one thing for so long that nobody waits for it any more.
    fn is_stuck(&self) -> bool {
        self.shared.busy.is_stuck()
    }

    /// Why it says nothing.
    fn busy(&self) -> Failure {
        let message = match self.shared.busy.since() {
            Some((what, time)) => {
                format!("this monitor is busy: its '{what}' has taken {:.1} s so far", time.as_secs_f64())
            }
            None => "this monitor is busy".to_owned(),
        };
        Failure::new(class::TIMED_OUT, message)
    }

    /// A response that says why there is none from the monitor.
    pub(crate) fn failed_status(&self, failure: &Failure) -> Fields {
        failed_status(&self.shared.name, failure)
    }
}

/// Lets the thread that answers calls, and all others, go before this one where there are fewer processors than there is to do: who
/// asks for the status is not to wait for a check. A monitor has a tenth of what another thread gets, so it is not starved either.
fn yield_to_others() {
    if let Err(error) = rustix::process::setpriority_process(Some(rustix::thread::gettid()), NICENESS) {
        tracing::debug!(%error, "a monitor runs with the priority of all others");
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
    /// Waits for it, from `begin` on for no longer than [`STATUS_TIMEOUT`].
    pub(crate) async fn answer(self, begin: tokio::time::Instant) -> Fields {
        let mut status = self.monitor.status.clone();
        let mut answer = pin!(async {
            let report = status.wait_for(|report| report.request >= self.request).await;
            report.map(|report| report.fields.clone())
        });

        let mut waited = timeout_at(begin + CROWD_PATIENCE, &mut answer).await;

        if waited.is_err() && !self.monitor.is_stuck() {
            if let Some(fields) = self.monitor.status_before_a_crowd() {
                return fields;
            }

            waited = timeout_at(begin + STATUS_TIMEOUT, &mut answer).await;
        }

        let failure = match waited {
            Ok(Ok(fields)) => return fields,
            Ok(Err(_)) => Failure::new(class::INTERNAL, "the thread of this monitor ended"),
            Err(_) => self.monitor.busy(),
        };

        self.monitor.failed_status(&failure)
    }
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
