//! What is known of one worker, from check to check.

use std::time::{Duration, Instant};

use super::footprint::{Footprint, Size};
use crate::sample;

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
    /// The last check and the size then.
    pub previous: Option<(Instant, u64)>,
    /// How many bytes a second it grew between the last two checks.
    pub rate: Option<f64>,
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
        if self.check_count == 1 {
            self.mark = size;
        } else if size.saturating_sub(self.mark) > threshold_size {
            self.mark = size;
            self.increase_count += 1;
        }
        if let Some((at, before)) = self.previous.replace((now, size)) {
            let elapsed = now.saturating_duration_since(at);
            self.rate = (!elapsed.is_zero()).then(|| size.saturating_sub(before) as f64 / elapsed.as_secs_f64());
        }
    }

    /// In what time it reaches this size if it goes on growing as it did.
    pub(super) fn time_to(&self, limit: u64) -> Option<Duration> {
        let rate = self.rate.filter(|rate| *rate > 0.0)?;
        let left = limit.checked_sub(self.size.proportional).filter(|left| *left > 0)?;
        Duration::try_from_secs_f64(left as f64 / rate).ok()
    }
}
