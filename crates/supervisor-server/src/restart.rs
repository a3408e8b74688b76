//! Carrying out what monitors want done.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use async_container_monitors::Restart;
use rustix::process::Signal;
use serde::Serialize;
use tokio::{
    sync::{Semaphore, SemaphorePermit, mpsc},
    task::JoinSet,
    time::timeout,
};

use crate::{
    asking,
    complaints::{Complaint, Complaints},
    diagnosis::{Diagnoses, NotBegun, Outside, Wanted},
    events::{Events, RESTART},
    examine::Examiners,
    monitor::{Asker, Wish},
    process::{self, Process},
    registry::{Connected, Registry},
    replacement,
    root::{Place, Replacement, Root, RootError, is_child},
    under_way::{Progress, UnderWay},
};

/// How long a process has between the polite signal and the one that it cannot ignore.
const GRACE: Duration = Duration::from_secs(10);

/// How long the root has for a replacement, before it may be asked again: the old process has its own grace, and so much
/// more if a new one is started first.
const REPLACEMENT: Duration = Duration::from_secs(60);

/// How long others, and those who wanted it, wait for the new process to be ready, once the old one has ended.
const SUCCESSOR: Duration = Duration::from_secs(30);

/// How many wishes are taken at once.
const WISHES: usize = 256;

/// What is needed to do things to processes.
pub(crate) struct Means {
    pub(crate) registry: Arc<Registry>,
    pub(crate) root: Arc<dyn Root>,
    pub(crate) outside: Outside,
    pub(crate) events: Arc<Events>,
    /// Who looks at processes before that.
    pub(crate) examiners: Examiners,
    /// How many restarts may be under way at once.
    pub(crate) restarts: Semaphore,
    /// About what monitors want done to strangers.
    pub(crate) complaints: Complaints<String>,
}

/// What the root was told of a wish: that it is one, or nothing because there was nobody to replace any more, or why it could
/// not be told.
pub(crate) type Told = Result<(), String>;

/// Carries actions out until nobody can want any more.
pub(crate) async fn carry_out(mut actions: mpsc::UnboundedReceiver<Wish>, means: Means) {
    let under_way = UnderWay::default();
    let means = Arc::new(means);
    let mut diagnoses = Diagnoses::default();
    let mut tasks = JoinSet::new();

    let mut wishes = Vec::new();

    loop {
        let count = tokio::select! {
            count = actions.recv_many(&mut wishes, WISHES) => count,
            Some(_) = tasks.join_next() => continue,
        };

        if count == 0 {
            return;
        }

        for wish in wishes.drain(..) {
            match wish {
                Wish::Restart { restart, diagnosis, cause, asker } => {
                    let monitor = match &asker {
                        Asker::Monitor(monitor) => Some(monitor),
                        Asker::Person(_) => None,
                    };
                    let start_time = process::start_time(restart.process_id);
                    let (progress, mark) = under_way.begin(&restart, start_time, monitor);

                    if let Asker::Person(waiting) = asker {
                        let mut asked = progress.asked();
                        tasks.spawn(async move {
                            // It is never closed without a word, unless the supervisor stops.
                            if let Ok(Some(asked)) = asked.wait_for(Option::is_some).await.as_deref() {
                                drop(waiting.send(asked.clone()));
                            }
                        });
                    }

                    match mark {
                        Some(mark) => {
                            let means = means.clone();
                            tasks.spawn(async move {
                                means.restart(restart, diagnosis, cause, &mark.progress).await;
                            });
                        }
                        None if restart.urgent => progress.hurry.notify_one(),
                        None => {}
                    }
                }
                Wish::Diagnose(wanted) => {
                    if !means.is_to_be_looked_at(&wanted) {
                        wanted.give_up(&means.events);
                        continue;
                    }

                    match diagnoses.begin(&wanted) {
                        Ok(begun) => {
                            let means = means.clone();
                            tasks.spawn(async move {
                                let _turn = begun.turn().await;
                                wanted.carry_out(&means.registry, &means.outside, &means.events).await;
                            });
                        }
                        Err(NotBegun::Again) => {}
                        Err(NotBegun::TooMany) => means.complain_of_diagnoses(&wanted),
                    }
                }
                Wish::Calls(calls, reply) => {
                    let means = means.clone();
                    tasks.spawn(async move { asking::ask(calls, &reply, &means.registry).await });
                }
            }
        }
    }
}

impl Means {
    /// Restarts a process, and returns when that came to an end, whichever.
    async fn restart(&self, restart: Restart, diagnosis: Option<Wanted>, cause: String, progress: &Progress) {
        let process_id = restart.process_id;
        // By the handle that was taken when it connected: what has the number now may be another process.
        let worker = self.registry.by_process(process_id);
        let place = Place::of(&*self.root, process_id);

        // Before it takes anybody's turn, or is looked at.
        if worker.is_none() && place.is_none() {
            let reason = &restart.reason;
            self.complain_of_stranger(process_id, &cause, format_args!("be restarted because of: {reason}"));
            progress.tell(Err(format!("process {process_id} is no worker that is connected, and no child")));
            return;
        }

        let leaver = Leaver { worker, place, registry: &self.registry };
        let mut turn = None;
        let has_ended = self.replace(restart, diagnosis, cause, &leaver, &mut turn, progress).await;
        // It may have ended by itself before.
        progress.tell(Ok(()));

        // Until another one does its work there, one worker is missing, and the next has to wait.
        if let Some(place) = leaver.place.filter(|_| has_ended) {
            drop(timeout(SUCCESSOR, place.settled()).await);
        }
    }

    /// Has a process replaced, once it is its turn, and says whether it has ended.
    async fn replace<'a>(
        &'a self,
        restart: Restart,
        diagnosis: Option<Wanted>,
        cause: String,
        leaver: &Leaver<'_>,
        turn: &mut Option<SemaphorePermit<'a>>,
        progress: &Progress,
    ) -> bool {
        let Restart { process_id, reason, start_first, mut urgent, .. } = restart;
        let name = leaver.worker.as_ref().map(Connected::name);

        if !urgent {
            tokio::select! {
                permit = self.turn() => *turn = permit,
                () = leaver.ended() => return true,
                () = progress.hurry.notified() => urgent = true,
            }
        }

        if let Some(wanted) = diagnosis {
            if !urgent {
                tokio::select! {
                    () = wanted.carry_out(&self.registry, &self.outside, &self.events) => {}
                    () = leaver.ended() => return true,
                    () = progress.hurry.notified() => urgent = true,
                }
            }

            if urgent {
                tracing::warn!(process_id, reason, "restarting a worker without waiting for its diagnostic");
            }
        }

        // What somebody asks for is nobody's fault.
        let incident = match cause != replacement::CAUSE {
            true => self.examiners.examine(process_id, name.as_deref(), &reason).await,
            false => None,
        };
        let incident = incident.map(|path| path.display().to_string());
        let start_first = start_first.filter(|_| !urgent);
        let mut replacement = Replacement {
            process_id,
            reason: reason.clone(),
            cause: cause.clone(),
            incident: incident.clone(),
            start_first,
        };
        let event = RestartEvent {
            process_id,
            name: name.as_deref(),
            reason: &reason,
            cause: &cause,
            incident: incident.as_deref(),
        };

        // What somebody below a child has started, the root knows nothing of.
        let asked = match is_child(&*self.root, process_id) {
            Some(false) => Err(RootError::Unsupported),
            _ => self.root.replace(&replacement),
        };

        match asked {
            Ok(()) => {
                progress.tell(Ok(()));
                // The root warns of what it does; that it was asked is told to those who subscribe.
                tracing::debug!(
                    process_id,
                    reason,
                    cause,
                    ?start_first,
                    "asked the root controller to replace a worker"
                );
                event.publish(&self.events);
                let limit = REPLACEMENT.saturating_add(start_first.unwrap_or_default());
                let ended = async { timeout(limit, leaver.ended()).await.is_ok() };
                tokio::pin!(ended);

                tokio::select! {
                    has_ended = &mut ended => has_ended,
                    () = progress.hurry.notified(), if start_first.is_some() => {
                        tracing::warn!(process_id, reason, "replacing a worker without waiting for the new one");
                        replacement.start_first = None;

                        if let Err(error) = self.root.replace(&replacement) {
                            tracing::error!(process_id, reason, %error, "could not have a worker replaced");
                        }

                        ended.await
                    }
                }
            }
            Err(RootError::Unsupported) => match leaver.process() {
                Some(process) => stop(&event, process, &self.events, progress).await,
                None => {
                    tracing::warn!(
                        process_id,
                        reason,
                        "a worker should be restarted, but cannot be signalled: left alone"
                    );
                    progress.tell(Err(format!("process {process_id} cannot be signalled")));
                    false
                }
            },
            Err(error) => {
                tracing::error!(process_id, reason, %error, "could not have a worker replaced");
                progress.tell(Err(format!("could not have process {process_id} replaced: {error}")));
                false
            }
        }
    }

    /// Whether a monitor may know more of a process: if it is one of ours.
    fn is_to_be_looked_at(&self, wanted: &Wanted) -> bool {
        let (process_id, operation) = (wanted.diagnosis.process_id(), wanted.diagnosis.operation());
        let is_ours = self.registry.by_process(process_id).is_some() || is_child(&*self.root, process_id) == Some(true);

        if !is_ours {
            self.complain_of_stranger(process_id, &wanted.monitor, format_args!("be looked at by '{operation}'"));
        }

        is_ours
    }

    /// A stranger is none of our business, whatever a monitor wants done to it.
    fn complain_of_stranger(&self, process_id: u32, monitor: &str, wish: std::fmt::Arguments<'_>) {
        if let Some(told) = self.complaints.admit(Complaint::Stranger, monitor.to_owned(), Instant::now()) {
            tracing::warn!(
                process_id,
                monitor,
                suppressed = told.suppressed,
                "a process that is neither a worker that is connected nor a child should {wish}: left alone"
            );
        }
    }

    /// A monitor that wants more of a process, and other things each time, than can be found out.
    fn complain_of_diagnoses(&self, wanted: &Wanted) {
        let Wanted { diagnosis, monitor, .. } = wanted;

        if let Some(told) = self.complaints.admit(Complaint::Diagnoses, monitor.clone(), Instant::now()) {
            tracing::warn!(
                process_id = diagnosis.process_id(),
                monitor,
                operation = diagnosis.operation(),
                suppressed = told.suppressed,
                "too many diagnostics of this process are under way for one more: not made"
            );
        }
    }

    /// Waits until there are few enough other restarts under way.
    async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        // It is never closed, so there is always a permit.
        self.restarts.acquire().await.ok()
    }
}

/// A process that is to end, as far as it is known: to the root as a child, or here as a worker.
struct Leaver<'a> {
    worker: Option<Connected>,
    place: Option<Place>,
    registry: &'a Registry,
}

impl Leaver<'_> {
    /// What can be signalled.
    fn process(&self) -> Option<&Process> {
        self.worker.as_ref().map(|worker| &worker.process).filter(|process| process.has_handle())
    }

    /// Waits for its end: by its handle, or else by what the root tells of a child, or else by its connection. For ever if none of
    /// these can tell.
    async fn ended(&self) {
        if let Some(process) = self.process()
            && process.exited().await.is_ok()
        {
            return;
        }

        match (&self.place, &self.worker) {
            (Some(place), _) => place.left().await,
            (None, Some(worker)) => self.registry.removed(&worker.id).await,
            (None, None) => std::future::pending().await,
        }
    }
}

/// What is told of a restart that was begun.
#[derive(Serialize)]
struct RestartEvent<'a> {
    process_id: u32,
    name: Option<&'a str>,
    reason: &'a str,
    cause: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    incident: Option<&'a str>,
}

impl RestartEvent<'_> {
    fn publish(&self, events: &Events) {
        if let Err(error) = events.publish(RESTART, self) {
            tracing::error!(%error, "an event could not be encoded");
        }
    }
}

/// Ends a process, so that the root starts a fresh one, and says whether it has ended.
async fn stop(event: &RestartEvent<'_>, process: &Process, events: &Events, progress: &Progress) -> bool {
    let RestartEvent { process_id, reason, .. } = *event;

    if let Err(error) = process.signal(Signal::INT) {
        let has_ended = error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error());

        if !has_ended {
            tracing::error!(process_id, reason, %error, "could not signal a worker");
            progress.tell(Err(format!("could not signal process {process_id}: {error}")));
        }

        return has_ended;
    }

    progress.tell(Ok(()));

    tracing::warn!(process_id, reason, "signalled a worker to restart it");
    event.publish(events);

    if timeout(GRACE, process.exited()).await.is_ok() {
        return true;
    }

    match process.signal(Signal::KILL) {
        Ok(()) => tracing::warn!(process_id, "killed a worker that did not stop within {} s", GRACE.as_secs()),
        Err(error) => tracing::debug!(process_id, %error, "could not kill a worker"),
    }

    timeout(GRACE, process.exited()).await.is_ok()
}

#[cfg(test)]
mod tests {
    use async_container_protocol::{Driver, Fields, Operations, Settings, Side, Socket};

    use super::*;

    #[tokio::test]
    async fn the_end_of_a_worker_without_a_handle_is_that_of_its_connection() {
        let registry = Registry::new(Arc::new(Events::new()));
        let (stream, _other) = tokio::net::UnixStream::pair().unwrap();
        let (client, _driver) =
            Driver::new(Socket::from(stream), Side::Accepted, Operations::new(), Settings::default());
        registry.register("a".into(), &Process::without_handle(7), Fields::empty(), client);
        let leaver = Leaver { worker: registry.by_process(7), place: None, registry: &registry };
        assert!(timeout(Duration::ZERO, leaver.ended()).await.is_err());
        registry.remove("b");
        registry.remove("a");
        leaver.ended().await;
    }
}
