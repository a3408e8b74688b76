//! The root at work: what signals ask for and children do, and what becomes of it.

mod reload;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use tokio::signal::unix::Signal;

use self::reload::{Incoming, batch_due};
use crate::container::{Container, Event};
use crate::controller::Source;
use crate::exit::exit_code;
use crate::guardian::Watch;
use crate::lifecycle::{End, State};
use crate::manager::Manager;
use crate::notify::Message;
use crate::orders::{Order, Signals, Stops, order};
use crate::plan::Planned;
use crate::slot::{Child, Phase};
use crate::spec::Reload;
use crate::status::RootStatus;
use crate::sys::forget::forget_program;

/// The running root.
pub(crate) struct Root {
    container: Container,
    watch: Option<Watch>,
    manager: Manager,
    plan: Vec<Planned>,
    source: Source,
    grace: Duration,
    started: Instant,
    status: RootStatus,
    /// The generation that is being started beside the active one.
    incoming: Option<Incoming>,
    latest_generation: u64,
    /// The generation that was last said to be ready.
    announced: u64,
    /// True if a reload was asked for while one was under way.
    reload_again: bool,
    stops: Stops,
    /// The grace of the stop that is under way.
    stopping: Option<Duration>,
    /// The exit status, if it is not for having been asked to stop.
    code: Option<u8>,
    options: Options,
}

/// What a root is told beside what to run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Options {
    pub grace: Duration,
    pub maximum_draining: usize,
    pub reload: Reload,
    pub reload_timeout: Duration,
}

impl Root {
    pub(crate) fn new(
        container: Container,
        plan: Vec<Planned>,
        source: Source,
        options: Options,
        watch: Option<Watch>,
    ) -> Self {
        let status =
            RootStatus { process_id: std::process::id(), graceful_stop: options.grace, ..RootStatus::default() };
        Root {
            container,
            watch,
            manager: Manager::new(),
            plan,
            source,
            grace: options.grace,
            started: Instant::now(),
            status,
            incoming: None,
            latest_generation: 0,
            announced: 0,
            reload_again: false,
            stops: Stops::default(),
            stopping: None,
            code: None,
            options,
        }
    }

    pub(crate) async fn run(&mut self, mut signals: Signals, mut children: Signal) -> ExitCode {
        self.tell(&Message { status: Some("Initializing controller...".to_owned()), ..Message::default() });
        self.start();
        self.container.set_root(self.status.clone());
        loop {
            tokio::select! {
                biased;
                order = signals.next() => self.handle_order(order, false),
                forwarded = next_forwarded(&mut self.watch) => match forwarded {
                    Some(number) => self.handle_order(order(number), true),
                    None => {
                        tracing::error!("the guardian was killed: ending everything");
                        self.watch = None;
                        return ExitCode::from(exit_code::GUARDIAN_KILLED);
                    }
                },
                event = self.container.next() => self.handle_event(event),
                () = batch_due(&self.incoming) => self.handle_due(),
                () = self.manager.tick() => self.tell(&Message { healthy: Some(true), ..Message::default() }),
                // Last, so that no restart waits for it.
                _ = children.recv() => self.container.reap_orphans(),
            }
            if let Some(code) = self.outcome() {
                return code;
            }
        }
    }

    /// True while a guardian is there to sweep up.
    pub(crate) fn is_guarded(&self) -> bool {
        self.watch.is_some()
    }

    fn tell(&self, message: &Message) {
        self.manager.tell(self.watch.as_ref(), message);
    }

    fn handle_order(&mut self, order: Order, forwarded: bool) {
        match order {
            Order::Stop(number) => match self.stops.count(number, forwarded, Instant::now()) {
                (0, _) => {
                    tracing::info!(grace = ?self.grace, "stopping");
                    self.tell(&Message { stopping: Some(true), ..Message::default() });
                    self.stop(self.grace);
                }
                (earlier, now) if now > earlier => {
                    tracing::warn!("asked to stop again: killing what is left");
                    self.stop(Duration::ZERO);
                }
                _ => {}
            },
            Order::Reload if self.stopping.is_some() => tracing::info!("not reloading: stopping"),
            Order::Reload => self.reload(),
            Order::Ignore => {
                tracing::info!("ignoring a signal: only SIGINT, SIGTERM and SIGHUP have a meaning")
            }
        }
    }

    fn stop(&mut self, grace: Duration) {
        self.stopping = Some(grace);
        self.forget_incoming();
        if grace.is_zero() {
            self.container.stop(|_| true, grace);
        } else {
            self.container.stop_in_order(|_| true, grace, true);
        }
    }

    /// Some have ended: others may be stopped now that nobody needs them any more.
    fn stop_more(&mut self) {
        if self.container.has_more_to_stop() {
            match self.stopping {
                Some(grace) => self.container.stop_in_order(|_| true, grace, true),
                None => self.stop_draining(),
            }
        }
    }

    fn handle_event(&mut self, event: Event) {
        match event {
            Event::Failed { generation, reason } => self.handle_failed(generation, reason),
            Event::Ready { .. } => self.handle_ready(),
            Event::Unready => self.handle_unready(),
            Event::Stopped { .. } => {
                self.stop_more();
                self.handle_ready();
            }
            Event::EssentialEnded { name, status, failed } => {
                let reason = format!("essential child {name} {status}");
                if failed {
                    self.give_up(status.code(), &reason);
                } else if self.stopping.is_none() {
                    tracing::info!(reason, grace = ?self.grace, "the work is done: stopping everything");
                    self.end_with(status.code(), reason);
                }
            }
            // What does its work already goes on with it.
            Event::Misconfigured { reason } if self.announced == 0 => self.give_up(exit_code::CONFIGURATION, &reason),
            Event::Misconfigured { .. } => {}
            Event::ThreadHung { name } => {
                self.give_up(exit_code::THREAD_HUNG, &format!("thread {name} of the root hangs"))
            }
            Event::GiveUp { reason } => self.give_up(exit_code::GAVE_UP, &reason),
        }
        self.update_ready();
    }

    /// Stops everything, because of what went wrong.
    fn give_up(&mut self, code: u8, reason: &str) {
        if self.stopping.is_none() {
            tracing::error!(code, reason, grace = ?self.grace, "giving up: stopping everything");
            self.end_with(code, reason.to_owned());
        }
    }

    /// Stops everything, to end with this status.
    fn end_with(&mut self, code: u8, reason: String) {
        self.code = Some(code);
        self.tell(&Message { stopping: Some(true), status: Some(reason), ..Message::default() });
        self.stop(self.grace);
    }

    fn update_ready(&mut self) {
        let ready = self.stopping.is_none() && self.is_ready();
        if ready != self.status.ready {
            self.status.ready = ready;
            self.container.set_root(self.status.clone());
            if ready {
                // Whenever a child was replaced they all are again; news is only the first time.
                if std::mem::replace(&mut self.announced, self.status.generation) != self.status.generation {
                    let children = self.container.count(|child| child.phase() == Phase::Active);
                    tracing::info!(children, generation = self.status.generation, after = ?self.started.elapsed(), "all children are ready");
                    // What it takes to start is most of what was read, and is not needed now.
                    forget_program();
                }
                self.announce();
            }
        }
    }

    /// Tells whoever started the root.
    fn announce(&self) {
        let children = self.container.count(|child| child.phase() == Phase::Active && !is_over(child));
        let status = match &self.status.reload_error {
            Some(error) => format!("Container failed to start: {error}"),
            None => format!("Running with {children} children."),
        };
        let errno = self.status.reload_error.as_ref().map(|_| -1);
        let ready = self.status.ready.then_some(true);
        self.tell(&Message { ready, status: Some(status), errno, ..Message::default() });
    }

    /// True if every child that is to do its work does it.
    fn is_ready(&self) -> bool {
        !self.container.any(|child| {
            child.phase() == Phase::Active && !matches!(child.state(), State::Ready | State::Stopped(End::Success))
        })
    }

    /// The exit status, once there is nothing left to do.
    fn outcome(&mut self) -> Option<ExitCode> {
        if self.container.any(|child| !child.is_linked() && !is_over(child)) {
            return None;
        }
        // Linked children look after the others. If those have ended by themselves, they are not needed any more.
        if self.stopping.is_none() && self.plan.iter().any(|planned| !planned.service.linked) {
            let failed = self.container.names(|child| child.state() == State::Stopped(End::Failure));
            if failed.is_empty() {
                tracing::info!("all children have ended");
            } else {
                tracing::error!(failed = failed.join(", "), "all children have ended, some with a failure");
                self.code = Some(exit_code::CHILDREN_FAILED);
            }
            self.stop(self.grace);
        }
        if self.container.any(|child| !is_over(child)) {
            return None;
        }
        let code = self.code.unwrap_or(exit_code::SUCCESS);
        tracing::info!(code, "stopped");
        Some(ExitCode::from(code))
    }
}

fn is_over(child: &Child<'_>) -> bool {
    matches!(child.state(), State::Stopped(_))
}

async fn next_forwarded(watch: &mut Option<Watch>) -> Option<i32> {
    match watch {
        Some(watch) => watch.next().await,
        None => std::future::pending().await,
    }
}
