//! What the driver of a connection shares with the handles to it.

use std::{
    io::Write as _,
    os::unix::net::UnixStream as StdStream,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::Waker,
    time::Instant,
};

use tokio::sync::Notify;

use crate::{connection::Connection, notice::Notice};

/// How much is written without the driver, at most. It gives larger buffers back.
const WRITTEN_AT_ONCE: usize = 4096;

/// A connection under a lock. Handles encode into its output themselves, and wake the driver only if it would not come
/// by on its own: that, and that it takes all there is at once, is what makes many calls cheap.
///
/// Whoever calls many others at a time writes each call itself: to have as many drivers do so takes several times the instructions.
/// All else goes by the driver. That also waits for what is said next: of calls that are made again as soon as they are answered, the
/// first would else go alone.
pub(crate) struct Shared {
    state: Mutex<State>,
    handles: AtomicUsize,
    pub(crate) closed: Notify,
}

pub(crate) struct State {
    pub(crate) connection: Connection,
    pub(crate) driver: Driver,
    /// What handles may write to while the driver waits, if there is such a thing.
    pub(crate) socket: Option<Arc<StdStream>>,
}

/// What the driver waits for.
pub(crate) enum Driver {
    /// It is at work, and looks at everything before it rests.
    Running,
    /// It waits, and has to be woken if anything but this happens.
    Waiting {
        waker: Waker,
        /// It will be told when more can be read.
        reading: bool,
        /// It will be told when more can be written.
        blocked: bool,
        /// It will look again then.
        timeout: Option<Instant>,
    },
    /// It is gone.
    Gone,
}

impl State {
    /// Writes the output where the driver waits, and where that is likely to be all for now. What cannot be written is left to the
    /// driver, errors included.
    fn write_at_once(&mut self) {
        let Driver::Waiting { blocked: false, .. } = &self.driver else { return };
        let connection = &mut self.connection;

        if let Some(socket) = &self.socket
            && connection.has_output()
            && connection.is_sparse()
            && !connection.is_closing()
        {
            connection.write_output(WRITTEN_AT_ONCE, |bytes| (&**socket).write(bytes).unwrap_or(0));
        }
    }

    /// Whether something happened that the driver does not know of.
    fn has_news(&self) -> bool {
        let Driver::Waiting { reading, blocked, timeout, .. } = &self.driver else {
            return false;
        };

        let connection = &self.connection;
        let earlier = match (connection.poll_timeout(), timeout) {
            (Some(wanted), Some(armed)) => wanted < *armed,
            (wanted, _) => wanted.is_some(),
        };

        (connection.has_output() && !blocked)
            || (connection.wants_input() && !reading)
            || connection.is_closing()
            || earlier
    }
}

impl Shared {
    pub(crate) fn new(connection: Connection) -> Self {
        Self {
            state: Mutex::new(State { connection, driver: Driver::Running, socket: None }),
            handles: AtomicUsize::new(0),
            closed: Notify::new(),
        }
    }

    /// A panic under the lock can only come from somebody's `Serialize`, and what that wrote was taken back.
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something with the connection, then wakes whoever has to know.
    pub(crate) fn with<R>(&self, act: impl FnOnce(&mut Connection) -> R) -> R {
        self.settle(|state| act(&mut state.connection))
    }

    /// As [`with`](Self::with), and writes what is to be said.
    pub(crate) fn with_writing<R>(&self, act: impl FnOnce(&mut Connection) -> R) -> R {
        self.settle(|state| {
            let result = act(&mut state.connection);
            state.write_at_once();
            result
        })
    }

    fn settle<R>(&self, act: impl FnOnce(&mut State) -> R) -> R {
        let mut state = self.lock();
        let result = act(&mut state);
        let notices = state.connection.take_notices();
        let driver = match state.has_news() {
            true => match std::mem::replace(&mut state.driver, Driver::Running) {
                Driver::Waiting { waker, .. } => Some(waker),
                _ => None,
            },
            false => None,
        };
        drop(state);

        if let Some(waker) = driver {
            waker.wake();
        }

        notices.into_iter().for_each(Notice::give);
        result
    }

    pub(crate) fn add_handle(&self) {
        self.handles.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns whether that was the last one.
    pub(crate) fn remove_handle(&self) -> bool {
        self.handles.fetch_sub(1, Ordering::AcqRel) == 1
    }

    /// Ends everything that the connection has under way.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.driver = Driver::Gone;
        let socket = state.socket.take();
        drop(state);
        // It closes with the driver, and not under the lock.
        drop(socket);
        self.with(Connection::close);
        self.closed.notify_waiters();
    }
}
