//! The answering side.

use std::{
    any::Any,
    future::poll_fn,
    pin::Pin,
    sync::Arc,
    task::{Poll, Waker},
};

use serde::{Deserialize, Serialize};

use crate::{
    calls::CallKey,
    client::{Call, Client},
    connection::Side,
    error::{DecodeError, SendError},
    failure::{Failure, class},
    fields::Fields,
    message::{Message, Span},
    relay::Relay,
    shared::Shared,
};

/// What a handler does after it returned.
pub type BoxFuture = Pin<Box<dyn Future<Output = ()> + Send + 'static>>;

/// Answers the calls that come in over a connection.
///
/// [`Operations`](crate::Operations) is the one to use; this is what it stands on.
///
/// ```
/// use async_container_protocol::{BoxFuture, Handler, Request, Responder};
///
/// struct Echo;
///
/// impl Handler for Echo {
///     fn call(&self, request: Request, responder: Responder) -> Option<BoxFuture> {
///         responder.finish_fields(request.fields());
///         None
///     }
/// }
/// ```
pub trait Handler: Send + Sync + 'static {
    /// Answers a call: now, and returns `None`; or later, by a future.
    ///
    /// It runs on the task of the connection, which does nothing else meanwhile. The future is polled there once, and goes
    /// on in a task of its own unless it is ready. It is dropped when the call is cancelled or the connection closed, but no
    /// longer once it has answered.
    fn call(&self, request: Request, responder: Responder) -> Option<BoxFuture>;

    /// Whether calls that are under way are carried on for a peer that said that it sends no more, as `nc -N` does when its
    /// input ends. The connection is closed when they are answered. If not, it is closed at once, which is right for a peer
    /// that is there to be called.
    ///
    /// Default is yes.
    fn answers_after_end(&self) -> bool {
        true
    }

    /// This handler behind a hook, which sees each call before it is answered. It lets the call pass, or refuses it with a
    /// failure; and it may leave something in the [`Responder`] to be done when the call is [over](Responder::when_over).
    /// Authorization and tracing are such hooks.
    ///
    /// ```
    /// use async_container_protocol::{Failure, Handler, Operations, Outcome, Request, Responder, class};
    ///
    /// let handler = Operations::new()
    ///     .operation("secret", |_| async { Ok(()) })
    ///     .behind(|request: &Request, responder: &mut Responder| {
    ///         let operation = request.operation().to_owned();
    ///         responder.when_over(move |outcome: Outcome<'_>| println!("{operation}: {outcome:?}"));
    ///
    ///         match request.get::<String>("token")?.as_deref() {
    ///             Some("let me in") => Ok(()),
    ///             _ => Err(Failure::new(class::PERMISSION_DENIED, "the token is wrong")),
    ///         }
    ///     });
    /// ```
    fn behind<F>(self, hook: F) -> Behind<Self, F>
    where
        F: Fn(&Request, &mut Responder) -> Result<(), Failure> + Send + Sync + 'static,
        Self: Sized,
    {
        Behind { handler: self, hook }
    }
}

/// A handler behind a hook: see [`Handler::behind`].
#[derive(Clone, Copy)]
pub struct Behind<H, F> {
    handler: H,
    hook: F,
}

impl<H, F> Handler for Behind<H, F>
where
    H: Handler,
    F: Fn(&Request, &mut Responder) -> Result<(), Failure> + Send + Sync + 'static,
{
    fn call(&self, request: Request, mut responder: Responder) -> Option<BoxFuture> {
        match (self.hook)(&request, &mut responder) {
            Ok(()) => self.handler.call(request, responder),
            Err(failure) => {
                responder.fail(failure);
                None
            }
        }
    }

    fn answers_after_end(&self) -> bool {
        self.handler.answers_after_end()
    }
}

impl<H: std::fmt::Debug, F> std::fmt::Debug for Behind<H, F> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Behind").field("handler", &self.handler).finish_non_exhaustive()
    }
}

/// How a call that came in ended.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Outcome<'a> {
    /// It was answered.
    Finished,
    /// It failed.
    Failed(&'a Failure),
    /// The caller wanted no answer any more, or was gone, before there was one.
    Cancelled,
}

type Hook = Box<dyn FnOnce(Outcome<'_>) + Send + Sync>;

impl<H: Handler + ?Sized> Handler for Arc<H> {
    fn call(&self, request: Request, responder: Responder) -> Option<BoxFuture> {
        (**self).call(request, responder)
    }

    fn answers_after_end(&self) -> bool {
        (**self).answers_after_end()
    }
}

/// A side that takes no calls.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoOperations;

impl Handler for NoOperations {
    fn call(&self, request: Request, responder: Responder) -> Option<BoxFuture> {
        responder.fail(unknown(request.operation()));
        None
    }
}

pub(crate) fn unknown(operation: &str) -> Failure {
    Failure::new(class::UNKNOWN_OPERATION, format!("there is no operation '{operation}'"))
}

/// A call that came in.
#[derive(Clone)]
pub struct Request {
    operation: Span,
    fields: Fields,
}

impl Request {
    pub(crate) fn new(message: Message) -> Self {
        let (operation, fields) = message.into_call();
        Self { operation, fields }
    }

    /// What is to be done.
    pub fn operation(&self) -> &str {
        self.fields.text(self.operation)
    }

    /// The same for those who only compare it.
    pub(crate) fn operation_bytes(&self) -> &[u8] {
        self.fields.bytes(self.operation)
    }

    /// The parameters.
    pub fn fields(&self) -> &Fields {
        &self.fields
    }

    /// The parameters, to keep.
    pub fn into_fields(self) -> Fields {
        self.fields
    }

    /// One parameter; `None` if it is missing or nil. One of another type is a failure to answer with.
    pub fn get<'a, T: Deserialize<'a>>(&'a self, key: &str) -> Result<Option<T>, Failure> {
        self.fields.get(key).map_err(invalid)
    }

    /// One parameter that has to be there.
    pub fn require<'a, T: Deserialize<'a>>(&'a self, key: &str) -> Result<T, Failure> {
        self.get(key)?.ok_or_else(|| Failure::invalid_parameters(format!("the parameter '{key}' is missing")))
    }

    /// All parameters as a struct.
    pub fn deserialize<'a, T: Deserialize<'a>>(&'a self) -> Result<T, Failure> {
        self.fields.deserialize().map_err(invalid)
    }
}

impl std::fmt::Debug for Request {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Request").field("operation", &self.operation()).field("fields", &self.fields).finish()
    }
}

fn invalid(error: DecodeError) -> Failure {
    Failure::invalid_parameters(error.to_string())
}

/// The way back to a caller.
///
/// One that is dropped without an answer fails the call with class `Internal`, so that no caller waits for ever.
pub struct Responder {
    shared: Arc<Shared>,
    key: CallKey,
    side: Side,
    answered: bool,
    when_over: Option<Hook>,
}

impl Responder {
    pub(crate) fn new(shared: Arc<Shared>, key: CallKey, side: Side) -> Self {
        Self { shared, key, side, answered: false, when_over: None }
    }

    /// A handle to make calls to the side that made this one.
    pub fn peer(&self) -> Client {
        Client::new(self.shared.clone(), self.side)
    }

    /// Has something done when the call is over, however it ends: once, after what was left to be done before. It runs
    /// where the answer is given, so it should not take long. A call on which this is not used pays nothing for it.
    pub fn when_over(&mut self, hook: impl FnOnce(Outcome<'_>) + Send + Sync + 'static) {
        self.when_over = Some(match self.when_over.take() {
            None => Box::new(hook),
            Some(earlier) => Box::new(move |outcome| {
                earlier(outcome);
                hook(outcome);
            }),
        });
    }

    /// Sends an intermediate response. Waits while too many of them are on their way and the peer does not read.
    pub async fn send<T: Serialize + ?Sized>(&self, fields: &T) -> Result<(), SendError> {
        self.room().await?;
        self.shared.with(|connection| connection.respond(self.key, false, fields))
    }

    /// As [`send`](Self::send), with fields that are encoded already.
    pub async fn send_fields(&self, fields: &Fields) -> Result<(), SendError> {
        self.room().await?;
        self.shared.with(|connection| connection.respond_fields(self.key, false, fields))
    }

    /// Waits until another response can be sent without piling up.
    async fn room(&self) -> Result<(), SendError> {
        poll_fn(|cx| {
            self.shared.with(|connection| match connection.has_room(self.key) {
                Ok(true) => Poll::Ready(Ok(())),
                Ok(false) => {
                    connection.wait_for_room(self.key, cx.waker());
                    Poll::Pending
                }
                Err(error) => Poll::Ready(Err(error)),
            })
        })
        .await
    }

    /// Sends the final response. If it cannot be encoded, the call fails with class `Internal`.
    pub fn finish<T: Serialize + ?Sized>(mut self, fields: &T) -> Sent {
        let result = self.shared.with(|connection| connection.respond(self.key, true, fields));
        self.end(result, None);
        self.sent()
    }

    /// As [`finish`](Self::finish), with fields that are encoded already.
    pub fn finish_fields(mut self, fields: &Fields) -> Sent {
        let result = self.shared.with(|connection| connection.respond_fields(self.key, true, fields));
        self.end(result, None);
        self.sent()
    }

    /// Fails the call.
    pub fn fail(mut self, failure: impl Into<Failure>) -> Sent {
        self.fail_with(&failure.into());
        self.sent()
    }

    pub(crate) fn fail_with(&mut self, failure: &Failure) {
        let result = self.shared.with(|connection| connection.fail(self.key, failure));
        self.end(result, Some(failure));
    }

    /// Answers with what a handler came to.
    pub fn answer<T: Serialize + 'static>(mut self, result: Result<T, Failure>) -> Sent {
        self.conclude(result);
        self.sent()
    }

    /// As [`answer`](Self::answer), for those who do not want to know when it is written.
    pub(crate) fn conclude<T: Serialize + 'static>(&mut self, result: Result<T, Failure>) {
        match result {
            Ok(fields) => {
                // What is encoded already is copied, where serde would read all of it and write it again.
                let encoded = (&fields as &dyn Any).downcast_ref::<Fields>();
                let result = self.shared.with(|connection| match encoded {
                    Some(fields) => connection.respond_fields(self.key, true, fields),
                    None => connection.respond(self.key, true, &fields),
                });
                self.end(result, None);
            }
            Err(failure) => self.fail_with(&failure),
        }
    }

    /// Passes all responses of another call on, as they come and without decoding them, from now on and without a task. When
    /// this call is cancelled, so is the other. What comes for one whose caller does not keep up stays on the connection that
    /// it came over, and its sender waits.
    pub fn relay(self, call: Call) {
        Relay::start(self, call);
    }

    /// Passes one response on, as soon as there is room for it. Returns whether another one is wanted.
    pub(crate) fn pass_on(&mut self, message: &Message, waker: &Waker) -> Poll<bool> {
        let last = message.is_final();
        let key = self.key;

        let passed = self.shared.with(|connection| {
            if !last && connection.has_room(key) == Ok(false) {
                connection.wait_for_room(key, waker);
                return None;
            }

            Some(connection.relay(key, message))
        });

        let Some(result) = passed else { return Poll::Pending };

        if !last && result.is_ok() {
            return Poll::Ready(true);
        }

        // Decoded only if somebody wants to know.
        let failure = self.when_over.is_some().then(|| message.failure()).flatten();
        self.end(result, failure.as_ref());
        Poll::Ready(false)
    }

    /// Waits until nobody wants an answer any more.
    pub(crate) fn poll_cancelled(&self, waker: &Waker) -> Poll<()> {
        let mut state = self.shared.lock();

        if !state.connection.is_wanted(self.key) {
            return Poll::Ready(());
        }

        state.connection.wait_for_cancel(self.key, waker);
        Poll::Pending
    }

    fn end(&mut self, result: Result<(), SendError>, failure: Option<&Failure>) {
        self.answered = true;

        match result {
            Ok(()) => self.over(failure.map_or(Outcome::Finished, Outcome::Failed)),
            Err(SendError::Encode(error)) => {
                tracing::error!(%error, "an answer could not be encoded");
                let failure = Failure::new(class::INTERNAL, error.to_string());
                self.refuse(&failure);
                self.over(Outcome::Failed(&failure));
            }
            Err(_) => self.over(Outcome::Cancelled),
        }
    }

    fn sent(&self) -> Sent {
        Sent { position: self.shared.lock().connection.output_end(), shared: self.shared.clone() }
    }

    fn over(&mut self, outcome: Outcome<'_>) {
        if let Some(hook) = self.when_over.take() {
            hook(outcome);
        }
    }

    fn refuse(&self, failure: &Failure) {
        // Nobody is left to be told if that fails too.
        let _ = self.shared.with(|connection| connection.fail(self.key, failure));
    }

    /// Whether the caller wants no answer any more.
    pub fn is_cancelled(&self) -> bool {
        !self.shared.lock().connection.is_wanted(self.key)
    }

    /// Waits until the caller wants no answer any more, or is gone. Handlers need it only for work that dropping their
    /// future does not end.
    pub async fn cancelled(&self) {
        poll_fn(|cx| self.poll_cancelled(cx.waker())).await
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        if self.answered {
            return;
        }

        let message = match std::thread::panicking() {
            true => "the handler panicked",
            false => "the handler ended without an answer",
        };

        // Dropped because nobody wants an answer, or for want of one.
        let is_cancelled = self.when_over.is_some() && self.is_cancelled();
        let failure = Failure::new(class::INTERNAL, message);
        self.refuse(&failure);
        self.over(if is_cancelled { Outcome::Cancelled } else { Outcome::Failed(&failure) });
    }
}

impl std::fmt::Debug for Responder {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Responder").field("key", &self.key).finish_non_exhaustive()
    }
}

/// An answer that was given. Nearly nobody needs it.
#[derive(Clone)]
pub struct Sent {
    shared: Arc<Shared>,
    position: u64,
}

impl Sent {
    /// Waits until the answer is written to the socket, or the connection closed. It is for a handler that is about to do
    /// something that this process may not survive.
    pub async fn flushed(self) {
        poll_fn(|cx| {
            let mut state = self.shared.lock();
            let connection = &mut state.connection;

            if connection.is_written(self.position) {
                return Poll::Ready(());
            }

            connection.wait_for_writing(cx.waker());
            Poll::Pending
        })
        .await
    }
}

impl std::fmt::Debug for Sent {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Sent").finish_non_exhaustive()
    }
}
