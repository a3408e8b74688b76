//! Having workers look into themselves, and keeping what they find.

use std::{
    collections::HashMap,
    error::Error,
    fs::OpenOptions,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use async_container_monitors::{Destination, Diagnosis};
use async_container_protocol::{Failure, Fields, class};
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{
    events::{DIAGNOSIS, Events},
    registry::Registry,
};

/// How many diagnostics of one monitor are made at once. They cost the workers, and the supervisor memory.
const AT_ONCE: usize = 4;

/// How much of a result goes to the log.
const LOG_LIMIT: usize = 64 << 10;

/// Looks into a process, for text.
pub(crate) type Look = Arc<dyn Fn(u32) -> Result<String, Box<dyn Error + Send + Sync>> + Send + Sync>;

/// Ways to find out what a worker does not say itself, by operation.
pub(crate) type Outside = HashMap<String, Look>;

/// What is to be found out, with the parameters encoded, and who wants to know.
#[derive(Debug)]
pub(crate) struct Wanted {
    pub(crate) diagnosis: Diagnosis,
    pub(crate) parameters: Fields,
    pub(crate) monitor: String,
}

/// How many different diagnostics one monitor may have under way of one process.
const DIFFERENT: usize = 16;

/// Who wants to know, and of which process.
type Whom = (String, u32);

/// What makes two diagnostics of a process the same: which it is, with which parameters, and where it goes.
type Kind = (String, Fields, Destination);

type UnderWay = HashMap<Whom, Vec<Kind>>;

/// Diagnostics that are being made, or wait for their turn: each once, so that a monitor that always wants more has no more
/// waiting than a few for each process. Each monitor has turns of its own, and so no other waits for it.
#[derive(Default)]
pub(crate) struct Diagnoses {
    turns: HashMap<String, Arc<Semaphore>>,
    under_way: Arc<Mutex<UnderWay>>,
}

/// Why a diagnostic is not begun.
pub(crate) enum NotBegun {
    /// The same one is under way already.
    Again,
    /// So many others of the process are.
    TooMany,
}

impl Diagnoses {
    /// Notes that one is wanted.
    pub(crate) fn begin(&mut self, wanted: &Wanted) -> Result<Begun, NotBegun> {
        let Wanted { diagnosis, monitor, parameters } = wanted;
        let whom = (monitor.clone(), diagnosis.process_id());
        let kind = (diagnosis.operation().to_owned(), parameters.clone(), diagnosis.destination().clone());
        let mut under_way = lock(&self.under_way);
        let kinds = under_way.entry(whom.clone()).or_default();

        if kinds.contains(&kind) {
            return Err(NotBegun::Again);
        }

        if kinds.len() >= DIFFERENT {
            return Err(NotBegun::TooMany);
        }

        kinds.push(kind.clone());
        let turns = self.turns.entry(monitor.clone()).or_insert_with(|| Arc::new(Semaphore::new(AT_ONCE)));
        Ok(Begun { turns: turns.clone(), mark: Mark { under_way: self.under_way.clone(), whom, kind } })
    }
}

/// A diagnostic that was noted.
pub(crate) struct Begun {
    turns: Arc<Semaphore>,
    mark: Mark,
}

impl Begun {
    /// Waits for its turn, which lasts as long as what this gives.
    pub(crate) async fn turn(self) -> Turn {
        // It is never closed, so there is always a permit.
        Turn { _permit: self.turns.acquire_owned().await.ok(), _mark: self.mark }
    }
}

/// That a diagnostic has its turn.
pub(crate) struct Turn {
    _permit: Option<OwnedSemaphorePermit>,
    _mark: Mark,
}

struct Mark {
    under_way: Arc<Mutex<UnderWay>>,
    whom: Whom,
    kind: Kind,
}

impl Drop for Mark {
    fn drop(&mut self) {
        let mut under_way = lock(&self.under_way);

        if let Some(kinds) = under_way.get_mut(&self.whom) {
            kinds.retain(|kind| *kind != self.kind);

            if kinds.is_empty() {
                under_way.remove(&self.whom);
            }
        }
    }
}

fn lock(under_way: &Mutex<UnderWay>) -> std::sync::MutexGuard<'_, UnderWay> {
    under_way.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Serialize)]
struct DiagnosisEvent<'a> {
    monitor: &'a str,
    process_id: u32,
    name: &'a str,
    operation: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<&'a Fields>,
    /// `error` is a name that the protocol keeps for itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    failure: Option<DiagnosisFailure<'a>>,
}

#[derive(Serialize)]
struct DiagnosisFailure<'a> {
    class: &'a str,
    message: &'a str,
}

impl Wanted {
    /// Finds it out, within its time, and passes it on. Whatever goes wrong is said and comes to an end here.
    pub(crate) async fn carry_out(self, registry: &Registry, outside: &Outside, events: &Events) {
        let Self { diagnosis, parameters, monitor } = &self;
        let (process_id, operation) = (diagnosis.process_id(), diagnosis.operation());
        let worker = registry.by_process(process_id);
        let name = worker.as_ref().map(|worker| worker.name()).unwrap_or_default();

        let from_outside = outside.get(operation);
        // There has to be time for the other way.
        let patience = diagnosis.get_timeout() / if from_outside.is_some() { 2 } else { 1 };

        let result = match worker {
            Some(worker) => {
                let call = worker.client.call_fields(operation, parameters).timeout(patience);
                // Also what it streams is to be there in time, which the time-out of a call says nothing of.
                match tokio::time::timeout(patience, collect(call)).await {
                    Ok(result) => result,
                    Err(_) => Err(Failure::new(class::TIMED_OUT, "the worker did not answer in time")),
                }
            }
            None => Err(not_connected()),
        };
        let result = match (result, from_outside) {
            (Err(failure), Some(look)) => {
                tracing::info!(
                    monitor,
                    process_id,
                    name,
                    operation,
                    failure = failure.message(),
                    "looking from outside"
                );
                match tokio::time::timeout(patience, look_from_outside(look.clone(), process_id)).await {
                    Ok(result) => result,
                    Err(_) => Err(Failure::new(class::TIMED_OUT, "looking from outside took too long")),
                }
            }
            (result, _) => result,
        };

        if let Err(failure) = &result {
            let (class, message) = (failure.class(), failure.message());
            tracing::warn!(monitor, process_id, name, operation, class, message, "a diagnostic came to nothing");
        }

        match (diagnosis.destination(), result) {
            (Destination::Event, result) => self.publish(&name, result.as_ref(), events),
            (Destination::Directory(directory), Ok(result)) => {
                let (place, stem) = (directory.clone(), stem(&name, process_id, operation));
                match tokio::task::spawn_blocking(move || keep(&place, &stem, &result)).await {
                    Ok(Ok(path)) => {
                        tracing::warn!(monitor, process_id, name, operation, path = %path.display(), "kept a diagnostic");
                    }
                    Ok(Err(error)) => {
                        tracing::error!(monitor, process_id, name, operation, directory = %directory.display(), %error, "could not keep a diagnostic");
                    }
                    Err(error) => tracing::error!(monitor, operation, %error, "keeping a diagnostic failed"),
                }
            }
            (_, Ok(result)) => {
                let mut data = text(&result);
                if data.len() > LOG_LIMIT {
                    data.truncate(data.floor_char_boundary(LOG_LIMIT));
                    data.push('…');
                }
                tracing::warn!(monitor, process_id, name, operation, data, "a diagnostic of a worker");
            }
            (_, Err(_)) => {}
        }
    }
}

impl Wanted {
    /// Passes on that there is nobody to look at.
    pub(crate) fn give_up(&self, events: &Events) {
        if *self.diagnosis.destination() == Destination::Event {
            self.publish("", Err(&not_connected()), events);
        }
    }

    fn publish(&self, name: &str, result: Result<&Fields, &Failure>, events: &Events) {
        let operation = self.diagnosis.operation();
        let event = DiagnosisEvent {
            monitor: &self.monitor,
            process_id: self.diagnosis.process_id(),
            name,
            operation,
            result: result.ok(),
            failure: result
                .err()
                .map(|failure| DiagnosisFailure { class: failure.class(), message: failure.message() }),
        };

        if let Err(error) = events.publish(DIAGNOSIS, &event) {
            tracing::error!(%error, operation, "an event could not be encoded");
        }
    }
}

fn not_connected() -> Failure {
    Failure::new(class::CONNECTION_NOT_FOUND, "no worker is connected from this process")
}

async fn look_from_outside(look: Look, process_id: u32) -> Result<Fields, Failure> {
    #[derive(Serialize)]
    struct Answer {
        data: String,
    }

    let looked = tokio::task::spawn_blocking(move || look(process_id)).await?;
    let data = looked.map_err(|error| Failure::new(class::INTERNAL, error.to_string()))?;
    Ok(Fields::new(&Answer { data })?)
}

/// The answer; if the worker streams chunks, these put together as `data`.
async fn collect(mut call: async_container_protocol::Call) -> Result<Fields, Failure> {
    let mut chunks = String::new();

    while let Some(fields) = call.next().await.map_err(|error| error.into_failure())? {
        if let Ok(Some(chunk)) = fields.get::<String>("chunk") {
            chunks.push_str(&chunk);
        }
    }

    let answer = call.finish().await.map_err(|error| error.into_failure())?.compact();
    Ok(if chunks.is_empty() { answer } else { answer.with("data", &chunks)? })
}

/// What there is to read: the data as text, or everything as JSON.
fn text(result: &Fields) -> String {
    match result.get::<String>("data") {
        Ok(Some(data)) => data,
        _ => match result.to_json() {
            object if !object["data"].is_null() => object["data"].to_string(),
            object => object.to_string(),
        },
    }
}

/// The name of a file, but for when it was made.
fn stem(name: &str, process_id: u32, operation: &str) -> String {
    // A worker chooses its name, and must not choose the directory with it.
    let word = |text: &str| -> String {
        let plain = |character: char| character.is_ascii_alphanumeric() || matches!(character, '-' | '_');
        text.chars().take(64).map(|character| if plain(character) { character } else { '_' }).collect()
    };
    format!("{}-{process_id}-{}", word(name), word(operation))
}

/// Writes a file that was not there, and that nobody else can read.
fn keep(directory: &Path, stem: &str, result: &Fields) -> io::Result<PathBuf> {
    let extension = if matches!(result.get::<String>("data"), Ok(Some(_))) { "txt" } else { "json" };
    let mut at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    let (mut file, path) = loop {
        let path = directory.join(format!("{stem}-{at}.{extension}"));
        match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path) {
            // The same with other parameters may have come in the same millisecond.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => at += 1,
            opened => break (opened?, path),
        }
    };
    let mut data = text(result);
    data.push('\n');
    file.write_all(data.as_bytes())?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_of_workers_choose_no_directory() {
        let stem = stem("../../etc/passwd\0x", 7, "thread_dump");
        assert_eq!(stem, "______etc_passwd_x-7-thread_dump");
    }

    #[test]
    fn what_comes_at_the_same_time_is_kept_as_well() {
        let directory = tempfile::tempdir().unwrap();
        let kept: HashSet<PathBuf> =
            (0..100).map(|_| keep(directory.path(), "web-7-dump", &Fields::empty()).unwrap()).collect();
        assert_eq!(kept.len(), 100);
    }
}
