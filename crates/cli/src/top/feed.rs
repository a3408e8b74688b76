//! What the live view is told: by a task that asks the supervisor, and finds the next one when it is replaced.

use std::{
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use async_container_supervisor_client::Supervisor;
use tokio::{
    sync::mpsc::UnboundedSender,
    time::{MissedTickBehavior, interval, sleep},
};

use super::{
    host::Host,
    model::{Snapshot, Update},
};
use crate::{error::Result, overview::Overview};

/// How long to wait before looking again for a supervisor that is not there: nothing tells when it comes.
const RETRY: Duration = Duration::from_millis(100);

/// How long an answer may take before that is worth a word.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// Follows supervisors, one after the other, until nobody listens here.
pub(super) async fn follow(path: PathBuf, period: Duration, updates: UnboundedSender<Update>) {
    while !updates.is_closed() {
        if let Err(error) = follow_one(&path, period, &updates).await {
            let reason = match error {
                error if error.is_connection_closed() => "connecting again".to_owned(),
                error => error.to_string(),
            };
            let _ = updates.send(Update::Lost(reason));
        }

        sleep(RETRY).await;
    }
}

async fn follow_one(path: &Path, period: Duration, updates: &UnboundedSender<Update>) -> Result {
    let supervisor = Supervisor::connect(path).await?;
    // Before anything is looked at, so that nothing falls in between.
    let mut events = supervisor.subscribe(&[] as &[&str]);
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);

    loop {
        tokio::select! {
            event = events.next() => match event? {
                Some(event) => drop(updates.send(Update::Event(event))),
                None => return Ok(()),
            },
            _ = ticks.tick() => {
                let Ok(overview) = tokio::time::timeout(PATIENCE, Overview::fetch(&supervisor)).await else {
                    let _ = updates.send(Update::Lost(format!("no answer for {} s", PATIENCE.as_secs())));
                    continue;
                };
                let snapshot = Snapshot { overview: overview?, host: Host::read(), at: now() };
                let _ = updates.send(Update::Snapshot(Box::new(snapshot)));
            }
        }
    }
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}
