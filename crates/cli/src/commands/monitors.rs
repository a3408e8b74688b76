//! What monitors tell, in `acs status`.

use std::time::Duration;

use async_container_supervisor_client::Worker;
use serde_json::Value;

use crate::{
    output::{Paint, Style, clean_line},
    render::render,
    table::{Align, Cell, Table},
    units,
};

const MEMORY: &[(&str, Align)] = &[
    ("PID", Align::Right),
    ("NAME", Align::Left),
    ("SIZE", Align::Right),
    ("PEAK", Align::Right),
    ("LIMIT", Align::Right),
    ("SAMPLES", Align::Right),
];

const GROWING: &[(&str, Align)] = &[
    ("PID", Align::Right),
    ("NAME", Align::Left),
    ("SIZE", Align::Right),
    ("PEAK", Align::Right),
    ("LIMIT", Align::Right),
    ("GREW", Align::Right),
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

const HEALTH: &[(&str, Align)] = &[
    ("PID", Align::Right),
    ("NAME", Align::Left),
    ("STATE", Align::Left),
    ("ANSWERS", Align::Right),
    ("ROUND TRIP", Align::Right),
    ("LONGEST", Align::Right),
    ("SILENT FOR", Align::Right),
];

const UTILIZATION: &[(&str, Align)] = &[("PID", Align::Right), ("NAME", Align::Left), ("COUNTS", Align::Left)];

/// A monitor's state after its heading: the ones that come with the supervisor as tables, others as they are.
pub(super) fn text(name: &str, status: &Value, workers: &[Worker], style: Style) -> String {
    if let Some(error) = status.get("error") {
        let text = |key: &str| clean_line(error[key].as_str().unwrap_or("-"));
        let error = format!("{}: {}", text("class"), text("message"));
        return format!(": {}\n", style.paint(Paint::Bad, &error));
    }

    match name {
        "memory" if status["processes"].is_array() => memory(status, workers, style),
        "process" if status["processes"].is_array() => processes(status, style),
        "health" if status["workers"].is_array() => health(status, workers, style),
        "utilization" if status["services"].is_object() => utilization(status, workers, style),
        _ => format!("\n{}", render(status)),
    }
}

fn memory(status: &Value, workers: &[Worker], style: Style) -> String {
    let bytes = |value: &Value| value.as_u64().map(units::bytes);
    let mut text = format!(": {} in use", bytes(&status["total_size"]).unwrap_or_else(|| "-".to_owned()));

    if let Some(limit) = bytes(&status["maximum_size_limit"]) {
        text.push_str(&format!(", limit {limit} a process"));
    }

    if let Some(limit) = bytes(&status["total_size_limit"]) {
        text.push_str(&format!(", limit {limit} for all"));
    }

    let increase_limit = status["increase_limit"].as_u64();
    if let Some((limit, step)) = increase_limit.zip(bytes(&status["threshold_size"])) {
        text.push_str(&format!(", limit {limit} times {step} of growth"));
    }

    let host = &status["host"];
    if let (Some(available), Some(total)) = (bytes(&host["available_size"]), bytes(&host["total_size"])) {
        text.push_str(&format!("; the host has {available} of {total} available"));
    }

    if let Some(minimum) = bytes(&status["free_size_minimum"]) {
        text.push_str(&format!(", minimum {minimum}"));
    }

    if let Some(limit) = status["pressure_limit"].as_f64() {
        let pressure = status["pressure"]["full"].as_f64().map_or_else(|| "not known here".to_owned(), units::percent);
        text.push_str(&format!("; pressure {pressure}, limit {}", units::percent(limit)));
    }

    let alone = |status: &Value| status["left_alone"].as_f64().map(units::elapsed);
    if let Some(time) = alone(status) {
        let warning = format!("restarts do not help all of them: none for {time}");
        text.push_str(&format!("\n{}", style.paint(Paint::Bad, &warning)));
    }
    for process in elements(status, "processes") {
        let (name, process_id) = (clean_line(process["name"].as_str().unwrap_or("-")), &process["process_id"]);
        if let Some(time) = alone(process) {
            let warning = format!("restarts do not help {name}, pid {process_id}: left alone for {time}");
            text.push_str(&format!("\n{}", style.paint(Paint::Bad, &warning)));
        }
        if process["restarting"] == true {
            let news = format!("a restart of {name}, pid {process_id}, is under way");
            text.push_str(&format!("\n{}", style.paint(Paint::Passing, &news)));
        }
    }

    let mut table = Table::new(if increase_limit.is_some() { GROWING } else { MEMORY });
    for process in in_order(elements(status, "processes"), workers) {
        let (size, limit) = (process["current_size"].as_u64(), process["maximum_size_limit"].as_u64());
        let process_id = process["process_id"].as_u64();
        let over = size.zip(limit).is_some_and(|(size, limit)| size > limit);
        let grew = increase_limit.map(|_| Cell::optional(process["increase_count"].as_u64()));
        let cells = [
            Cell::optional(process_id),
            title(process, workers),
            Cell::painted(
                bytes(&process["current_size"]).as_deref().unwrap_or("-"),
                if over { Paint::Bad } else { Paint::Plain },
            ),
            Cell::optional(bytes(&process["maximum_size"])),
            Cell::optional(limit.map(units::bytes)),
        ];
        table.row(cells.into_iter().chain(grew).chain([Cell::optional(process["sample_count"].as_u64())]));
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

    if status["root_process_id"].is_null() {
        return ": nothing is measured yet\n".to_owned();
    }

    let root = status["root_process_id"].as_u64().map(|id| format!(" of root {id}")).unwrap_or_default();
    format!("{root}\n{}", table.render(style))
}

pub(super) fn elements<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    value[key].as_array().into_iter().flatten()
}

fn health(status: &Value, workers: &[Worker], style: Style) -> String {
    let after = |key: &str| status[key].as_f64().map(units::elapsed);
    let steps = [("warns", "warn_after"), ("looks closer", "dump_after"), ("restarts", "restart_after")];
    let steps = steps.iter().filter_map(|(does, key)| Some(format!("{does} after {}", after(key)?)));
    let steps: Vec<String> = steps.collect();
    let mut table = Table::new(HEALTH);

    for worker in in_order(elements(status, "workers"), workers) {
        let time = |key: &str| worker[key].as_f64().and_then(|time| Duration::try_from_secs_f64(time).ok());
        let state = worker["state"].as_str().unwrap_or("-");
        // Of none it is zero.
        let longest = time("maximum_round_trip").filter(|_| worker["answers"] != 0);
        table.row([
            Cell::optional(worker["process_id"].as_u64()),
            title(worker, workers),
            Cell::painted(state, if state == "well" { Paint::Good } else { Paint::Bad }),
            Cell::optional(worker["answers"].as_u64()),
            Cell::optional(time("round_trip").map(units::milliseconds)),
            Cell::optional(longest.map(units::milliseconds)),
            Cell::optional(worker["silent_for"].as_f64().map(units::elapsed)),
        ]);
    }

    let steps = if steps.is_empty() { String::new() } else { format!(": {}", steps.join(", ")) };
    format!("{steps}\n{}", table.render(style))
}

fn utilization(status: &Value, workers: &[Worker], style: Style) -> String {
    let mut table = Table::new(UTILIZATION);
    let figures = |metrics: &Value| {
        let metrics = metrics.as_object().into_iter().flatten();
        let figures: Vec<String> = metrics.map(|(name, value)| format!("{name} {value}")).collect();
        if figures.is_empty() { "nothing is counted yet".to_owned() } else { figures.join(", ") }
    };

    for (service, sums) in status["services"].as_object().into_iter().flatten() {
        let name = format!("all {} of {service}", sums["worker_count"].as_u64().unwrap_or_default());
        table.row([Cell::optional(None::<u64>), Cell::from(name), Cell::from(figures(&sums["metrics"]))]);
    }

    for worker in in_order(elements(status, "workers"), workers) {
        let figures = worker["error"].as_str().map_or_else(|| figures(&worker["metrics"]), str::to_owned);
        table.row([Cell::optional(worker["process_id"].as_u64()), title(worker, workers), Cell::from(figures)]);
    }

    format!("\n{}", table.render(style))
}

/// What a monitor tells of workers, in the order of these.
fn in_order<'a>(told: impl Iterator<Item = &'a Value>, workers: &[Worker]) -> Vec<&'a Value> {
    let mut told: Vec<&Value> = told.collect();
    told.sort_by_cached_key(|told| place(told, workers).unwrap_or(usize::MAX));
    told
}

/// Which of the workers it is that a monitor tells of.
fn place(told: &Value, workers: &[Worker]) -> Option<usize> {
    let by_id = |key: &str| workers.iter().position(|worker| told[key] == worker.connection_id.as_str());
    let by_process = || {
        let process_id = told["process_id"].as_u64()?;
        workers.iter().position(|worker| worker.process_id.map(u64::from) == Some(process_id))
    };
    by_id("connection_id").or_else(|| by_id("id")).or_else(by_process)
}

/// What the worker is called that a monitor tells of. The monitor knows the name alone, of which there may be many.
fn title(told: &Value, workers: &[Worker]) -> Cell {
    let worker = place(told, workers).map(|place| &workers[place]);
    Cell::optional(worker.map(Worker::title).or_else(|| told["name"].as_str().map(str::to_owned)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_monitor_that_failed_says_why() {
        let status = json!({"error": {"class": "Internal", "message": "it\npanicked"}});
        assert_eq!(text("memory", &status, &[], Style::PLAIN), ": Internal: it panicked\n");
    }

    fn worker(id: &str, process_id: u32) -> Worker {
        let worker = json!({"connection_id": id, "process_id": process_id, "state": {"name": "web", "instance": 2}});
        Worker::from_json(&worker).unwrap()
    }

    #[test]
    fn restarts_are_said_above_the_memory_with_those_that_do_not_help() {
        let status = json!({"total_size": 1 << 30, "total_size_limit": 700 << 20, "left_alone": 27.0, "processes": [
            {"process_id": 7, "name": "web", "current_size": 5 << 20, "maximum_size_limit": 1 << 20, "left_alone": 9.5},
            {"process_id": 8, "name": "web", "current_size": 1 << 20, "maximum_size_limit": 2 << 20, "left_alone": null},
            {"process_id": 9, "name": "web", "current_size": 3 << 20, "maximum_size_limit": 2 << 20, "restarting": true},
        ]});
        let text = text("memory", &status, &[], Style::PLAIN);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], ": 1.0 GiB in use, limit 700.0 MiB for all");
        assert_eq!(lines[1], "restarts do not help all of them: none for 27 s");
        assert_eq!(lines[2], "restarts do not help web, pid 7: left alone for 9 s");
        assert_eq!(lines[3], "a restart of web, pid 9, is under way");
        assert!(lines[4].trim_start().starts_with("PID"), "{text}");
    }

    #[test]
    fn every_limit_of_memory_is_shown() {
        let status = json!({"total_size": 1 << 30, "threshold_size": 10 << 20, "increase_limit": 5, "free_size_minimum": 1 << 30,
            "pressure_limit": 0.2, "pressure": {"some": 0.5, "full": 0.031},
            "host": {"available_size": 2u64 << 30, "total_size": 4u64 << 30},
            "processes": [{"process_id": 7, "name": "web", "current_size": 5 << 20, "increase_count": 3, "sample_count": 70}]});
        let shown = text("memory", &status, &[], Style::PLAIN);
        let lines: Vec<&str> = shown.lines().collect();
        assert_eq!(
            lines[0],
            ": 1.0 GiB in use, limit 5 times 10.0 MiB of growth; the host has 2.0 GiB of 4.0 GiB available, minimum 1.0 GiB; \
             pressure 3.1%, limit 20.0%"
        );
        assert!(lines[1].ends_with("GREW  SAMPLES") && lines[2].ends_with("   3       70"), "{shown}");
        let shown = text("memory", &json!({"pressure_limit": 0.2, "processes": []}), &[], Style::PLAIN);
        assert!(shown.contains("pressure not known here, limit 20.0%"), "{shown}");
    }

    #[test]
    fn before_the_first_check_nothing_is_measured_of_processes() {
        let status = json!({"root_process_id": null, "processes": []});
        assert_eq!(text("process", &status, &[], Style::PLAIN), ": nothing is measured yet\n");
    }

    #[test]
    fn workers_are_told_of_in_one_order() {
        let told = json!([{"process_id": 5, "name": "x"}, {"id": "b", "process_id": 8}, {"process_id": 9}]);
        let workers = [worker("a", 9), worker("b", 8)];
        let told = in_order(told.as_array().into_iter().flatten(), &workers);
        assert_eq!(
            told.iter().map(|told| told["process_id"].as_u64()).collect::<Vec<_>>(),
            [Some(9), Some(8), Some(5)]
        );
    }

    #[test]
    fn health_is_a_table() {
        let status = json!({"warn_after": 1.0, "dump_after": null, "restart_after": 30.0, "workers": [
            {"connection_id": "a", "process_id": 7, "name": "web", "state": "silent", "answers": 3, "round_trip": 0.0003,
             "maximum_round_trip": 0.01, "silent_for": 4.0},
            {"connection_id": "b", "process_id": 8, "name": "web", "state": "well", "answers": 0, "round_trip": null,
             "maximum_round_trip": 0.0, "silent_for": null},
        ]});
        let text = text("health", &status, &[worker("a", 7), worker("b", 8)], Style::PLAIN);
        let title = worker("a", 7).title();
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split("  ").map(str::trim).collect()).collect();
        assert_eq!(lines[0], [": warns after 1 s, restarts after 30 s"]);
        let row = |line: usize| -> Vec<&str> { lines[line].iter().copied().filter(|cell| !cell.is_empty()).collect() };
        assert_eq!(row(2), ["7", &title, "silent", "3", "0.300 ms", "10.000 ms", "4 s"]);
        assert_eq!(row(3), ["8", &worker("b", 8).title(), "well", "0", "-", "-", "-"]);
    }

    #[test]
    fn utilization_is_a_table_of_services_and_workers() {
        let status = json!({
            "services": {"web": {"worker_count": 2, "metrics": {"active": 1, "total": 20}}},
            "workers": [{"id": "a", "process_id": 7, "name": "web", "metrics": {}},
                        {"id": "b", "process_id": 8, "name": "cron", "error": "the worker has no operation"}],
        });
        let text = text("utilization", &status, &[worker("a", 7)], Style::PLAIN);
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        assert_eq!((lines[0], lines[1]), ("", "PID  NAME          COUNTS"));
        assert_eq!(lines[2], "-  all 2 of web  active 1, total 20");
        let title = worker("a", 7).title();
        assert_eq!(lines[3], format!("7  {title:12}  nothing is counted yet"));
        assert_eq!(lines[4], "8  cron          the worker has no operation");
    }
}
