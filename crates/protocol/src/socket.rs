//! A Unix socket that wakes nobody for nothing.

use std::{
    cell::RefCell,
    io::{self, Read as _, Write as _},
    os::unix::net::UnixStream as StdStream,
    pin::Pin,
    sync::{Arc, Weak},
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, DuplexStream, Interest, ReadBuf, unix::AsyncFd},
    net::UnixStream,
};

/// How much is read by way of memory that all connections of a thread share.
const SCRATCH: usize = 8 << 10;

thread_local! {
    /// To read into a buffer of one's own without `unsafe`, it has to be filled with zeros first. For a message of a few bytes
    /// that is more work than to read it, and to copy it costs nothing beside.
    static SCRATCH_SPACE: RefCell<[u8; SCRATCH]> = const { RefCell::new([0; SCRATCH]) };
}

/// A connected Unix socket, for a [`Driver`](crate::Driver).
///
/// A driver takes tokio's `UnixStream` as well, but that asks the kernel for everything that happens to the socket, and is
/// woken each time that the peer has read, because there is room to write then. In a conversation of questions and answers,
/// that is half of all wake-ups, and each is a switch to a process that finds nothing to do. This one asks for that only
/// while there is something that could not be written.
///
/// It is made from a `UnixStream`, and registered with the runtime when it is used first.
pub struct Socket {
    state: State,
    /// Whether nothing was read yet. What the peer has sent by then is there to be read, and to be told so takes the runtime
    /// until it has gone through all that is ready already.
    is_fresh: bool,
}

enum State {
    /// As it came.
    New(UnixStream),
    /// It is told when there is something to read.
    Reading(AsyncFd<Arc<StdStream>>),
    /// It is told when there is room to write as well.
    Blocked(AsyncFd<Arc<StdStream>>),
    /// It could not be registered.
    Lost,
}

impl From<UnixStream> for Socket {
    fn from(stream: UnixStream) -> Self {
        Self { state: State::New(stream), is_fresh: true }
    }
}

impl Socket {
    /// The socket itself, for as long as the connection lasts: the kernel may be asked about it then. It is registered with the
    /// runtime if it was not.
    pub fn downgrade(&mut self) -> io::Result<Weak<StdStream>> {
        self.registered().map(|stream| Arc::downgrade(stream.get_ref()))
    }

    fn registered(&mut self) -> io::Result<&AsyncFd<Arc<StdStream>>> {
        if let State::New(_) = self.state
            && let State::New(stream) = std::mem::replace(&mut self.state, State::Lost)
        {
            self.state = State::Reading(register(Arc::new(stream.into_std()?), Interest::READABLE)?);
        }

        match &self.state {
            State::Reading(stream) | State::Blocked(stream) => Ok(stream),
            State::New(_) | State::Lost => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// Has it told that there is room to write, or no longer.
    fn set_blocked(&mut self, blocked: bool, cx: &mut Context<'_>) -> io::Result<()> {
        let stream = match std::mem::replace(&mut self.state, State::Lost) {
            State::Reading(stream) if blocked => stream.into_inner(),
            State::Blocked(stream) if !blocked => stream.into_inner(),
            other => {
                self.state = other;
                return Ok(());
            }
        };

        let stream = match blocked {
            true => State::Blocked(register(stream, Interest::READABLE | Interest::WRITABLE)?),
            false => State::Reading(register(stream, Interest::READABLE)?),
        };
        self.state = stream;

        // Whoever waits to read did so with the registration that is gone.
        if self.registered()?.poll_read_ready(cx).is_ready() {
            cx.waker().wake_by_ref();
        }

        Ok(())
    }
}

/// What is deprecated is that it takes any number for a file descriptor. This one is owned, and stays open for as long as it is
/// watched. The replacement says so by `unsafe`, which this crate forbids.
#[expect(deprecated)]
fn register(stream: Arc<StdStream>, interest: Interest) -> io::Result<AsyncFd<Arc<StdStream>>> {
    AsyncFd::with_interest(stream, interest)
}

/// What a [`Driver`](crate::Driver) reads from and writes to.
pub trait Transport: AsyncRead + AsyncWrite + Unpin {
    /// The socket itself, once it was read from, where others than the driver may write to it while all that was written before is
    /// through.
    ///
    /// Default is none: everything is written by the driver.
    fn socket(&self) -> Option<Arc<StdStream>> {
        None
    }

    /// Ready once the peer takes no more. It is asked of one that sends no more, while it is owed answers.
    ///
    /// Default is that who sends no more takes none either. That is right wherever nothing tells the one from the other: calls
    /// that nobody waits for should not be carried on.
    fn poll_gone(&mut self, _: &mut Context<'_>) -> Poll<()> {
        Poll::Ready(())
    }
}

impl Transport for UnixStream {}

impl Transport for DuplexStream {}

impl Transport for Socket {
    fn socket(&self) -> Option<Arc<StdStream>> {
        match &self.state {
            State::Reading(stream) => Some(stream.get_ref().clone()),
            State::New(_) | State::Blocked(_) | State::Lost => None,
        }
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // Whoever waits for room is told by the writing.
        let State::Reading(stream) = &self.state else { return Poll::Pending };

        // It is not told of room, so what makes it ready to write is only that nothing will be read any more.
        stream.poll_write_ready(cx).map(|_| ())
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let socket = self.get_mut();
        let is_fresh = std::mem::take(&mut socket.is_fresh);
        let stream = socket.registered()?;

        if is_fresh {
            match read(stream.get_ref(), buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                result => return Poll::Ready(result.map(|_| ())),
            }
        }

        loop {
            let mut ready = ready!(stream.poll_read_ready(cx))?;
            let length = buffer.remaining();

            match read(stream.get_ref(), buffer) {
                Ok(count) => {
                    // Less than there was room for is all there is. What comes now is told of anew.
                    if count < length {
                        ready.clear_ready();
                    }

                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

/// Reads once, and tells how much.
fn read(mut stream: &StdStream, buffer: &mut ReadBuf<'_>) -> io::Result<usize> {
    if buffer.remaining() > SCRATCH {
        return stream.read(buffer.initialize_unfilled()).inspect(|count| buffer.advance(*count));
    }

    SCRATCH_SPACE.with_borrow_mut(|scratch| {
        let room = &mut scratch[..buffer.remaining()];
        stream.read(room).inspect(|count| buffer.put_slice(&room[..*count]))
    })
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let socket = self.get_mut();

        loop {
            let is_blocked = matches!(socket.state, State::Blocked(_));
            let stream = socket.registered()?;
            let room = match is_blocked {
                true => Some(ready!(stream.poll_write_ready(cx))?),
                false => None,
            };

            match (&**stream.get_ref()).write(bytes) {
                Ok(count) => {
                    if is_blocked && count == bytes.len() {
                        socket.set_blocked(false, cx)?;
                    }

                    return Poll::Ready(Ok(count));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => match room {
                    Some(mut room) => room.clear_ready(),
                    None => socket.set_blocked(true, cx)?,
                },
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let stream = self.get_mut().registered()?;
        Poll::Ready(stream.get_ref().shutdown(std::net::Shutdown::Write))
    }
}

impl std::fmt::Debug for Socket {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.state {
            State::New(stream) => formatter.debug_tuple("Socket").field(stream).finish(),
            State::Reading(stream) | State::Blocked(stream) => {
                formatter.debug_tuple("Socket").field(stream.get_ref()).finish()
            }
            State::Lost => formatter.write_str("Socket"),
        }
    }
}
