//! A process of the application, as it is named on the command line.

use async_container_supervisor_client::{Child, Error as ClientError, Root, Supervisor};

use crate::error::{Error, Result};

/// The name of the process that owns the others.
const ROOT: &str = "root";

/// The process of a worker, or else of a child, or the root, and what it is called.
pub(crate) async fn process(supervisor: &Supervisor, text: &str) -> Result<(u32, String)> {
    let error = match supervisor.worker(text).await {
        Ok(worker) => match worker.process_id {
            Some(process_id) => return Ok((process_id, worker.title())),
            None => return Err(Error::Usage(format!("{} has no process that is known here", worker.title()))),
        },
        Err(error @ ClientError::NoWorker { .. }) => error,
        Err(error) => return Err(error.into()),
    };

    // A child that never registers is nevertheless there.
    match supervisor.root().await.ok().and_then(|root| find(root, text)) {
        Some(found) => Ok(found),
        None => Err(error.into()),
    }
}

fn find(root: Root, text: &str) -> Option<(u32, String)> {
    let process_id = text.strip_prefix("pid:").and_then(|id| id.parse::<u32>().ok());
    let generation = root.generation;
    let is_meant = |child: &Child| match process_id {
        Some(_) => child.process_id == process_id,
        None => child.name == text && child.generation == generation,
    };
    let children = root.children.into_iter().filter(|child| child.process_id.is_some());
    let found = children.filter(is_meant).find_map(|child| Some((child.process_id?, child.name)));
    let is_root = root.process_id != 0 && (text == ROOT || process_id == Some(root.process_id));
    found.or_else(|| is_root.then(|| (root.process_id, ROOT.to_owned())))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn children_are_found_by_name_and_by_process() {
        let root: Root = serde_json::from_value(json!({"process_id": 7, "generation": 2, "children": [
            {"name": "web#1", "generation": 1, "process_id": 8}, {"name": "web#1", "generation": 2, "process_id": 9},
            {"name": "gone#1", "generation": 2, "process_id": null},
        ]}))
        .unwrap();
        let found = |text| find(root.clone(), text).map(|(process_id, name)| (process_id, name.to_owned()));
        assert_eq!(found("web#1"), Some((9, "web#1".to_owned())));
        assert_eq!(found("pid:8"), Some((8, "web#1".to_owned())));
        assert_eq!(found("root"), Some((7, "root".to_owned())));
        assert_eq!(found("pid:7"), Some((7, "root".to_owned())));
        assert_eq!((found("gone#1"), found("web"), found("pid:1"), found("pid:x")), (None, None, None, None));
    }
}
