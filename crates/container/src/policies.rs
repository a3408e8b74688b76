//! The policies of a container, at work.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use crate::error::BoxError;
use crate::exit::ExitStatus;
use crate::lifecycle::Failure;
use crate::policy::{Context, Policy, PolicyChild, Verdict};
use crate::statistics::Statistics;

/// All policies, and what they are shown.
#[derive(Default)]
pub(crate) struct Policies {
    policies: Vec<Box<dyn Policy>>,
    pub statistics: Statistics,
    /// True once everything is being stopped.
    pub stopping: bool,
    /// Why a policy wants everything to be stopped. It is asked for once only.
    give_up: Option<String>,
}

impl Policies {
    pub(crate) fn new(policies: Vec<Box<dyn Policy>>, statistics: Statistics) -> Self {
        Policies { policies, statistics, ..Policies::default() }
    }

    /// Why a policy has given up, told once.
    pub(crate) fn take_give_up(&mut self) -> Option<String> {
        self.give_up.take()
    }

    pub(crate) fn child_spawned(&mut self, child: &PolicyChild<'_>, now: Instant) {
        self.each("child_spawned", child, now, |policy, context| policy.child_spawned(child, context));
    }

    pub(crate) fn child_exited(&mut self, child: &PolicyChild<'_>, status: ExitStatus, now: Instant) {
        self.each("child_exited", child, now, |policy, context| policy.child_exited(child, status, context));
    }

    /// A child is killed unless one of the policies wants to wait.
    pub(crate) fn check_failed(&mut self, child: &PolicyChild<'_>, failure: Failure, now: Instant) -> Verdict {
        let mut verdict = Verdict::Kill;
        self.each("check_failed", child, now, |policy, context| {
            if policy.check_failed(child, failure, context)? == Verdict::Wait {
                verdict = Verdict::Wait;
            }
            Ok(())
        });
        verdict
    }

    fn each(
        &mut self,
        hook: &'static str,
        child: &PolicyChild<'_>,
        now: Instant,
        mut call: impl FnMut(&mut dyn Policy, &mut Context<'_>) -> Result<(), BoxError>,
    ) {
        for policy in &mut self.policies {
            let mut context = Context { now, statistics: &self.statistics, stopping: self.stopping, stop: None };
            match catch_unwind(AssertUnwindSafe(|| call(policy.as_mut(), &mut context))) {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::error!(hook, child = child.name, %error, "a policy failed"),
                // The panic's message has been printed by its hook.
                Err(_) => tracing::error!(hook, child = child.name, "a policy panicked"),
            }
            if let Some(reason) = context.stop
                && !self.stopping
            {
                self.stopping = true;
                self.give_up = Some(reason);
            }
        }
    }
}

impl fmt::Debug for Policies {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Policies").field("count", &self.policies.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::FailureRate;
    use std::time::Duration;

    const CHILD: PolicyChild<'static> =
        PolicyChild { name: "worker#1", service: "worker", instance: 1, generation: 1, process_id: 7, restarts: 0 };

    #[test]
    fn the_seventh_failure_is_too_many_and_is_so_once() {
        let mut policies = Policies::new(vec![Box::new(FailureRate::default())], Statistics::default());
        let start = Instant::now();
        let mut told = 0;
        for second in 0..20 {
            let now = start + Duration::from_secs(second);
            policies.statistics.failed(now);
            policies.child_exited(&CHILD, ExitStatus::Exited(1), now);
            let given_up = policies.take_give_up();
            assert_eq!(given_up.is_some(), second == 6, "{second}");
            told += usize::from(given_up.is_some());
        }
        assert_eq!(told, 1);
    }

    #[test]
    fn failures_that_are_far_apart_are_not_too_many() {
        let mut policies = Policies::new(vec![Box::new(FailureRate::default())], Statistics::default());
        let start = Instant::now();
        for number in 0..100 {
            let now = start + Duration::from_secs(10 * number);
            policies.statistics.failed(now);
            policies.child_exited(&CHILD, ExitStatus::Signaled(9), now);
            assert_eq!(policies.take_give_up(), None);
        }
    }

    /// Fails in every way that there is.
    struct Faulty;

    impl Policy for Faulty {
        fn child_exited(&mut self, _: &PolicyChild<'_>, _: ExitStatus, _: &mut Context<'_>) -> Result<(), BoxError> {
            Err("this policy is faulty".into())
        }

        fn check_failed(&mut self, _: &PolicyChild<'_>, _: Failure, _: &mut Context<'_>) -> Result<Verdict, BoxError> {
            panic!("this policy is faulty");
        }
    }

    /// Waits for children that did not ask for it.
    struct Patient;

    impl Policy for Patient {
        fn check_failed(&mut self, _: &PolicyChild<'_>, _: Failure, _: &mut Context<'_>) -> Result<Verdict, BoxError> {
            Ok(Verdict::Wait)
        }
    }

    #[test]
    fn a_faulty_policy_changes_nothing_for_others() {
        let failure = Failure::Startup { timeout: Duration::from_secs(1) };
        let now = Instant::now();
        let mut policies = Policies::new(vec![Box::new(Faulty)], Statistics::default());
        policies.child_exited(&CHILD, ExitStatus::Exited(1), now);
        assert_eq!(policies.check_failed(&CHILD, failure, now), Verdict::Kill);
        let mut policies = Policies::new(vec![Box::new(Faulty), Box::new(Patient)], Statistics::default());
        assert_eq!(policies.check_failed(&CHILD, failure, now), Verdict::Wait);
    }
}
