//! `acs ping`: is it there, how fast is it, and which version is it?

use std::time::Instant;

use serde_json::Value;

use crate::{context::Context, error::Result, units};

pub(super) async fn run(context: &Context) -> Result {
    let supervisor = context.connect().await?;
    // The first call also pays for the connection, which may have waited for a supervisor to start.
    supervisor.call("ping", &()).await?;
    let start = Instant::now();
    let answer = supervisor.call("ping", &()).await?;
    let round_trip = start.elapsed();

    let mut document = answer.to_json();
    document["round_trip"] = round_trip.as_secs_f64().into();
    document["client_version"] = env!("CARGO_PKG_VERSION").into();

    context.output.print(&document, |_| {
        format!(
            "{}, answered in {}; acs {}",
            supervisor_line(&document),
            units::milliseconds(round_trip),
            env!("CARGO_PKG_VERSION")
        )
    })
}

/// `supervisor 0.1.0, pid 4711, up 3 min 12 s`, from the answer to `ping`.
pub(super) fn supervisor_line(answer: &Value) -> String {
    let mut line = format!("supervisor {}", crate::output::clean_line(answer["version"].as_str().unwrap_or("-")));

    if let Some(process_id) = answer["process_id"].as_u64() {
        line.push_str(&format!(", pid {process_id}"));
    }

    if let Some(uptime) = answer["uptime"].as_f64() {
        line.push_str(&format!(", up {}", units::elapsed(uptime)));
    }

    line
}
