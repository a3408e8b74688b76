//! What those who run a container want to decide themselves.

use std::time::{Duration, Instant};

use crate::error::BoxError;
use crate::exit::ExitStatus;
use crate::lifecycle::{Exit, Failure};
use crate::statistics::Statistics;

/// Sees what happens to children, and may decide otherwise.
///
/// The hooks run in the root, which looks after nobody meanwhile: they must be quick. An error or a panic of a hook is
/// logged, and what happens is what would have happened without it.
///
/// A policy that stops everything once an instance of `database` has failed:
///
/// ```
/// use async_container::{BoxError, Context, ExitStatus, Policy, PolicyChild};
///
/// struct NoDatabaseNoService;
///
/// impl Policy for NoDatabaseNoService {
///     fn child_exited(&mut self, child: &PolicyChild<'_>, status: ExitStatus, context: &mut Context<'_>) -> Result<(), BoxError> {
///         if child.service == "database" && !status.success() {
///             context.stop("the database is gone");
///         }
///         Ok(())
///     }
/// }
/// ```
pub trait Policy {
    /// A process was started for the child.
    ///
    /// # Errors
    /// Are logged.
    fn child_spawned(&mut self, child: &PolicyChild<'_>, context: &mut Context<'_>) -> Result<(), BoxError> {
        let _ = (child, context);
        Ok(())
    }

    /// The child's process ended. The statistics count it already; what the restart policy says about it happens next.
    ///
    /// # Errors
    /// Are logged.
    fn child_exited(
        &mut self,
        child: &PolicyChild<'_>,
        status: ExitStatus,
        context: &mut Context<'_>,
    ) -> Result<(), BoxError> {
        let _ = (child, status, context);
        Ok(())
    }

    /// The child was not ready in time, or said nothing for too long. Default is to kill it.
    ///
    /// # Errors
    /// Are logged, and the child is killed.
    fn check_failed(
        &mut self,
        child: &PolicyChild<'_>,
        failure: Failure,
        context: &mut Context<'_>,
    ) -> Result<Verdict, BoxError> {
        let _ = (child, failure, context);
        Ok(Verdict::Kill)
    }
}

/// What is to become of a child that failed a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is killed, and counts as failed.
    Kill,
    /// It is given the same time once more.
    Wait,
}

/// A child, as policies see it.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct PolicyChild<'child> {
    /// Its name, such as `worker#1`.
    pub name: &'child str,
    /// Its service.
    pub service: &'child str,
    /// Which of the service's instances it is, from 1.
    pub instance: u32,
    /// The generation that it belongs to.
    pub generation: u64,
    /// Its process.
    pub process_id: u32,
    /// How many times it was started again.
    pub restarts: u64,
}

/// What a policy knows beside the child, and can do.
#[derive(Debug)]
pub struct Context<'container> {
    pub(crate) now: Instant,
    pub(crate) statistics: &'container Statistics,
    pub(crate) stopping: bool,
    pub(crate) stop: Option<String>,
}

impl Context<'_> {
    /// The time.
    pub fn now(&self) -> Instant {
        self.now
    }

    /// What happened so far.
    pub fn statistics(&self) -> &Statistics {
        self.statistics
    }

    /// True if everything is being stopped already.
    pub fn is_stopping(&self) -> bool {
        self.stopping
    }

    /// Stops everything gracefully. The root then ends with [`exit_code::GAVE_UP`](crate::exit_code::GAVE_UP).
    pub fn stop(&mut self, reason: impl Into<String>) {
        self.stop = Some(reason.into());
    }
}

/// Gives up when children fail too often: with the default of 6 in 60 s, at the seventh.
///
/// Without it a container never gives up, since the back-off makes failures cheap; with it, whatever runs the root, such as
/// a service manager, gets to decide.
#[derive(Clone, Copy, Debug)]
pub struct FailureRate {
    maximum_failures: u64,
    window: Duration,
}

impl FailureRate {
    const MAXIMUM_FAILURES: u64 = 6;

    /// At most so many failures, of all children together, within the window.
    pub fn new(maximum_failures: u64, window: Duration) -> Self {
        FailureRate { maximum_failures, window }
    }

    /// The window over which statistics are to be kept for it.
    pub fn window(&self) -> Duration {
        self.window
    }
}

impl Default for FailureRate {
    fn default() -> Self {
        Self::new(Self::MAXIMUM_FAILURES, Statistics::WINDOW)
    }
}

impl Policy for FailureRate {
    fn child_exited(
        &mut self,
        _: &PolicyChild<'_>,
        status: ExitStatus,
        context: &mut Context<'_>,
    ) -> Result<(), BoxError> {
        let failures = context.statistics().failure_rate.total(context.now());
        if !status.success() && !context.is_stopping() && failures > self.maximum_failures {
            context.stop(format!("{failures} failures within {:?}, more than {}", self.window, self.maximum_failures));
        }
        Ok(())
    }
}

/// Which exit statuses mean what, for a service.
#[derive(Clone, Debug, Default)]
pub(crate) struct Statuses {
    /// These are no failure, beside status 0.
    pub success: Vec<ExitStatus>,
    /// After these there is no restart, whatever the restart policy.
    pub never: Vec<ExitStatus>,
    /// After these there is one, whatever the restart policy.
    pub always: Vec<ExitStatus>,
}

impl Statuses {
    pub(crate) fn judge(&self, status: ExitStatus) -> Exit {
        let restart = if self.never.contains(&status) {
            Some(false)
        } else if self.always.contains(&status) {
            Some(true)
        } else {
            None
        };
        Exit { failed: !status.success() && !self.success.contains(&status), restart }
    }
}
