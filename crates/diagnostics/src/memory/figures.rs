//! Sums of what was sampled, and how far they may be off.

use serde::Serialize;

/// An estimate of what was allocated, from those blocks of which each was looked at with a known probability.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Sum {
    /// How many were looked at.
    pub(super) samples: u64,
    pub(super) count: f64,
    pub(super) bytes: f64,
    /// The estimated variance of `bytes`.
    variance: f64,
}

/// Bytes and blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Figures {
    /// Bytes that the program asked for.
    pub bytes: u64,
    /// Blocks.
    pub count: u64,
    /// How far `bytes` is off, as a part of it: in two of three cases not more than this (the relative standard error).
    /// Nothing if it was not estimated, or there is nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<f64>,
}

impl Sum {
    /// What a block stands for that was looked at with that probability.
    pub(super) fn of(size: usize, probability: f64) -> Self {
        let bytes = size as f64;
        Self {
            samples: 1,
            count: 1.0 / probability,
            bytes: bytes / probability,
            variance: bytes * bytes * (1.0 - probability) / (probability * probability),
        }
    }

    /// What so many of that size in all, of one size, stand for that were looked at.
    #[cfg(feature = "jemalloc")]
    pub(super) fn of_many(count: u64, bytes: u64, rate: u64) -> Self {
        if count == 0 {
            return Self::default();
        }

        let size = (bytes / count) as usize;
        let one = Self::of(size, super::Mode::Sampled { rate }.probability(size));
        let count = count as f64;
        Self {
            samples: count as u64,
            count: one.count * count,
            bytes: one.bytes * count,
            variance: one.variance * count,
        }
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.samples += other.samples;
        self.count += other.count;
        self.bytes += other.bytes;
        self.variance += other.variance;
    }

    /// What is left of it without a part of it.
    pub(super) fn without(&self, part: &Self) -> Self {
        // What is nothing must not be the rest of a rounding.
        if part.samples >= self.samples {
            return Self::default();
        }

        Self {
            samples: self.samples - part.samples,
            count: (self.count - part.count).max(0.0),
            bytes: (self.bytes - part.bytes).max(0.0),
            variance: (self.variance - part.variance).max(0.0),
        }
    }

    pub(super) fn figures(&self, is_estimate: bool) -> Figures {
        let error = (is_estimate && self.bytes > 0.0).then(|| (self.variance.sqrt() / self.bytes * 1e4).round() / 1e4);
        Figures { bytes: self.bytes.round() as u64, count: self.count.round() as u64, error }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Mode;
    use super::*;

    #[test]
    fn estimates_are_as_far_off_as_they_say() {
        // Blocks of a hundred bytes, each looked at by itself: the estimates of many such runs scatter as was said.
        let mode = Mode::Sampled { rate: 10_000 };
        let probability = mode.probability(100);
        let (blocks, runs) = (20_000, 200);
        let mut random = fastrand(7);
        let mut within = 0;

        for _ in 0..runs {
            let mut sum = Sum::default();

            for _ in 0..blocks {
                if random() < probability {
                    sum.add(&Sum::of(100, probability));
                }
            }

            let truth = f64::from(blocks) * 100.0;
            let error = sum.figures(true).error.unwrap();
            assert!((0.04..0.12).contains(&error), "{error}");
            within += i32::from((sum.bytes - truth).abs() <= error * sum.bytes);
        }

        // 68 % of 200, give or take four times what that scatters.
        assert!((110..=163).contains(&within), "{within} of {runs}");
    }

    fn fastrand(seed: u64) -> impl FnMut() -> f64 {
        let mut state: u64 = seed;
        move || {
            state ^= state >> 12;
            state ^= state << 25;
            state ^= state >> 27;
            (state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) as f64 / (1_u64 << 53) as f64
        }
    }

    #[test]
    fn what_is_all_there_has_no_error() {
        let mut sum = Sum::of(100, 1.0);
        sum.add(&Sum::of(23, 1.0));
        assert_eq!(sum.figures(false), Figures { bytes: 123, count: 2, error: None });
        assert_eq!(sum.without(&sum), Sum::default());
        let large = Mode::SAMPLED.probability(100 << 20);
        assert!(Sum::of(100 << 20, large).figures(true).error.unwrap() < 1e-4);
    }
}
