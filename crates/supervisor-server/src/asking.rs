//! Calls that monitors make, many at a time.

use std::{
    future::IntoFuture,
    pin::Pin,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use async_container_monitors::Call;
use async_container_protocol::{Call as Answer, Failure, Fields, class};
use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::{sync::watch, time::timeout};

use crate::{monitor::ReplyTo, registry::Registry};

/// How many calls are made at once while somebody asks the supervisor. Each wakes a worker, and all of these have a processor before
/// whatever else comes meanwhile has its turn: a `status` is not to wait until a thousand workers were asked.
const AT_ONCE: usize = 8;

/// How many otherwise. To wait for these, and to be woken for their answers, costs less than to do so for eight times as few.
const AT_ONCE_UNSEEN: usize = 64;

/// Who asked so short a time ago will ask again.
const KEEPS_ASKING: Duration = Duration::from_secs(10);

/// How long the next ones wait at most: for the answers to these, and for whoever goes first.
const PATIENCE: Duration = Duration::from_millis(4);

/// Those that ask the supervisor for something, and go before workers that it asks itself.
pub(crate) struct Askers(watch::Sender<Asking>);

#[derive(Clone, Copy, Default)]
struct Asking {
    /// How many there are.
    now: usize,
    /// When the last one came.
    last: Option<Instant>,
}

impl Askers {
    pub(crate) fn new() -> Self {
        Self(watch::Sender::default())
    }

    /// One more, until that is dropped.
    pub(crate) fn begin(&self) -> Asker<'_> {
        self.0.send_modify(|asking| *asking = Asking { now: asking.now + 1, last: Some(Instant::now()) });
        Asker(self)
    }

    /// Waits until there is none.
    async fn have_gone(&self) {
        // It cannot be closed while it is borrowed.
        let _ = self.0.subscribe().wait_for(|asking| asking.now == 0).await;
    }

    /// How many calls may be made before they have their turn.
    fn calls_at_once(&self) -> usize {
        let asking = *self.0.borrow();
        let is_seen = asking.now > 0 || asking.last.is_some_and(|last| last.elapsed() < KEEPS_ASKING);
        if is_seen { AT_ONCE } else { AT_ONCE_UNSEEN }
    }
}

/// One that asks the supervisor for something.
pub(crate) struct Asker<'a>(&'a Askers);

impl Drop for Asker<'_> {
    fn drop(&mut self) {
        self.0.0.send_modify(|asking| asking.now -= 1);
    }
}

/// A call that is on its way, and who wants its answer.
struct Asked {
    /// Taken when there is an answer.
    waiting: Option<(Call, ReplyTo)>,
    answer: <Answer as IntoFuture>::IntoFuture,
}

impl Asked {
    /// Calls an operation of a worker. One of nobody is answered at once.
    fn ask(call: Call, parameters: &Fields, reply: ReplyTo, registry: &Registry) -> Option<Self> {
        let Some(worker) = registry.client(call.worker_id()) else {
            let message = format!("no worker has the connection id '{}'", call.worker_id());
            reply.send(call, Err(Failure::new(class::CONNECTION_NOT_FOUND, message)));
            return None;
        };

        let call = call.made(Instant::now());
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

/// Makes calls, a few at a time, and passes on the answers.
pub(crate) async fn ask(calls: Vec<(Call, Fields)>, reply: &ReplyTo, registry: &Registry) {
    let begin = |(call, parameters)| Asked::ask(call, &parameters, reply.clone(), registry);
    in_turns(calls, begin, registry.askers()).await;
}

/// Begins some at a time, and waits until all are over, in one task that looks at each only when there is something new of it: of
/// workers that are asked together most answer together, so this takes less than a task for each.
async fn in_turns<T, F: Future<Output = ()>>(all: Vec<T>, begin: impl FnMut(T) -> Option<F>, askers: &Askers) {
    let mut left = all.into_iter().filter_map(begin).fuse();
    let mut open = FuturesUnordered::new();

    loop {
        let (before, at_once) = (open.len(), askers.calls_at_once());
        open.extend(left.by_ref().take(at_once));
        let begun = open.len() - before;

        if begun < at_once {
            while open.next().await.is_some() {}
            return;
        }

        let answers = async {
            for _ in 0..begun {
                open.next().await;
            }
        };

        // If these take longer, they go on beside the next ones.
        let _ = timeout(PATIENCE, async { tokio::join!(answers, askers.have_gone()) }).await;
    }
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

    #[tokio::test(start_paused = true)]
    async fn answers_that_come_one_by_one_are_looked_at_one_by_one() {
        const CALLS: usize = 1000;
        let polls = AtomicUsize::new(0);
        let (mut senders, receivers): (Vec<_>, Vec<_>) = (0..CALLS).map(|_| oneshot::channel()).unzip();
        let askers = Askers::new();
        let waiting = in_turns(receivers, |receiver| Some(Counted(receiver, &polls)), &askers);
        // It is polled below as often as no task would be without giving way.
        let mut waiting = std::pin::pin!(tokio::task::unconstrained(waiting));
        // So long that all have been asked.
        assert!(timeout(PATIENCE * CALLS as u32, &mut waiting).await.is_err());
        assert_eq!(polls.load(Ordering::Relaxed), CALLS);
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
        in_turns(receivers, |receiver| Some(Counted(receiver, &polls)), &Askers::new()).await;
        thread.join().unwrap();
    }

    /// The next ones are begun when these are over, and after a while whether they are over or not.
    #[tokio::test(start_paused = true)]
    async fn few_are_asked_at_once() {
        let (polls, askers) = (AtomicUsize::new(0), Askers::new());
        drop(askers.begin());
        let (senders, receivers): (Vec<_>, Vec<_>) = (0..3 * AT_ONCE).map(|_| oneshot::channel()).unzip();
        let mut senders = senders.into_iter();
        let waiting = in_turns(receivers, |receiver| Some(Counted(receiver, &polls)), &askers);
        let mut waiting = std::pin::pin!(waiting);

        assert!(timeout(PATIENCE / 2, &mut waiting).await.is_err());
        assert_eq!(polls.load(Ordering::Relaxed), AT_ONCE);
        senders.by_ref().take(AT_ONCE).for_each(|sender| sender.send(()).unwrap());
        assert!(timeout(PATIENCE / 2, &mut waiting).await.is_err());
        assert_eq!(polls.load(Ordering::Relaxed), 3 * AT_ONCE, "each of the first twice, and the next ones once");
        assert!(timeout(2 * PATIENCE, &mut waiting).await.is_err());
        assert_eq!(
            polls.load(Ordering::Relaxed),
            4 * AT_ONCE,
            "the last ones, though none of those before has answered"
        );
        senders.for_each(|sender| sender.send(()).unwrap());
        waiting.await;
    }

    #[test]
    fn more_are_asked_at_once_while_nobody_asks_the_supervisor() {
        let askers = Askers::new();
        assert_eq!(askers.calls_at_once(), AT_ONCE_UNSEEN);
        let asker = askers.begin();
        assert_eq!(askers.calls_at_once(), AT_ONCE);
        drop(asker);
        assert_eq!(askers.calls_at_once(), AT_ONCE);
        let since = Instant::now().checked_sub(KEEPS_ASKING).unwrap();
        askers.0.send_modify(|asking| asking.last = Some(since));
        assert_eq!(askers.calls_at_once(), AT_ONCE_UNSEEN);
    }

    #[tokio::test(start_paused = true)]
    async fn who_asks_the_supervisor_goes_first() {
        let (askers, begun) = (Askers::new(), AtomicUsize::new(0));
        let begin = |()| {
            begun.fetch_add(1, Ordering::Relaxed);
            Some(std::future::ready(()))
        };
        let waiting = in_turns(vec![(); 4 * AT_ONCE], begin, &askers);
        let mut waiting = std::pin::pin!(waiting);
        let (one, other) = (askers.begin(), askers.begin());

        assert!(timeout(PATIENCE / 2, &mut waiting).await.is_err());
        drop(one);
        assert!(timeout(PATIENCE / 4, &mut waiting).await.is_err());
        assert_eq!(begun.load(Ordering::Relaxed), AT_ONCE);
        // One that is answered for ever holds nobody up.
        assert!(timeout(PATIENCE, &mut waiting).await.is_err());
        assert_eq!(begun.load(Ordering::Relaxed), 2 * AT_ONCE);
        drop(other);
        timeout(Duration::ZERO, waiting).await.unwrap();
        assert_eq!(begun.load(Ordering::Relaxed), 4 * AT_ONCE);
    }
}
