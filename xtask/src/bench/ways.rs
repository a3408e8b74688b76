//! What it costs to use what a call can do beside being answered: to have a limit of time, to be given up, and to be answered in
//! parts.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use async_container_protocol::{CallError, Client};
use tokio::runtime::Runtime;

use super::{
    flight::{Echo, IN_FLIGHT},
    report::{Report, Row, Unit, microseconds, percentile},
};
use crate::Result;

/// The calls of each way in one round, one at a time and many, and how many rounds there are, in turn.
const CALLS: usize = 4_000;
const CALLS_IN_FLIGHT: usize = 64_000;
const ROUNDS: usize = 5;

/// Longer than any call takes.
const LIMIT: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy, PartialEq)]
enum Way {
    /// All others are compared with it.
    Plain,
    TimeOut,
    Dropped,
    Part,
}

const WAYS: [(Way, &str); 4] = [
    (Way::Plain, ""),
    (Way::TimeOut, "with a time-out"),
    (Way::Dropped, "each beside one that is dropped"),
    (Way::Part, "answered in one part and an end"),
];

impl Way {
    async fn call(self, client: &Client, parameters: &Echo) -> std::result::Result<(), CallError> {
        match self {
            Way::Plain => client.call("echo", parameters).finish().await?,
            Way::TimeOut => client.call("echo", parameters).timeout(LIMIT).finish().await?,
            Way::Dropped => {
                drop(client.call("echo", parameters));
                client.call("echo", parameters).finish().await?
            }
            Way::Part => {
                let mut call = client.call("part", parameters);
                while call.next().await?.is_some() {}
                call.finish().await?
            }
        };
        Ok(())
    }
}

/// Adds what is measured here to the report. The floor is a call that uses none of it.
pub(super) fn measure(report: &mut Report, runtime: &Runtime, socket: &Path) -> Result<()> {
    let socket = socket.to_owned();
    let take = async move {
        let client = Client::connect(&socket).await?;
        let mut alone: [Vec<Duration>; WAYS.len()] = Default::default();
        let mut together: [Vec<Duration>; WAYS.len()] = Default::default();
        for _ in 0..ROUNDS {
            for (index, (way, _)) in WAYS.into_iter().enumerate() {
                one_at_a_time(&client, way, &mut alone[index]).await?;
                together[index].push(many(&client, way).await?);
            }
        }
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>([alone, together].map(|times| times.map(median)))
    };
    // In a task, as the calls of `rpc.rs`.
    let [alone, together] = runtime.block_on(async { tokio::spawn(take).await })??;
    let each = |time: Duration| CALLS_IN_FLIGHT as f64 / time.as_secs_f64() / 1e3;
    for (index, (way, name)) in WAYS.into_iter().enumerate() {
        if way == Way::Plain {
            continue;
        }
        report.row(Row {
            what: format!("- one call at a time, {name}, p50"),
            unit: Unit::Microseconds,
            floor: Some(microseconds(alone[0])),
            ours: microseconds(alone[index]),
            target: None,
        });
        report.row(Row {
            what: format!("- calls a second, {IN_FLIGHT} in flight, {name}"),
            unit: Unit::Thousands,
            floor: Some(each(together[0])),
            ours: each(together[index]),
            target: None,
        });
    }
    Ok(())
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    percentile(&times, 0.5)
}

async fn one_at_a_time(client: &Client, way: Way, times: &mut Vec<Duration>) -> std::result::Result<(), CallError> {
    let parameters = Echo::new();
    for _ in 0..CALLS {
        let begin = Instant::now();
        way.call(client, &parameters).await?;
        times.push(begin.elapsed());
    }
    Ok(())
}

async fn many(client: &Client, way: Way) -> std::result::Result<Duration, CallError> {
    let begin = Instant::now();
    let tasks: Vec<_> = (0..IN_FLIGHT)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move {
                let parameters = Echo::new();
                for _ in 0..CALLS_IN_FLIGHT / IN_FLIGHT {
                    way.call(&client, &parameters).await?;
                }
                Ok::<_, CallError>(())
            })
        })
        .collect();
    for task in tasks {
        task.await.map_err(|_| CallError::ConnectionClosed)??;
    }
    Ok(begin.elapsed())
}
