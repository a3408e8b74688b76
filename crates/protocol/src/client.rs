//! The calling side.

use std::{
    future::{IntoFuture, poll_fn},
    path::Path,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use serde::Serialize;
use tokio::time::Instant;

use crate::{
    connection::{Connection, Side},
    driver::Driver,
    endpoint,
    error::{CallError, ConnectError},
    fields::Fields,
    handler::{Handler, NoOperations},
    message::Message,
    notice::Then,
    settings::Settings,
    shared::Shared,
    socket::Socket,
};

/// A handle to make calls over one connection, whichever side opened it. Clones are handles to the same connection.
///
/// ```no_run
/// use async_container_protocol::{Client, Fields};
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let client = Client::connect("supervisor.ipc").await?;
/// let answer = client.call("ping", &()).await?;
/// println!("up for {:?} s", answer.get::<f64>("uptime")?);
///
/// let mut status = client.call("status", &());
///
/// while let Some(monitor) = status.next().await? {
///     println!("{:?}", monitor);
/// }
///
/// println!("{:?}", status.finish().await?.nested("connections"));
/// # Ok(())
/// # }
/// ```
pub struct Client {
    shared: Arc<Shared>,
    side: Side,
}

impl Client {
    pub(crate) fn new(shared: Arc<Shared>, side: Side) -> Self {
        shared.add_handle();
        Self { shared, side }
    }

    /// Connects to a supervisor, to make calls only. The connection is carried by a task, and closed once the last handle
    /// is dropped and the last call is over.
    pub async fn connect(path: impl AsRef<Path>) -> Result<Self, ConnectError> {
        Self::connect_with(path, NoOperations, Settings::default()).await
    }

    /// Connects to a supervisor, and answers the calls that come back over the same connection.
    pub async fn connect_with(
        path: impl AsRef<Path>,
        handler: impl Handler,
        settings: Settings,
    ) -> Result<Self, ConnectError> {
        let stream = endpoint::connect(path.as_ref()).await?;
        let (client, driver) = Driver::new(Socket::from(stream), Side::Connected, handler, settings);
        driver.spawn();
        Ok(client)
    }

    /// Makes a call. It is on its way when this returns; the responses come by the [`Call`].
    ///
    /// The parameters are the fields of a struct or the entries of a map, or nothing: `&()`. They are encoded straight into
    /// the output of the connection, so their `Serialize` must not use the connection itself.
    pub fn call<P: Serialize + ?Sized>(&self, operation: &str, parameters: &P) -> Call {
        let id = self.shared.with(|connection| connection.call(operation, parameters));
        Call::new(self.shared.clone(), id)
    }

    /// Makes a call with parameters that are encoded already, or that came with another call.
    pub fn call_fields(&self, operation: &str, parameters: &Fields) -> Call {
        let id = self.shared.with(|connection| connection.call_fields(operation, parameters));
        Call::new(self.shared.clone(), id)
    }

    /// Makes a call as [`call_fields`](Self::call_fields), and has something done with the fields of its final response, or with
    /// the reason why there is none within this time from now.
    ///
    /// Nobody waits: it is done where the response comes in, by the task that carries the connection, which it must not hold up. Of
    /// a thousand calls that are made at a time, this takes much less than a task, or a future, for each. Intermediate responses are
    /// passed over. The call goes on until it ends, whatever becomes of this handle.
    pub fn call_then(
        &self,
        operation: &str,
        parameters: &Fields,
        timeout: Duration,
        act: impl FnOnce(Result<Fields, CallError>) + Send + 'static,
    ) {
        let deadline = Instant::now().into_std() + timeout;
        let then = Box::new(Then::new(|end: Result<Message, CallError>| act(end.and_then(fields))));
        let made = self.shared.with_writing(|connection| connection.call_then(operation, parameters, deadline, then));

        if let Err(awaiting) = made {
            awaiting.give();
        }
    }

    /// Whether the connection is closed.
    pub fn is_closed(&self) -> bool {
        self.shared.lock().connection.is_closed()
    }

    /// Waits until the connection is closed.
    pub async fn closed(&self) {
        let mut closed = std::pin::pin!(self.shared.closed.notified());
        // To be listening before looking is what keeps the end in between from being missed.
        closed.as_mut().enable();

        if !self.is_closed() {
            closed.await;
        }
    }

    /// Closes the connection, after what there is to be written is written.
    pub fn close(&self) {
        self.shared.with(|connection| connection.finish());
    }

    /// Whether both are handles to the same connection.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }
}

impl Clone for Client {
    fn clone(&self) -> Self {
        Self::new(self.shared.clone(), self.side)
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        if self.shared.remove_handle() && self.side == Side::Connected {
            self.shared.with(Connection::abandon);
        }
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Client").field("side", &self.side).field("closed", &self.is_closed()).finish()
    }
}

/// A call that was made. Awaited, it gives the fields of the final response.
///
/// Dropping it before the final response tells the other side to stop.
#[must_use = "a call that is dropped is cancelled"]
pub struct Call {
    shared: Arc<Shared>,
    state: State,
}

enum State {
    /// It could not be made.
    Failed(CallError),
    /// More responses come.
    Open(u64),
    /// The final response came, and was not asked for yet.
    Final(Box<Message>),
    /// Everything was given.
    Over,
}

impl Call {
    fn new(shared: Arc<Shared>, id: Result<u64, CallError>) -> Self {
        let state = match id {
            Ok(id) => State::Open(id),
            Err(error) => State::Failed(error),
        };

        Self { shared, state }
    }

    /// Ends the call with [`CallError::TimedOut`] unless its final response comes within this time from now. The other
    /// side is told to stop.
    pub fn timeout(self, timeout: Duration) -> Self {
        // One that is beyond all times is none.
        if let State::Open(id) = self.state
            && let Some(deadline) = Instant::now().into_std().checked_add(timeout)
        {
            self.shared.with(|connection| connection.set_deadline(id, deadline));
        }

        self
    }

    pub(crate) fn poll_message(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Message>, CallError>> {
        let State::Open(id) = self.state else {
            return Poll::Ready(match std::mem::replace(&mut self.state, State::Over) {
                State::Failed(error) => Err(error),
                State::Final(message) => Ok(Some(*message)),
                State::Open(_) | State::Over => Ok(None),
            });
        };

        let taken = self.shared.with(|connection| {
            let taken = connection.poll_response(id, Some(cx.waker()));

            if taken.is_err() {
                connection.forget(id);
            }

            taken
        });

        if matches!(taken, Ok(None)) {
            return Poll::Pending;
        }

        if !matches!(&taken, Ok(Some(message)) if !message.is_final()) {
            self.state = State::Over;
        }

        Poll::Ready(taken)
    }

    /// The next response, whatever it is, the final one included, as it came; `None` after that. It is what a relay needs,
    /// and gives a failure as a message.
    pub async fn next_message(&mut self) -> Result<Option<Message>, CallError> {
        poll_fn(|cx| self.poll_message(cx)).await
    }

    /// The next intermediate response, or `None` when the final one has come: [`finish`](Self::finish) gives that.
    pub async fn next(&mut self) -> Result<Option<Fields>, CallError> {
        if matches!(self.state, State::Final(_) | State::Over) {
            return Ok(None);
        }

        match self.next_message().await? {
            Some(message) if message.is_final() => match message.failure() {
                Some(failure) => Err(CallError::Failed(failure)),
                None => {
                    self.state = State::Final(Box::new(message));
                    Ok(None)
                }
            },
            message => Ok(message.map(Message::into_fields)),
        }
    }

    /// The fields of the final response. Intermediate ones that were not taken are passed over.
    pub fn finish(mut self) -> impl Future<Output = Result<Fields, CallError>> + Send {
        // No more than the call itself is moved into the task that waits for it.
        poll_fn(move |cx| self.poll_finish(cx))
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<Result<Fields, CallError>> {
        loop {
            let message = match ready!(self.poll_message(cx))? {
                Some(message) if !message.is_final() => continue,
                Some(message) => message,
                // It gave its final response already, as a message.
                None => return Poll::Ready(Ok(Fields::empty())),
            };

            return Poll::Ready(fields(message));
        }
    }
}

/// What a final response says.
fn fields(message: Message) -> Result<Fields, CallError> {
    match message.failure() {
        Some(failure) => Err(CallError::Failed(failure)),
        None => Ok(message.into_fields()),
    }
}

impl IntoFuture for Call {
    type Output = Result<Fields, CallError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.finish())
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if let State::Open(id) = self.state {
            self.shared.with(|connection| connection.forget(id));
        }
    }
}

impl std::fmt::Debug for Call {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut debug = formatter.debug_struct("Call");

        match &self.state {
            State::Open(id) => debug.field("id", id),
            State::Failed(error) => debug.field("error", error),
            State::Final(message) => debug.field("final", message),
            State::Over => &mut debug,
        }
        .finish_non_exhaustive()
    }
}
