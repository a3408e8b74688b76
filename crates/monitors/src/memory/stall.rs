//! How much of the time nothing is done for want of memory.

use std::time::{Duration, Instant};

use crate::sample::Pressure;

/// The pressure, as far as it is still there.
///
/// The kernel's average of ten seconds goes down by a tenth a second. So it still says that everything waits when whoever took the
/// memory has long gone, and the next one would go for nothing. What has come to the kernel's total since the last look shows whether
/// anything waits now.
#[derive(Default)]
pub(super) struct Stall {
    /// When it was looked last, and the total of then.
    last: Option<(Instant, Duration)>,
    /// The part of the time since the look before that.
    since: Option<f64>,
}

impl Stall {
    /// To be told at each check, while nobody is on the way out.
    pub(super) fn note(&mut self, now: Instant, pressure: Option<Pressure>) {
        let total = pressure.map(|pressure| pressure.full_total);
        self.since = self.last.zip(total).and_then(|((at, before), total)| {
            let time = now.saturating_duration_since(at);
            (!time.is_zero()).then(|| total.saturating_sub(before).as_secs_f64() / time.as_secs_f64())
        });
        self.last = total.map(|total| (now, total));
    }

    /// Somebody goes: only what comes once that is over says whether it was enough.
    pub(super) fn begin_anew(&mut self) {
        *self = Self::default();
    }

    /// The part of the time, by both; nothing before the second look.
    pub(super) fn part(&self, pressure: Option<Pressure>) -> Option<f64> {
        self.since.zip(pressure).map(|(since, pressure)| pressure.full.min(since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn pressure(full: f64, milliseconds: u64) -> Option<Pressure> {
        Some(Pressure { some: 1.0, full, full_total: Duration::from_millis(milliseconds) })
    }

    #[test]
    fn what_is_over_does_not_count_although_the_average_still_says_so() {
        let (mut stall, start) = (Stall::default(), Instant::now());
        let mut part = |second: u32, full, total| {
            stall.note(start + second * SECOND, pressure(full, total));
            stall.part(pressure(full, total))
        };
        assert_eq!(part(0, 0.4, 5_000), None, "what was before is not known");
        assert_eq!(part(1, 0.4, 5_500), Some(0.4), "half of a second, and less before");
        assert_eq!(part(2, 0.5, 5_750), Some(0.25));
        assert_eq!(part(3, 0.45, 5_750), Some(0.0));
    }

    #[test]
    fn while_somebody_goes_nothing_counts() {
        let (mut stall, start) = (Stall::default(), Instant::now());
        stall.note(start, pressure(0.9, 1_000));
        stall.note(start + SECOND, pressure(0.9, 2_000));
        assert_eq!(stall.part(pressure(0.9, 2_000)), Some(0.9));
        stall.begin_anew();
        assert_eq!(stall.part(pressure(0.9, 2_000)), None);
        stall.note(start + 2 * SECOND, pressure(0.8, 2_400));
        assert_eq!(stall.part(pressure(0.8, 2_400)), None, "it may have been there for a part of that second");
        stall.note(start + 3 * SECOND, pressure(0.7, 3_400));
        assert_eq!(stall.part(pressure(0.7, 3_400)), Some(0.7));
        stall.note(start + 4 * SECOND, None);
        assert_eq!(stall.part(None), None);
    }
}
