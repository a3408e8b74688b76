//! What is done because its time has come, or because the clock by which it is told was set.

use std::cmp::Reverse;
use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, EventFlags};

use super::{Container, Key};
use crate::clock::ClockWatch;
use crate::lifecycle::{Lifecycle, State};
use crate::notify::link::Topic;
use crate::policy::Verdict;
use crate::poller::{Source, token};

/// By how much a limit may be over, when that is found, for the child to be to blame. If it is more, this process did not run
/// meanwhile: it was stopped, frozen or starved, and so may its children have been.
const LAPSE: Duration = Duration::from_secs(1);

/// How many timers there may be beyond one for each child.
const SPARE: usize = 256;

impl Container {
    /// Has the child looked at when it is time.
    pub(super) fn arm(&mut self, key: Key) {
        let Some(slot) = self.slots.get_mut(&key) else { return };
        let Some(at) = slot.poll_timeout().filter(|at| slot.armed.is_none_or(|armed| *at < armed)) else { return };
        slot.armed = Some(at);
        self.timers.push(Reverse((at, key)));
        // Those of children that are gone would stay until they are due, which may be next year.
        if self.timers.len() > self.slots.len() + SPARE {
            let slots = &self.slots;
            self.timers.retain(|Reverse((at, key))| slots.get(key).is_some_and(|slot| slot.armed == Some(*at)));
        }
    }

    pub(super) fn fire_timers(&mut self) {
        let now = Instant::now();
        let (mut spared, mut longest) = (0, Duration::ZERO);
        while let Some(Reverse((at, key))) = self.timers.peek().copied()
            && at <= now
        {
            self.timers.pop();
            let Some(slot) = self.slots.get_mut(&key) else {
                continue;
            };
            if slot.armed == Some(at) {
                slot.armed = None;
            }
            // A timer is left where it was when its child lives on, so it may come too early.
            if slot.lifecycle.poll_timeout().is_some_and(|at| at <= now) {
                if slot.lifecycle.exceeded(now).is_some()
                    && let Some(late) = self.judge(key, now)
                {
                    spared += 1;
                    longest = longest.max(late);
                }
                if let Some(slot) = self.slots.get_mut(&key) {
                    slot.lifecycle.handle_timeout(now);
                }
            }
            if self.slots.get(&key).is_some_and(|slot| slot.succeeds.is_some_and(|(_, at)| at <= now)) {
                self.take_over(key);
            }
            self.recycle(key, now);
            self.run_probes(key, now);
            self.resume_outputs(key, now);
            self.touch(key);
        }
        if spared > 0 {
            tracing::warn!(
                late = ?longest,
                children = spared,
                "the root did not run for a while, and its children may not have either: they are given the same time once more"
            );
        }
    }

    /// What was told of moments that lie ahead was told by the clock as it was: it is told anew.
    pub(super) fn handle_clock_set(&mut self) {
        if let Some(clock) = &self.clock {
            clock.clear();
        }
        let is_ahead =
            |lifecycle: &Lifecycle| matches!(lifecycle.state(), State::Waiting { .. }) || lifecycle.kill_at().is_some();
        let slots = self.slots.iter().filter(|(_, slot)| is_ahead(&slot.lifecycle));
        let topics: Vec<Topic> = slots.map(|(key, slot)| slot.topic(*key)).collect();
        for topic in topics {
            self.links.changed(&mut self.slots, &topic);
        }
    }

    /// The child has exceeded a limit, unless it said something that was not heard yet, or is given the same time once more.
    /// If that is because nobody could look earlier, tells by how much the limit was over.
    fn judge(&mut self, key: Key, now: Instant) -> Option<Duration> {
        self.handle_notify(key);
        self.handle_notices();
        while let Some(news) = self.voices.try_next() {
            self.handle_news(news);
        }
        let slot = self.slots.get_mut(&key)?;
        let failure = slot.lifecycle.exceeded(now)?;
        let late = slot.lifecycle.poll_timeout().map(|at| now - at).filter(|late| *late > LAPSE);
        if late.is_some() {
            slot.lifecycle.handle_reprieve(now);
        } else if self.policies.check_failed(&slot.as_policies_see_it(None), failure, now) == Verdict::Wait {
            tracing::warn!(child = slot.name, %failure, "a policy has the child given the same time once more");
            slot.lifecycle.handle_reprieve(now);
        }
        late
    }
}

/// Has the epoll tell when the clock is set.
pub(super) fn watch_clock(epoll: &OwnedFd) -> io::Result<ClockWatch> {
    let clock = ClockWatch::new()?;
    epoll::add(epoll, &clock, token(0, Source::Clock), EventFlags::IN)?;
    Ok(clock)
}

/// Completes when the time has come, if there is one.
pub(super) async fn sleep_until(deadline: Option<tokio::time::Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::rc::Rc;

    use super::*;
    use crate::command::Command;
    use crate::error::CgroupError;
    use crate::policies::Policies;
    use crate::slot::Phase;
    use crate::spec::{Service, Strategy};

    #[tokio::test]
    async fn timers_of_children_that_are_gone_are_forgotten() {
        let cgroups = Err(CgroupError::Unwanted);
        let mut container =
            Container::new("test".to_owned(), BTreeMap::new(), Policies::default(), Strategy::OneForOne, cgroups)
                .unwrap();
        let service = Service::command("endless", Command::new("true")).startup_timeout(Duration::MAX);
        let service = Rc::new(service.readiness(crate::spec::Readiness::Notify));
        let start = |container: &mut Container| {
            let key = container.add(&service, 1, 1, Phase::Active, Duration::ZERO);
            let slot = container.slots.get_mut(&key).unwrap();
            slot.lifecycle.handle_spawned(Instant::now());
            container.touch(key);
            key
        };
        let first = start(&mut container);
        for _ in 0..10 * SPARE {
            let key = start(&mut container);
            container.remove(key);
        }
        assert!(container.timers.len() <= SPARE + 2, "{} timers", container.timers.len());
        // That of the one that is left is still there.
        assert!(container.timers.iter().any(|Reverse((_, key))| *key == first));
    }
}
