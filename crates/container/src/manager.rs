//! What whoever started the root is told, such as a service manager.

use std::time::Duration;

use crate::guardian::Watch;
use crate::notify::{Message, Notify};

/// The way to whoever started the root.
pub(crate) struct Manager {
    /// Ticks twice in the time that a service manager allows between signs of life, if it wants any.
    watchdog: Option<tokio::time::Interval>,
}

impl Manager {
    pub(crate) fn new() -> Self {
        Manager { watchdog: watchdog_timeout().map(|timeout| tokio::time::interval(timeout / 2)) }
    }

    /// Tells, if anybody wants to know. The log has it all already.
    pub(crate) fn tell(&self, watch: Option<&Watch>, message: &Message) {
        let notify = Notify::open();
        if !notify.is_connected() {
            return;
        }
        let told = match (watch, notify.datagram(message)) {
            // A manager listens to the process that it started, and that is the guardian.
            (Some(watch), Ok(Some(datagram))) => {
                watch.notify(&datagram);
                Ok(())
            }
            (_, Err(error)) => Err(error),
            (_, Ok(_)) => notify.send(message),
        };
        if let Err(error) = told {
            tracing::warn!(%error, "cannot tell whoever started this program");
        }
    }

    pub(crate) async fn tick(&mut self) {
        match &mut self.watchdog {
            Some(interval) => {
                interval.tick().await;
            }
            None => std::future::pending().await,
        }
    }
}

/// What sd_watchdog_enabled(3) would say, for this process or its guardian.
fn watchdog_timeout() -> Option<Duration> {
    let timeout: u64 = std::env::var("WATCHDOG_USEC").ok()?.parse().ok()?;
    let ours = match std::env::var("WATCHDOG_PID") {
        Ok(process_id) => {
            let parent = rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get());
            process_id.parse().is_ok_and(|pid| pid == std::process::id().cast_signed() || Some(pid) == parent)
        }
        Err(_) => true,
    };
    (ours && timeout > 0).then(|| Duration::from_micros(timeout))
}
