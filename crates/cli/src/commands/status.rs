//! `acs status`: everything at once.

use std::time::{Duration, SystemTime};

use serde_json::Value;

use super::{
    monitors::{self, elements},
    ping, workers,
};
use crate::{
    context::Context,
    error::Result,
    output::{Paint, Style, clean_line},
    overview::Overview,
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
        parts.push(format!("{heading}{}", monitors::text(name, status, &overview.workers, style)));
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

    // A path that goes on in the next line could not be copied.
    let incidents = elements(root, "children").filter_map(|child| {
        let path = child["last_incident"].as_str()?;
        let name = child["name"].as_str().unwrap_or("-");
        Some(clean_line(&format!("{name}: what was found before that exit is in {path}")) + "\n")
    });
    table.render(style) + &incidents.collect::<String>()
}

/// How a child ended, why, and when: the time of today, in UTC, or the whole date.
fn last_exit(child: &Value, now: Duration) -> Option<String> {
    let mut text = child["last_exit"].as_str()?.to_owned();
    if let Some(at) = child["last_exit_at"].as_f64() {
        text = format!("{text}, {}", moment(at, now));
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
    fn where_something_was_found_can_be_copied() {
        let path = format!("/var/lib/{}/incident-20261128T161502-worker-4711", "deep/".repeat(30));
        let root =
            json!({"children": [{"name": "web#1", "last_exit": "silent", "last_incident": path}, {"name": "web#2"}]});
        let text = children(&root, Style::PLAIN.within(80));
        assert!(text.ends_with(&format!("\nweb#1: what was found before that exit is in {path}\n")), "{text}");
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
    fn children_of_another_generation_are_told_apart() {
        let root = json!({"generation": 2, "children": [
            {"name": "web#1", "generation": 2}, {"name": "web#1", "generation": 3},
        ]});
        let text = children(&root, Style::PLAIN);
        assert!(text.contains("\nweb#1 ") && text.contains("\nweb#1 (generation 3) "), "{text}");
    }
}
