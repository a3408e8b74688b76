//! Moments that lie ahead.

use std::time::{Duration, Instant};

/// So far ahead that nobody waits for it.
pub(crate) const FAR: Duration = Duration::from_secs(60 * 60 * 24 * 365 * 30);

/// The moment after so much time, which may be as long as can be said, such as `Duration::MAX` for never.
pub(crate) fn after(now: Instant, time: Duration) -> Instant {
    now + time.min(FAR)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_may_be_as_far_ahead_as_can_be_said() {
        let now = Instant::now();
        assert_eq!(after(now, Duration::from_secs(1)), now + Duration::from_secs(1));
        assert!(after(now, Duration::MAX) > now + Duration::from_secs(1_000_000));
    }
}
