//! One call whose responses are passed on as those of another.
//!
//! There is no task for it. Whoever brings a response, which is the driver of one connection, puts it into the output of the
//! other; and whoever makes room there fetches the next one. So a call that goes through a supervisor costs it no more than
//! the two connections take to read and write.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use crate::{client::Call, handler::Responder, message::Message};

/// It is kept by the two connections, as the one to be woken, and does its work at once when it is.
pub(crate) struct Relay {
    /// How often it was woken since it rested. Whoever is the first does what there is to do, until nobody came meanwhile: on
    /// another thread, or further up on the same stack.
    woken: AtomicUsize,
    ends: Mutex<Option<Ends>>,
}

struct Ends {
    responder: Responder,
    call: Call,
    /// What came, and found no room.
    held: Option<Message>,
}

impl Relay {
    /// Begins to pass on what comes for `call`.
    pub(crate) fn start(responder: Responder, call: Call) {
        let ends = Ends { responder, call, held: None };
        Arc::new(Self { woken: AtomicUsize::new(0), ends: Mutex::new(Some(ends)) }).wake();
    }

    fn carry(self: &Arc<Self>) {
        // There is nobody to wait for: those who come while it is at work leave that to whoever is at it.
        let mut place = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(ends) = &mut *place else { return };
        let waker = Waker::from(self.clone());

        // A hook of the call may panic, and this may be the driver of another connection.
        match catch_unwind(AssertUnwindSafe(|| ends.poll(&waker))) {
            Ok(Poll::Pending) => {}
            Ok(Poll::Ready(())) | Err(_) => *place = None,
        }
    }
}

impl Wake for Relay {
    fn wake(self: Arc<Self>) {
        Self::wake_by_ref(&self);
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.woken.fetch_add(1, Ordering::AcqRel) > 0 {
            return;
        }

        let mut seen = 1;

        loop {
            self.carry();

            match self.woken.compare_exchange(seen, 0, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return,
                Err(woken) => seen = woken,
            }
        }
    }
}

impl Ends {
    fn poll(&mut self, waker: &Waker) -> Poll<()> {
        loop {
            let message = match &self.held {
                Some(message) => message,
                None => match self.call.poll_message(&mut Context::from_waker(waker)) {
                    Poll::Ready(Ok(Some(message))) => self.held.insert(message),
                    Poll::Ready(Ok(None)) => return Poll::Ready(()),
                    Poll::Ready(Err(error)) => {
                        self.responder.fail_with(&error.into_failure());
                        return Poll::Ready(());
                    }
                    Poll::Pending => return self.responder.poll_cancelled(waker),
                },
            };

            match self.responder.pass_on(message, waker) {
                Poll::Ready(true) => self.held = None,
                Poll::Ready(false) => return Poll::Ready(()),
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}
