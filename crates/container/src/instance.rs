//! What the code of a service is given in its process.

use std::collections::BTreeMap;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::net::{TcpListener, UdpSocket, UnixDatagram, UnixListener};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::error::InstanceError;
use crate::listener::Kind;
use crate::notify::Notify;
use crate::notify::link::Link;
use crate::thread::{Voice, What};
use crate::threads::Handle;
use crate::title;

/// One instance of a service, as its own code sees it. Clones are the same instance.
#[derive(Clone, Debug)]
pub struct Instance {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    service: String,
    index: u32,
    title: String,
    notify: &'static Notify,
    role: Role,
    listeners: Arc<BTreeMap<String, OwnedFd>>,
    link: Option<Link>,
    shutdown: CancellationToken,
    /// True once somebody wanted to be told about the shutdown.
    observed: AtomicBool,
}

/// What runs the instance, and how that is heard.
#[derive(Debug)]
enum Role {
    /// A process, by its notify pipe.
    Process,
    /// One of several threads of a process, by the process.
    OneOfThreads(Handle),
    /// A thread of the root.
    ThreadOfRoot(Voice),
}

impl Instance {
    pub(crate) fn new(
        service: String,
        index: u32,
        title: String,
        listeners: BTreeMap<String, OwnedFd>,
        link: Option<Link>,
    ) -> Self {
        let inner = Inner {
            service,
            index,
            title,
            notify: Notify::open(),
            role: Role::Process,
            listeners: Arc::new(listeners),
            link,
            shutdown: CancellationToken::new(),
            observed: AtomicBool::new(false),
        };
        Instance { inner: Arc::new(inner) }
    }

    /// An instance that is a thread of the root.
    pub(crate) fn in_root(
        service: String,
        index: u32,
        title: String,
        listeners: BTreeMap<String, OwnedFd>,
        voice: Voice,
    ) -> Self {
        let inner = Inner {
            service,
            index,
            title,
            notify: Notify::open(),
            role: Role::ThreadOfRoot(voice),
            listeners: Arc::new(listeners),
            link: None,
            shutdown: CancellationToken::new(),
            observed: AtomicBool::new(false),
        };
        Instance { inner: Arc::new(inner) }
    }

    /// The same instance for one of its threads.
    pub(crate) fn for_thread(&self, thread: Handle) -> Self {
        let inner = Inner {
            service: self.inner.service.clone(),
            index: self.inner.index,
            title: self.inner.title.clone(),
            notify: self.inner.notify,
            role: Role::OneOfThreads(thread),
            listeners: Arc::clone(&self.inner.listeners),
            link: self.inner.link.clone(),
            shutdown: CancellationToken::new(),
            observed: AtomicBool::new(false),
        };
        Instance { inner: Arc::new(inner) }
    }

    /// The service's name and the instance's number, such as `worker#1`, or `worker#1.2` in the second of several threads.
    pub fn name(&self) -> String {
        let name = child_name(&self.inner.service, self.inner.index);
        match self.thread() {
            Some(thread) => format!("{name}.{thread}"),
            None => name,
        }
    }

    /// Which of the instance's threads this is, from 1, if the service runs in several.
    pub fn thread(&self) -> Option<u32> {
        match &self.inner.role {
            Role::OneOfThreads(thread) => Some(thread.number),
            Role::Process | Role::ThreadOfRoot(_) => None,
        }
    }

    /// The service's name.
    pub fn service(&self) -> &str {
        &self.inner.service
    }

    /// Which of the service's instances this is, from 1.
    pub fn index(&self) -> u32 {
        self.inner.index
    }

    /// What `ps` shows of this process by default: the application's name, the service's and the instance's number,
    /// such as `my-app: worker#1`.
    pub fn title(&self) -> &str {
        &self.inner.title
    }

    /// Has `ps` show this text in the place of the [title](Self::title), for people to read: control characters
    /// become spaces, and what is longer than about 250 bytes is cut off. It costs no system call, so it may change with
    /// every request. Threads of one process have one title between them.
    ///
    /// ```no_run
    /// # fn serve(instance: &async_container::Instance, requests: u64) {
    /// instance.set_title(format!("{} ({requests} requests)", instance.title()));
    /// # }
    /// ```
    ///
    /// It takes the place of the arguments that the process was started with; [`std::env::args`] still has them. Where the
    /// process had other threads before [`Controller::run`](crate::Controller::run), the first 15 bytes become the
    /// name of the process instead, which `ps -o comm` shows; in a [thread of the root](crate::Service::thread), that of the
    /// thread that calls this.
    pub fn set_title(&self, title: impl AsRef<str>) {
        match &self.inner.role {
            Role::Process | Role::OneOfThreads(_) => title::set(title.as_ref()),
            Role::ThreadOfRoot(_) => title::set_of_thread(title.as_ref()),
        }
    }

    /// Says that this instance is ready to do its work.
    ///
    /// # Errors
    /// When the root cannot be told.
    pub fn ready(&self) -> Result<(), InstanceError> {
        match &self.inner.role {
            Role::Process => return self.inner.notify.ready().map_err(InstanceError::Notify),
            Role::OneOfThreads(thread) => thread.ready(),
            Role::ThreadOfRoot(voice) => voice.say(What::Ready),
        }
        Ok(())
    }

    /// Says what this instance is doing, for people to read.
    ///
    /// # Errors
    /// When the root cannot be told.
    pub fn status(&self, text: impl Into<String>) -> Result<(), InstanceError> {
        if let Role::ThreadOfRoot(voice) = &self.inner.role {
            voice.say(What::Status(text.into()));
            return Ok(());
        }
        self.inner.notify.status(text).map_err(InstanceError::Notify)
    }

    /// Asks for a new process in the place of this one, for a reason such as `10000 requests`: it is started first, and this
    /// one is asked to end when it is ready, when it has failed, or after a minute. Until then this one works on, so that
    /// nothing stays undone meanwhile. One that has not been ready for [long enough](crate::Backoff::healthy_after) waits
    /// until then; one that never was is not replaced. Of one service, [so many](crate::Service::recycle_at_once) are replaced at a time; the
    /// others wait. To ask again changes nothing.
    ///
    /// ```no_run
    /// # fn serve(instance: &async_container::Instance, requests: u64) -> Result<(), Box<dyn std::error::Error>> {
    /// if requests == 10_000 {
    ///     instance.recycle("10000 requests")?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// One of [several threads](crate::Service::threads) has the whole process replaced.
    ///
    /// # Errors
    /// When the root cannot be told.
    pub fn recycle(&self, reason: impl Into<String>) -> Result<(), InstanceError> {
        if let Role::ThreadOfRoot(voice) = &self.inner.role {
            voice.say(What::Recycle(reason.into()));
            return Ok(());
        }
        self.inner.notify.recycle(reason.into()).map_err(InstanceError::Notify)
    }

    /// Completes when the instance is asked to end.
    ///
    /// Once this was called, the service's code is no longer dropped at that moment, but expected to
    /// return by itself within the grace period.
    pub fn shutdown(&self) -> WaitForCancellationFutureOwned {
        self.inner.observed.store(true, Ordering::Relaxed);
        self.inner.shutdown.clone().cancelled_owned()
    }

    /// The TCP socket of this name that the service was given with [`Service::listen`](crate::Service::listen).
    ///
    /// # Errors
    /// When there is none, or it is no TCP socket.
    pub fn listener(&self, name: &str) -> Result<TcpListener, InstanceError> {
        let listener = std::net::TcpListener::from(self.duplicate(name, Kind::Tcp)?);
        listener.set_nonblocking(true)?;
        Ok(TcpListener::from_std(listener)?)
    }

    /// The Unix stream socket of this name that the service was given with [`Service::listen`](crate::Service::listen).
    ///
    /// # Errors
    /// When there is none, or it is no Unix stream socket.
    pub fn unix_listener(&self, name: &str) -> Result<UnixListener, InstanceError> {
        let listener = std::os::unix::net::UnixListener::from(self.duplicate(name, Kind::Unix)?);
        listener.set_nonblocking(true)?;
        Ok(UnixListener::from_std(listener)?)
    }

    /// The UDP socket of this name that the service was given with [`Service::listen`](crate::Service::listen). All
    /// instances receive from the same one: each datagram comes to one of them.
    ///
    /// # Errors
    /// When there is none, or it is no UDP socket.
    pub fn udp_socket(&self, name: &str) -> Result<UdpSocket, InstanceError> {
        let socket = std::net::UdpSocket::from(self.duplicate(name, Kind::Udp)?);
        socket.set_nonblocking(true)?;
        Ok(UdpSocket::from_std(socket)?)
    }

    /// The Unix datagram socket of this name that the service was given with [`Service::listen`](crate::Service::listen).
    /// All instances receive from the same one: each datagram comes to one of them.
    ///
    /// # Errors
    /// When there is none, or it is no Unix datagram socket.
    pub fn unix_datagram(&self, name: &str) -> Result<UnixDatagram, InstanceError> {
        let socket = std::os::unix::net::UnixDatagram::from(self.duplicate(name, Kind::UnixDatagram)?);
        socket.set_nonblocking(true)?;
        Ok(UnixDatagram::from_std(socket)?)
    }

    /// The line to the root, if the service was given one with [`Service::linked`](crate::Service::linked).
    pub fn link(&self) -> Option<&Link> {
        self.inner.link.as_ref()
    }

    fn duplicate(&self, name: &str, wanted: Kind) -> Result<OwnedFd, InstanceError> {
        let Some(socket) = self.inner.listeners.get(name) else {
            let known_names = self.inner.listeners.keys().cloned().collect();
            return Err(InstanceError::NoListener { name: name.to_owned(), known_names });
        };
        match Kind::of(socket)? {
            Some(kind) if kind == wanted => Ok(socket.try_clone()?),
            actual => {
                let actual = actual.map_or_else(|| "another kind of socket".to_owned(), |actual| actual.to_string());
                Err(InstanceError::OtherKind { name: name.to_owned(), actual, wanted: wanted.to_string() })
            }
        }
    }

    pub(crate) fn notify(&self) -> &'static Notify {
        self.inner.notify
    }

    pub(crate) fn notify_pipe(&self) -> Option<BorrowedFd<'static>> {
        self.inner.notify.pipe()
    }

    /// Completes when the instance is asked to end, without being counted as somebody who waits for that.
    pub(crate) async fn shutdown_begun(&self) {
        self.inner.shutdown.cancelled().await;
    }

    pub(crate) fn begin_shutdown(&self) {
        self.inner.shutdown.cancel();
    }

    /// True if the service's code waits for the shutdown itself.
    pub(crate) fn is_observed(&self) -> bool {
        self.inner.observed.load(Ordering::Relaxed)
    }
}

/// The title of one of a service's instances.
pub(crate) fn child_title(application: &str, service: &str, index: u32) -> String {
    format!("{application}: {}", child_name(service, index))
}

/// The name of one of a service's instances.
pub(crate) fn child_name(service: &str, index: u32) -> String {
    format!("{service}#{index}")
}
