//! The contract between a monitor and who runs it.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use serde::Serialize;

use crate::{
    action::{Action, Restart},
    call::{Answer, Call, CallFailure},
    metrics::Family,
};

/// Below this, checks would be all that the supervisor does.
#[cfg(any(feature = "memory", feature = "process", feature = "health", feature = "utilization"))]
const SHORTEST_INTERVAL: Duration = Duration::from_millis(1);

/// Says what is wrong with a time between checks.
#[cfg(any(feature = "memory", feature = "process", feature = "health", feature = "utilization"))]
pub(crate) fn validate_interval(interval: Duration) -> Result<(), String> {
    match interval < SHORTEST_INTERVAL {
        true => Err(format!("interval is {interval:?}, and has to be {SHORTEST_INTERVAL:?} at least")),
        false => Ok(()),
    }
}

/// What a monitor shows of itself: any value that serialises, usually to a map.
///
/// It is boxed and erased, so that a supervisor can hold monitors of which it knows nothing, and
/// `Send`, so that it can be encoded on another thread than the one that made it. It owns what it
/// shows: the monitor may be checking again before it has been written out.
pub type Status = Box<dyn erased_serde::Serialize + Send>;

/// A worker, as it registered with the supervisor.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Worker {
    /// The connection's id. One process may have several connections, each with its own id.
    pub id: String,
    /// The process at the other end, in the supervisor's pid namespace.
    pub process_id: u32,
    /// The name that it registered under; not unique, and empty if it gave none.
    pub name: String,
}

/// Something that happened, for whoever wants to hear of it as it happens.
///
/// A supervisor knows the names `leak`, `metrics`, `health` and `diagnosis`; a monitor that emits others says so in
/// [`Monitor::events`].
///
/// ```
/// use async_container_monitors::{Action, Event};
/// use serde::Serialize;
///
/// #[derive(Serialize)]
/// struct Health { process_id: u32, healthy: bool }
///
/// let action = Action::Event(Event::new("health", Health { process_id: 4242, healthy: false }));
/// ```
#[derive(Clone)]
pub struct Event {
    name: String,
    fields: Arc<dyn erased_serde::Serialize + Send + Sync>,
}

impl Event {
    /// An event with fields, which are those of a struct or the entries of a map. `event`, `at` and `monitor` are added
    /// by the supervisor. One with a field `id`, `do`, `finished`, `failed`, `error` or `cancel` is not sent, and that is logged:
    /// these names the protocol keeps for itself.
    pub fn new(name: impl Into<String>, fields: impl Serialize + Send + Sync + 'static) -> Self {
        Self { name: name.into(), fields: Arc::new(fields) }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What there is to say of it.
    pub fn fields(&self) -> &(dyn erased_serde::Serialize + Send + Sync) {
        &*self.fields
    }
}

impl fmt::Debug for Event {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Event").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Fields of any type cannot be compared, so an event is equal to its clones and to nothing else.
impl PartialEq for Event {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.fields, &other.fields)
    }
}

impl Eq for Event {}

/// Watches workers, and says what should be done about them.
///
/// A supervisor calls, one at a time and never concurrently:
///
/// 1. [`register`](Monitor::register) for every worker that is connected already and for each that
///    connects, or that registers anew on its connection because its state changed: the same `id`
///    may come twice;
/// 2. [`check`](Monitor::check) at each multiple of [`interval`](Monitor::interval);
/// 3. [`status`](Monitor::status) whenever somebody asks;
/// 4. [`remove`](Monitor::remove) once for each worker whose connection ended;
/// 5. [`answered`](Monitor::answered) once for each call that it asked for;
/// 6. [`restarted`](Monitor::restarted) once for each process that it asked a restart of, when that is over;
/// 7. [`react`](Monitor::react) after it was told of workers, answers or restarts.
///
/// All of them run on a thread of the monitor's own, so blocking delays this monitor and nothing
/// else: checks that were due meanwhile are left out, and the supervisor tells of it in its log and status. The thread is in the
/// context of the supervisor's runtime, so what is asynchronous can be waited for, with a time-out, by
/// `tokio::runtime::Handle::current().block_on(…)`, or begun by `tokio::spawn` and looked at by a later check.
///
/// A check that cannot find out what it wants to know says so in the log and in its status, and wants nothing done.
///
/// After a panic nobody knows in which state a value is. So the supervisor goes on with it only after it has told it that
/// every worker is gone, by `remove`, and after a pause, that they are there, by `register`: a monitor whose knowledge is all
/// about workers is as good as new then. One that keeps more can be given as a function that makes it, which is called again.
/// Between, it shows nothing and checks nothing, and the supervisor says so in its place.
pub trait Monitor: Send + 'static {
    /// The key of this monitor in the supervisor's status; unique among its monitors.
    fn name(&self) -> &str;

    /// The time between two checks; never zero. Checks are aligned to the wall clock modulo the interval, so
    /// that the samples of several supervisors can be laid side by side. Default is 1 second.
    fn interval(&self) -> Duration {
        Duration::from_secs(1)
    }

    /// Says what is wrong with how it was set up, and what would be right, if it could not work so. A supervisor asks before it is
    /// ready, and does not begin with such a monitor. Default is that nothing is wrong.
    ///
    /// # Errors
    /// A phrase for people, without a full stop.
    fn validate(&self) -> Result<(), String> {
        Ok(())
    }

    /// The names of its own events: those that it emits beside `leak`, `metrics`, `health` and `diagnosis`. Whoever subscribes can
    /// ask for them by these names. Default is none.
    fn events(&self) -> &[&str] {
        &[]
    }

    /// A worker is there, or has changed what it says of itself.
    fn register(&mut self, worker: &Worker) {
        let _ = worker;
    }

    /// A worker's connection ended. Its process may still be running.
    fn remove(&mut self, worker: &Worker) {
        let _ = worker;
    }

    /// A call that it asked for has come to its end: within its time-out, and also if the worker is gone by then. When that was
    /// the [call says](Call::answered_at).
    fn answered(&mut self, call: &Call, answer: Result<Answer, CallFailure>) {
        let _ = (call, answer);
    }

    /// A restart that it asked for is over: another process is ready in the place of the old one; or it came to nothing, or has taken
    /// so long that nobody waits for it any more. One that wants no more than so many workers to be missing at once asks for the next
    /// one only then, or a minute after the last one, as this may be lost if the monitor panics meanwhile.
    ///
    /// However often a restart of one process is asked for meanwhile, it is one, and `restart` is that of the first time. It is over 30
    /// seconds after the end of the process at the latest.
    fn restarted(&mut self, restart: &Restart) {
        let _ = restart;
    }

    /// Says what should be done at once about what it has just been told by `register`, `remove`, `answered` and `restarted`, rather
    /// than at the next check. Default is nothing.
    fn react(&mut self, now: Instant) -> Vec<Action> {
        let _ = now;
        Vec::new()
    }

    /// Looks at the workers and says what should be done. `now` is the clock to measure with;
    /// it is an argument so that a test can step through hours.
    fn check(&mut self, now: Instant) -> Vec<Action>;

    /// What it knows as numbers, for systems that collect them: like [`status`](Self::status), what the last check found.
    /// Default is none.
    fn metrics(&self) -> Vec<Family> {
        Vec::new()
    }

    /// What this monitor knows, for `status`. It should show what the last check found rather
    /// than measure anew: people and dashboards ask as often as they like. Default is nothing, as an empty map.
    fn status(&self) -> Status {
        #[derive(Serialize)]
        struct Nothing {}

        Box::new(Nothing {})
    }
}
