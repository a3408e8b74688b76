//! Adds up what workers count.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    time::{Duration, Instant},
};

use async_container_utilization::{Identity, Number, View};
use serde::{Deserialize, Serialize, Serializer, ser::SerializeMap};

use crate::{
    Action, Answer, Call, CallFailure, Event, Family, Monitor, Status, Worker, monitor::validate_interval, turns,
};

const DEFAULT_INTERVAL: Duration = Duration::from_secs(10);

/// The operation of a worker that says where its metrics are.
const OPERATION: &str = "utilization";

/// The name of workers that have none.
const UNKNOWN: &str = "unknown";

/// What the names of metrics end with that only ever grow.
const TOTAL: &str = "_total";

/// How many services are remembered for the sake of totals, though no worker of theirs is there. Names are what workers
/// say, and could be another one each time.
const REMEMBERED_SERVICES: usize = 1_000;

/// How many metrics a service has; further ones are shown for each worker only. It is what one worker can have.
const METRICS: usize = async_container_utilization::CAPACITY;

/// Reads the metrics that workers count in shared memory (see the crate `async-container-utilization`), and adds them up by
/// service, which is the name under which a worker registered.
///
/// A worker is asked once, as soon as it registers, where its metrics are (`utilization`). They are mapped and read
/// without its help from then on: a worker that hangs is read like any other, and of one that was killed the last values
/// count. Metrics that are made later appear by themselves. To read 1,000 workers takes less than a millisecond. A worker
/// that has no such operation, or whose memory cannot be read, is shown with the reason, and not counted.
///
/// What is going on, such as `requests_active`, is the sum over the workers that are there. What has been done, that is, every
/// metric whose name ends with `_total`, never goes back when workers are replaced: what those that are gone have counted stays
/// in the sum, to the last one, until the supervisor is restarted. [`metrics`](Monitor::metrics) tells of such totals what was
/// counted since: a worker that outlived another supervisor (it says how long ago it was asked first) begins at zero once more,
/// because whoever collects them has the rest from the one before.
///
/// Several workers in one process (threads, or a fork) that count in the same memory are counted once, as one each in
/// `worker_count`.
///
/// At each check there is one log event "utilization" a service, and an event `metrics` with the services below.
///
/// # Status
///
/// Under the key `utilization`, as of the last check:
///
/// ```json
/// {
///   "services": {
///     "web": {"worker_count": 2, "metrics": {"requests_active": 3, "requests_total": 1041}}
///   },
///   "workers": [
///     {"id": "8c1f…", "process_id": 4242, "name": "web", "metrics": {"requests_active": 1, "requests_total": 520}},
///     {"id": "77d0…", "process_id": 4243, "name": "cron", "error": "the worker has no operation 'utilization'"}
///   ]
/// }
/// ```
///
/// # Example
///
/// ```
/// use std::time::Instant;
/// use async_container_monitors::{Action, Monitor, UtilizationMonitor, Worker};
///
/// let mut monitor = UtilizationMonitor::new();
/// monitor.register(&Worker { id: "8c1f".into(), process_id: std::process::id(), name: "web".into() });
/// let [Action::Call(call)] = &monitor.react(Instant::now())[..] else { panic!("it should ask") };
/// assert_eq!((call.worker_id(), call.operation()), ("8c1f", "utilization"));
/// ```
pub struct UtilizationMonitor {
    interval: Duration,
    emit: Box<dyn FnMut(&ServiceUtilization) + Send>,
    workers: BTreeMap<String, Member>,
    segments: HashMap<Identity, Segment>,
    services: BTreeMap<String, Service>,
    /// Whom to ask.
    calls: Vec<Call>,
}

/// A worker that is registered.
struct Member {
    worker: Worker,
    state: State,
    /// When it was asked first.
    asked: Instant,
}

enum State {
    Asked,
    /// It did not answer in time, and is asked again at the next check.
    Silent,
    Reading(Identity),
    Failed(String),
}

/// The memory of a process.
struct Segment {
    process_id: u32,
    descriptor: i32,
    view: View,
    /// The services whose workers count in there.
    shares: BTreeMap<String, Share>,
    /// What was read last.
    values: Vec<Number>,
    /// What another supervisor may have told of already: the first values, or nothing.
    before: Vec<Number>,
}

/// The part that a service has in a segment.
#[derive(Default)]
struct Share {
    /// How many of its workers are there; none once they have left, and only the process is still there.
    members: usize,
    /// For each value of the segment, which of the service's sums it goes to.
    places: Vec<Option<usize>>,
}

#[derive(Default)]
struct Service {
    worker_count: usize,
    sums: Vec<Sum>,
    places: HashMap<String, usize>,
}

struct Sum {
    name: String,
    /// What workers have counted that are gone.
    retired: Option<Number>,
    value: Option<Number>,
    /// What of it, and of what workers have counted that are gone, another supervisor may have told of.
    before: Option<Number>,
}

impl Sum {
    fn is_total(&self) -> bool {
        self.name.ends_with(TOTAL)
    }
}

/// What the workers of a service have counted, together.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct ServiceUtilization {
    /// The service's name.
    #[serde(skip)]
    pub name: String,
    /// How many workers were read.
    pub worker_count: usize,
    /// The metrics by their names.
    pub metrics: Metrics,
}

/// Metrics by their names, sorted. Displays as `requests_active=3 requests_total=1041`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metrics(Vec<(String, Number)>);

impl Metrics {
    fn new(mut metrics: Vec<(String, Number)>) -> Self {
        metrics.sort_by(|(one, _), (other, _)| one.cmp(other));
        Self(metrics)
    }

    /// The value of one of them.
    pub fn get(&self, name: &str) -> Option<Number> {
        self.iter().find(|(other, _)| *other == name).map(|(_, value)| value)
    }

    /// All of them.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, Number)> {
        self.0.iter().map(|(name, value)| (name.as_str(), *value))
    }
}

impl fmt::Display for Metrics {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (name, value)) in self.iter().enumerate() {
            let space = if index == 0 { "" } else { " " };
            write!(formatter, "{space}{name}={value}")?;
        }
        Ok(())
    }
}

impl Serialize for Metrics {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, value) in self.iter() {
            match value {
                Number::Unsigned(value) => map.serialize_entry(name, &value)?,
                Number::Signed(value) => map.serialize_entry(name, &value)?,
                Number::Float(value) => map.serialize_entry(name, &value)?,
            }
        }
        map.end()
    }
}

impl Default for UtilizationMonitor {
    fn default() -> Self {
        Self {
            interval: DEFAULT_INTERVAL,
            emit: Box::new(log),
            workers: BTreeMap::new(),
            segments: HashMap::new(),
            services: BTreeMap::new(),
            calls: Vec::new(),
        }
    }
}

impl UtilizationMonitor {
    /// A monitor of all workers that count.
    pub fn new() -> Self {
        Self::default()
    }

    /// The time between two checks; it has to be one millisecond at least.
    ///
    /// Default is 10 seconds.
    pub fn interval(mut self, interval: Duration) -> Self {
        self.interval = interval;
        self
    }

    /// What to do with the sums of each service at each check.
    ///
    /// Default is a `tracing` event "utilization" at level info, with `service`, `worker_count` and `metrics` as its fields.
    pub fn emit(mut self, emit: impl FnMut(&ServiceUtilization) + Send + 'static) -> Self {
        self.emit = Box::new(emit);
        self
    }

    fn ask(&mut self, id: &str) {
        self.calls.push(Call::new(id, OPERATION));
    }

    /// Takes what a worker said of its memory.
    fn attach(&mut self, id: &str, answer: Result<Answer, CallFailure>) {
        let Some(process_id) = self.workers.get(id).map(|member| member.worker.process_id) else { return };
        // By whichever of its connections.
        let asked = self.workers.values().filter(|member| member.worker.process_id == process_id);
        let since = asked.map(|member| member.asked.elapsed().as_secs_f64()).fold(0.0, f64::max);
        let Some(member) = self.workers.get_mut(id) else { return };
        member.state = match open(&member.worker, answer) {
            Ok((place, view)) => {
                let identity = view.identity();
                let segment = self.segments.entry(identity).or_insert_with(|| {
                    let values: Vec<Number> = view.values().collect();
                    Segment {
                        process_id: member.worker.process_id,
                        descriptor: place.descriptor,
                        before: if place.first_asked > since { values.clone() } else { Vec::new() },
                        values,
                        view,
                        shares: BTreeMap::new(),
                    }
                });
                segment.shares.entry(service_name(&member.worker).to_owned()).or_default().members += 1;
                State::Reading(identity)
            }
            Err(state) => state,
        };
    }

    /// Takes a worker out of its segment, which stays until its process ends: until then, it may go on counting.
    fn detach(&mut self, member: &Member) {
        if let State::Reading(identity) = member.state
            && let Some(segment) = self.segments.get_mut(&identity)
            && let Some(share) = segment.shares.get_mut(service_name(&member.worker))
        {
            share.members = share.members.saturating_sub(1);
        }
    }

    fn sample(&mut self) {
        for service in self.services.values_mut() {
            service.worker_count = 0;
            service.sums.iter_mut().for_each(|sum| sum.value = sum.retired);
        }

        self.segments.retain(|_, segment| {
            // Before it is read, so that what is read is the last of it, if it has ended.
            let is_left = segment.shares.values().all(|share| share.members == 0);
            let has_ended = is_left && segment.has_ended();
            segment.read(&mut self.services);

            if has_ended {
                segment.retire(&mut self.services);
            }

            !has_ended
        });

        if self.services.len() > REMEMBERED_SERVICES {
            self.services.retain(|_, service| service.worker_count > 0);
        }
    }

    fn services(&self) -> impl Iterator<Item = ServiceUtilization> {
        let services = self.services.iter().map(|(name, service)| {
            // What nobody counts any more, but somebody did: the sum of nothing, as long as there are workers.
            let nothing = (service.worker_count > 0).then_some(Number::Unsigned(0));
            let metrics = service.sums.iter().filter_map(|sum| Some((sum.name.clone(), sum.value.or(nothing)?)));
            let (name, worker_count) = (name.clone(), service.worker_count);
            ServiceUtilization { name, worker_count, metrics: Metrics::new(metrics.collect()) }
        });
        services.filter(|service| service.worker_count > 0 || !service.metrics.0.is_empty())
    }
}

impl Segment {
    /// Adds what is in here to the sums.
    fn read(&mut self, services: &mut BTreeMap<String, Service>) {
        self.view.refresh();
        self.values.clear();
        self.values.extend(self.view.values());

        for (name, share) in &mut self.shares {
            if !services.contains_key(name) {
                services.insert(name.clone(), Service::default());
            }
            let Some(service) = services.get_mut(name) else { continue };

            let mapped = share.places.len();
            for (field, _) in self.view.fields().skip(mapped) {
                share.places.push(service.place(field.name()));
            }
            if let (Some(places), Some(values)) = (share.places.get(mapped..), self.before.get(mapped..)) {
                service.add(places, values, |sum, value| {
                    if sum.is_total() {
                        sum.before = Some(sum.before.map_or(value, |before| before.plus(value)));
                    }
                });
            }

            service.worker_count += share.members;

            let is_there = share.members > 0;
            service.add(&share.places, &self.values, |sum, value| {
                if is_there || sum.is_total() {
                    sum.value = Some(sum.value.map_or(value, |sum| sum.plus(value)));
                }
            });
        }
    }

    /// Keeps what was counted in here for ever.
    fn retire(&self, services: &mut BTreeMap<String, Service>) {
        for (name, share) in &self.shares {
            let Some(service) = services.get_mut(name) else { continue };
            service.add(&share.places, &self.values, |sum, value| {
                if sum.is_total() {
                    sum.retired = Some(sum.retired.map_or(value, |retired| retired.plus(value)));
                }
            });
        }
    }

    fn has_ended(&self) -> bool {
        View::open(self.process_id, self.descriptor).map_or(true, |view| view.identity() != self.view.identity())
    }
}

impl Service {
    /// What of a value this supervisor is the first to tell of.
    fn own(&self, name: &str, value: Number) -> Number {
        let before = self.places.get(name).and_then(|place| self.sums.get(*place)?.before);
        match (value, before) {
            (value, None) => value,
            (Number::Unsigned(value), Some(Number::Unsigned(before))) => value.saturating_sub(before).into(),
            (Number::Signed(value), Some(before)) => value.saturating_sub(before.as_i64()).into(),
            (value, Some(before)) => (value.as_f64() - before.as_f64()).into(),
        }
    }

    fn place(&mut self, name: &str) -> Option<usize> {
        let place = self.sums.len();

        match self.places.get(name) {
            Some(place) => Some(*place),
            None if place < METRICS => {
                self.sums.push(Sum { name: name.to_owned(), retired: None, value: None, before: None });
                self.places.insert(name.to_owned(), place);
                Some(place)
            }
            None => None,
        }
    }

    fn add(&mut self, places: &[Option<usize>], values: &[Number], add: impl Fn(&mut Sum, Number)) {
        for (place, value) in places.iter().zip(values) {
            if let Some(sum) = place.and_then(|place| self.sums.get_mut(place)) {
                add(sum, *value);
            }
        }
    }
}

/// What is needed of a worker's answer.
#[derive(Deserialize)]
struct Where {
    descriptor: i32,
    /// How long ago somebody asked first, in seconds. Workers in other languages need not say so.
    #[serde(default)]
    first_asked: f64,
}

/// Opens what a worker says that its metrics are in. It says which descriptor only: the process is the one that the kernel
/// says it is.
fn open(worker: &Worker, answer: Result<Answer, CallFailure>) -> Result<(Where, View), State> {
    let Worker { id, process_id, name } = worker;
    let failed = |message: String| {
        tracing::warn!(
            worker.id = id,
            worker.process_id = process_id,
            worker.name = name,
            error = message,
            "utilization is not read"
        );
        State::Failed(message)
    };

    let answer = match answer {
        Ok(answer) => answer.get::<Where>(),
        Err(failure) if failure.class == "UnknownOperation" => {
            tracing::debug!(worker.id = id, worker.name = name, "worker did not provide utilization schema");
            return Err(State::Failed(format!("the worker has no operation '{OPERATION}'")));
        }
        // It hangs, or is on its way.
        Err(failure) if ["TimedOut", "TooManyCalls"].contains(&failure.class.as_str()) => return Err(State::Silent),
        Err(failure) => return Err(failed(failure.message)),
    };
    let place = answer.map_err(|error| failed(format!("the answer of the worker makes no sense: {error}")))?;
    let view = View::open(*process_id, place.descriptor).map_err(|error| failed(describe(&error)))?;
    Ok((place, view))
}

/// An error with its causes.
fn describe(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", describe(source)),
        None => error.to_string(),
    }
}

fn service_name(worker: &Worker) -> &str {
    if worker.name.is_empty() { UNKNOWN } else { &worker.name }
}

impl Monitor for UtilizationMonitor {
    fn name(&self) -> &str {
        "utilization"
    }

    fn interval(&self) -> Duration {
        self.interval
    }

    fn validate(&self) -> Result<(), String> {
        validate_interval(self.interval)
    }

    fn register(&mut self, worker: &Worker) {
        match self.workers.remove(&worker.id) {
            // It has another name now, perhaps; its metrics are where they were.
            Some(mut member) => {
                self.detach(&member);
                member.worker = worker.clone();
                if let State::Reading(identity) = member.state
                    && let Some(segment) = self.segments.get_mut(&identity)
                {
                    segment.shares.entry(service_name(worker).to_owned()).or_default().members += 1;
                }
                self.workers.insert(worker.id.clone(), member);
            }
            None => {
                self.workers.insert(
                    worker.id.clone(),
                    Member { worker: worker.clone(), state: State::Asked, asked: Instant::now() },
                );
                self.ask(&worker.id);
            }
        }
    }

    fn remove(&mut self, worker: &Worker) {
        if let Some(member) = self.workers.remove(&worker.id) {
            self.detach(&member);
        }
    }

    fn answered(&mut self, call: &Call, answer: Result<Answer, CallFailure>) {
        self.attach(call.worker_id(), answer);
    }

    fn react(&mut self, _now: Instant) -> Vec<Action> {
        self.calls.drain(..).map(Action::Call).collect()
    }

    fn check(&mut self, now: Instant) -> Vec<Action> {
        self.sample();
        let services: Vec<ServiceUtilization> = self.services().collect();
        services.iter().for_each(|service| (self.emit)(service));

        for member in self.workers.values_mut().filter(|member| matches!(member.state, State::Silent)) {
            member.state = State::Asked;
            self.calls.push(Call::new(&member.worker.id, OPERATION));
        }

        let mut actions = self.react(now);
        if !services.is_empty() {
            actions.push(Action::Event(Event::new("metrics", MetricsEvent { services: by_name(services) })));
        }
        actions
    }

    fn metrics(&self) -> Vec<Family> {
        let mut workers = Family::gauge("utilization_workers", "The workers whose metrics are read, by service.");
        let mut families: BTreeMap<String, Family> = BTreeMap::new();

        for service in self.services() {
            let labels = [("service", service.name.as_str())];
            workers.push(labels, service.worker_count);

            for (name, value) in service.metrics.iter() {
                let known = self.services.get(&service.name);
                let value = known.map_or(value, |known| known.own(name, value));
                let family = families.entry(name.to_owned()).or_insert_with(|| match name.strip_suffix(TOTAL) {
                    Some(name) => {
                        Family::counter(format!("utilization_{name}"), "The sum of what workers have counted.")
                    }
                    None => Family::gauge(format!("utilization_{name}"), "The sum of what workers count."),
                });
                match value {
                    Number::Unsigned(value) => family.push(labels, value),
                    Number::Signed(value) => family.push(labels, value),
                    Number::Float(value) => family.push(labels, value),
                }
            }
        }

        std::iter::once(workers).chain(families.into_values()).collect()
    }

    fn status(&self) -> Status {
        let workers = self.workers.values().map(|member| {
            let (metrics, error) = match &member.state {
                State::Asked => (None, None),
                State::Silent => (None, Some("the worker does not answer".to_owned())),
                State::Failed(reason) => (None, Some(reason.clone())),
                State::Reading(identity) => (self.segments.get(identity).map(Segment::metrics), None),
            };
            let Worker { id, process_id, name } = member.worker.clone();
            WorkerStatus { id, process_id, name, metrics, error }
        });
        Box::new(UtilizationStatus { services: by_name(self.services()), workers: workers.collect() })
    }
}

impl Segment {
    /// What was read last.
    fn metrics(&self) -> Metrics {
        let names = self.view.fields().map(|(field, _)| field.name().to_owned());
        Metrics::new(names.zip(self.values.iter().copied()).collect())
    }
}

fn by_name(services: impl IntoIterator<Item = ServiceUtilization>) -> BTreeMap<String, ServiceUtilization> {
    services.into_iter().map(|service| (service.name.clone(), service)).collect()
}

#[derive(Serialize)]
struct MetricsEvent {
    services: BTreeMap<String, ServiceUtilization>,
}

#[derive(Serialize)]
struct UtilizationStatus {
    services: BTreeMap<String, ServiceUtilization>,
    #[serde(serialize_with = "turns::serialize")]
    workers: Vec<WorkerStatus>,
}

#[derive(Serialize)]
struct WorkerStatus {
    id: String,
    process_id: u32,
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    metrics: Option<Metrics>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

fn log(service: &ServiceUtilization) {
    tracing::info!(
        service = service.name,
        worker_count = service.worker_count,
        metrics = %service.metrics,
        "utilization"
    );
}
