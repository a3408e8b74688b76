//! The processor's own count of time, which is read without a call.

use std::sync::LazyLock;

use rustix::time::{ClockId, clock_gettime};

/// Where the kernel says which clock it takes for right.
#[cfg(target_arch = "x86_64")]
const CLOCK_SOURCE: &str = "/sys/devices/system/clocksource/clocksource0/current_clocksource";

/// Decided once: on x86-64, the counter is used where the kernel keeps time by it, which it does only if it runs at one
/// rate, never stops, and is the same on all processors.
static IS_RIGHT: LazyLock<bool> = LazyLock::new(is_right);

/// Ticks of a rate that does not change, since some moment before. Never zero.
#[inline]
pub(crate) fn now() -> u64 {
    match *IS_RIGHT {
        true => count().max(1),
        // The same in all processes, as the counter is.
        false => {
            let now = clock_gettime(ClockId::Monotonic);
            now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64 + 1
        }
    }
}

#[cfg(target_arch = "x86_64")]
fn is_right() -> bool {
    std::fs::read_to_string(CLOCK_SOURCE).is_ok_and(|name| name.trim() == "tsc")
}

#[cfg(target_arch = "x86_64")]
#[inline]
fn count() -> u64 {
    // SAFETY: the instruction reads a register and changes nothing. It can be forbidden to a process, but then so would be
    // asking for the time, which the C library does by the same instruction where the kernel keeps time by it.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// The architecture has one counter for all processors, that programs may read: Linux itself gives the time by it.
#[cfg(target_arch = "aarch64")]
fn is_right() -> bool {
    true
}

#[cfg(target_arch = "aarch64")]
#[inline]
fn count() -> u64 {
    let count;
    // SAFETY: a register is read; no memory and no flag is touched.
    unsafe { core::arch::asm!("mrs {}, cntvct_el0", out(reg) count, options(nomem, nostack, preserves_flags)) };
    count
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn is_right() -> bool {
    false
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn count() -> u64 {
    0
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn ticks_have_one_rate_on_all_threads() {
        let mut last = now();

        for _ in 0..20 {
            let next = std::thread::spawn(now).join().unwrap();
            assert!(next >= last, "{next} after {last}");
            last = next;
        }

        let rate = || {
            let (start, ticks) = (Instant::now(), now());
            while start.elapsed() < Duration::from_millis(20) {}
            (now() - ticks) as f64 / start.elapsed().as_secs_f64()
        };
        // Whoever is interrupted between two readings has a rate of their own, so one of a few will do.
        let agree = (0..50).any(|_| (rate() / rate() - 1.0).abs() < 0.01);
        assert!(agree, "{} and {}", rate(), rate());
    }
}
