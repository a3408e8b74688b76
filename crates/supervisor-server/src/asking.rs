//! Calls that monitors make, many at a time.

use std::{
    future::{IntoFuture, poll_fn},
    task::{Context, Poll},
};

use async_container_monitors::Call;
use async_container_protocol::{Call as Answer, Failure, Fields, class};

use crate::{monitor::ReplyTo, registry::Registry};

/// A call that is on its way, and who wants its answer.
pub(crate) struct Asked {
    /// Taken when there is an answer.
    waiting: Option<(Call, ReplyTo)>,
    answer: <Answer as IntoFuture>::IntoFuture,
}

impl Asked {
    /// Calls an operation of a worker. One of nobody is answered at once.
    pub(crate) fn ask(call: Call, parameters: &Fields, reply: ReplyTo, registry: &Registry) -> Option<Self> {
        let Some(worker) = registry.client(call.worker_id()) else {
            let message = format!("no worker has the connection id '{}'", call.worker_id());
            reply.send(call, Err(Failure::new(class::CONNECTION_NOT_FOUND, message)));
            return None;
        };

        let answer = worker.call_fields(call.operation(), parameters).timeout(call.get_timeout());
        Some(Self { waiting: Some((call, reply)), answer: answer.into_future() })
    }

    /// False once it is answered.
    fn is_open(&mut self, cx: &mut Context<'_>) -> bool {
        let Poll::Ready(answer) = self.answer.as_mut().poll(cx) else { return true };

        if let Some((call, reply)) = self.waiting.take() {
            reply.send(call, answer.map(|fields| fields.compact()).map_err(|error| error.into_failure()));
        }

        false
    }
}

/// Waits for answers, and passes each on as it comes.
///
/// Of workers that are asked together most answer together: to look at all of them whenever one answers costs less than a task
/// for each. So they have to be of one time, and not be added to.
pub(crate) async fn answer(mut calls: Vec<Asked>) {
    poll_fn(|cx| {
        calls.retain_mut(|call| call.is_open(cx));

        match calls.is_empty() {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    })
    .await;
}
