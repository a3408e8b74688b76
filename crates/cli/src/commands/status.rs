//! `acs status`: everything at once.

use std::time::{Duration, SystemTime};

use async_container_supervisor_client::Worker;
use serde_json::Value;

use super::{ping, workers};
use crate::{
    context::Context,
    error::Result,
    output::{Paint, Style, clean_line},
    overview::Overview,
    render::render,
    table::{Align, Cell, Table},
    units,
};

const CHILDREN: &[(&str, Align)] = &[
    ("CHILD", Align::Left),
    ("PID", Align::Right),
    ("STATE", Align::Left),
    ("RESTARTS", Align::Right),
    ("LAST EXIT", Align::Left),
    ("NEXT START", Align::Left),
];

const MEMORY: &[(&str, Align)] = &[
    ("PID", Align::Right),
    ("NAME", Align::Left),
    ("SIZE", Align::Right),
    ("PEAK", Align::Right),
    ("LIMIT", Align::Right),
    ("SAMPLES", Align::Right),
];

const PROCESSES: &[(&str, Align)] = &[
    ("PID", Align::Right),
    ("PARENT", Align::Right),
    ("CPU", Align::Right),
    ("RESIDENT", Align::Right),
    ("TOTAL", Align::Right),
    ("CPU TIME", Align::Right),
    ("UPTIME", Align::Right),
    ("COMMAND", Align::Left),
];

pub(super) async fn run(context: &Context) -> Result {
    let supervisor = context.connect().await?;
    let overview = Overview::fetch(&supervisor).await?;
    context.output.print(&overview.to_json(), |style| text(&overview, style))
}

fn text(overview: &Overview, style: Style) -> String {
    let mut parts = vec![match &overview.supervisor {
        Some(answer) => ping::supervisor_line(answer) + "\n",
        None => "supervisor\n".to_owned(),
    }];

    if let Some(root) = &overview.root {
        parts[0].push_str(&root_line(root, style));
        parts.push(children(root, style));
    }

    for (name, status) in &overview.monitors {
        let heading = style.paint(Paint::Bold, &format!("Monitor {}", clean_line(name)));
        parts.push(format!("{heading}{}", monitor(name, status, &overview.workers, style)));
    }

    parts.push(match overview.workers.is_empty() {
        true => "no workers are connected\n".to_owned(),
        false => workers::table(overview, style),
    });

    parts.join("\n")
}

/// `root pid 4710, generation 2, ready`
fn root_line(root: &Value, style: Style) -> String {
    let mut line = "root".to_owned();

    if let Some(process_id) = root["process_id"].as_u64() {
        line.push_str(&format!(" pid {process_id}"));
    }

    if let Some(generation) = root["generation"].as_u64() {
        line.push_str(&format!(", generation {generation}"));
    }

    match root["ready"].as_bool() {
        Some(true) => line.push_str(&format!(", {}", style.paint(Paint::Good, "ready"))),
        Some(false) => line.push_str(&format!(", {}", style.paint(Paint::Passing, "not ready"))),
        None => {}
    }

    if root["reloading"] == true {
        line.push_str(&format!(", {}", style.paint(Paint::Passing, "reloading")));
    }

    line.push('\n');

    if let Some(error) = root["reload_error"].as_str() {
        let error = format!("the last reload failed: {}", clean_line(error));
        line.push_str(&style.paint(Paint::Bad, &error));
        line.push('\n');
    }

    line
}

fn children(root: &Value, style: Style) -> String {
    let mut table = Table::new(CHILDREN);
    let active = root["generation"].as_u64();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();

    for child in elements(root, "children") {
        // While a new generation comes up beside the old one, the names alone would not tell them apart.
        let name = child["name"].as_str().unwrap_or("-");
        let generation = child["generation"].as_u64().filter(|generation| active.is_some_and(|id| id != *generation));
        let name = generation.map_or_else(|| name.to_owned(), |id| format!("{name} (generation {id})"));
        let state = child["state"].as_str().unwrap_or("-");
        table.row([
            name.into(),
            Cell::optional(child["process_id"].as_u64()),
            Cell::painted(state, workers::paint(state)),
            Cell::optional(child["restarts"].as_u64()),
            Cell::optional(last_exit(child, now)),
            Cell::optional(child["next_start"].as_f64().map(|at| next_start(at, now))),
        ]);
    }

    table.render(style)
}

/// How a child ended, why, and when: the time of today, in UTC, or the whole date; and where what was found about it before
/// that is kept.
fn last_exit(child: &Value, now: Duration) -> Option<String> {
    let mut text = child["last_exit"].as_str()?.to_owned();
    if let Some(at) = child["last_exit_at"].as_f64() {
        text = format!("{text}, {}", moment(at, now));
    }
    if let Some(path) = child["last_incident"].as_str() {
        text = format!("{text}; see {path}");
    }
    Some(text)
}

fn moment(at: f64, now: Duration) -> String {
    let at = units::timestamp(at);
    let today = units::timestamp(now.as_secs_f64());
    match at.split_once('T') {
        Some((date, time)) if today.starts_with(date) => time.split('.').next().unwrap_or(time).to_owned() + "Z",
        _ => at,
    }
}

/// When something is to be started, in seconds since 1970, as seen from now.
fn next_start(at: f64, now: Duration) -> String {
    let seconds = at - now.as_secs_f64();
    if seconds > 0.0 { format!("in {}", units::elapsed(seconds)) } else { "now".to_owned() }
}

/// A monitor's state after its heading: the ones that come with the supervisor as tables, others as they are.
fn monitor(name: &str, status: &Value, workers: &[Worker], style: Style) -> String {
    if let Some(error) = status.get("error") {
        let text = |key: &str| clean_line(error[key].as_str().unwrap_or("-"));
        let error = format!("{}: {}", text("class"), text("message"));
        return format!(": {}\n", style.paint(Paint::Bad, &error));
    }

    match name {
        "memory" if status["processes"].is_array() => memory(status, workers, style),
        "process" if status["processes"].is_array() => processes(status, style),
        _ => format!("\n{}", render(status)),
    }
}

fn memory(status: &Value, workers: &[Worker], style: Style) -> String {
    let bytes = |value: &Value| value.as_u64().map(units::bytes);
    let mut text = format!(": {} in use", bytes(&status["total_size"]).unwrap_or_else(|| "-".to_owned()));

    if let Some(limit) = bytes(&status["maximum_size_limit"]) {
        text.push_str(&format!(", limit {limit} a process"));
    }

    let host = &status["host"];
    if let (Some(available), Some(total)) = (bytes(&host["available_size"]), bytes(&host["total_size"])) {
        text.push_str(&format!("; the host has {available} of {total} available"));
    }

    let mut table = Table::new(MEMORY);
    for process in elements(status, "processes") {
        let (size, limit) = (process["current_size"].as_u64(), process["maximum_size_limit"].as_u64());
        let process_id = process["process_id"].as_u64();
        let worker =
            workers.iter().find(|worker| process_id.is_some() && worker.process_id.map(u64::from) == process_id);
        let over = size.zip(limit).is_some_and(|(size, limit)| size > limit);
        table.row([
            Cell::optional(process_id),
            // The monitor knows the name alone, of which there may be many.
            Cell::optional(worker.map(Worker::title).or_else(|| process["name"].as_str().map(str::to_owned))),
            Cell::painted(
                bytes(&process["current_size"]).as_deref().unwrap_or("-"),
                if over { Paint::Bad } else { Paint::Plain },
            ),
            Cell::optional(bytes(&process["maximum_size"])),
            Cell::optional(limit.map(units::bytes)),
            Cell::optional(process["sample_count"].as_u64()),
        ]);
    }

    format!("{text}\n{}", table.render(style))
}

fn processes(status: &Value, style: Style) -> String {
    let mut table = Table::new(PROCESSES);

    for process in elements(status, "processes") {
        let figure = |key: &str| process[key].as_u64();
        let time = |key: &str| process[key].as_f64().map(units::elapsed);
        table.row([
            Cell::optional(figure("process_id")),
            Cell::optional(figure("parent_process_id")),
            Cell::optional(process["processor_utilization"].as_f64().map(units::percent)),
            Cell::optional(figure("resident_size").map(units::bytes)),
            Cell::optional(figure("total_size").map(units::bytes)),
            Cell::optional(time("processor_time")),
            Cell::optional(time("elapsed_time")),
            Cell::optional(process["command"].as_str()),
        ]);
    }

    let root = status["root_process_id"].as_u64().map(|id| format!(" of root {id}")).unwrap_or_default();
    format!("{root}\n{}", table.render(style))
}

fn elements<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    value[key].as_array().into_iter().flatten()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_end_is_shown_with_its_reason_and_its_time() {
        let child =
            |at: Value| json!({"last_exit": "memory limit 512.0 MiB, was 530.1 MiB, status 0", "last_exit_at": at});
        let now = Duration::from_secs(1_767_225_600 + 43_384);
        let how = "memory limit 512.0 MiB, was 530.1 MiB, status 0";
        assert_eq!(last_exit(&child(json!(1_767_225_600.5)), now), Some(format!("{how}, 00:00:00Z")));
        assert_eq!(last_exit(&child(json!(1_767_225_599.5)), now), Some(format!("{how}, 2025-12-31T23:59:59.500Z")));
        assert_eq!(last_exit(&child(Value::Null), now), Some(how.to_owned()));
        assert_eq!(last_exit(&json!({"last_exit": null}), now), None);
    }

    #[test]
    fn starts_are_told_from_now() {
        let now = Duration::from_secs(1000);
        assert_eq!(next_start(1012.5, now), "in 12 s");
        assert_eq!(next_start(999.0, now), "now");
    }

    #[test]
    fn what_is_missing_is_a_dash() {
        let root = json!({"children": [{"name": "web#1", "process_id": null}]});
        let text = children(&root, Style::PLAIN);
        assert!(text.lines().nth(1).unwrap().starts_with("web#1    -  -"), "{text}");
        assert_eq!(root_line(&json!({}), Style::PLAIN), "root\n");
    }

    #[test]
    fn a_monitor_that_failed_says_why() {
        let status = json!({"error": {"class": "Internal", "message": "it\npanicked"}});
        assert_eq!(monitor("memory", &status, &[], Style::PLAIN), ": Internal: it panicked\n");
    }

    #[test]
    fn children_of_another_generation_are_told_apart() {
        let root = json!({"generation": 2, "children": [
            {"name": "web#1", "generation": 2}, {"name": "web#1", "generation": 3},
        ]});
        let text = children(&root, Style::PLAIN);
        assert!(text.contains("\nweb#1 ") && text.contains("\nweb#1 (generation 3) "), "{text}");
    }
}
