//! A process of the application, as it is named on the command line.

use async_container_protocol::class;
use async_container_supervisor_client::{Child, Error as ClientError, Kind, Root, Supervisor, Worker};

use crate::error::{Error, Result};

/// The name of the process that owns the others.
const ROOT: &str = "root";

/// The worker of that name.
pub(crate) async fn named(supervisor: &Supervisor, text: &str) -> std::result::Result<Worker, ClientError> {
    match supervisor.worker(text).await {
        Err(error) => Err(explain(error, supervisor, &Root::default()).await),
        worker => worker,
    }
}

/// The worker that is to be asked. Any other process of the application can only be looked into from outside.
pub(crate) async fn worker(supervisor: &Supervisor, text: &str, kind: Kind) -> Result<Worker> {
    let error = match supervisor.worker(text).await {
        Ok(worker) => return Ok(worker),
        Err(error) => error,
    };

    if matches!(error, ClientError::NoWorker { .. }) {
        let root = supervisor.root().await.unwrap_or_default();
        if let Ok((process_id, name)) = find(&root, text) {
            let message = format!(
                "{name} (pid {process_id}) is not connected as a worker, and cannot be asked for a {}: to see where its \
                 threads are from outside, use acs thread-dump --external {text}",
                kind.name()
            );
            return Err(Error::failed(class::CONNECTION_NOT_FOUND, message));
        }
        return Err(explain(error, supervisor, &root).await.into());
    }

    Err(error.into())
}

/// Where nobody has that name, but it is the id of a process of a worker or a child: how to name it by that.
async fn explain(error: ClientError, supervisor: &Supervisor, root: &Root) -> ClientError {
    match error {
        ClientError::NoWorker { text, candidates } => {
            let hint = hint(&text, supervisor, root).await;
            ClientError::NoWorker { candidates: hint + &candidates, text }
        }
        error => error,
    }
}

async fn hint(text: &str, supervisor: &Supervisor, root: &Root) -> String {
    let Ok(wanted) = text.parse::<u32>() else { return String::new() };
    let workers = supervisor.workers().await.unwrap_or_default();
    let mut known = workers.iter().map(|worker| worker.process_id).chain(root.children.iter().map(|it| it.process_id));

    match known.any(|process_id| process_id == Some(wanted)) || root.process_id == wanted && wanted != 0 {
        true => format!(": that is the id of a process, which is named pid:{wanted}"),
        false => String::new(),
    }
}

/// The process of a worker, or else of a child, or the root, and what it is called.
pub(crate) async fn process(supervisor: &Supervisor, text: &str) -> Result<(u32, String)> {
    match supervisor.worker(text).await {
        Ok(worker) => match worker.process_id {
            Some(process_id) => return Ok((process_id, worker.title())),
            None => return Err(Error::Usage(format!("{} has no process that is known here", worker.title()))),
        },
        Err(ClientError::NoWorker { .. }) => {}
        Err(error) => return Err(error.into()),
    }

    // A child that never registers is nevertheless there.
    let root = supervisor.root().await.unwrap_or_default();
    let candidates = match find(&root, text) {
        Ok(found) => return Ok(found),
        Err(candidates) => candidates,
    };

    let message = match without_process(&root, text) {
        Some(child) => {
            format!("{} has no process now, it is {}: acs ready waits until it has one", child.name, child.state)
        }
        None => {
            let hint = hint(text, supervisor, &root).await;
            let candidates = match candidates.is_empty() {
                true => ": none is connected, and the root tells of no children".to_owned(),
                false => format!("; there are:\n  {}", candidates.join("\n  ")),
            };
            format!("no worker or child '{text}'{hint}{candidates}")
        }
    };
    Err(Error::failed(class::CONNECTION_NOT_FOUND, message))
}

/// The process that is meant and its name; or else all that may be named.
fn find(root: &Root, text: &str) -> std::result::Result<(u32, String), Vec<String>> {
    let process_id = text.strip_prefix("pid:").and_then(|id| id.parse::<u32>().ok());
    let alive = || root.children.iter().filter_map(|child| Some((child, child.process_id?)));
    let current = || current(root).filter_map(|child| Some((child, child.process_id?)));

    if process_id.is_some_and(|id| id == root.process_id) || text == ROOT && root.process_id != 0 {
        return Ok((root.process_id, ROOT.to_owned()));
    }

    let found = match process_id {
        Some(_) => alive().find(|(_, id)| Some(*id) == process_id),
        None => current().find(|(child, _)| child.name == text).or_else(|| {
            // One of a kind needs no number.
            let mut instances = current().filter(|(child, _)| service(child) == text);
            instances.next().filter(|_| instances.next().is_none())
        }),
    };

    found.map(|(child, id)| (id, child.name.clone())).ok_or_else(|| {
        let root = (root.process_id != 0).then(|| format!("{ROOT}  pid {}", root.process_id));
        root.into_iter().chain(current().map(|(child, id)| format!("{}  pid {id}", child.name))).collect()
    })
}

/// The children that are not just coming, or about to go.
fn current(root: &Root) -> impl Iterator<Item = &Child> {
    root.children.iter().filter(|child| child.generation == root.generation)
}

/// The child of that name, if it is between two processes.
fn without_process<'a>(root: &'a Root, name: &str) -> Option<&'a Child> {
    current(root).find(|child| child.name == name && child.process_id.is_none())
}

/// The name of the service that a child is an instance of.
fn service(child: &Child) -> &str {
    child.name.rsplit_once('#').map_or(&child.name, |(service, _)| service)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn children_are_found_by_name_and_by_process() {
        let root: Root = serde_json::from_value(json!({"process_id": 7, "generation": 2, "children": [
            {"name": "web#1", "generation": 1, "process_id": 8}, {"name": "web#1", "generation": 2, "process_id": 9},
            {"name": "job#1", "generation": 2, "process_id": 10}, {"name": "job#2", "generation": 2, "process_id": 11},
            {"name": "gone#1", "generation": 2, "process_id": null},
        ]}))
        .unwrap();
        let found = |text| find(&root, text).ok();
        assert_eq!(found("web#1"), Some((9, "web#1".to_owned())));
        assert_eq!(found("web"), Some((9, "web#1".to_owned())));
        assert_eq!(found("pid:8"), Some((8, "web#1".to_owned())));
        assert_eq!(found("root"), Some((7, "root".to_owned())));
        assert_eq!(found("pid:7"), Some((7, "root".to_owned())));
        assert_eq!((found("gone#1"), found("job"), found("pid:1"), found("pid:x")), (None, None, None, None));
        assert_eq!(find(&root, "we").unwrap_err(), ["root  pid 7", "web#1  pid 9", "job#1  pid 10", "job#2  pid 11"]);
        assert!(find(&Root::default(), "root").unwrap_err().is_empty());
        assert_eq!(without_process(&root, "gone#1").map(|child| child.name.as_str()), Some("gone#1"));
        assert!(without_process(&root, "web#1").is_none() && without_process(&root, "nobody").is_none());
    }
}
