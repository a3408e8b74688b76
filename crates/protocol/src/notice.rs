//! Who is to be told of something once the lock of a connection is free.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    task::Waker,
};

use crate::{error::CallError, message::Message};

/// Something that is to be told.
pub(crate) enum Notice {
    /// To a task, that there is something new for it.
    Wake(Waker),
    /// To whoever wanted the end of a call, what that was.
    Ended(Box<dyn Awaiting>),
}

impl Notice {
    pub(crate) fn give(self) {
        match self {
            Self::Wake(waker) => waker.wake(),
            Self::Ended(awaiting) => awaiting.give(),
        }
    }
}

impl From<Waker> for Notice {
    fn from(waker: Waker) -> Self {
        Self::Wake(waker)
    }
}

/// One that wants the end of a call, without a task that waits for it.
pub(crate) trait Awaiting: Send {
    /// Takes it, under the lock.
    fn put(&mut self, end: Result<Message, CallError>);

    /// Does with it what is to be done, without.
    fn give(self: Box<Self>);
}

/// Has this done with the end of a call.
pub(crate) struct Then<F> {
    act: F,
    end: Result<Message, CallError>,
}

impl<F> Then<F> {
    pub(crate) fn new(act: F) -> Self {
        Self { act, end: Err(CallError::ConnectionClosed) }
    }
}

impl<F: FnOnce(Result<Message, CallError>) + Send> Awaiting for Then<F> {
    fn put(&mut self, end: Result<Message, CallError>) {
        self.end = end;
    }

    fn give(self: Box<Self>) {
        let Self { act, end } = *self;
        // The connection has others to carry on for, whatever becomes of this one. A panic has been told of by its hook.
        let _ = catch_unwind(AssertUnwindSafe(|| act(end)));
    }
}
