//! How long to wait before the next attempt.

use std::time::{Duration, Instant};

use crate::time::{FAR, after};

/// The delays between the attempts to keep a child running.
///
/// The first restart after a healthy run happens at once. While the child keeps failing, the delay
/// starts at `initial` and doubles up to `maximum`; each is shortened by a random part of up to
/// `jitter`, so that children that failed together do not start together. It never gives up.
///
/// ```
/// use std::time::Duration;
/// use async_container::Backoff;
///
/// let backoff = Backoff::new().initial(Duration::from_millis(50)).maximum(Duration::from_secs(5));
/// assert_eq!(backoff.delay(0, 0.0), Duration::ZERO);
/// assert_eq!(backoff.delay(1, 0.0), Duration::from_millis(50));
/// assert_eq!(backoff.delay(20, 0.0), Duration::from_secs(5));
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Backoff {
    initial: Duration,
    maximum: Duration,
    jitter: f64,
    healthy_after: Duration,
}

impl Backoff {
    const INITIAL: Duration = Duration::from_millis(100);
    const MAXIMUM: Duration = Duration::from_secs(30);
    const JITTER: f64 = 0.3;
    const HEALTHY_AFTER: Duration = Duration::from_secs(10);

    /// The defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// The delay before the second restart in a row. Default is 100 ms.
    pub fn initial(mut self, initial: Duration) -> Self {
        self.initial = initial;
        self
    }

    /// The longest delay. Default is 30 s.
    pub fn maximum(mut self, maximum: Duration) -> Self {
        self.maximum = maximum;
        self
    }

    /// The part of a delay, from 0 to 1, that chance may take off. Default is 0.3.
    pub fn jitter(mut self, jitter: f64) -> Self {
        self.jitter = if jitter.is_finite() { jitter.clamp(0.0, 1.0) } else { Self::JITTER };
        self
    }

    /// How long a child must have been ready for its end to count as the first one. Default is 10 s.
    pub fn healthy_after(mut self, healthy_after: Duration) -> Self {
        self.healthy_after = healthy_after;
        self
    }

    /// The delay after `failures` earlier attempts in a row came to nothing, with `random` from 0 to 1.
    pub fn delay(&self, failures: u32, random: f64) -> Duration {
        let Some(doublings) = failures.checked_sub(1) else {
            return Duration::ZERO;
        };
        let factor = 2u32.checked_pow(doublings).unwrap_or(u32::MAX);
        let delay = self.initial.checked_mul(factor).unwrap_or(self.maximum).min(self.maximum).min(FAR);
        delay.mul_f64(1.0 - self.jitter * random.clamp(0.0, 1.0))
    }

    /// When a run that became ready at this time starts the count of failures anew.
    pub(crate) fn healthy_at(&self, ready: Instant) -> Instant {
        after(ready, self.healthy_after)
    }

    /// True if a run that was ready for `duration` starts the count of failures anew.
    pub(crate) fn is_healthy(&self, duration: Duration) -> bool {
        duration >= self.healthy_after
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Backoff {
            initial: Self::INITIAL,
            maximum: Self::MAXIMUM,
            jitter: Self::JITTER,
            healthy_after: Self::HEALTHY_AFTER,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_maximum() {
        let backoff = Backoff::new();
        let delays: Vec<u128> = (0..12).map(|failures| backoff.delay(failures, 0.0).as_millis()).collect();
        assert_eq!(delays, [0, 100, 200, 400, 800, 1600, 3200, 6400, 12800, 25600, 30000, 30000]);
        assert_eq!(backoff.delay(u32::MAX, 0.0), Backoff::MAXIMUM);
    }

    #[test]
    fn jitter_only_shortens() {
        let backoff = Backoff::new().jitter(0.5);
        assert_eq!(backoff.delay(1, 1.0), Duration::from_millis(50));
        assert_eq!(backoff.delay(1, 0.5), Duration::from_millis(75));
        assert_eq!(backoff.delay(0, 1.0), Duration::ZERO);
    }
}
