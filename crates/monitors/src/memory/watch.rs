//! What is known of one worker, from check to check.

use std::time::{Duration, Instant};

use super::footprint::{Footprint, Size};
use crate::sample;

/// What did not grow for less than this may only have waited for its turn.
const PAUSE: Duration = Duration::from_secs(1);

/// What is known of one worker's processes.
pub(super) struct Watch {
    pub source: Source,
    pub sample_count: u64,
    /// Checks alone: what it takes before it works says little.
    pub check_count: u64,
    pub size: Size,
    pub start_size: u64,
    pub maximum_size: u64,
    /// The size from which the next increase counts.
    pub mark: u64,
    pub increase_count: u64,
    /// The size when it was first seen to exceed its limit.
    pub first_excess: Option<u64>,
    /// Of the last check.
    previous: Option<Reading>,
    /// Of two before, of which the first is a pause ago if there is one, and the second takes its place once it is.
    earlier: Option<[Reading; 2]>,
    /// How many bytes a second it grew between the last two checks or, if that is more, since it might have paused.
    pub rate: Option<f64>,
}

#[derive(Clone, Copy)]
struct Reading {
    at: Instant,
    resident: u64,
}

impl Reading {
    fn rate_since(self, before: Self) -> Option<f64> {
        let elapsed = self.at.saturating_duration_since(before.at);
        (!elapsed.is_zero()).then(|| self.resident.saturating_sub(before.resident) as f64 / elapsed.as_secs_f64())
    }
}

pub(super) enum Source {
    Open(Box<Footprint>),
    /// It could not be opened for a reason that may pass, such as too many open files.
    Failed,
    /// It ended. Its connections will be seen to end shortly.
    Ended,
}

impl Source {
    pub(super) fn open(process_id: u32) -> Self {
        match Footprint::open(process_id) {
            Ok(footprint) => Self::Open(Box::new(footprint)),
            Err(error) if sample::has_ended(&error) => Self::Ended,
            Err(error) => {
                cannot_measure(process_id, &error);
                Self::Failed
            }
        }
    }

    pub(super) fn footprint(&mut self) -> Option<&mut Footprint> {
        match self {
            Self::Open(footprint) => Some(footprint),
            Self::Failed | Self::Ended => None,
        }
    }

    pub(super) fn start_time(&self) -> Option<u64> {
        match self {
            Self::Open(footprint) => Some(footprint.start_time()),
            Self::Failed | Self::Ended => None,
        }
    }
}

fn cannot_measure(process_id: u32, error: &std::io::Error) {
    let error = error as &dyn std::error::Error;
    tracing::warn!(process_id, error, "cannot measure this process, trying again at the next check");
}

impl Watch {
    pub(super) fn new(source: Source) -> Self {
        Self {
            source,
            sample_count: 0,
            check_count: 0,
            size: Size::default(),
            start_size: 0,
            maximum_size: 0,
            mark: 0,
            increase_count: 0,
            first_excess: None,
            previous: None,
            earlier: None,
            rate: None,
        }
    }

    /// Takes a cheap sample.
    pub(super) fn sample(&mut self, process_id: u32) {
        let Source::Open(footprint) = &mut self.source else { return };
        match footprint.sample() {
            Ok(Some(size)) => {
                self.sample_count += 1;
                self.size = size;
            }
            Ok(None) => {
                self.source = Source::Ended;
                self.size = Size::default();
            }
            Err(error) => cannot_measure(process_id, &error),
        }
    }

    pub(super) fn look_closely(&mut self, now: Instant) {
        if let Source::Open(footprint) = &mut self.source {
            footprint.look_closely(now);
            self.size = footprint.size();
        }
    }

    /// Takes note of the size at a check.
    pub(super) fn note(&mut self, now: Instant, threshold_size: u64) {
        let size = self.size.proportional;
        self.maximum_size = self.maximum_size.max(size);
        self.check_count += 1;
        // Not what was mapped of files and is read by and by. The smaller one, so that nothing grows by how closely it is looked at.
        let own = size.min(self.size.anonymous);
        if self.check_count == 1 {
            self.mark = own;
        } else if own.saturating_sub(self.mark) > threshold_size {
            self.mark = own;
            self.increase_count += 1;
        }
        // That of the cheap figure: how closely it is looked at changes the other one, which would look like an end of the growth.
        let current = Reading { at: now, resident: self.size.resident };
        let before = self.previous.replace(current);
        let [earlier, later] = self.earlier.get_or_insert([current; 2]);
        if now.saturating_duration_since(later.at) >= PAUSE {
            (*earlier, *later) = (*later, current);
        }
        let rates = before.into_iter().chain([*earlier]).filter_map(|then| current.rate_since(then));
        self.rate = rates.reduce(f64::max);
    }

    /// In what time it reaches this size if it goes on growing as it did.
    pub(super) fn time_to(&self, limit: u64) -> Option<Duration> {
        time_for(limit.checked_sub(self.size.proportional)?, self.rate?)
    }

    /// By how much it grows in that time if it goes on as it did.
    pub(super) fn growth_in(&self, time: Duration) -> u64 {
        (self.rate.unwrap_or(0.0) * time.as_secs_f64()) as u64
    }
}

/// In what time so much is taken at so many bytes a second, if there is something left and anything taken.
pub(super) fn time_for(left: u64, rate: f64) -> Option<Duration> {
    (left > 0 && rate > 0.0).then(|| Duration::try_from_secs_f64(left as f64 / rate).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_pauses_for_a_moment_goes_on_growing() {
        let (start, mut watch) = (Instant::now(), Watch::new(Source::Ended));
        let mut rate = |milliseconds, size| {
            watch.size.resident = size;
            watch.note(start + Duration::from_millis(milliseconds), 1 << 20);
            watch.rate.map(|rate| rate as u64)
        };
        assert_eq!([rate(0, 0), rate(4000, 4000)], [None, Some(1000)]);
        assert!(rate(4200, 4000) > Some(900));
        assert_eq!(rate(4300, 4400), Some(4000), "and what grows faster is seen at once");
        assert!(rate(5500, 4400) > Some(0));
        assert_eq!(rate(6500, 4400), Some(0), "it has stopped");
    }
}
