//! What happens to an application, as `acs watch` tells of it.

use std::{io, time::Duration};

use async_container_supervisor_tests::{Dir, Program, Signal, Supervisor, proc, wait_for};
use serde_json::{Value, json};

const LIMIT: Duration = Duration::from_secs(30);

/// The events that a watcher has printed so far.
fn events(watch: &Program) -> io::Result<Vec<Value>> {
    let output = watch.stdout();
    let whole = output.rfind('\n').map_or("", |end| &output[..end]);
    Ok(whole.lines().map(serde_json::from_str).collect::<Result<_, _>>()?)
}

/// Waits for an event of that name, beyond the first `seen`, and gives it.
fn event(watch: &Program, name: &str, seen: usize) -> io::Result<Value> {
    wait_for(&format!("the event {name}"), LIMIT, || {
        Ok(events(watch)?.into_iter().skip(seen).find(|event| event["event"] == name))
    })
}

#[test]
fn the_life_of_an_application_is_told() -> io::Result<()> {
    let dir = Dir::new()?;
    let mut program = dir.example("simple")?.args(["--workers", "1"]).start()?;
    let mut supervisor = Supervisor::of(&mut program, &dir.socket(), LIMIT)?;
    supervisor.wait_for_workers("the worker", LIMIT, |workers| workers.len() == 1)?;
    let worker = supervisor.workers()?.remove(0);
    let mut watch = dir.binary("acs")?.args(["--format", "json", "watch"]).start()?;
    // A subscription has no answer of its own: others come and go until it is there to hear of them.
    wait_for("the subscription", LIMIT, || {
        Supervisor::connect(&dir.socket())?.ask("register", json!({"state": {"name": "guest"}}))?;
        Ok((!events(&watch)?.is_empty()).then_some(()))
    })?;

    let seen = events(&watch)?.len();
    proc::process(worker.pid).ok_or_else(|| io::Error::other("the worker is gone"))?.signal(Signal::KILL)?;
    let is_worker = |event: &&Value| event["name"] == json!(worker.name);
    let after = wait_for("the worker's return", LIMIT, || {
        let events: Vec<Value> = events(&watch)?.into_iter().skip(seen).filter(|event| is_worker(&event)).collect();
        Ok((events.len() >= 2).then_some(events))
    })?;
    assert_eq!((&after[0]["event"], &after[0]["connection_id"]), (&json!("remove"), &json!(worker.connection)));
    assert_eq!(after[0]["process_id"], json!(worker.pid));
    assert_eq!(after[1]["event"], "register");
    assert_ne!(after[1]["process_id"], json!(worker.pid));

    let seen = events(&watch)?.len();
    program.signal(Signal::TERM)?;
    event(&watch, "stopping", seen)?;
    assert!(program.wait(LIMIT)?.success());
    assert_eq!(watch.wait(LIMIT)?.code(), Some(3), "{}", watch.stderr());
    Ok(())
}
