//! New generations of children in place of old ones.

use std::collections::{BTreeSet, VecDeque};
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::{Root, is_over};
use crate::entry::chain;
use crate::error::StartError;
use crate::lifecycle::{End, State};
use crate::notify::Message;
use crate::plan::{Plan, Planned};
use crate::slot::{Child, Phase};
use crate::spec::{Reload, Service};
use crate::time::after;

/// A generation that is being started beside the active one.
pub(super) struct Incoming {
    generation: u64,
    since: Instant,
    /// Children that are to be started when those before them have proved themselves: their services and numbers, by
    /// batches. A generation that is started as a whole is one batch.
    batches: VecDeque<Vec<Place>>,
    /// What is run once all have taken over.
    plan: Vec<Planned>,
    /// Services that are not started anew.
    kept: BTreeSet<String>,
    /// The batch that was started last, until it takes over.
    batch: Vec<Place>,
    /// How long a batch must have been ready before it takes over.
    soak: Duration,
    /// When the batch takes over, once it is ready.
    confirm_at: Option<Instant>,
    /// When the batch has failed if it is not ready.
    deadline: Instant,
}

/// A service, and which of its instances, from 1.
type Place = (Rc<Service>, u32);

/// All instances of those services.
fn places<'plan>(services: impl Iterator<Item = &'plan Planned>) -> Vec<Place> {
    services.flat_map(|planned| (1..=planned.count).map(|index| (Rc::clone(&planned.service), index))).collect()
}

/// So many children at a time. Those that look after the others come last: the old one looks after all of them until the
/// end.
fn batches(places: Vec<Place>, at_once: u32) -> VecDeque<Vec<Place>> {
    let (linked, ordinary): (Vec<Place>, Vec<Place>) = places.into_iter().partition(|(service, _)| service.linked);
    let mut batches: VecDeque<Vec<Place>> = ordinary.chunks(at_once.max(1) as usize).map(<[Place]>::to_vec).collect();
    batches.extend((!linked.is_empty()).then_some(linked));
    batches
}

/// Completes when the batch has been ready for long enough, or has taken too long to become ready.
pub(super) async fn batch_due(incoming: &Option<Incoming>) {
    match incoming {
        Some(incoming) => tokio::time::sleep_until(incoming.confirm_at.unwrap_or(incoming.deadline).into()).await,
        None => std::future::pending().await,
    }
}

impl Root {
    /// Starts the first generation.
    pub(super) fn start(&mut self) {
        self.latest_generation += 1;
        self.status.generation = self.latest_generation;
        let everything = places(self.plan.iter());
        self.add(&everything, Phase::Active);
    }

    fn add(&mut self, places: &[Place], phase: Phase) {
        for (service, index) in places {
            self.container.add(service, *index, self.latest_generation, phase, self.grace);
        }
        self.container.start_unblocked();
    }

    pub(super) fn reload(&mut self) {
        if let Some(incoming) = &self.incoming {
            tracing::info!(
                generation = incoming.generation,
                "a new generation is being started already: reloading again after it"
            );
            self.reload_again = true;
            return;
        }
        let plan = match self.plan_anew() {
            Ok(plan) => plan,
            Err(error) => {
                let error = chain(&error);
                tracing::error!(error, "cannot reload: everything goes on as it is");
                self.status.reloading = true;
                return self.reloaded(Some(error));
            }
        };
        self.latest_generation += 1;
        let generation = self.latest_generation;
        let kept: BTreeSet<String> =
            plan.iter().filter(|new| self.is_kept(new)).map(|new| new.service.name.clone()).collect();
        let changed = places(plan.iter().filter(|planned| !kept.contains(&planned.service.name)));
        let (batches, soak) = match self.options.reload {
            Reload::BlueGreen => (VecDeque::from([changed]), Duration::ZERO),
            Reload::Rolling { at_once, soak } => (batches(changed, at_once), soak),
        };
        tracing::info!(generation, batches = batches.len(), "starting a new generation");
        self.tell(&Message {
            ready: Some(false),
            reloading: Some(true),
            status: Some("Restarting...".to_owned()),
            ..Message::default()
        });
        let since = Instant::now();
        self.incoming = Some(Incoming {
            generation,
            since,
            plan,
            kept,
            batches,
            batch: Vec::new(),
            soak,
            confirm_at: None,
            deadline: since,
        });
        self.status.reloading = true;
        self.container.set_root(self.status.clone());
        self.start_batch();
    }

    /// What is to be run from now on, with everything that it needs bound.
    fn plan_anew(&mut self) -> Result<Vec<Planned>, StartError> {
        let services = self.source.services()?;
        let plan = Plan::new(&services, |name| self.container.has_listener(name))?;
        for (name, address) in plan.addresses {
            if !self.container.has_listener(&name) {
                let listener = address.bind()?;
                tracing::info!(listener = name, address = listener.address(), "listening");
                if let (Some(watch), Some(path)) = (&self.watch, listener.path()) {
                    watch.entrust(path);
                }
                self.container.add_listener(name, listener);
            }
        }
        self.container.require_limits(&plan.services)?;
        Ok(plan.services)
    }

    /// True if a service runs already as it is planned.
    fn is_kept(&self, new: &Planned) -> bool {
        let same = |old: &&Planned| old.service.name == new.service.name && old.count == new.count;
        let old = self.plan.iter().find(same);
        new.service.key.is_some() && old.is_some_and(|old| old.service.key == new.service.key)
    }

    /// Starts the next batch, if there are no more children than there were before.
    fn start_batch(&mut self) {
        let Some(incoming) = &mut self.incoming else { return };
        if !incoming.batches.is_empty()
            && self.container.any(|child| child.phase() == Phase::Draining && !is_over(child))
            && matches!(self.options.reload, Reload::Rolling { .. })
        {
            return;
        }
        match incoming.batches.pop_front() {
            Some(batch) => {
                incoming.deadline = after(Instant::now(), self.options.reload_timeout);
                incoming.batch = batch.clone();
                self.add(&batch, Phase::Incoming);
                if batch.is_empty() {
                    // Everything is kept; what is gone is all that there is to do.
                    self.confirm();
                }
            }
            None => self.complete(),
        }
    }

    /// A child is not ready for now. Those that have to prove themselves have to begin anew.
    pub(super) fn handle_unready(&mut self) {
        if self.is_batch_waiting()
            && let Some(incoming) = &mut self.incoming
        {
            incoming.confirm_at = None;
        }
    }

    /// True if children of the batch that is being started are not ready.
    fn is_batch_waiting(&self) -> bool {
        let waiting = |state| !matches!(state, State::Ready | State::Stopped(End::Success));
        self.container.any(|child| child.phase() == Phase::Incoming && waiting(child.state()))
    }

    /// A child became ready, or ended for good.
    pub(super) fn handle_ready(&mut self) {
        if self.is_batch_waiting() {
            return;
        }
        match &mut self.incoming {
            Some(incoming) if incoming.batch.is_empty() => self.start_batch(),
            Some(incoming) if incoming.soak.is_zero() => self.confirm(),
            Some(incoming) => {
                let at = after(Instant::now(), incoming.soak);
                incoming.confirm_at.get_or_insert(at);
            }
            None => {}
        }
    }

    /// The time of the batch has come: it takes over if it is ready, else it has failed.
    pub(super) fn handle_due(&mut self) {
        if !self.is_batch_waiting() {
            return self.confirm();
        }
        let waiting = |child: &Child<'_>| child.phase() == Phase::Incoming && child.state() != State::Ready;
        let names = self.container.names(waiting).join(", ");
        let reason = format!("not ready within {:?}: {names}", self.options.reload_timeout);
        let generation = self.latest_generation;
        self.handle_failed(generation, reason);
    }

    /// The batch takes over from those that it was started in place of.
    fn confirm(&mut self) {
        let Some(incoming) = &mut self.incoming else { return };
        incoming.confirm_at = None;
        let (generation, last) = (incoming.generation, incoming.batches.is_empty());
        let batch = std::mem::take(&mut incoming.batch);
        let replaced =
            |child: &Child<'_>| batch.iter().any(|(service, index)| child.place() == (service.name(), *index));
        if last {
            // Whatever is neither kept nor new is not wanted any more.
            let kept = std::mem::take(&mut incoming.kept);
            self.plan = std::mem::take(&mut incoming.plan);
            self.status.generation = generation;
            self.announced = generation;
            // Linked children tell by it whether it is for them to look after the others.
            self.container.set_root(self.status.clone());
            let outdated = |child: &Child<'_>| child.generation() < generation && !kept.contains(child.place().0);
            self.container.set_phase(|child| child.phase() == Phase::Active && outdated(child), Phase::Draining);
        } else {
            self.container.set_phase(|child| child.phase() == Phase::Active && replaced(child), Phase::Draining);
        }
        self.container.set_phase(|child| child.phase() == Phase::Incoming, Phase::Active);
        self.stop_draining();
        self.limit_draining();
        self.start_batch();
    }

    /// Everything has taken over.
    fn complete(&mut self) {
        if let Some(incoming) = &self.incoming {
            let (generation, after) = (incoming.generation, incoming.since.elapsed());
            tracing::info!(generation, ?after, "the new generation is ready: stopping the old one");
        }
        self.reloaded(None);
    }

    /// A process failed. If it is one of a new generation, that has failed.
    pub(super) fn handle_failed(&mut self, generation: u64, reason: String) {
        if self.incoming.as_ref().is_none_or(|incoming| incoming.generation != generation) {
            return;
        }
        tracing::error!(generation, reason, "the new generation failed: stopping it, the old one goes on");
        self.container.set_phase(|child| child.phase() == Phase::Incoming, Phase::Draining);
        self.stop_draining();
        self.reloaded(Some(reason));
    }

    /// An attempt to start a new generation has ended.
    fn reloaded(&mut self, error: Option<String>) {
        self.incoming = None;
        self.status.reloads += 1;
        self.status.reloading = false;
        self.status.reload_error = error;
        // Whoever waits for the end of the attempt must not hear of it with an older `ready`.
        self.status.ready = self.is_ready();
        self.container.set_root(self.status.clone());
        self.announce();
        if std::mem::take(&mut self.reload_again) && self.stopping.is_none() {
            self.reload();
        }
    }

    /// Everything is being stopped, so nothing takes over any more.
    pub(super) fn forget_incoming(&mut self) {
        if self.incoming.take().is_some() {
            self.status.reloading = false;
        }
    }

    pub(super) fn stop_draining(&mut self) {
        self.container.stop_in_order(|child| child.phase() == Phase::Draining, self.grace, false);
    }

    /// Kills what is left of generations that take too long to end, if there are too many of them.
    fn limit_draining(&mut self) {
        let mut draining = self.container.generations(|child| child.phase() == Phase::Draining && !is_over(child));
        while draining.len() > self.options.maximum_draining {
            let oldest = draining.remove(0);
            tracing::warn!(generation = oldest, "too many old generations are still ending: killing the oldest");
            self.container
                .stop(|child| child.phase() == Phase::Draining && child.generation() == oldest, Duration::ZERO);
        }
    }
}
