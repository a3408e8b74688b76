//! Where a task waits: the functions between its outermost one and the `await` that holds it up.
//!
//! A task that waits has no stack. But what it waits for has kept its waker, and has to look at the waker again whenever the
//! task is polled. So the task is polled once more, with another waker, and when that is cloned, it is cloned at the very
//! place in question, with all functions on the way there on the stack.

use std::{
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
        mpsc,
    },
    task::{Context, Poll},
    thread::{self, ThreadId},
};

use super::record::{Noting, Record};
use crate::{
    sys::waker::{Watched, waker},
    unwind::{Cache, FRAME_LIMIT, Unwinder},
};

/// A task that waits for many things at once is shown to wait for these many.
const STACK_LIMIT: usize = 16;

/// Code addresses, the innermost first.
pub(super) type Addresses = Vec<u64>;

/// What one dump wants to know of a task.
#[derive(Clone)]
pub(super) struct Wish {
    walker: Arc<Walker>,
    answers: mpsc::Sender<(u64, Vec<Addresses>)>,
}

/// What the stacks of one dump are walked with.
pub(super) struct Walker {
    unwinder: Arc<Unwinder>,
    cache: Mutex<Cache>,
}

impl Wish {
    pub(super) fn new(unwinder: Arc<Unwinder>, answers: mpsc::Sender<(u64, Vec<Addresses>)>) -> Self {
        Self { walker: Arc::new(Walker { unwinder, cache: Mutex::default() }), answers }
    }

    /// What tells the wishes of one dump from those of others.
    pub(super) fn into_source(self) -> Arc<Walker> {
        self.walker
    }

    pub(super) fn is_of(&self, source: &Arc<Walker>) -> bool {
        Arc::ptr_eq(&self.walker, source)
    }
}

impl Walker {
    /// The stack of the caller.
    #[inline(never)]
    fn here(&self) -> Addresses {
        let mut addresses = [0; FRAME_LIMIT];
        let depth = {
            let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
            self.unwinder.walk_here(&mut cache, &mut addresses)
        };
        addresses.get(..depth).unwrap_or_default().to_vec()
    }
}

/// Polls a task of which somebody wants to know where it waits.
#[cold]
#[inline(never)]
pub(super) fn poll<F: Future>(future: Pin<&mut F>, record: &Arc<Record>, context: &mut Context<'_>) -> Poll<F::Output> {
    let wishes = record.take_wishes();
    let noting = Noting::new(record, context.waker());

    let Some(wish) = wishes.first() else {
        let _poll = record.begin_poll();
        return future.poll(&mut Context::from_waker(&noting.into()));
    };

    let tracing = Arc::new(Tracing {
        noting,
        walker: wish.walker.clone(),
        thread: thread::current().id(),
        depth: wish.walker.here().len(),
        active: AtomicBool::new(true),
        stacks: Mutex::default(),
    });
    let result = {
        let _poll = record.begin_poll();
        inner(future, &mut Context::from_waker(&waker(tracing.clone())))
    };
    tracing.active.store(false, Relaxed);
    let stacks = std::mem::take(&mut *tracing.stacks.lock().unwrap_or_else(PoisonError::into_inner));

    for wish in wishes {
        // A dump that has not waited needs no answer.
        let _ = wish.answers.send((record.id, stacks.clone()));
    }

    result
}

/// Not inlined, so that what is inlined here is told from the function above, whose frame is cut off.
#[inline(never)]
fn inner<F: Future>(future: Pin<&mut F>, context: &mut Context<'_>) -> Poll<F::Output> {
    future.poll(context)
}

/// The waker of such a poll.
struct Tracing {
    noting: Arc<Noting>,
    walker: Arc<Walker>,
    thread: ThreadId,
    /// So many frames belong to those who poll the task.
    depth: usize,
    /// Until the poll ends. What is cloned later shows nothing.
    active: AtomicBool,
    stacks: Mutex<Vec<Addresses>>,
}

impl Watched for Tracing {
    fn cloned(&self) {
        // A future may have part of itself polled elsewhere, whose stack is another one.
        if !self.active.load(Relaxed) || self.thread != thread::current().id() {
            return;
        }

        let mut stack = self.walker.here();
        stack.truncate(stack.len().saturating_sub(self.depth));
        let mut stacks = self.stacks.lock().unwrap_or_else(PoisonError::into_inner);

        if stacks.len() < STACK_LIMIT && !stack.is_empty() && !stacks.contains(&stack) {
            stacks.push(stack);
        }
    }

    fn wake(&self) {
        self.noting.note_and_wake();
    }
}
