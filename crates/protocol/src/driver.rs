//! One task a socket: reads, hands calls to the handler, writes.

use std::{
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use bytes::BytesMut;
use tokio::time::{Instant, Sleep};
use tokio_util::io::poll_read_buf;

use crate::{
    calls::CallKey,
    client::Client,
    connection::{Connection, Event, Side},
    error::ConnectionError,
    handler::{BoxFuture, Handler, Request, Responder},
    message::Message,
    notice::Notice,
    settings::Settings,
    shared::{Driver as DriverState, Shared},
    socket::Transport,
};

/// How much is read at once, at first.
const READ_SIZE: usize = 2048;
/// How large a buffer may be that a connection keeps while it is idle.
const READ_KEPT: usize = 4096;
/// How much is read at once while reads fill what they are given.
const READ_LARGE: usize = 256 << 10;
/// A buffer for output that grew beyond this is given back once it is written.
const WRITE_KEPT: usize = 64 << 10;
/// How long a list of those to be told may be that is kept.
const NOTICES_KEPT: usize = 64;
/// How much is read and thrown away at the end, so that the peer sees the last answer and then the end, and not an error
/// because we left something unread.
const DISCARDED: usize = 1 << 20;

/// Carries one connection: a future that ends when the connection does.
///
/// It has to be polled for anything to happen, either by awaiting it or by [`spawn`](Self::spawn), inside a tokio
/// runtime of any kind. If it is dropped, the connection is closed. A handler that answers without waiting runs inside of
/// it; one that waits gets a task of its own.
#[must_use = "nothing is read or written unless the driver is polled"]
pub struct Driver<S, H> {
    stream: S,
    handler: H,
    side: Side,
    shared: Arc<Shared>,
    input: BytesMut,
    writing: Vec<u8>,
    written: usize,
    sleep: Option<Pin<Box<Sleep>>>,
    read: Reading,
    read_size: usize,
    /// How much came since the socket last had no more.
    received: usize,
    /// Who is to be told of what came.
    notices: Vec<Notice>,
}

/// Nothing in it is pinned: the stream has to be `Unpin`, and the handler is only called.
impl<S, H> Unpin for Driver<S, H> {}

/// How the reading side is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reading {
    Open,
    /// The socket will tell when there is more.
    Pending,
    /// The peer sends no more.
    Ended,
}

/// What comes after a round.
enum Step {
    Again,
    Wait,
    End(Result<(), ConnectionError>),
}

/// How a round of writing ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Writing {
    Idle,
    Blocked,
    Broken,
}

impl<S, H> Driver<S, H>
where
    S: Transport,
    H: Handler,
{
    /// A connection over a stream, with a handle to make calls by. Calls that come in go to `handler`.
    ///
    /// On the side that connected, the connection is closed once the last handle is dropped. On the side that accepted, the
    /// peer decides.
    pub fn new(stream: S, side: Side, handler: H, settings: Settings) -> (Client, Self) {
        let mut connection = Connection::new(side, settings);

        if side == Side::Connected {
            connection.announce();
        }

        let shared = Arc::new(Shared::new(connection));
        let client = Client::new(shared.clone(), side);

        let driver = Self {
            stream,
            handler,
            side,
            shared,
            input: BytesMut::new(),
            writing: Vec::new(),
            written: 0,
            sleep: None,
            read: Reading::Open,
            read_size: READ_SIZE,
            received: 0,
            notices: Vec::new(),
        };

        (client, driver)
    }

    /// Runs the driver as a task of its own. What was wrong, if something was, goes to the log.
    pub fn spawn(self) -> tokio::task::JoinHandle<()>
    where
        S: Send + 'static,
    {
        tokio::spawn(async move {
            if let Err(error) = self.await {
                tracing::warn!(%error, "closed a connection");
            }
        })
    }

    /// Reads once.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        // The peer has to send memory before it can take some: room is made by what came, not by what a frame announces.
        if self.input.capacity() - self.input.len() < self.read_size / 2 {
            self.input.reserve(self.read_size);
        }

        let spare = self.input.capacity() - self.input.len();

        match poll_read_buf(Pin::new(&mut self.stream), cx, &mut self.input) {
            Poll::Ready(Ok(0)) => self.read = Reading::Ended,
            Poll::Ready(Ok(count)) => {
                self.read = Reading::Open;
                self.received += count;

                if count == spare {
                    self.read_size = (self.read_size * 2).min(READ_LARGE);
                }
            }
            Poll::Ready(Err(error)) => {
                self.read = Reading::Ended;
                return Err(error);
            }
            Poll::Pending => {
                self.read = Reading::Pending;

                // A peer that sends many messages at a time is given the room for them at once, also the next time.
                let is_large = self.read_size > READ_KEPT;
                let is_quiet = self.read_size > READ_SIZE && (1..READ_SIZE / 2).contains(&self.received);
                self.received = 0;

                if is_large || is_quiet {
                    self.read_size /= 2;

                    if self.input.is_empty() {
                        self.input = BytesMut::new();
                    }
                }
            }
        }

        Ok(())
    }

    /// Handles what the input holds. Returns whether it had to stop before the end of that.
    fn handle_input(&mut self) -> bool {
        let now = Instant::now().into_std();

        loop {
            let mut state = self.shared.lock();

            let event = loop {
                match state.connection.poll_event(&mut self.input, now) {
                    Some(Event::Call { key, message }) => break Some((key, message)),
                    Some(_) => {}
                    None => break None,
                }
            };

            state.connection.exchange_notices(&mut self.notices);
            // Under the same lock: a moment later, another thread may have made it possible to go on.
            let paused = event.is_none() && !state.connection.wants_input();
            drop(state);
            self.notices.drain(..).for_each(Notice::give);
            self.notices.shrink_to(NOTICES_KEPT);

            match event {
                Some((key, message)) => self.handle_call(key, message),
                None => return paused,
            }
        }
    }

    fn handle_call(&mut self, key: CallKey, message: Message) {
        let responder = Responder::new(self.shared.clone(), key, self.side);

        // Whatever happens to the responder, even while the handler panics, it answers when it is dropped. So there is
        // nothing to do with the outcome but to survive it.
        let step = catch_unwind(AssertUnwindSafe(|| {
            let mut future = self.handler.call(Request::new(message), responder)?;
            let mut cx = Context::from_waker(Waker::noop());

            // Most futures are ready at once, and are spared a task. One that is not is polled again by its task
            // before it rests, so the waker that it saw here is not missed.
            match future.as_mut().poll(&mut cx) {
                Poll::Ready(()) => None,
                Poll::Pending => Some(future),
            }
        }));

        let Ok(Some(future)) = step else { return };

        if self.shared.lock().connection.begin_task(key) {
            let shared = self.shared.clone();
            tokio::spawn(Task { shared, key, future: Some(future) });
        } else {
            // It has answered, and what it does now is for itself alone.
            tokio::spawn(future);
        }
    }

    /// Writes everything there is, in one go if the socket takes it.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Writing {
        loop {
            if self.written == self.writing.len() {
                self.writing.clear();
                self.written = 0;

                if self.writing.capacity() > WRITE_KEPT {
                    self.writing = Vec::new();
                }

                if !self.shared.lock().connection.take_output(&mut self.writing) {
                    return Writing::Idle;
                }
            }

            let rest = &self.writing[self.written..];

            match Pin::new(&mut self.stream).poll_write(cx, rest) {
                Poll::Ready(Ok(0)) => return Writing::Broken,
                Poll::Ready(Ok(count)) => {
                    self.written += count;
                    self.shared.with(|connection| connection.handle_written(count));
                }
                Poll::Ready(Err(error)) => {
                    tracing::debug!(%error, "could not write to a connection");
                    return Writing::Broken;
                }
                Poll::Pending => {
                    let now = Instant::now().into_std();
                    self.shared.lock().connection.handle_blocked(now);
                    return Writing::Blocked;
                }
            }
        }
    }

    /// Arms the timer, or handles what is due. Returns whether something was.
    ///
    /// One that is armed for an earlier time than there is something to do stays so, and is set again when it rings: most
    /// calls are answered long before their time is over, and to set and stop a timer for each costs more than to look once
    /// for nothing.
    fn poll_timeout(&mut self, cx: &mut Context<'_>) -> bool {
        let timeout = self.shared.lock().connection.poll_timeout().map(Instant::from_std);

        let sleep = match (&mut self.sleep, timeout) {
            (None, None) => return false,
            (None, Some(timeout)) => self.sleep.insert(Box::pin(tokio::time::sleep_until(timeout))),
            (Some(sleep), timeout) => {
                if let Some(timeout) = timeout
                    && (timeout < sleep.deadline() || sleep.is_elapsed())
                {
                    sleep.as_mut().reset(timeout);
                }
                sleep
            }
        };

        if sleep.as_mut().poll(cx).is_pending() {
            return false;
        }

        match timeout {
            None => {
                self.sleep = None;
                false
            }
            Some(_) => {
                let now = Instant::now().into_std();
                self.shared.with(|connection| connection.handle_timeout(now));
                true
            }
        }
    }

    /// Does what can be done now.
    fn round(&mut self, cx: &mut Context<'_>) -> Step {
        let mut failure = None;

        if self.read != Reading::Ended {
            // A wake-up that the socket promised earlier may be used up, so only one promised in this round counts.
            self.read = Reading::Open;

            if self.shared.lock().connection.wants_input() {
                failure = self.poll_read(cx).err();
            }
        }

        // What was read and could not be handled has to be looked at again as soon as that is possible: the socket will not
        // tell of it.
        let paused = self.handle_input();
        let writing = self.poll_write(cx);

        if writing == Writing::Broken {
            return Step::End(self.read_rest(cx));
        }

        if let Some(error) = failure.filter(|error| !is_hang_up(error)) {
            return Step::End(Err(ConnectionError::Io(error)));
        }

        if self.poll_timeout(cx) {
            return Step::Again;
        }

        let mut state = self.shared.lock();
        let connection = &mut state.connection;
        let wants_input = connection.wants_input();

        if connection.is_closed() {
            return Step::End(connection.take_error().map_or(Ok(()), Err));
        }

        if connection.has_output() && writing == Writing::Idle {
            return Step::Again;
        }

        if writing == Writing::Idle && connection.is_closing() {
            let error = connection.take_error();
            drop(state);
            self.discard(cx);
            return Step::End(error.map_or(Ok(()), Err));
        }

        if connection.has_held_call() || wants_input && (paused || self.read == Reading::Open) {
            return Step::Again;
        }

        // All that could be handled of the input was handled, so the rest is a part of a message.
        if wants_input && self.read == Reading::Ended && writing == Writing::Idle {
            if !self.input.is_empty() {
                return Step::End(Err(ConnectionError::Truncated(self.input.len())));
            }

            // It may only have said all that it has to say, and wait for the answers.
            let is_owed = connection.has_incoming_calls() && self.handler.answers_after_end();

            if !is_owed || self.stream.poll_gone(cx).is_ready() {
                return Step::End(Ok(()));
            }

            if !connection.has_ended() {
                drop(state);
                self.shared.with(Connection::handle_end);
                return Step::Again;
            }
        }

        if state.socket.is_none() {
            state.socket = self.stream.socket();
        }

        state.driver = DriverState::Waiting {
            waker: cx.waker().clone(),
            reading: wants_input,
            blocked: writing == Writing::Blocked,
            timeout: self.sleep.as_ref().map(|sleep| sleep.deadline().into_std()),
        };

        Step::Wait
    }

    /// The peer takes no more; what it said before that still counts.
    fn read_rest(&mut self, cx: &mut Context<'_>) -> Result<(), ConnectionError> {
        while self.read != Reading::Ended && self.shared.lock().connection.wants_input() {
            if self.poll_read(cx).is_err() || self.read == Reading::Pending {
                break;
            }

            self.handle_input();
        }

        self.shared.lock().connection.take_error().map_or(Ok(()), Err)
    }

    fn discard(&mut self, cx: &mut Context<'_>) {
        let mut discarded = 0;
        self.input.clear();

        while discarded < DISCARDED && self.read != Reading::Ended {
            if self.poll_read(cx).is_err() || self.read == Reading::Pending {
                return;
            }

            discarded += self.input.len();
            self.input.clear();
        }
    }
}

impl<S, H> Future for Driver<S, H>
where
    S: Transport,
    H: Handler,
{
    type Output = Result<(), ConnectionError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.shared.lock().driver = DriverState::Running;

        loop {
            // It ends: tokio's sockets give up after a number of operations, and wake the task when it is its turn again.
            match self.round(cx) {
                Step::Again => {}
                Step::Wait => return Poll::Pending,
                Step::End(result) => {
                    self.shared.close();
                    return Poll::Ready(result);
                }
            }
        }
    }
}

impl<S, H> Drop for Driver<S, H> {
    fn drop(&mut self) {
        self.shared.close();
    }
}

/// Whether an error of the socket is nothing but the peer's way to leave.
fn is_hang_up(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::UnexpectedEof)
}

/// Carries on a handler that waits, until its call is cancelled.
struct Task {
    shared: Arc<Shared>,
    key: CallKey,
    future: Option<BoxFuture>,
}

impl Future for Task {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let over = self.shared.lock().connection.is_task_over(self.key, cx.waker());

        let poll = match &mut self.future {
            Some(future) if !over => future.as_mut().poll(cx),
            _ => Poll::Ready(()),
        };

        if poll.is_ready() {
            self.future = None;
        }

        poll
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.shared.lock().connection.end_task(self.key);
    }
}
