//! What has to be said before a connection is closed.

use std::sync::{Arc, Mutex, PoisonError};

use async_container_protocol::Call;
use tokio::{runtime::Handle, task::JoinSet};

/// Calls that undo what nobody wants any more.
#[derive(Clone, Debug, Default)]
pub(crate) struct Farewells(Arc<Mutex<JoinSet<()>>>);

impl Farewells {
    /// Makes a call without anybody who waits for its answer. What it fails with is of no interest: what was to be undone
    /// has ended, then.
    pub(crate) fn add(&self, call: Call) {
        if let Ok(runtime) = Handle::try_current() {
            let mut calls = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            calls.spawn_on(
                async {
                    let _ = call.await;
                },
                &runtime,
            );
        }
    }

    /// Waits until all of them are answered.
    pub(crate) async fn said(&self) {
        let calls = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        calls.join_all().await;
    }
}
