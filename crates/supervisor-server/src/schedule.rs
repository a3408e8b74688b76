//! When a monitor checks: at multiples of its interval on the wall clock, so that the samples of several supervisors can be
//! laid side by side.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// No interval is longer, so that there is always a time to wait for: `Duration::MAX`, by which somebody says "never", is after all of
/// them.
const LONGEST_INTERVAL: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// The next time to check, given when the last check was due.
///
/// The wall clock says where the multiples lie, each time anew, so that nothing adds up. The waiting itself is measured by
/// the monotonic clock, and the time between two checks is never less than half an interval: a step of the wall clock
/// shifts the next check once, and neither repeats one nor puts one off for hours.
pub(crate) fn next_check(last: Option<Instant>, now: Instant, wall: SystemTime, interval: Duration) -> Instant {
    let interval = interval.min(LONGEST_INTERVAL);
    // Before 1970 nothing is aligned, and everything still works.
    let since_epoch = wall.duration_since(UNIX_EPOCH).unwrap_or_default();
    let phase = since_epoch.as_nanos() % interval.as_nanos().max(1);
    let phase = Duration::from_nanos(u64::try_from(phase).unwrap_or_default());
    let next = now + interval.saturating_sub(phase);

    match last {
        Some(last) if next < last + interval / 2 => next + interval,
        _ => next,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn wall(seconds: f64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs_f64(seconds)
    }

    #[test]
    fn first_check_is_at_the_next_multiple() {
        let now = Instant::now();
        assert_eq!(next_check(None, now, wall(1000.0), MINUTE), now + Duration::from_secs(20));
        assert_eq!(next_check(None, now, wall(1020.0), MINUTE), now + MINUTE);
    }

    #[test]
    fn late_checks_do_not_add_up() {
        let start = Instant::now();
        let mut now = start;
        let mut last = None;

        for round in 1..=10_000 {
            let due = next_check(last, now, wall(600.0 + (now - start).as_secs_f64()), MINUTE);
            let expected = start + MINUTE * round;
            let error = due.max(expected) - due.min(expected);
            assert!(error < Duration::from_millis(1), "round {round} is {error:?} off");
            last = Some(due);
            // Each check starts late and takes a while.
            now = due + Duration::from_millis(730);
        }
    }

    #[test]
    fn waking_a_moment_early_by_the_wall_clock_does_not_check_twice() {
        let now = Instant::now();
        assert_eq!(next_check(Some(now), now, wall(1019.9), MINUTE), now + Duration::from_millis(100) + MINUTE);
    }

    #[test]
    fn steps_of_the_clock_shift_one_check() {
        let last = Instant::now();
        let now = last + Duration::from_secs(1);

        for step in [-7200.0, -61.0, -30.0, -1.0, 1.0, 30.0, 61.0, 7200.0] {
            let due = next_check(Some(last), now, wall(100_021.0 + step), MINUTE);
            let wait = due - last;
            assert!(wait >= MINUTE / 2 && wait <= MINUTE * 3 / 2 + Duration::from_secs(1), "{step}: {wait:?}");
        }
    }

    #[test]
    fn never_is_a_time_to_wait_for() {
        let now = Instant::now();
        let first = next_check(None, now, wall(1000.0), Duration::MAX);
        assert!(first > now + LONGEST_INTERVAL / 4);
        assert!(next_check(Some(first), first, wall(1000.0), Duration::MAX) > first + LONGEST_INTERVAL / 4);
    }

    #[test]
    fn check_that_takes_longer_than_the_interval_skips_multiples() {
        let last = Instant::now();
        let now = last + Duration::from_secs(130);
        assert_eq!(next_check(Some(last), now, wall(600.0 + 130.0), MINUTE), last + Duration::from_secs(180));
    }
}
