//! The descriptors of all children in one epoll(7).

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::process::Signal;

use crate::container::{Captured, Key};
use crate::error::SpawnError;
use crate::output::Stream;
use crate::process::Process;
use crate::sys::signal;

/// Which descriptor of which slot an epoll event is about.
#[derive(Clone, Copy)]
pub(crate) enum Source {
    Exit,
    Notify,
    Link,
    /// The notify socket, which is no slot's.
    Notices,
    /// A program that was started as a probe: the key is its process id.
    Probe,
    Stdout,
    Stderr,
    /// The clock was set, which is no slot's.
    Clock,
}

impl Source {
    pub(crate) fn of(stream: Stream) -> Self {
        match stream {
            Stream::Stdout => Source::Stdout,
            Stream::Stderr => Source::Stderr,
        }
    }
}

/// How the end of a process is waited for: once. A process that is traced (`ptrace(2)`) cannot be collected as long as its
/// tracer does not let go of it, though its descriptor says that it has ended; that it can be is said once more.
pub(crate) const END: EventFlags = EventFlags::IN.union(EventFlags::ET);

/// The bits of an event's data that say which descriptor of its slot it is about.
const SOURCE_BITS: u32 = 4;

/// What an epoll event's data says.
pub(crate) fn token(key: Key, source: Source) -> EventData {
    EventData::new_u64(key << SOURCE_BITS | source as u64)
}

/// The descriptors that are ready now.
pub(crate) fn poll(epoll: &OwnedFd) -> Vec<(Key, Source)> {
    let mut events = Vec::with_capacity(64);
    let none = rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 };
    match rustix::io::retry_on_intr(|| epoll::wait(epoll, rustix::buffer::spare_capacity(&mut events), Some(&none))) {
        Ok(_) => {}
        Err(error) => tracing::error!(%error, "cannot poll children"),
    }
    let source = |data: u64| match data & ((1 << SOURCE_BITS) - 1) {
        0 => Source::Exit,
        1 => Source::Notify,
        2 => Source::Link,
        3 => Source::Notices,
        4 => Source::Probe,
        5 => Source::Stdout,
        6 => Source::Stderr,
        _ => Source::Clock,
    };
    events.iter().map(|event| (event.data.u64() >> SOURCE_BITS, source(event.data.u64()))).collect()
}

/// Has the process watched. If that is impossible it is ended again.
pub(crate) fn register(epoll: &OwnedFd, key: Key, process: Process) -> Result<Process, SpawnError> {
    let add = |descriptor: BorrowedFd<'_>, source, flags| epoll::add(epoll, descriptor, token(key, source), flags);
    let mut result = add(process.pidfd.as_fd(), Source::Exit, END);
    if let Some(notify) = &process.notify {
        result = result.and_then(|()| add(notify.as_fd(), Source::Notify, EventFlags::IN));
    }
    if let Some(link) = &process.link {
        // Only that there is room again is news.
        result = result.and_then(|()| add(link.as_fd(), Source::Link, EventFlags::OUT | EventFlags::ET));
    }
    for Captured { output, .. } in &process.outputs {
        result = result.and_then(|()| add(output.as_fd(), Source::of(output.stream), EventFlags::IN));
    }
    match result {
        Ok(()) => Ok(process),
        Err(error) => {
            process.signal(Signal::KILL);
            let _ = signal::reap(&process.pidfd);
            unregister(epoll, &process);
            Err(SpawnError::System { step: "watch the process", source: error.into() })
        }
    }
}

/// Descriptors would leave the epoll by being closed, were there no copies of them in a child that is just being made.
pub(crate) fn unregister(epoll: &OwnedFd, process: &Process) {
    let descriptors =
        [Some(process.pidfd.as_fd()), process.notify.as_ref().map(AsFd::as_fd), process.link.as_ref().map(AsFd::as_fd)];
    let outputs = process.outputs.iter().map(|captured| captured.output.as_fd());
    for descriptor in descriptors.into_iter().flatten().chain(outputs) {
        let _ = epoll::delete(epoll, descriptor);
    }
}
