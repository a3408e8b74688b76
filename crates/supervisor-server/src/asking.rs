//! Calls that monitors make, many at a time.

use std::{
    future::IntoFuture,
    pin::Pin,
    task::{Context, Poll},
};

use async_container_monitors::Call;
use async_container_protocol::{Call as Answer, Failure, Fields, class};
use futures_util::{StreamExt, stream::FuturesUnordered};

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
}

/// Is over once the answer was passed on.
impl Future for Asked {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Poll::Ready(answer) = self.answer.as_mut().poll(cx) else { return Poll::Pending };

        if let Some((call, reply)) = self.waiting.take() {
            reply.send(call, answer.map(|fields| fields.compact()).map_err(|error| error.into_failure()));
        }

        Poll::Ready(())
    }
}

/// Waits until all are over, in one task, and looks at each only when there is something new of it.
///
/// Of workers that are asked together most answer together, so this takes less than a task for each; and it takes no longer if
/// they answer one by one.
pub(crate) async fn together<F: Future<Output = ()>>(futures: Vec<F>) {
    let mut open: FuturesUnordered<F> = futures.into_iter().collect();
    while open.next().await.is_some() {}
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicUsize, Ordering},
        task::Waker,
    };

    use tokio::sync::oneshot;

    use super::*;

    struct Counted<'a>(oneshot::Receiver<()>, &'a AtomicUsize);

    impl Future for Counted<'_> {
        type Output = ();

        fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
            self.1.fetch_add(1, Ordering::Relaxed);
            Pin::new(&mut self.0).poll(cx).map(drop)
        }
    }

    #[test]
    fn answers_that_come_one_by_one_are_looked_at_one_by_one() {
        const CALLS: usize = 1000;
        let polls = AtomicUsize::new(0);
        let (mut senders, receivers): (Vec<_>, Vec<_>) = (0..CALLS).map(|_| oneshot::channel()).unzip();
        let waiting = together(receivers.into_iter().map(|receiver| Counted(receiver, &polls)).collect());
        let mut waiting = std::pin::pin!(waiting);
        let mut poll = || waiting.as_mut().poll(&mut Context::from_waker(Waker::noop()));

        while !senders.is_empty() {
            assert!(poll().is_pending());
            // Not in their order.
            let sender = senders.swap_remove(senders.len() / 2);
            sender.send(()).unwrap();
        }

        assert!(poll().is_ready());
        assert_eq!(polls.load(Ordering::Relaxed), 2 * CALLS);
    }

    #[tokio::test]
    async fn answers_of_other_threads_are_not_missed() {
        let polls = AtomicUsize::new(0);
        let (senders, receivers): (Vec<_>, Vec<_>) = (0..10_000).map(|_| oneshot::channel()).unzip();
        let thread = std::thread::spawn(move || senders.into_iter().for_each(|sender| sender.send(()).unwrap()));
        together(receivers.into_iter().map(|receiver| Counted(receiver, &polls)).collect()).await;
        thread.join().unwrap();
    }
}
