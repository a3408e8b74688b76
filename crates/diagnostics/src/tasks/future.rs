//! A future that keeps account of its polls.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use pin_project_lite::pin_project;
use tokio::runtime::Handle;

use super::{
    record::{Noting, Record},
    registry::Registration,
};

pin_project! {
    /// A future that is a registered task until it is done or dropped, see [`instrument`](super::instrument).
    #[derive(Debug)]
    #[must_use = "futures do nothing unless they are awaited or polled"]
    pub struct Instrumented<F> {
        // Dropped first: what it does while it is dropped, it still does as a task.
        #[pin]
        future: F,
        noted: Option<Noted>,
        registration: Registration,
    }
}

impl<F> Instrumented<F> {
    pub(super) fn new(future: F, registration: Registration) -> Self {
        Self { future, noted: None, registration }
    }
}

impl<F: Future> Future for Instrumented<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let record = this.registration.record();

        if !record.is_settled() {
            record.settle(|| Handle::try_current().ok(), tokio::task::try_id);
        }

        #[cfg(feature = "stacks")]
        let result = if record.are_stacks_wanted() {
            super::stacks::poll(this.future, record, context)
        } else {
            poll(this.future, this.noted, record, context)
        };
        #[cfg(not(feature = "stacks"))]
        let result = poll(this.future, this.noted, record, context);

        if result.is_ready() {
            *this.noted = None;
            this.registration.finish();
        }

        result
    }
}

#[inline(always)]
fn poll<F: Future>(
    future: Pin<&mut F>,
    noted: &mut Option<Noted>,
    record: &Arc<Record>,
    context: &mut Context<'_>,
) -> Poll<F::Output> {
    let noted = match noted {
        Some(noted) if noted.noting.is_for(context.waker()) => noted,
        noted => noted.insert(Noted::new(record, context.waker())),
    };
    let _poll = record.begin_poll();
    future.poll(&mut Context::from_waker(&noted.waker))
}

/// The waker that is passed on, kept because who polls rarely changes.
#[derive(Debug)]
struct Noted {
    noting: Arc<Noting>,
    waker: Waker,
}

impl Noted {
    #[cold]
    fn new(record: &Arc<Record>, outer: &Waker) -> Self {
        let noting = Noting::new(record, outer);
        Self { waker: noting.clone().into(), noting }
    }
}
