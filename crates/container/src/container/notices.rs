//! What children say, each by a pipe of its own, or by the notify socket that all of them share.

use std::time::{Duration, Instant};

use rustix::event::epoll::{self, EventFlags};
use rustix::process::Pid;

use super::{Container, Key, pid_of};
use crate::lifecycle::Failure;
use crate::notify::server::{Notice, Server};
use crate::notify::{Message, Request};
use crate::orphans;
use crate::policy::Verdict;
use crate::poller::{Source, token};
use crate::spec::Readiness;

/// The notify socket, if any service wants one.
#[derive(Default)]
pub(super) struct Notices {
    pub(super) server: Option<Server>,
    /// True once somebody was heard who is no child: that is logged once.
    stranger: bool,
}

impl Container {
    /// A child wrote to its notify pipe, or nobody can write to it any more.
    pub(super) fn handle_notify(&mut self, key: Key) {
        let Some(slot) = self.slots.get_mut(&key) else {
            return;
        };
        let Some(process) = &mut slot.process else {
            return;
        };
        let Some(reader) = &mut process.notify else {
            return;
        };
        let lines = reader.read();
        if let Some((line, error)) = lines.garbage
            && !std::mem::replace(&mut process.garbled, true)
        {
            tracing::warn!(
                child = slot.name,
                pid = pid_of(process),
                line,
                error,
                "ignoring what is no message on the notify pipe; further ones will not be logged"
            );
        }
        if lines.closed {
            // Its process may live on without it, as a program does that closes what it does not know.
            tracing::debug!(child = slot.name, pid = pid_of(process), "the notify pipe was closed");
            if let Some(reader) = process.notify.take() {
                let _ = epoll::delete(&self.epoll, &reader);
            }
        }
        for message in lines.messages {
            self.handle_message(key, message);
        }
        self.touch(key);
    }

    /// What a child says by whatever way.
    fn handle_message(&mut self, key: Key, message: Message) {
        let now = Instant::now();
        self.handle_remarks(key, &message, now);
        match message.ready {
            Some(true) => self.handle_ready(key, now),
            Some(false) => self.handle_unready(key, now),
            None => {}
        }
        let Some(slot) = self.slots.get_mut(&key) else {
            return;
        };
        slot.lifecycle.handle_message(now);
        if let Some(status) = message.status {
            tracing::debug!(child = slot.name, status, "child status");
            slot.status = Some(status);
            slot.shown = None;
        }
        match message.request {
            Some(Request::Replace(request)) if slot.service.linked => {
                let by = slot.name.clone();
                self.replace(request, &by);
            }
            Some(Request::Examined(request)) if slot.service.linked => self.handle_examined(request),
            Some(Request::Recycle(request)) => self.wants_recycling(key, request.reason, now),
            Some(_) => tracing::warn!(child = slot.name, "ignoring a request: the child is not linked"),
            None => {}
        }
    }

    /// Has children that want it told of the socket, and listens to it.
    pub(crate) fn listen_for_notices(&mut self, server: Server) -> std::io::Result<()> {
        epoll::add(self.epoll.get_ref(), &server, token(0, Source::Notices), EventFlags::IN)?;
        self.notices.server = Some(server);
        Ok(())
    }

    /// Hears all that was sent so far. It has to be all before an exit is handled: what a child said last may stand behind
    /// what others said, and its process id may mean another child afterwards.
    pub(super) fn handle_notices(&mut self) {
        let notices = self.notices.server.as_mut().map(Server::receive).unwrap_or_default();
        for notice in notices {
            match self.child_of(&notice) {
                Some(key) => self.handle_notice(key, notice),
                None => {
                    let pid = notice.sender.map(|pid| pid.as_raw_nonzero().get());
                    if !std::mem::replace(&mut self.notices.stranger, true) {
                        tracing::warn!(
                            pid,
                            "ignoring a notification: its sender is no child that has the notify socket, or no descendant of one \
                             that still runs; a program that notifies for another one must wait until it was heard, as \
                             systemd-notify does without --no-block; further ones will not be logged"
                        );
                    }
                }
            }
        }
    }

    /// The child that the sender is, whose group it is in, or whose descendant it is by its mark.
    fn child_of(&self, notice: &Notice) -> Option<Key> {
        let sender = notice.sender?;
        let by_id = |pid: &Pid| self.processes.get(pid).copied();
        let key = by_id(&sender)
            .or_else(|| by_id(&rustix::process::getpgid(Some(sender)).ok()?))
            .or_else(|| self.marked(&orphans::mark_of(sender)?))?;
        self.slots.get(&key).filter(|slot| slot.service.readiness == Readiness::NotifySocket).map(|_| key)
    }

    fn marked(&self, mark: &str) -> Option<Key> {
        let mut slots = self.slots.iter();
        slots.find(|(_, slot)| slot.process.as_ref().is_some_and(|process| process.mark == mark)).map(|(key, _)| *key)
    }

    fn handle_notice(&mut self, key: Key, notice: Notice) {
        let Some(slot) = self.slots.get_mut(&key) else {
            return;
        };
        if notice.truncated {
            tracing::warn!(child = slot.name, "the end of a notification was lost: it is too long");
        }
        if notice.store {
            tracing::debug!(child = slot.name, "closing descriptors: none are stored for children");
        }
        self.handle_message(key, notice.message);
        if notice.trigger {
            self.fail(key, Failure::Reported);
        }
        self.touch(key);
    }

    /// Has the child killed for what was found about it, unless a policy wants it to go on. True if it is.
    pub(super) fn fail(&mut self, key: Key, failure: Failure) -> bool {
        let Some(slot) = self.slots.get_mut(&key).filter(|slot| slot.lifecycle.is_up()) else {
            return false;
        };
        let now = Instant::now();
        if self.policies.check_failed(&slot.as_policies_see_it(None), failure, now) == Verdict::Wait {
            tracing::warn!(child = slot.name, %failure, "a policy has the child go on");
            return false;
        }
        slot.lifecycle.handle_failed(now, failure);
        self.touch(key);
        true
    }

    /// The parts of a message that change no state.
    fn handle_remarks(&mut self, key: Key, message: &Message, now: Instant) {
        let Some(slot) = self.slots.get_mut(&key) else {
            return;
        };
        if let Some(time) = message.extend_timeout_usec {
            slot.lifecycle.handle_extension(now, Duration::from_micros(time));
        }
        if message.stopping == Some(true) {
            tracing::debug!(child = slot.name, "child is about to end");
        }
        if let Some(errno) = message.errno {
            tracing::warn!(child = slot.name, errno, status = message.status, "child reports an error");
        }
    }
}
