//! Calls that monitors make, many at a time.

use std::{
    convert::Infallible,
    time::{Duration, Instant},
};

use async_container_monitors::Call;
use async_container_protocol::{Client, Failure, Fields, class};
use tokio::{
    sync::{mpsc, watch},
    time::timeout,
};

use crate::{monitor::ReplyTo, registry::Registry};

/// How many calls are made at once while somebody asks the supervisor. Each wakes a worker, and all of these have a processor before
/// whatever else comes meanwhile has its turn: a `status` is not to wait until a thousand workers were asked.
const AT_ONCE: usize = 8;

/// How many otherwise: of a thousand workers all that have their turn in the same tenth of an interval. To wait for these, and to be
/// woken for their answers, costs less than to do so for sixteen times as few.
const AT_ONCE_UNSEEN: usize = 128;

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

/// Makes calls, a few at a time, and passes on the answers.
pub(crate) async fn ask(calls: Vec<(Call, Fields)>, reply: &ReplyTo, registry: &Registry) {
    let calls = registry.clients(calls, |(call, _)| call.worker_id());
    let begin = |((call, parameters), worker), turn| begin(call, &parameters, worker, reply.clone(), turn);
    in_turns(calls, begin, registry.askers()).await;
}

/// Calls an operation of a worker. One of nobody is answered at once.
fn begin(call: Call, parameters: &Fields, worker: Option<Client>, reply: ReplyTo, turn: Turn) {
    let Some(worker) = worker else {
        let message = format!("no worker has the connection id '{}'", call.worker_id());
        reply.send(call, Err(Failure::new(class::CONNECTION_NOT_FOUND, message)));
        return;
    };

    let (operation, timeout) = (call.operation().to_owned(), call.get_timeout());
    let call = call.made(Instant::now());
    worker.call_then(&operation, parameters, timeout, move |answer| {
        reply.send(call, answer.map(|fields| fields.compact()).map_err(|error| error.into_failure()));
        drop(turn);
    });
}

/// One of the calls that are made at the same time, until it is dropped.
type Turn = mpsc::Sender<Infallible>;

/// Begins some at a time, and the next ones once these are over, or have taken too long.
async fn in_turns<T>(all: Vec<T>, mut begin: impl FnMut(T, Turn), askers: &Askers) {
    let mut left = all.into_iter();

    while left.len() > 0 {
        let (turn, mut turns) = mpsc::channel(1);
        left.by_ref().take(askers.calls_at_once()).for_each(|next| begin(next, turn.clone()));
        drop(turn);

        if left.len() > 0 {
            // If these take longer, they go on beside the next ones.
            let _ = timeout(PATIENCE, async { tokio::join!(turns.recv(), askers.have_gone()) }).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        cell::RefCell,
        sync::atomic::{AtomicUsize, Ordering},
    };

    use super::*;

    /// Begins as many, and says how many are begun, and which are not over.
    async fn begin_all(count: usize, askers: &Askers, begun: &RefCell<Vec<Turn>>) {
        in_turns(vec![(); count], |(), turn| begun.borrow_mut().push(turn), askers).await;
    }

    /// The next ones are begun when these are over, and after a while whether they are over or not.
    #[tokio::test(start_paused = true)]
    async fn few_are_asked_at_once() {
        let (begun, askers) = (RefCell::default(), Askers::new());
        drop(askers.begin());
        let mut waiting = std::pin::pin!(begin_all(3 * AT_ONCE, &askers, &begun));

        assert!(timeout(PATIENCE / 2, &mut waiting).await.is_err());
        assert_eq!(begun.borrow().len(), AT_ONCE);
        let last = begun.borrow_mut().split_off(1);
        begun.borrow_mut().clear();
        assert!(timeout(PATIENCE / 4, &mut waiting).await.is_err());
        assert!(begun.borrow().is_empty(), "some of the first have not answered");
        drop(last);
        assert!(timeout(PATIENCE / 2, &mut waiting).await.is_err());
        assert_eq!(begun.borrow().len(), AT_ONCE);
        timeout(PATIENCE, waiting).await.expect("the last ones, though none of those before has answered");
        assert_eq!(begun.borrow().len(), 2 * AT_ONCE);
    }

    #[tokio::test]
    async fn answers_of_other_threads_are_not_missed() {
        let (sender, receiver) = std::sync::mpsc::channel::<Turn>();
        let thread = std::thread::spawn(move || receiver.into_iter().for_each(drop));
        let begin = move |(), turn| sender.send(turn).unwrap();
        timeout(Duration::from_secs(60), in_turns(vec![(); 10_000], begin, &Askers::new())).await.unwrap();
        thread.join().unwrap();
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
        let begin = |(), _| {
            begun.fetch_add(1, Ordering::Relaxed);
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
