//! A child that is a thread of the root.

use std::time::{Duration, Instant};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::container::Key;
use crate::error::SpawnError;
use crate::instance::Instance;
use crate::spec::Work;
use crate::threads::{Outcome, run_thread};

/// What a thread tells the root.
#[derive(Debug)]
pub(crate) struct News {
    pub key: Key,
    /// Which thread of the child it is: the last one may still have something to say.
    pub run: u64,
    pub what: What,
}

#[derive(Debug)]
pub(crate) enum What {
    Ready,
    Healthy,
    Status(String),
    /// It wants to be replaced, for this reason.
    Recycle(String),
    Ended(Outcome),
}

/// The end through which a thread is heard.
#[derive(Clone, Debug)]
pub(crate) struct Voice {
    key: Key,
    run: u64,
    sender: UnboundedSender<News>,
}

impl Voice {
    /// Fails when the root is about to end, which is then all that matters.
    pub(crate) fn say(&self, what: What) {
        let _ = self.sender.send(News { key: self.key, run: self.run, what });
    }
}

/// The running thread of a child.
pub(crate) struct Thread {
    pub run: u64,
    pub instance: Instance,
    pub started: Instant,
    pub was_ready: bool,
}

/// Where the root hears all threads.
pub(crate) struct Voices {
    sender: UnboundedSender<News>,
    receiver: UnboundedReceiver<News>,
    runs: u64,
}

impl Default for Voices {
    fn default() -> Self {
        let (sender, receiver) = unbounded_channel();
        Voices { sender, receiver, runs: 0 }
    }
}

impl Voices {
    /// A voice for the next thread of a child.
    pub(crate) fn voice(&mut self, key: Key) -> Voice {
        self.runs += 1;
        Voice { key, run: self.runs, sender: self.sender.clone() }
    }

    /// The next that a thread says. May be dropped without loss.
    pub(crate) async fn next(&mut self) -> News {
        match self.receiver.recv().await {
            Some(news) => news,
            // There is always the sender of `self`.
            None => std::future::pending().await,
        }
    }

    /// The next that a thread has said already.
    pub(crate) fn try_next(&mut self) -> Option<News> {
        self.receiver.try_recv().ok()
    }
}

impl Thread {
    /// Starts the work in a thread of its own.
    pub(crate) fn start(
        work: &Work,
        instance: Instance,
        voice: Voice,
        health_check_timeout: Option<Duration>,
    ) -> Result<Thread, SpawnError> {
        let thread = Thread { run: voice.run, instance: instance.clone(), started: Instant::now(), was_ready: false };
        let work = Work::clone(work);
        let pace = health_check_timeout.map(|timeout| (timeout / 2).max(Duration::from_millis(1)));
        std::thread::Builder::new()
            .name(instance.name())
            .spawn(move || {
                let beat = voice.clone();
                let outcome = run_thread(&work, instance, pace, move || beat.say(What::Healthy));
                voice.say(What::Ended(outcome));
            })
            .map_err(|source| SpawnError::System { step: "start a thread", source })?;
        Ok(thread)
    }
}
