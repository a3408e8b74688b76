//! `acs watch`: events as they happen.

use std::time::{SystemTime, UNIX_EPOCH};

use async_container_supervisor_client::Supervisor;
use serde_json::{Map, Value, json};

use crate::{
    context::Context,
    error::Result,
    output::{Paint, Style, clean_line},
    units,
};

/// Stands where events may be missing. A supervisor says so of those that did not fit, with their number; this says so
/// of those between two supervisors, which nobody counts.
const LOST: &str = "lost";

/// The longest of the usual names, so that what follows is aligned.
const WIDTH: usize = 8;

pub(super) async fn run(context: &Context, events: &[String]) -> Result {
    let mut supervisor = context.connect().await?;

    loop {
        match follow(context, &supervisor, events).await {
            Err(error) if !error.is_connection_closed() => return Err(error),
            // It is being replaced, or the application has ended. The one can be told from the other by whether somebody
            // listens at the socket.
            _ => context.pause().await,
        }

        supervisor = loop {
            match context.connect().await {
                Err(error) if error.is_connection_closed() => context.pause().await,
                result => break result?,
            }
        };
        print(context, &json!({"event": LOST, "at": now(), "count": null}))?;
    }
}

/// Prints what one supervisor tells, until it stops.
async fn follow(context: &Context, supervisor: &Supervisor, events: &[String]) -> Result {
    let mut events = supervisor.subscribe(events);

    while let Some(event) = events.next().await? {
        print(context, &event)?;
    }

    Ok(())
}

fn print(context: &Context, event: &Value) -> Result {
    context.output.print(event, |style| line(event, style))
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// `2026-11-24T07:41:24.123Z  register  web  pid 4242  6f0b7b1e`
pub(crate) fn line(event: &Value, style: Style) -> String {
    let name = event["event"].as_str().unwrap_or("-");
    let time = event["at"].as_f64().map_or_else(|| "-".to_owned(), units::timestamp);
    let padded = format!("{:WIDTH$}", clean_line(name));
    let mut line = format!("{time}  {}", style.paint(paint(name), &padded));

    for part in parts(name, event) {
        line.push_str("  ");
        line.push_str(&clean_line(&part));
    }

    line
}

pub(crate) fn paint(event: &str) -> Paint {
    match event {
        "register" => Paint::Good,
        "remove" | "restart" | "stopping" => Paint::Passing,
        "leak" | LOST => Paint::Bad,
        _ => Paint::Plain,
    }
}

/// What there is to say, the usual first.
pub(crate) fn parts(name: &str, event: &Value) -> Vec<String> {
    let Value::Object(fields) = event else { return Vec::new() };

    if name == LOST {
        let text = match fields.get("count").and_then(Value::as_u64) {
            Some(1) => "1 event was lost here".to_owned(),
            Some(count) => format!("{count} events were lost here"),
            None => "another supervisor: events may have been lost here".to_owned(),
        };
        return vec![text];
    }

    if let ("metrics", Some(services)) = (name, fields.get("services").and_then(Value::as_object)) {
        return services.iter().map(|(service, sums)| of_service(service, sums)).collect();
    }

    let mut parts = Vec::new();
    parts.extend(text(fields, "name").filter(|name| !name.is_empty()).map(str::to_owned));
    parts.extend(fields.get("process_id").and_then(Value::as_u64).map(|process_id| format!("pid {process_id}")));
    parts.extend(text(fields, "connection_id").map(|id| id.split('-').next().unwrap_or(id).to_owned()));
    parts.extend(text(fields, "reason").map(str::to_owned));
    parts.extend(text(fields, "signal").map(|signal| format!("{signal} to the root")));

    let usual = ["event", "at", "monitor", "name", "process_id", "connection_id", "reason", "signal"];
    let others = fields.iter().filter(|(key, _)| !usual.contains(&key.as_str()));
    parts.extend(others.map(|(key, value)| format!("{key} {}", figure(key, value))));
    parts
}

/// What the workers of a service have counted together.
fn of_service(service: &str, sums: &Value) -> String {
    let count = sums["worker_count"].as_u64().unwrap_or_default();
    let metrics = sums["metrics"].as_object().into_iter().flatten();
    let metrics: Vec<String> = metrics.map(|(name, value)| format!("{name} {value}")).collect();
    format!("{service} ({count}): {}", if metrics.is_empty() { "nothing yet".to_owned() } else { metrics.join(", ") })
}

fn text<'a>(fields: &'a Map<String, Value>, key: &str) -> Option<&'a str> {
    fields.get(key)?.as_str()
}

/// A value as people read it: sizes are in bytes, and their names say that they are sizes.
fn figure(key: &str, value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Number(number) if key.ends_with("_size") || key.ends_with("_size_limit") => {
            number.as_u64().map_or_else(|| number.to_string(), units::bytes)
        }
        value => value.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(event: Value) -> String {
        line(&event, Style::PLAIN)
    }

    #[test]
    fn events_are_one_line_each() {
        let at = 1_767_225_600.25;
        let id = "6f0b7b1e-3f0c-4c4c-8d0e-0a3f4b1f5f11";
        assert_eq!(
            plain(json!({"event": "register", "at": at, "connection_id": id, "process_id": 4242, "name": "web"})),
            "2026-01-01T00:00:00.250Z  register  web  pid 4242  6f0b7b1e"
        );
        assert_eq!(
            plain(json!({"event": "restart", "at": at, "process_id": 1, "name": null, "reason": "too\nold"})),
            "2026-01-01T00:00:00.250Z  restart   pid 1  too old"
        );
        assert_eq!(
            plain(json!({"event": "restart", "at": at, "signal": "HUP"})),
            "2026-01-01T00:00:00.250Z  restart   HUP to the root"
        );
        assert_eq!(
            plain(json!({"event": "leak", "at": at, "monitor": "memory", "name": "web", "current_size": 115343360})),
            "2026-01-01T00:00:00.250Z  leak      web  current_size 110.0 MiB"
        );
        assert_eq!(plain(json!({"event": "stopping", "at": at})), "2026-01-01T00:00:00.250Z  stopping");
        assert_eq!(
            plain(json!({"event": "lost", "at": at, "count": 12})),
            "2026-01-01T00:00:00.250Z  lost      12 events were lost here"
        );
        let sums =
            json!({"echo": {"worker_count": 2, "metrics": {"active": 1, "total": 20}}, "idle": {"worker_count": 1}});
        assert_eq!(
            plain(json!({"event": "metrics", "at": at, "monitor": "utilization", "services": sums})),
            "2026-01-01T00:00:00.250Z  metrics   echo (2): active 1, total 20  idle (1): nothing yet"
        );
        assert_eq!(plain(json!({"event": "queue", "list": [1, {"a": null}]})), "-  queue     list [1,{\"a\":null}]");
    }
}
