//! Answering over HTTP.

use std::{
    convert::Infallible,
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use async_container_monitors::Family;
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    header::{ACCEPT, ALLOW, CONTENT_TYPE},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, UnixListener},
    sync::Semaphore,
    task::JoinSet,
    time::{Instant, Sleep, sleep, timeout},
};

use crate::render::{Format, render};

/// How many are served at the same time; further ones wait.
const CONNECTIONS: usize = 16;

/// How many answers are being made at the same time: they are as large as there are workers.
const ANSWERS: usize = 2;

/// How long somebody may take to say what is wanted.
const REQUEST: Duration = Duration::from_secs(10);

/// How long somebody may take nothing of an answer.
const TAKING: Duration = Duration::from_secs(10);

/// How long a connection may be kept open. Prometheus keeps one from scrape to scrape.
const CONNECTION: Duration = Duration::from_secs(300);

/// How long to wait after an accept that failed for want of something, such as open files.
const ACCEPT_DELAY: Duration = Duration::from_millis(100);

/// A socket that accepts connections.
pub trait Listener {
    /// One of them.
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;

    /// The next one.
    fn accept(&self) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

impl Listener for UnixListener {
    type Stream = tokio::net::UnixStream;

    async fn accept(&self) -> io::Result<Self::Stream> {
        Ok(UnixListener::accept(self).await?.0)
    }
}

impl Listener for TcpListener {
    type Stream = tokio::net::TcpStream;

    async fn accept(&self) -> io::Result<Self::Stream> {
        Ok(TcpListener::accept(self).await?.0)
    }
}

/// Answers `GET /metrics` with what `gather` gives, until the future is dropped. Ends only if the socket is none that
/// listens.
pub async fn serve<L, G, F>(listener: L, gather: G) -> io::Result<()>
where
    L: Listener,
    G: Fn() -> F + Send + Sync + 'static,
    F: Future<Output = Vec<Family>> + Send + 'static,
{
    let gather = Arc::new(gather);
    let connections = Arc::new(Semaphore::new(CONNECTIONS));
    let answers = Arc::new(Semaphore::new(ANSWERS));
    // Dropped with this future, and everything that runs in it with it.
    let mut tasks = JoinSet::new();

    loop {
        // It is never closed, so there is always a permit.
        let connection = Arc::clone(&connections).acquire_owned().await.ok();
        let stream = match listener.accept().await {
            Ok(stream) => stream,
            Err(error) if is_permanent(&error) => return Err(error),
            Err(error) => {
                tracing::warn!(%error, "could not accept somebody who asks for metrics, trying again");
                tokio::time::sleep(ACCEPT_DELAY).await;
                continue;
            }
        };
        let (gather, answers) = (Arc::clone(&gather), Arc::clone(&answers));

        tasks.spawn(async move {
            let service = service_fn(move |request| answer(request, Arc::clone(&gather), Arc::clone(&answers)));
            let http = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(REQUEST)
                .serve_connection(TokioIo::new(Impatient::new(stream)), service);
            if let Ok(Err(error)) = timeout(CONNECTION, http).await {
                tracing::debug!(%error, "a connection for metrics ended");
            }
            drop(connection);
        });

        while tasks.try_join_next().is_some() {}
    }
}

async fn answer<G, F>(
    request: Request<Incoming>,
    gather: Arc<G>,
    answers: Arc<Semaphore>,
) -> Result<Response<Full<Bytes>>, Infallible>
where
    G: Fn() -> F,
    F: Future<Output = Vec<Family>>,
{
    if request.uri().path() != "/metrics" {
        return Ok(text(StatusCode::NOT_FOUND, "metrics are at /metrics\n"));
    }
    if ![Method::GET, Method::HEAD].contains(request.method()) {
        let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "metrics can be read only: use GET\n");
        response.headers_mut().insert(ALLOW, hyper::header::HeaderValue::from_static("GET, HEAD"));
        return Ok(response);
    }

    let accept: Vec<&str> = request.headers().get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).collect();
    let format = Format::accepted(&accept.join(","));
    let _permit = answers.acquire().await;
    let families = gather().await;

    // Off the thread that does other things as well: of many workers this may be a megabyte.
    match tokio::task::spawn_blocking(move || render(families, format)).await {
        Ok(Ok(body)) => {
            let mut response = Response::new(Full::new(Bytes::from(body)));
            let content_type = hyper::header::HeaderValue::from_static(format.content_type());
            response.headers_mut().insert(CONTENT_TYPE, content_type);
            Ok(response)
        }
        _ => {
            tracing::error!("metrics could not be written out");
            Ok(text(StatusCode::INTERNAL_SERVER_ERROR, "metrics could not be written out\n"))
        }
    }
}

fn text(status: StatusCode, body: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from_static(body.as_bytes())));
    *response.status_mut() = status;
    response
}

/// A stream to somebody who has to take what is written: if nothing of it is taken for a while, writing fails.
struct Impatient<S> {
    stream: S,
    patience: Pin<Box<Sleep>>,
    is_waiting: bool,
}

impl<S> Impatient<S> {
    fn new(stream: S) -> Self {
        Self { stream, patience: Box::pin(sleep(TAKING)), is_waiting: false }
    }

    /// What came of a write, or that it was waited for long enough.
    fn judge<T>(&mut self, written: Poll<io::Result<T>>, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.is_waiting = false;
            return written;
        }

        if !std::mem::replace(&mut self.is_waiting, true) {
            self.patience.as_mut().reset(Instant::now() + TAKING);
        }

        self.patience.as_mut().poll(context).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Impatient<S> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Impatient<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write(context, bytes);
        this.judge(written, context)
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let flushed = Pin::new(&mut this.stream).poll_flush(context);
        this.judge(flushed, context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}

/// Whether a socket that answers like this will answer so for ever, because it is none that listens.
fn is_permanent(error: &io::Error) -> bool {
    // EBADF, EFAULT, EINVAL, ENOTSOCK, EOPNOTSUPP: the same on all that this runs on.
    error.raw_os_error().is_some_and(|code| [9, 14, 22, 88, 95].contains(&code))
}
