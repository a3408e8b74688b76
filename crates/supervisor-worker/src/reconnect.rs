//! When to try again.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(50);
const LIMIT: Duration = Duration::from_secs(1);

/// The pauses between attempts: none before the first, then a random part of a span that doubles from 50 ms to 1 s.
///
/// Random from zero, because all workers lose their supervisor at the same moment, and should not all come back at the
/// same one.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    attempts: u32,
}

impl Backoff {
    /// The pause before the next attempt.
    pub(crate) fn next(&mut self) -> Duration {
        let span = self.span();
        self.attempts = self.attempts.saturating_add(1);
        span.mul_f64(fastrand::f64())
    }

    fn span(&self) -> Duration {
        match self.attempts.checked_sub(1) {
            None => Duration::ZERO,
            // More doublings than that are over the limit anyway.
            Some(doublings) => (FIRST * (1 << doublings.min(8))).min(LIMIT),
        }
    }

    /// Begins anew, after a connection that held.
    pub(crate) fn reset(&mut self) {
        self.attempts = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_double_to_the_limit_and_begin_anew() {
        let mut backoff = Backoff::default();
        let mut spans = Vec::new();

        for _ in 0..100 {
            let span = backoff.span();
            assert!(backoff.next() <= span);
            spans.push(span.as_millis());
        }

        assert_eq!(spans[..8], [0, 50, 100, 200, 400, 800, 1000, 1000]);
        assert_eq!(spans[99], 1000);
        backoff.reset();
        assert_eq!(backoff.next(), Duration::ZERO);
    }

    #[test]
    fn workers_do_not_come_back_together() {
        let mut delays: Vec<_> = (0..100).map(|_| Backoff { attempts: 10 }.next()).collect();
        delays.sort_unstable();
        assert!(delays[90] - delays[10] > LIMIT / 4, "{delays:?}");
    }
}
