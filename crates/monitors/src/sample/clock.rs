//! How long a process has had a processor, from its clock.

use std::{io, time::Duration};

use nix::{time::ClockId, unistd::Pid};

/// The processor time of all threads of a process, user and system, those that have ended included.
///
/// It counts in nanoseconds, where `stat` counts in ticks of 10 ms, and to read it takes a fraction of what `stat` takes. But it is of
/// whoever has the process's id: see to it that this is the same still. See clock_getcpuclockid(3).
pub(crate) struct ProcessorClock(ClockId);

impl ProcessorClock {
    /// The clock of the process that has this id.
    ///
    /// # Errors
    /// Where there is none.
    pub(crate) fn of(process_id: u32) -> io::Result<Self> {
        let process_id = i32::try_from(process_id).map_err(|_| io::ErrorKind::NotFound)?;
        Ok(Self(ClockId::pid_cpu_clock_id(Pid::from_raw(process_id))?))
    }

    /// What it shows now.
    ///
    /// # Errors
    /// Where the process has ended and was reaped.
    pub(crate) fn read(&self) -> io::Result<Duration> {
        Ok(self.0.now()?.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::Stat;

    #[test]
    fn it_is_what_stat_says_but_finer() {
        let own = std::process::id();
        let clock = ProcessorClock::of(own).unwrap();
        let (before, stat, after) = (clock.read().unwrap(), Stat::read(own).unwrap(), clock.read().unwrap());
        // User and system are rounded down by themselves.
        assert!(stat.processor_time <= after);
        assert!(stat.processor_time + Duration::from_millis(20) >= before);
        while clock.read().unwrap() == after {
            std::hint::spin_loop();
        }
    }

    #[test]
    fn one_of_a_process_that_ended_shows_nothing() {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let clock = ProcessorClock::of(child.id()).unwrap();
        clock.read().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(clock.read().is_err());
        assert!(ProcessorClock::of(child.id()).is_err() && ProcessorClock::of(u32::MAX).is_err());
    }
}
