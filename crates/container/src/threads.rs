//! An instance of several threads, each with a runtime of its own.
//!
//! A thread cannot be killed. One that fails is started again within its process; one that hangs keeps the process from
//! beating, so that the root replaces the process.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinSet;

use crate::error::BoxError;
use crate::instance::Instance;
use crate::notify::Notify;
use crate::spec::{Restart, Service, Work};

/// What a thread tells the process.
#[derive(Debug)]
pub(crate) enum Event {
    /// It is ready.
    Ready(u32),
    /// Its work has ended, with the error if it failed.
    Ended(u32, Option<String>),
}

/// The end of a thread through which it tells the process that it is ready.
#[derive(Clone, Debug)]
pub(crate) struct Handle {
    pub number: u32,
    events: UnboundedSender<Event>,
}

impl Handle {
    pub(crate) fn ready(&self) {
        // It fails when the process is about to end.
        let _ = self.events.send(Event::Ready(self.number));
    }
}

/// One of the threads, as the process sees it.
struct Thread {
    ready: bool,
    over: bool,
    /// True while it waits to be started again.
    waiting: bool,
    failed: bool,
    failures: u32,
    started: Instant,
    /// When it last beat, in milliseconds since the process began.
    last_beat: Arc<AtomicU64>,
    /// What the code of this thread was given, for telling it to end.
    instance: Instance,
    /// True while it has been silent for too long.
    silent: bool,
}

/// The threads of a process.
pub(crate) struct Threads<'service> {
    service: &'service Service,
    work: Work,
    process: Instance,
    threads: Vec<Thread>,
    events: UnboundedReceiver<Event>,
    sender: UnboundedSender<Event>,
    /// Threads that are to be started again, by number, when their delay is over.
    restarts: JoinSet<u32>,
    begin: Instant,
    ready: bool,
    stopping: bool,
}

impl<'service> Threads<'service> {
    /// Starts them all.
    pub(crate) fn start(
        service: &'service Service,
        work: Work,
        process: Instance,
        count: u32,
    ) -> Result<Self, BoxError> {
        let (sender, events) = unbounded_channel();
        let begin = Instant::now();
        let mut threads = Threads {
            service,
            work,
            process,
            threads: Vec::new(),
            events,
            sender,
            restarts: JoinSet::new(),
            begin,
            ready: false,
            stopping: false,
        };
        for number in 1..=count {
            let handle = Handle { number, events: threads.sender.clone() };
            let thread = Thread {
                ready: false,
                over: false,
                waiting: false,
                failed: false,
                failures: 0,
                started: begin,
                last_beat: Arc::default(),
                instance: threads.process.for_thread(handle),
                silent: false,
            };
            threads.threads.push(thread);
            threads.spawn(number)?;
        }
        Ok(threads)
    }

    /// How often threads beat, and the process looks at their beats: so often that the root hears of a silent thread by the
    /// process's own silence before twice the time-out has passed.
    fn pace(&self) -> Option<Duration> {
        self.service.health_check_timeout.map(|timeout| (timeout / 4).max(Duration::from_millis(1)))
    }

    fn spawn(&mut self, number: u32) -> Result<(), BoxError> {
        let pace = self.pace();
        let Some(thread) = self.threads.get_mut(number as usize - 1) else { return Ok(()) };
        let handle = Handle { number, events: self.sender.clone() };
        thread.instance = self.process.for_thread(handle);
        thread.started = Instant::now();
        thread.waiting = false;
        if self.stopping {
            thread.instance.begin_shutdown();
        }
        let (work, instance, begin) = (Arc::clone(&self.work), thread.instance.clone(), self.begin);
        let (sender, last_beat) = (self.sender.clone(), Arc::clone(&thread.last_beat));
        beat(&last_beat, begin);
        std::thread::Builder::new().name(instance.name()).spawn(move || {
            let outcome = run_thread(&work, instance, pace, move || beat(&last_beat, begin));
            let error = match outcome {
                Outcome::Success => None,
                Outcome::Failure(error) => Some(error),
                Outcome::Panic => Some("panicked".to_owned()),
            };
            let _ = sender.send(Event::Ended(number, error));
        })?;
        Ok(())
    }

    /// Tells all threads to end.
    pub(crate) fn begin_shutdown(&mut self) {
        self.stopping = true;
        self.restarts.abort_all();
        for thread in &mut self.threads {
            thread.over |= thread.waiting;
            thread.instance.begin_shutdown();
        }
    }

    /// Looks after the threads until all are over. May be dropped and called again without loss.
    pub(crate) async fn run(&mut self) -> Result<(), BoxError> {
        let pace = self.pace();
        let mut ticks = tokio::time::interval(pace.unwrap_or(Duration::MAX / 4));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                Some(event) = self.events.recv() => self.handle_event(event)?,
                Some(Ok(number)) = self.restarts.join_next(), if !self.restarts.is_empty() => self.spawn(number)?,
                _ = ticks.tick(), if pace.is_some() => self.look_at_beats(),
            }
            if self.threads.iter().all(|thread| thread.over) {
                let failed = self.threads.iter().filter(|thread| thread.failed).count();
                return if failed == 0 { Ok(()) } else { Err(format!("{failed} threads failed").into()) };
            }
        }
    }

    fn handle_event(&mut self, event: Event) -> Result<(), BoxError> {
        match event {
            Event::Ready(number) => {
                if let Some(thread) = self.threads.get_mut(number as usize - 1) {
                    thread.ready = true;
                }
                if !self.ready && self.threads.iter().all(|thread| thread.ready || thread.over) {
                    self.ready = true;
                    Notify::open().ready()?;
                }
            }
            Event::Ended(number, error) => self.handle_ended(number, error.as_deref()),
        }
        Ok(())
    }

    fn handle_ended(&mut self, number: u32, error: Option<&str>) {
        let service = self.service;
        let Some(thread) = self.threads.get_mut(number as usize - 1) else { return };
        let name = thread.instance.name();
        let restart = !self.stopping
            && match service.restart {
                Restart::Always => true,
                Restart::OnFailure => error.is_some(),
                Restart::Never => false,
            };
        if !restart {
            thread.over = true;
            thread.failed = error.is_some();
            match error {
                Some(error) => tracing::error!(thread = name, error, "thread failed"),
                None => tracing::debug!(thread = name, "thread ended"),
            }
            return;
        }
        if service.backoff.is_healthy(thread.started.elapsed()) {
            thread.failures = 0;
        }
        let delay = service.backoff.delay(thread.failures, fastrand::f64());
        thread.failures += 1;
        let next_try = if delay.is_zero() { "at once".to_owned() } else { format!("in {delay:.1?}") };
        match error {
            Some(error) => tracing::error!(thread = name, error, next_try, "thread failed"),
            None => tracing::info!(thread = name, next_try, "thread ended"),
        }
        // It is no hanging thread while it waits.
        thread.last_beat.store(u64::MAX, Ordering::Relaxed);
        thread.waiting = true;
        self.restarts.spawn(async move {
            tokio::time::sleep(delay).await;
            number
        });
    }

    /// Beats for the process if every thread has beaten lately.
    fn look_at_beats(&mut self) {
        let Some(timeout) = self.service.health_check_timeout else { return };
        let now = self.begin.elapsed().as_millis() as u64;
        let mut all_well = true;
        for thread in self.threads.iter_mut().filter(|thread| !thread.over) {
            let silence = now.saturating_sub(thread.last_beat.load(Ordering::Relaxed));
            let silent = u128::from(silence) > timeout.as_millis() / 2;
            if silent && !std::mem::replace(&mut thread.silent, true) {
                tracing::error!(
                    thread = thread.instance.name(),
                    silence_ms = silence,
                    "thread hangs: the process will be replaced unless it goes on"
                );
            }
            thread.silent = silent;
            all_well &= !silent;
        }
        if all_well && let Err(error) = Notify::open().healthy() {
            tracing::debug!(%error, "cannot tell the root that this instance is healthy");
        }
    }
}

fn beat(last_beat: &AtomicU64, begin: Instant) {
    last_beat.store(begin.elapsed().as_millis() as u64, Ordering::Relaxed);
}

/// How the work of a thread ended.
#[derive(Debug)]
pub(crate) enum Outcome {
    Success,
    /// With an error, in words.
    Failure(String),
    /// Its message has been printed by the panic's hook.
    Panic,
}

/// The life of one thread. It beats once in each `pace`, from the runtime that does the work.
pub(crate) fn run_thread(
    work: &Work,
    instance: Instance,
    pace: Option<Duration>,
    beat: impl FnMut() + Send + 'static,
) -> Outcome {
    match catch_unwind(AssertUnwindSafe(|| work_until_shutdown(work, instance, pace, beat))) {
        Ok(Ok(())) => Outcome::Success,
        Ok(Err(error)) => Outcome::Failure(crate::entry::chain(error.as_ref())),
        Err(_) => Outcome::Panic,
    }
}

fn work_until_shutdown(
    work: &Work,
    instance: Instance,
    pace: Option<Duration>,
    mut beat: impl FnMut() + Send + 'static,
) -> Result<(), BoxError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        if let Some(pace) = pace {
            tokio::spawn(async move {
                let mut ticks = tokio::time::interval(pace);
                loop {
                    ticks.tick().await;
                    beat();
                }
            });
        }
        let work = work(instance.clone());
        tokio::pin!(work);
        tokio::select! {
            // First, as in a process.
            biased;
            result = &mut work => return result,
            () = instance.shutdown_begun() => {}
        }
        if instance.is_observed() { work.await } else { Ok(()) }
    })
}
