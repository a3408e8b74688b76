//! What children write, where it goes to the log.

use std::time::Instant;

use rustix::event::epoll::{self, EventFlags};

use super::{Container, Key};
use crate::output::{Line, Next, Output, Stream};
use crate::poller::{Source, token};

/// The target of the events that captured lines become.
const TARGET: &str = "async_container::output";

impl Container {
    /// Something was written to a stream, or nobody can write to it any more.
    pub(super) fn handle_output(&mut self, key: Key, stream: Stream) {
        let Some(slot) = self.slots.get_mut(&key) else {
            return;
        };
        let Some(process) = &mut slot.process else {
            return;
        };
        let Some(index) = process.outputs.iter().position(|captured| captured.output.stream == stream) else {
            return;
        };
        let captured = &mut process.outputs[index];
        match captured.output.read(Instant::now(), |line| log(&slot.name, stream, &line)) {
            Next::Wait => {}
            Next::Pause(until) => {
                // It would be announced all the time.
                let _ = epoll::delete(self.epoll.get_ref(), &captured.output);
                captured.paused = Some(until);
                self.touch(key);
            }
            Next::Close => {
                let _ = epoll::delete(self.epoll.get_ref(), &captured.output);
                process.outputs.swap_remove(index);
            }
        }
    }

    /// Has streams announced again that have got a new share.
    pub(super) fn resume_outputs(&mut self, key: Key, now: Instant) {
        let Some(process) = self.slots.get_mut(&key).and_then(|slot| slot.process.as_mut()) else {
            return;
        };
        for captured in &mut process.outputs {
            if captured.paused.is_some_and(|until| until <= now) {
                captured.paused = None;
                let token = token(key, Source::of(captured.output.stream));
                if let Err(error) = epoll::add(self.epoll.get_ref(), &captured.output, token, EventFlags::IN) {
                    tracing::error!(%error, "cannot watch a child's output");
                }
            }
        }
    }

    /// Logs what a process has written before it ended.
    pub(super) fn finish_outputs(&mut self, key: Key) {
        let Some(slot) = self.slots.get_mut(&key) else {
            return;
        };
        let Some(process) = &mut slot.process else {
            return;
        };
        for captured in std::mem::take(&mut process.outputs) {
            if captured.paused.is_none() {
                let _ = epoll::delete(self.epoll.get_ref(), &captured.output);
            }
            let stream = captured.output.stream;
            let dropped = captured.output.finish(|line| log(&slot.name, stream, &line));
            if dropped.bytes > 0 {
                tracing::warn!(
                    child = slot.name,
                    %stream,
                    lines = dropped.lines,
                    bytes = dropped.bytes,
                    "dropping the rest of what the child wrote: it is too much to be logged at its end"
                );
            }
        }
    }
}

fn log(child: &str, stream: Stream, line: &Line) {
    let continued = line.continued.then_some(true);
    tracing::info!(target: TARGET, child, %stream, line = line.text, continued);
}

/// A stream that is captured.
pub(crate) struct Captured {
    pub output: Output,
    /// Until when it is not to be read.
    pub paused: Option<Instant>,
}
