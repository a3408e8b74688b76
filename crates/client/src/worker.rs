//! The workers that are connected, and how one of them is named.

use serde_json::Value;

use crate::error::Error;

/// How much of a connection id is shown, unless more is needed to tell two apart.
const SHORT_ID: usize = 8;

/// How many workers an error message lists.
const CANDIDATES: usize = 20;

/// A worker, as the supervisor lists it.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Worker {
    /// The id of its connection, which is another one after each reconnect.
    pub connection_id: String,
    /// Its process, in the pid namespace of the supervisor, or as it says itself where that cannot see it.
    pub process_id: Option<u32>,
    /// What it said of itself.
    pub state: Value,
}

impl Worker {
    /// Reads one entry of the `connections` of `status`; `None` if it is none.
    pub fn from_json(entry: &Value) -> Option<Self> {
        let state = entry.get("state").cloned().unwrap_or_default();
        let process_id = entry.get("process_id").filter(|value| !value.is_null()).or_else(|| state.get("process_id"));

        Some(Self {
            connection_id: entry.get("connection_id")?.as_str()?.to_owned(),
            process_id: process_id.and_then(Value::as_u64).and_then(|id| u32::try_from(id).ok()),
            state,
        })
    }

    /// The name that it gave itself.
    pub fn name(&self) -> Option<&str> {
        self.state.get("name")?.as_str()
    }

    /// Which of its service's instances it is, from 1, if it says so.
    pub fn instance(&self) -> Option<u64> {
        self.state.get("instance")?.as_u64()
    }

    /// Its name, and its instance where it has one: `web#2`; `-` if it has no name.
    pub fn title(&self) -> String {
        match (self.name(), self.instance()) {
            (Some(name), Some(instance)) => format!("{name}#{instance}"),
            (Some(name), None) => name.to_owned(),
            (None, _) => "-".to_owned(),
        }
    }
}

/// Brings workers into the order in which they are listed: by name, instance and process.
pub fn sort(workers: &mut [Worker]) {
    workers.sort_by(|left, right| {
        let key = |worker: &Worker| (worker.name().map(str::to_owned), worker.instance(), worker.process_id);
        key(left).cmp(&key(right))
    });
}

/// How many characters of their ids tell these workers apart, at least 8.
pub fn short_id_length(workers: &[Worker]) -> usize {
    let mut ids: Vec<&str> = workers.iter().map(|worker| worker.connection_id.as_str()).collect();
    ids.sort_unstable();

    let common = |pair: &[&str]| pair[0].chars().zip(pair[1].chars()).take_while(|(left, right)| left == right).count();
    ids.windows(2).map(|pair| common(pair) + 1).max().unwrap_or(0).max(SHORT_ID)
}

impl Worker {
    /// The beginning of its connection id. [`short_id_length`] says how much tells it from others.
    pub fn short_id(&self, length: usize) -> String {
        self.connection_id.chars().take(length).collect()
    }
}

/// The worker that is meant: by a connection id or the beginning of one, by `pid:1234`, by `name`, or by `name#2` for its
/// second instance. The workers have to be [sorted](sort).
pub fn resolve<'a>(workers: &'a [Worker], text: &str) -> Result<&'a Worker, Error> {
    if let Some(worker) = workers.iter().find(|worker| worker.connection_id == text) {
        return Ok(worker);
    }

    match &matches(workers, text)[..] {
        [worker] => Ok(worker),
        [] => {
            let candidates = match workers {
                [] => ": none is connected".to_owned(),
                workers => format!("; there are:\n{}", candidates(workers, &workers.iter().collect::<Vec<_>>())),
            };
            Err(Error::NoWorker { text: text.to_owned(), candidates })
        }
        several => {
            let candidates = candidates(workers, several);
            Err(Error::AmbiguousWorker { text: text.to_owned(), candidates })
        }
    }
}

fn matches<'a>(workers: &'a [Worker], text: &str) -> Vec<&'a Worker> {
    if let Some(process_id) = text.strip_prefix("pid:") {
        let process_id = process_id.parse::<u32>().ok();
        return workers.iter().filter(|worker| process_id.is_some() && worker.process_id == process_id).collect();
    }

    let named = |name: &str| workers.iter().filter(|worker| worker.name() == Some(name)).collect::<Vec<_>>();
    let mut found = named(text);

    // A name may itself end like that, and is then meant as a whole.
    if found.is_empty()
        && let Some((name, instance)) = text.rsplit_once('#')
        && let Ok(instance) = instance.parse::<u64>()
    {
        found = named(name);

        if found.iter().any(|worker| worker.instance().is_some()) {
            found.retain(|worker| worker.instance() == Some(instance));
        } else {
            // They do not number themselves, so their order does.
            let index = usize::try_from(instance).unwrap_or(usize::MAX).wrapping_sub(1);
            found = found.get(index).into_iter().copied().collect();
        }
    }

    // An empty text begins every id, but means none.
    let begins = |worker: &&Worker| !text.is_empty() && worker.connection_id.starts_with(text);
    found.extend(workers.iter().filter(begins).filter(|worker| worker.name() != Some(text)));
    found
}

fn candidates(all: &[Worker], workers: &[&Worker]) -> String {
    let length = short_id_length(all);
    let mut lines: Vec<String> = workers
        .iter()
        .take(CANDIDATES)
        .map(|worker| {
            let process_id = worker.process_id.map_or_else(|| "-".to_owned(), |id| id.to_string());
            format!("  {}  pid {process_id}  {}", worker.short_id(length), worker.title())
        })
        .collect();

    if workers.len() > CANDIDATES {
        lines.push(format!("  and {} more: see acs workers", workers.len() - CANDIDATES));
    }

    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn worker(id: &str, process_id: u32, state: Value) -> Worker {
        Worker { connection_id: id.to_owned(), process_id: Some(process_id), state }
    }

    fn some() -> Vec<Worker> {
        let mut workers = vec![
            worker("aa11-1", 10, json!({"name": "web", "instance": 2})),
            worker("aa12-2", 11, json!({"name": "web", "instance": 1})),
            worker("bb00-3", 12, json!({"name": "job"})),
            worker("cc00-4", 13, json!({"name": "plain"})),
            worker("cc01-5", 14, json!({"name": "plain"})),
            worker("dd00-6", 14, json!({"name": "odd#1"})),
            worker("ee00-7", 15, json!({})),
        ];
        sort(&mut workers);
        workers
    }

    fn found(text: &str) -> String {
        resolve(&some(), text).unwrap().connection_id.clone()
    }

    fn refused(text: &str) -> String {
        let failure = resolve(&some(), text).unwrap_err().into_failure();
        format!("{}: {}", failure.class(), failure.message())
    }

    #[test]
    fn by_id_and_by_its_beginning() {
        assert_eq!(found("aa11-1"), "aa11-1");
        assert_eq!(found("aa11"), "aa11-1");
        assert_eq!(found("b"), "bb00-3");
    }

    #[test]
    fn by_process() {
        assert_eq!(found("pid:12"), "bb00-3");
        assert!(refused("pid:14").contains("plain"));
        assert!(refused("pid:99").starts_with("ConnectionNotFound: no worker 'pid:99'; there are:\n"));
        assert!(refused("pid:x").starts_with("ConnectionNotFound"));
    }

    #[test]
    fn by_name_and_instance() {
        assert_eq!(found("job"), "bb00-3");
        assert_eq!(found("web#1"), "aa12-2");
        assert_eq!(found("web#2"), "aa11-1");
        // Those that do not number themselves are numbered by their order.
        assert_eq!(found("plain#1"), "cc00-4");
        assert_eq!(found("plain#2"), "cc01-5");
        assert_eq!(found("odd#1"), "dd00-6");

        for text in ["web#3", "web#0", "plain#3", "plain#0", "web#", "web#x", "", "-"] {
            assert!(refused(text).starts_with("ConnectionNotFound"), "{text:?}");
        }
    }

    #[test]
    fn an_ambiguous_one_lists_whom_it_may_mean() {
        let message = refused("aa1");
        assert!(message.contains("  aa12-2  pid 11  web#1\n  aa11-1  pid 10  web#2"), "{message}");
        assert!(!message.contains("job"));
        assert!(refused("web").starts_with("AmbiguousWorker: 'web' may be any of these"));
    }

    #[test]
    fn a_name_that_also_begins_an_id_is_ambiguous() {
        let workers = [worker("cafe-1", 1, json!({"name": "x"})), worker("0000-2", 2, json!({"name": "cafe"}))];
        assert!(resolve(&workers, "cafe").is_err());
        // But one worker that matches by both is one.
        let workers = [worker("cafe-1", 1, json!({"name": "cafe"}))];
        assert_eq!(resolve(&workers, "cafe").unwrap().process_id, Some(1));
    }

    #[test]
    fn nobody_is_connected() {
        assert!(resolve(&[], "web").unwrap_err().to_string().ends_with("none is connected"));
    }

    #[test]
    fn many_candidates_are_cut() {
        let workers: Vec<_> = (0..50).map(|id| worker(&format!("{id:08}-x"), id, json!({"name": "web"}))).collect();
        let message = resolve(&workers, "web").unwrap_err().to_string();
        assert_eq!(message.lines().count(), 1 + CANDIDATES + 1);
        assert!(message.ends_with("and 30 more: see acs workers"));
    }

    #[test]
    fn ids_are_shown_as_short_as_they_are_distinct() {
        let workers = [worker("0123456789a", 1, json!({})), worker("0123456789b", 2, json!({}))];
        assert_eq!(short_id_length(&workers), 11);
        assert_eq!(short_id_length(&workers[..1]), SHORT_ID);
        assert_eq!(workers[0].short_id(8), "01234567");
    }

    #[test]
    fn entries_are_read_as_far_as_they_go() {
        let entry = json!({"connection_id": "a", "process_id": null, "state": {"process_id": 7, "name": 5}});
        let worker = Worker::from_json(&entry).unwrap();
        assert_eq!((worker.process_id, worker.name()), (Some(7), None));
        assert_eq!(Worker::from_json(&json!({"process_id": 1})), None);
        assert_eq!(Worker::from_json(&json!("x")), None);
        assert_eq!(Worker::from_json(&json!({"connection_id": "a", "process_id": -1})).unwrap().process_id, None);
    }
}
