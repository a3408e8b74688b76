//! `acs workers`: one row a worker.

use async_container_supervisor_client::short_id_length;
use serde_json::{Value, json};

use crate::{
    context::Context,
    error::Result,
    output::{Paint, Style},
    overview::Overview,
    table::{Align, Cell, Table},
    units,
};

const COLUMNS: &[(&str, Align)] = &[
    ("ID", Align::Left),
    ("PID", Align::Right),
    ("NAME", Align::Left),
    ("UPTIME", Align::Right),
    ("MEMORY", Align::Right),
    ("CPU", Align::Right),
    ("STATE", Align::Left),
];

/// What is known of a worker that is no child of the root, or whose root does not tell.
const CONNECTED: &str = "connected";

pub(super) async fn run(context: &Context) -> Result {
    let supervisor = context.connect().await?;
    let overview = Overview::fetch(&supervisor).await?;
    context.output.print(&document(&overview), |style| match overview.workers.is_empty() {
        true => "no workers are connected".to_owned(),
        false => table(&overview, style),
    })
}

fn document(overview: &Overview) -> Value {
    let workers = overview.workers.iter().zip(overview.usages()).map(|(worker, usage)| {
        json!({
            "connection_id": worker.connection_id,
            "process_id": worker.process_id,
            "name": worker.name(),
            "uptime": usage.uptime,
            "memory": usage.memory,
            "processor_utilization": usage.processor,
            "child": usage.child,
            "lifecycle": usage.lifecycle,
            "state": worker.state,
        })
    });
    workers.collect()
}

/// The workers as a table with its headings.
pub(super) fn table(overview: &Overview, style: Style) -> String {
    let length = short_id_length(&overview.workers);
    let mut table = Table::new(COLUMNS);

    for (worker, usage) in overview.workers.iter().zip(overview.usages()) {
        let lifecycle = usage.lifecycle.as_deref();
        table.row([
            worker.short_id(length).into(),
            Cell::optional(worker.process_id),
            worker.title().into(),
            Cell::optional(usage.uptime.map(units::elapsed)),
            Cell::optional(usage.memory.map(units::bytes)),
            Cell::optional(usage.processor.map(units::percent)),
            Cell::painted(lifecycle.unwrap_or(CONNECTED), lifecycle.map_or(Paint::Plain, paint)),
        ]);
    }

    table.render(style)
}

/// How the state of a child is shown.
pub(crate) fn paint(state: &str) -> Paint {
    match state {
        "ready" => Paint::Good,
        "starting" | "unready" | "stopping" | "waiting" => Paint::Passing,
        "stopped" => Paint::Bad,
        _ => Paint::Plain,
    }
}
