//! Restarts workers that grew too large.

mod footprint;
mod futility;
mod hurry;
mod metrics;
mod relief;
mod report;
mod rules;
mod search;
mod settings;
mod stall;
mod strays;
mod watch;
mod wish;

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use self::{
    footprint::Footprint,
    futility::{Advice, EARLY, Excess, Futility, is_growth},
    hurry::{Hurry, program_size},
    relief::Relief,
    report::{MemoryStatus, ProcessStatus, mebibytes},
    rules::{Candidate, to_free, total},
    search::{Search, Where},
    settings::Settings,
    stall::Stall,
    strays::Strays,
    watch::{Source, Watch, time_for},
    wish::Wish,
};
use crate::{
    Action, Family, Monitor, Restart, Status, Worker,
    restarts::{Asked, Restarts},
    roster::{Entry, Roster},
    sample::{self, HostMemory, Pressure, Process, Stat},
    turns::Turns,
};

/// How much longer a check may take for finding descendants and looking closely at what is near no limit.
const BUDGET: Duration = Duration::from_millis(1);

/// A worker that exceeds its limit by so much waits for nothing.
const URGENT: f64 = 1.25;

/// Checks do not come more often than that, however fast something grows, unless the interval is shorter.
const SHORTEST_HURRY: Duration = Duration::from_millis(50);
const HURRY: u32 = 20;

/// Watches the memory of workers, and asks for a restart of those that take too much: too much for one, or more than there
/// is for all. Without a limit it measures and asks for nothing.
///
/// | rule | a worker is restarted |
/// | --- | --- |
/// | [`maximum_size_limit`](Self::maximum_size_limit) | that is larger |
/// | [`increase_limit`](Self::increase_limit) | that grew so often by [`threshold_size`](Self::threshold_size) |
/// | [`total_size_limit`](Self::total_size_limit) | with the largest private size, when all together are larger |
/// | [`free_size_minimum`](Self::free_size_minimum) | with the largest private size, when less is available |
/// | [`pressure_limit`](Self::pressure_limit) | with the largest private size, when everything waits for memory |
///
/// # What counts
///
/// A worker is its process and all that descend from it, but for those that are workers themselves; one that is left to another
/// parent, as a daemon is, goes on to count: where no check saw it before, by what the root has in the environment of its children.
/// Its size is the
/// *proportional* one: a page that two processes share, as after a fork, counts half for each. Files on disk that it has mapped do not
/// count: what is resident of them is page cache, which the kernel gives up on demand. Where the kernel does not tell that, it is the
/// resident size.
///
/// A check reads the resident size, 1–2 µs a process; of one that had the processor for less than 200 µs since, and so cannot have taken
/// more than some megabytes, only its clock, for up to 10 seconds, unless it was near a limit. Only when that exceeds a limit, the proportional and private sizes are
/// measured, which takes the longer the larger a process is, and holds it up meanwhile: for each process at most a hundredth
/// of the time. In between, what is resident more or less counts as private. Of many workers, the descendants are
/// looked for in turn, a millisecond each check.
///
/// # What is asked for
///
/// A restart is asked for once, until the process is gone or the [cooldown](Self::cooldown) has passed; then it is urgent.
/// [One at a time](Self::restarts_at_once), unless a worker exceeds its limit by a quarter, and has grown by as much, or 64 MiB, since
/// it was asked for if it was. What it takes to look into itself is no reason to hurry: while it may be doing that, it has to grow by
/// more than the size of its program, and 16 MiB, and then its size is taken anew. Another one
/// [is started first](Self::start_first) if there is memory for that. The worker may be asked for a
/// [diagnostic](Self::diagnostic) before.
///
/// With each goes an event `leak`: `process_id`, `name`, `rule` (`maximum_size`, `increase`, `total_size`, `free_size` or
/// `pressure`), `reason`, `current_size`, `current_private_size`, `maximum_size_limit`.
///
/// A restart does not help against a limit that is below what a worker takes from its start on. When a second process of
/// a name exceeds its limit within 30 seconds of its start, it is left alone for 30 seconds, and the next one for twice as
/// long, up to an hour, unless it grows by a quarter and more than 10 MiB meanwhile; that is logged as an error, and told
/// as an event `leak` with `left_alone`, in seconds. The same goes for the rules for all: where two restarts in a row freed
/// less than they should have, nobody is restarted for so long, unless what is too much grows. It is somebody else that takes the
/// memory, or what all of them need. Where they freed enough, and the next would be one that has just been started, it is seen first
/// whether that lasts: until that one is 30 seconds old, unless what is too much grows.
///
/// # Status
///
/// Under the key `memory`; sizes are in bytes and as of the last check or, for a worker that came after it,
/// of its registration:
///
/// ```json
/// {
///   "maximum_size_limit": 524288000, "threshold_size": 10485760, "increase_limit": null,
///   "total_size": 91234304, "total_size_limit": null, "free_size_minimum": null,
///   "pressure_limit": null, "pressure": {"some": 0.0, "full": 0.0},
///   "host": {"source": "host", "total_size": 25276502016, "used_size": 343678976,
///            "free_size": 20932823040, "reclaimable_size": 4000000000, "available_size": 24932823040,
///            "swap_total_size": 0, "swap_used_size": 0},
///   "left_alone": null,
///   "processes": [
///     {"process_id": 4242, "name": "web", "sample_count": 17, "current_size": 91234304,
///      "current_resident_size": 93331456, "current_shared_size": 4194304, "current_private_size": 89137152,
///      "maximum_size": 93331456, "maximum_size_limit": 524288000, "threshold_size": 10485760,
///      "increase_count": 2, "increase_limit": null, "restarting": false, "left_alone": null}
///   ]
/// }
/// ```
///
/// `maximum_size` is the largest size seen; `total_size` what all take, where shared memory counts once; `host` the memory
/// of the host or, where that leaves less, of the cgroup; `restarting` whether a restart was asked for; `left_alone` for how many
/// seconds more there is none, because restarts do not help, of one, or for the sake of all. Where nothing was
/// near a limit so far, all that is resident counts as private.
///
/// # Example
///
/// ```
/// use std::time::{Duration, Instant};
/// use async_container_monitors::{Action, MemoryMonitor, Monitor, Worker};
///
/// let mut monitor = MemoryMonitor::new()
///     .interval(Duration::from_secs(5))
///     .maximum_size_limit(4096); // One page: nothing is this small.
/// monitor.register(&Worker { id: "8c1f".into(), process_id: std::process::id(), name: "web".into() });
///
/// let actions = monitor.check(Instant::now());
/// let [Action::Event(leak), Action::Restart(restart)] = &actions[..] else { panic!("no action") };
/// assert_eq!(leak.name(), "leak");
/// assert_eq!(restart.process_id, std::process::id());
/// assert!(restart.reason.starts_with("memory limit 4.0 KiB, was "), "{}", restart.reason);
/// ```
#[derive(Default)]
pub struct MemoryMonitor {
    settings: Settings,
    roster: Roster<Watch>,
    /// Restarts that were asked for. Apart from the roster, since a worker that connects anew is still the process that was asked.
    asked: Restarts<Going>,
    futility: Futility,
    relief: Relief,
    host: Option<HostMemory>,
    pressure: Option<Pressure>,
    stall: Stall,
    /// The time until the next check, if that must come early.
    hurry: Option<Duration>,
    search: Search,
    strays: Strays,
}

/// What is kept of a worker that was asked to go.
struct Going {
    start_time: u64,
    hurry: Hurry,
    is_urgent: bool,
    /// To see whether it has ended.
    process: Option<Process>,
}

impl MemoryMonitor {
    /// A monitor that measures, and asks for nothing until it is given a limit.
    pub fn new() -> Self {
        Self::default()
    }

    /// Measures everything, as closely as limits require.
    fn measure(&mut self, now: Instant) {
        let mut turns = Turns::new();
        for (process_id, entry) in self.roster.iter_mut() {
            if matches!(entry.state.source, Source::Failed) {
                entry.state.source = Source::open(process_id);
                entry.start_time = entry.state.source.start_time();
            }
            entry.state.sample(process_id);
            turns.give_way();
        }
        self.find_descendants(now);
        self.host = HostMemory::read();
        self.pressure = Pressure::read();
        match self.asked.count() {
            0 => self.stall.note(now, self.pressure),
            _ => self.stall.begin_anew(),
        }

        let resident: u64 = self.roster.iter().map(|(_, entry)| entry.state.size.resident).sum();
        let is_total_near = self.settings.total_size_limit.is_some_and(|limit| resident > limit);
        let available = self.host.map(|host| host.available_size);
        let is_host_near = self.settings.free_size_minimum.zip(available).is_some_and(|(least, free)| free < least);
        let is_pressed = self.pressed().is_some();
        let is_for_all = is_total_near || is_host_near || is_pressed;
        let limit = self.settings.maximum_size_limit;
        for (_, entry) in self.roster.iter_mut() {
            let size = entry.state.size;
            // If it is over by what it may at most be, it is to be known whether it is.
            let is_near = limit.is_some_and(|limit| size.resident > limit);
            if is_for_all || is_near {
                entry.state.look_closely(now);
            }
            entry.state.note(now, self.settings.threshold_size);
            turns.give_way();
        }
    }

    /// Looks for processes that descend from workers: of those that have some, of those that have started one, and of others in turn.
    fn find_descendants(&mut self, now: Instant) {
        let started = |after, last| Some(sample::started(after, last)?.into_iter().map(|(id, _)| id).collect());
        let place = self.search.begin(sample::last_process_id(), now, started);
        let (is_due, parents) = match &place {
            Where::All => (true, HashSet::new()),
            Where::Started(ids) => {
                // One that has ended since has nothing to tell.
                let new: Vec<Stat> = ids.iter().filter_map(|id| Stat::read(*id).ok()).collect();
                self.strays.find_among(&new, &mut self.roster);
                (false, new.iter().map(|stat| stat.parent_process_id).collect())
            }
        };
        if is_due && self.search.after() == 0 {
            self.strays.find(&mut self.roster);
        }
        let has_started =
            |process_id, footprint: &Footprint| footprint.has_descendants() || parents.contains(&process_id);
        let is_any = |(process_id, entry): (u32, &Entry<Watch>)| matches!(&entry.state.source, Source::Open(it) if has_started(process_id, it));
        if !is_due && !self.roster.iter().any(is_any) {
            return;
        }
        let start = Instant::now();
        let workers: HashSet<u32> = self.roster.iter().map(|(process_id, _)| process_id).collect();
        let mut turns = Turns::new();
        let mut next = None;
        for (process_id, entry) in self.roster.iter_mut() {
            let Source::Open(footprint) = &mut entry.state.source else { continue };
            let has_turn = is_due && process_id > self.search.after() && next.is_none();
            if has_turn || has_started(process_id, footprint) {
                footprint.find_descendants(&workers);
                entry.state.size = footprint.size();
                turns.give_way();
            }
            if has_turn && start.elapsed() >= BUDGET {
                next = Some(process_id);
            }
        }
        if is_due {
            self.search.came_to(next);
        }
    }

    /// Forgets restarts that came to their end, and those for which there was no reason any more when they might have been asked
    /// for again.
    fn forget(&mut self, now: Instant) {
        let limit = self.settings.cooldown.max(self.settings.interval).saturating_mul(2);
        self.asked.forget(now, limit, |going| going.process.as_ref().is_some_and(has_ended));
    }

    /// The workers that exceed what each may have.
    fn find_leaks(&mut self, now: Instant, actions: &mut Vec<Action>) -> Vec<Wish> {
        let Self { settings, roster, futility, asked, .. } = self;
        let mut wishes = Vec::new();
        for (process_id, entry) in roster.iter_mut() {
            let Entry { name, state, .. } = entry;
            let Source::Open(footprint) = &state.source else { continue };
            let size = state.size.proportional;
            let over = settings.maximum_size_limit.filter(|limit| size > *limit);
            let grew = settings.increase_limit.is_some_and(|limit| state.increase_count >= limit);
            let (rule, reason) = match over {
                Some(limit) => ("maximum_size", format!("memory limit {}, was {}", mebibytes(limit), mebibytes(size))),
                None if grew => {
                    let (count, step) = (state.increase_count, mebibytes(settings.threshold_size));
                    ("increase", format!("memory grew {count} times by more than {step}, to {}", mebibytes(size)))
                }
                None => {
                    state.first_excess = None;
                    futility.kept_within(name, footprint.start_time(), || footprint.age());
                    continue;
                }
            };
            let (start_time, age) = (footprint.start_time(), footprint.age());
            let is_growing = is_growth(size, size.saturating_add(state.growth_in(EARLY)));
            let first_size = &mut state.first_excess;
            let excess = Excess { name, process_id, start_time, age, size, is_growing, first_size };
            let wish = Wish {
                process_id,
                start_time,
                rule,
                reason,
                is_urgent: over.is_some_and(|limit| size as f64 > limit as f64 * URGENT),
                start_size: Some(state.start_size),
                relief: None,
            };
            // Whether a restart helps was asked when it was asked for.
            if is_going(asked, process_id, start_time).is_some() {
                wishes.push(wish);
                continue;
            }
            match futility.exceeded(excess, now) {
                Advice::Restart => wishes.push(wish),
                Advice::LeaveAlone { news: Some(pause) } => {
                    tracing::error!(
                        process_id,
                        name,
                        ?pause,
                        "{} {} s after its start, like another before: restarts do not help, so it is left alone \
                         unless it grows on; raise the limit, or find what it needs at its start",
                        wish.reason,
                        age.as_secs()
                    );
                    let leak = wish.event(name, state.size, settings, Some(pause));
                    actions.push(leak);
                }
                Advice::LeaveAlone { news: None } => {}
            }
        }
        wishes
    }

    /// The workers that have to go because all of them take too much.
    fn find_largest(&mut self, now: Instant, actions: &mut Vec<Action>) -> Vec<Wish> {
        let candidates = self.candidates();
        let total_size = total(&candidates);
        let available = self.host.map(|host| host.available_size);
        let total_limit = self.settings.total_size_limit.filter(|limit| total_size > *limit);
        let minimum = self.settings.free_size_minimum.zip(available).filter(|(least, free)| free < least);

        let (rule, excess, reason) = if let Some(limit) = total_limit {
            let reason = format!("memory of all {}, limit {}", mebibytes(total_size), mebibytes(limit));
            ("total_size", total_size - limit, reason)
        } else if let Some((least, free)) = minimum {
            let reason = format!("memory available {}, minimum {}", mebibytes(free), mebibytes(least));
            ("free_size", least - free, reason)
        } else if let Some((limit, full)) = self.pressed() {
            let reason = format!("memory pressure {:.1} %, limit {:.1} %", full * 100.0, limit * 100.0);
            // How much would be enough nobody knows: one, and then it is looked at again.
            ("pressure", 1, reason)
        } else {
            self.relief.kept_within(now);
            return Vec::new();
        };

        let wish = |candidate: Candidate| {
            let reason = format!("{reason}; it had most, {}", mebibytes(candidate.private));
            let start_time = self.roster.get(candidate.process_id)?.start_time?;
            let process_id = candidate.process_id;
            let relief = Some((excess, candidate.private));
            Some(Wish { process_id, start_time, rule, reason, is_urgent: false, start_size: None, relief })
        };
        let wishes: Vec<Wish> = to_free(excess, &candidates).into_iter().filter_map(wish).collect();
        let Some((first, entry)) = wishes.first().and_then(|first| Some((first, self.roster.get(first.process_id)?)))
        else {
            return wishes;
        };
        let Source::Open(footprint) = &entry.state.source else { return wishes };
        let is_going = |process: &(u32, u64)| is_going(&self.asked, process.0, process.1).is_some();
        match self.relief.exceeded(rule, excess, footprint.age(), now, is_going) {
            Advice::Restart => wishes,
            Advice::LeaveAlone { news } => {
                if let Some(pause) = news {
                    tracing::error!(
                        rule,
                        ?pause,
                        "{reason}: restarting workers does not help, so nobody is restarted for that; raise the limit, or \
                         find who else takes memory"
                    );
                    actions.push(first.event(&entry.name, entry.state.size, &self.settings, Some(pause)));
                }
                Vec::new()
            }
        }
    }

    /// The part of the time that may pass with nothing done for want of memory, and the one that does, if that is more.
    fn pressed(&self) -> Option<(f64, f64)> {
        self.settings.pressure_limit.zip(self.stall.part(self.pressure)).filter(|(limit, full)| full > limit)
    }

    fn candidates(&self) -> Vec<Candidate> {
        self.roster.iter().filter_map(|(id, entry)| self.candidate(id, entry)).collect()
    }

    fn total_size(&self) -> u64 {
        total(&self.candidates())
    }

    fn candidate(&self, process_id: u32, entry: &Entry<Watch>) -> Option<Candidate> {
        let Source::Open(footprint) = &entry.state.source else { return None };
        let (private, shared) = (entry.state.size.private, entry.state.size.shared);
        let is_going = is_going(&self.asked, process_id, footprint.start_time()).is_some();
        Some(Candidate { process_id, private, shared, is_going })
    }

    /// Asks for what is wanted, as far as it is its turn.
    fn ask(&mut self, wishes: Vec<Wish>, now: Instant, actions: &mut Vec<Action>) {
        for wish in wishes {
            let identity = (wish.process_id, wish.start_time);
            let is_turn = self.asked.count() < self.settings.restarts_at_once;
            let Some(entry) = self.roster.get(wish.process_id) else { continue };
            let mut going = self.asked.get_mut(wish.process_id);
            going = going.filter(|asked| asked.state.start_time == wish.start_time);
            let (is_urgent, is_news) = match &mut going {
                None => (wish.is_urgent, wish.is_urgent || is_turn),
                Some(asked) => {
                    let is_late = now.saturating_duration_since(asked.at) >= self.settings.cooldown;
                    let grew = asked.state.hurry.is_urgent(entry.state.size.proportional, &self.settings, now);
                    let is_urgent = is_late || wish.is_urgent && grew;
                    (is_urgent, is_urgent && (!asked.state.is_urgent || is_late))
                }
            };
            if !is_news {
                continue;
            }
            let process = Process::open(wish.process_id).ok().filter(|it| it.start_time() == wish.start_time);
            // It may have ended while it was measured, as one does that was asked for before.
            if process.as_ref().is_none_or(has_ended) {
                continue;
            }
            let (name, size) = (&entry.name, entry.state.size);
            tracing::warn!(
                process_id = wish.process_id,
                name,
                rule = wish.rule,
                current_size = size.proportional,
                resident_size = size.resident,
                private_size = size.private,
                again = going.is_some(),
                "asking for a restart: {}",
                wish.reason
            );
            if going.is_none() {
                actions.push(wish.event(name, size, &self.settings, None));
            }
            let mut restart = Restart::new(wish.process_id, wish.reason);
            if is_urgent {
                restart = restart.urgent();
            } else {
                if let Some(limit) = self.settings.start_first.filter(|_| self.has_room(wish.start_size)) {
                    restart = restart.start_first(limit);
                }
                if let Some(diagnostic) = &self.settings.diagnostic {
                    restart = restart.diagnosis(diagnostic.of(wish.process_id));
                }
            }
            if let Some((excess, private)) = wish.relief {
                self.relief.asked(wish.rule, excess, private, identity, now);
            }
            let hurry = Hurry::new(size.proportional, program_size(wish.process_id), &self.settings, now);
            self.asked.insert(wish.process_id, now, Going { start_time: wish.start_time, hurry, is_urgent, process });
            self.stall.begin_anew();
            actions.push(Action::Restart(restart));
        }
    }

    /// Whether there is memory for another worker of this size beside all others.
    fn has_room(&self, start_size: Option<u64>) -> bool {
        let Some((start_size, host)) = start_size.zip(self.host) else { return false };
        let reserve = self.settings.free_size_minimum.unwrap_or(host.total_size / 20);
        host.available_size.saturating_sub(start_size) >= reserve
    }

    /// How soon to look again, if something grows so fast that it would be over its limit at the next time.
    fn plan(&mut self) {
        let Settings { interval, maximum_size_limit, total_size_limit, free_size_minimum, .. } = self.settings;
        let growths = || self.roster.iter().map(|(_, entry)| &entry.state);
        let own = maximum_size_limit.and_then(|limit| growths().filter_map(|state| state.time_to(limit)).min());
        // All that they grow by goes from what there is for all.
        let rate = growths().filter_map(|state| state.rate).sum();
        let available = self.host.map(|host| host.available_size);
        let left = [
            total_size_limit.and_then(|limit| limit.checked_sub(self.total_size())),
            free_size_minimum.zip(available).and_then(|(least, free)| free.checked_sub(least)),
        ];
        let of_all = left.into_iter().flatten().filter_map(|left| time_for(left, rate)).min();
        let growing = own.into_iter().chain(of_all).min();
        let shortest = (interval / HURRY).max(SHORTEST_HURRY);
        self.hurry = growing
            .filter(|time| *time < interval.saturating_mul(2))
            .map(|time| (time / 2).max(shortest).min(interval));
    }
}

impl Monitor for MemoryMonitor {
    fn name(&self) -> &str {
        "memory"
    }

    fn interval(&self) -> Duration {
        self.hurry.unwrap_or(self.settings.interval)
    }

    fn validate(&self) -> Result<(), String> {
        self.settings.validate()
    }

    fn register(&mut self, worker: &Worker) {
        let source = Source::open(worker.process_id);
        let start_time = source.start_time();
        let mut watch = Watch::new(source);
        // So that `status` has something to show before the first check; whether it is too much is for the check to say.
        watch.sample(worker.process_id);
        watch.start_size = watch.size.resident;
        watch.maximum_size = watch.size.proportional;
        self.roster.register(worker, start_time, watch);
        self.search.begin_anew();
        self.host = self.host.or_else(HostMemory::read);
    }

    fn remove(&mut self, worker: &Worker) {
        self.roster.remove(worker);
    }

    fn restarted(&mut self, restart: &Restart) {
        self.asked.over(restart.process_id);
    }

    fn check(&mut self, now: Instant) -> Vec<Action> {
        let mut actions = Vec::new();
        // First: one that ends while it is being measured would be forgotten with the size of a moment before, and asked for anew.
        self.forget(now);
        self.measure(now);
        let leaks = self.find_leaks(now, &mut actions);
        self.ask(leaks, now, &mut actions);
        let largest = self.find_largest(now, &mut actions);
        self.ask(largest, now, &mut actions);
        self.plan();
        actions
    }

    fn metrics(&self) -> Vec<Family> {
        metrics::families(&self.report())
    }

    fn status(&self) -> Status {
        Box::new(self.report())
    }
}

impl MemoryMonitor {
    /// What the last check found.
    fn report(&self) -> MemoryStatus {
        let (settings, now) = (&self.settings, Instant::now());
        let left = |until: Option<Instant>| Some(until?.checked_duration_since(now)?.as_secs_f64());
        let process = |(process_id, entry): (u32, &Entry<Watch>)| {
            let Entry { name, state, start_time, .. } = entry;
            let restarting = start_time.and_then(|start_time| is_going(&self.asked, process_id, start_time)).is_some();
            ProcessStatus {
                process_id,
                name: name.clone(),
                sample_count: state.sample_count,
                current_size: state.size.proportional,
                current_resident_size: state.size.resident,
                current_shared_size: state.size.shared,
                current_private_size: state.size.private,
                maximum_size: state.maximum_size,
                maximum_size_limit: settings.maximum_size_limit,
                threshold_size: settings.threshold_size,
                increase_count: state.increase_count,
                increase_limit: settings.increase_limit,
                restarting,
                left_alone: state.first_excess.filter(|_| !restarting).and_then(|_| left(self.futility.until(name))),
            }
        };
        MemoryStatus {
            maximum_size_limit: settings.maximum_size_limit,
            threshold_size: settings.threshold_size,
            increase_limit: settings.increase_limit,
            total_size: self.total_size(),
            total_size_limit: settings.total_size_limit,
            free_size_minimum: settings.free_size_minimum,
            pressure_limit: settings.pressure_limit,
            pressure: self.pressure,
            host: self.host,
            left_alone: left(self.relief.until()),
            processes: self.roster.iter().map(process).collect(),
        }
    }
}

/// The restart of this process, and not of another one that had its id.
fn is_going(asked: &Restarts<Going>, process_id: u32, start_time: u64) -> Option<&Asked<Going>> {
    asked.get(process_id).filter(|asked| asked.state.start_time == start_time)
}

/// Whether nothing is left of it but its status.
fn has_ended(process: &Process) -> bool {
    matches!(process.resident_size(), Ok(None))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ended_while_it_was_measured_is_not_asked_for() {
        let now = Instant::now();
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let process = Process::open(child.id()).unwrap();
        // At its very beginning it has next to nothing.
        while process.resident_size().unwrap().is_none_or(|size| size < 256 << 10) {
            std::thread::yield_now();
        }
        let mut monitor = MemoryMonitor::new().maximum_size_limit(4096);
        monitor.register(&Worker { id: "a".into(), process_id: child.id(), name: "web".into() });
        monitor.measure(now);
        child.kill().unwrap();
        let leaks = monitor.find_leaks(now, &mut Vec::new());
        assert_eq!(leaks.len(), 1);
        // It has not been waited for yet.
        while !has_ended(&process) {
            std::thread::yield_now();
        }
        let mut actions = Vec::new();
        monitor.ask(leaks, now, &mut actions);
        assert_eq!(actions, []);
        child.wait().unwrap();
    }

    /// The kernel of a test is not short of memory, so this one says itself what the kernel would.
    #[test]
    fn the_largest_goes_when_everything_waits_for_memory() {
        let now = Instant::now();
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let mut monitor = MemoryMonitor::new().pressure_limit(0.1);
        for process_id in [child.id(), std::process::id()] {
            monitor.register(&Worker { id: process_id.to_string(), process_id, name: "web".into() });
        }
        monitor.measure(now);
        let mut restarts = |full| {
            let pressure = |full_total| Some(Pressure { some: 0.9, full, full_total });
            monitor.stall.note(now, pressure(Duration::ZERO));
            monitor.stall.note(now + Duration::from_secs(1), pressure(Duration::from_secs(1)));
            monitor.pressure = pressure(Duration::from_secs(1));
            let mut actions = Vec::new();
            let largest = monitor.find_largest(now, &mut actions);
            monitor.ask(largest, now, &mut actions);
            actions.retain(|action| matches!(action, Action::Restart(_)));
            actions
        };
        assert_eq!(restarts(0.1), []);
        let [Action::Restart(restart)] = &restarts(0.2)[..] else { panic!("no restart") };
        assert_eq!(restart.process_id, std::process::id(), "which is the larger one");
        assert!(restart.reason.starts_with("memory pressure 20.0 %, limit 10.0 %"), "{}", restart.reason);
        assert_eq!(restarts(0.3), [], "it is on its way");
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
