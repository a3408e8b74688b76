//! Standard error that nobody has to wait for.
//!
//! Whoever is to read it may not, and a write would then take for ever: a root would stop to look after its children, and a
//! supervisor after its workers. So a thread of its own writes, and what it has no time for is counted and dropped.

use std::cell::Cell;
use std::io;
use std::os::fd::AsFd;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use tokio::runtime::Handle;
use tracing::{Level, Metadata};
use tracing_subscriber::fmt::MakeWriter;

/// What may wait to be written, in bytes: more than the last words of a child, of which there may be ten thousand lines.
const LIMIT: usize = 2 * 1024 * 1024;

/// What the thread itself may say beyond that.
const RESERVE: usize = 16 * 1024;

/// How long events are gathered that nobody waits for and that come so soon after others, unless there are many: a monitor that
/// tells of a thousand processes would wake the thread, and be interrupted by it, for every other one.
const GATHERED: Duration = Duration::from_millis(2);
const MANY: usize = LIMIT / 8;

/// How long a warning may hold up the one who gives it, until it is written or it is clear that nobody reads.
const PATIENCE: Duration = Duration::from_millis(20);

/// How long the end of the program may be held up.
const LAST_PATIENCE: Duration = Duration::from_secs(1);

/// How long to wait when standard error does not block, but is full.
const PAUSE: Duration = Duration::from_millis(10);

static QUEUE: Queue = Queue::new();

thread_local! {
    /// True on the thread that writes.
    static WRITES: Cell<bool> = const { Cell::new(false) };
}

/// Makes writers of events.
#[derive(Clone, Copy, Debug)]
pub(super) struct Writer {
    /// True where warnings and errors are to be written before the program goes on, since it may not go on for long.
    pub(super) waits: bool,
}

/// Writes one event.
#[derive(Debug)]
pub(super) struct EventWriter {
    waits: bool,
}

impl MakeWriter<'_> for Writer {
    type Writer = EventWriter;

    fn make_writer(&self) -> EventWriter {
        EventWriter { waits: false }
    }

    fn make_writer_for(&self, metadata: &Metadata<'_>) -> EventWriter {
        EventWriter { waits: self.waits && *metadata.level() <= Level::WARN }
    }
}

impl io::Write for EventWriter {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        write(event, self.waits);
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Gives what was said last the chance to be read.
pub(super) fn flush() {
    QUEUE.flush(LAST_PATIENCE);
}

fn write(event: &[u8], waits: bool) {
    // What comes before there is a runtime is written at once: a process that is about to be forked, or that takes variables out
    // of its environment, must have one thread only, and looks after nobody yet.
    if !QUEUE.is_drained() && (Handle::try_current().is_err() || !start()) {
        write_out(event);
        return;
    }
    QUEUE.push(event, WRITES.get());
    if waits && !WRITES.get() {
        QUEUE.wait(PATIENCE);
    }
}

/// Starts the thread, unless another one has done so meanwhile. False if there cannot be one.
fn start() -> bool {
    if !QUEUE.begin() {
        return true;
    }
    let thread = std::thread::Builder::new().name("log".to_owned()).spawn(|| {
        WRITES.set(true);
        QUEUE.drain(write_out, |dropped| {
            let Dropped { events, bytes } = dropped;
            tracing::warn!(events, bytes, "log events were dropped: standard error was not read in time");
        });
    });
    if thread.is_err() {
        QUEUE.give_up();
    }
    thread.is_ok()
}

/// Not by way of the standard library, which would lock standard error for as long as the write takes: a panic of
/// another thread must not wait for that to print its message.
fn write_out(mut bytes: &[u8]) {
    let stderr = io::stderr();
    while !bytes.is_empty() {
        match rustix::io::write(stderr.as_fd(), bytes) {
            Ok(length) => bytes = &bytes[length..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => std::thread::sleep(PAUSE),
            // Nobody can read it any more.
            Err(_) => return,
        }
    }
}

/// What there was no room for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Dropped {
    events: usize,
    bytes: usize,
}

/// Events on their way to the thread that writes them.
#[derive(Debug)]
struct Queue {
    state: Mutex<State>,
    filled: Condvar,
    written: Condvar,
}

#[derive(Debug)]
struct State {
    bytes: Vec<u8>,
    dropped: Dropped,
    /// True if there is a thread.
    drained: bool,
    /// What the thread waits for.
    rest: Rest,
    /// How many wait for something to be written.
    waiting: usize,
    /// Events that were put in and that were written, in all.
    pushed: u64,
    written: u64,
    /// True if somebody waited in vain since the thread last came on.
    stuck: bool,
}

/// What the thread that writes waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rest {
    /// Nothing: it writes.
    None,
    /// Something to write.
    Idle,
    /// More to write, a little while.
    Gathering,
}

impl Queue {
    const fn new() -> Self {
        let state = State {
            bytes: Vec::new(),
            dropped: Dropped { events: 0, bytes: 0 },
            drained: false,
            rest: Rest::None,
            waiting: 0,
            pushed: 0,
            written: 0,
            stuck: false,
        };
        Queue { state: Mutex::new(state), filled: Condvar::new(), written: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_drained(&self) -> bool {
        self.lock().drained
    }

    /// True for the one who is to start the thread.
    fn begin(&self) -> bool {
        !std::mem::replace(&mut self.lock().drained, true)
    }

    fn give_up(&self) {
        self.lock().drained = false;
    }

    /// Never blocks. What finds no room is dropped, unless there is a reserve for it.
    fn push(&self, event: &[u8], has_reserve: bool) {
        let mut state = self.lock();
        let limit = if has_reserve { LIMIT + RESERVE } else { LIMIT };
        if state.bytes.len() + event.len() > limit {
            state.dropped.events += 1;
            state.dropped.bytes += event.len();
            return;
        }
        state.bytes.extend_from_slice(event);
        state.pushed += 1;
        let is_wanted = match state.rest {
            Rest::None => false,
            Rest::Idle => true,
            Rest::Gathering => state.bytes.len() >= MANY,
        };
        if is_wanted {
            state.rest = Rest::None;
            self.filled.notify_one();
        }
    }

    /// Waits for all that was put in to be written, unless it is known that nobody reads.
    fn wait(&self, patience: Duration) {
        if !self.lock().stuck {
            self.flush(patience);
        }
    }

    fn flush(&self, patience: Duration) {
        let deadline = Instant::now() + patience;
        let mut state = self.lock();
        let goal = state.pushed;
        state.waiting += 1;
        if state.rest == Rest::Gathering {
            state.rest = Rest::None;
            self.filled.notify_one();
        }
        while state.drained && state.written < goal {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                state.stuck = true;
                break;
            }
            (state, _) = self.written.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner);
        }
        state.waiting -= 1;
    }

    /// Waits for more, unless somebody waits for what there is.
    fn gather<'a>(&'a self, mut state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        let deadline = Instant::now() + GATHERED;
        state.rest = Rest::Gathering;
        while state.rest == Rest::Gathering && state.waiting == 0 && state.bytes.len() < MANY {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            (state, _) = self.filled.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner);
        }
        state.rest = Rest::None;
        state
    }

    /// Writes whatever comes, and reports what did not.
    fn drain(&self, sink: impl Fn(&[u8]), report: impl Fn(Dropped)) -> ! {
        let mut batch = Vec::new();
        let mut last: Option<Instant> = None;
        loop {
            let (pushed, dropped) = {
                let mut state = self.lock();
                let mut was_idle = false;
                while state.bytes.is_empty() && state.dropped.events == 0 {
                    was_idle = true;
                    state.rest = Rest::Idle;
                    state = self.filled.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
                if was_idle && last.is_some_and(|last| last.elapsed() < GATHERED) {
                    state = self.gather(state);
                }
                std::mem::swap(&mut state.bytes, &mut batch);
                (state.pushed, std::mem::take(&mut state.dropped))
            };
            sink(&batch);
            batch.clear();
            // A burst is no reason to keep its room for ever.
            batch.shrink_to(64 * 1024);
            if dropped.events > 0 {
                report(dropped);
            }
            last = Some(Instant::now());
            let mut state = self.lock();
            state.written = pushed;
            state.stuck = false;
            if state.waiting > 0 {
                self.written.notify_all();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::sync::mpsc;

    /// A queue whose thread writes to a pipe, and what it reported.
    fn drained() -> (&'static Queue, io::PipeReader, mpsc::Receiver<Dropped>) {
        let queue: &Queue = Box::leak(Box::new(Queue::new()));
        let (reader, writer) = io::pipe().unwrap();
        let (sender, reports) = mpsc::channel();
        assert!(queue.begin() && !queue.begin());
        std::thread::spawn(move || {
            queue.drain(|bytes| (&writer).write_all(bytes).unwrap(), |dropped| sender.send(dropped).unwrap())
        });
        (queue, reader, reports)
    }

    #[test]
    fn events_are_written_in_their_order() {
        let (queue, mut reader, _reports) = drained();
        let mut expected = String::new();
        for number in 0..1000 {
            let event = format!("event {number}\n");
            queue.push(event.as_bytes(), false);
            expected.push_str(&event);
        }
        queue.flush(Duration::from_secs(60));
        let mut text = vec![0; expected.len()];
        reader.read_exact(&mut text).unwrap();
        assert_eq!(String::from_utf8(text).unwrap(), expected);
    }

    #[test]
    fn who_waits_does_not_wait_for_more_to_come() {
        let (queue, mut reader, _reports) = drained();
        let time = |number: u8| {
            let begin = Instant::now();
            queue.push(&[number], false);
            queue.wait(Duration::from_secs(60));
            let time = begin.elapsed();
            let mut event = [0];
            reader.read_exact(&mut event).unwrap();
            assert_eq!(event, [number]);
            time
        };
        // Others may have the processor at some of them.
        let fastest = (0..200).map(time).min().unwrap();
        assert!(fastest < GATHERED, "{fastest:?}");
        assert!(!queue.lock().stuck);
    }

    #[test]
    fn one_after_a_while_is_written_at_once() {
        let (queue, mut reader, _reports) = drained();
        let time = |number: u8| {
            std::thread::sleep(GATHERED * 2);
            let begin = Instant::now();
            queue.push(&[number], false);
            reader.read_exact(&mut [0]).unwrap();
            begin.elapsed()
        };
        // Others may have the processor at some of them.
        let fastest = (0..100).map(time).min().unwrap();
        assert!(fastest < GATHERED, "{fastest:?}");
    }

    #[test]
    fn events_that_come_soon_after_each_other_are_written_together() {
        let queue: &Queue = Box::leak(Box::new(Queue::new()));
        let (sender, batches) = mpsc::channel();
        assert!(queue.begin());
        std::thread::spawn(move || queue.drain(|bytes| sender.send(bytes.to_vec()).unwrap(), |_| {}));
        let are_together = || {
            queue.push(b"one", false);
            while queue.lock().rest != Rest::Gathering {
                // It gathered while others had the processor.
                if batches.try_recv().is_ok() {
                    return false;
                }
                std::thread::yield_now();
            }
            queue.push(b"two", false);
            let written = batches.recv_timeout(Duration::from_secs(60)).unwrap();
            if written != b"onetwo" {
                batches.recv_timeout(Duration::from_secs(60)).unwrap();
            }
            written == b"onetwo"
        };
        assert!((0..1000).any(|_| are_together()));
    }

    #[test]
    fn what_nobody_reads_is_dropped_and_counted_and_holds_up_nobody() {
        const EVENT: [u8; 1024] = [b'x'; 1024];
        let (queue, mut reader, reports) = drained();
        let total = 16 * 1024;
        for _ in 0..total {
            queue.push(&EVENT, false);
            queue.wait(Duration::from_millis(1));
        }
        assert!(queue.lock().stuck);
        assert!(queue.lock().bytes.len() <= LIMIT);
        let accepted = queue.lock().pushed as usize * EVENT.len();
        reader.read_exact(&mut vec![0; accepted]).unwrap();
        // What was dropped is reported once what was there before it has been written.
        let mut dropped = 0;
        while accepted + dropped < total * EVENT.len() {
            dropped += reports.recv_timeout(Duration::from_secs(60)).unwrap().bytes;
        }
        assert_eq!(accepted + dropped, total * EVENT.len());
        assert!(dropped > 10 * 1024 * 1024, "{dropped}");
        // All is well again.
        queue.push(b"after", false);
        queue.flush(Duration::from_secs(60));
        assert!(!queue.lock().stuck);
    }

    #[test]
    fn the_report_has_room_where_others_have_none() {
        let queue = Queue::new();
        queue.push(&vec![0; LIMIT], false);
        queue.push(b"no room", false);
        assert_eq!(queue.lock().dropped, Dropped { events: 1, bytes: 7 });
        queue.push(b"report", true);
        assert_eq!(queue.lock().bytes.len(), LIMIT + 6);
    }
}
