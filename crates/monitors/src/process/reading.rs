//! A process that is read again and again, at the lowest cost.

use std::{io, time::Duration};

use crate::sample::{ProcessorClock, Stat, StatFile, at_one_moment};

/// One that had the processor for less than this since all of it was read has done next to nothing: all of it is not read again.
const QUIET: Duration = Duration::from_millis(1);

/// But after this time it is: others can change something of it, too.
const READ_ANEW: Duration = Duration::from_secs(10);

/// Those that are read anew for that reason alone have their turns in so many parts of that time.
const PARTS: u32 = 16;

/// The descriptor and the clock of a process.
pub(super) struct Reading {
    file: StatFile,
    /// Nothing where the system has no such clocks.
    clock: Option<ProcessorClock>,
    /// What the clock showed when all of it was read.
    busy: Duration,
    /// When all of it is read, whatever the clock shows.
    due: Duration,
}

impl Reading {
    /// Of the process that has this id now.
    pub(super) fn begin(process_id: u32, stat: &mut Stat) -> io::Result<Self> {
        let (file, clock) = (StatFile::open(process_id)?, ProcessorClock::of(process_id).ok());
        let mut reading = Self { file, clock, busy: Duration::ZERO, due: Duration::ZERO };
        reading.refresh(stat)?;
        // So that of many that begin together, few are due at a time.
        reading.due = stat.at + READ_ANEW * (process_id % PARTS + 1) / PARTS;
        Ok(reading)
    }

    /// Reads the figures in the place of those of before: the time that it had the processor always, the others as far as they may
    /// have changed.
    pub(super) fn refresh(&mut self, stat: &mut Stat) -> io::Result<()> {
        let Some(clock) = &self.clock else { return self.file.refresh(stat) };
        let (at, processor_time) = at_one_moment(|| clock.read())?;
        // A clock that goes back is that of another process, which the file tells from this one.
        let used = processor_time.checked_sub(self.busy);

        if at >= self.due || used.is_none_or(|used| used >= QUIET) {
            self.file.refresh(stat)?;
            (self.busy, self.due) = (processor_time, at + READ_ANEW);
        }

        (stat.at, stat.processor_time) = (at, processor_time);
        Ok(())
    }

    /// Has all of it read the next time.
    pub(super) fn expire(&mut self) {
        self.due = Duration::ZERO;
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};

    use super::*;

    struct Process(Child);

    impl Drop for Process {
        fn drop(&mut self) {
            self.0.kill().unwrap();
            self.0.wait().unwrap();
        }
    }

    /// One that sleeps, as is seen at its clock.
    fn sleeping() -> Process {
        let process = Process(Command::new("sleep").arg("1000").stdin(Stdio::null()).spawn().unwrap());
        let is_sleeping = || Stat::read(process.0.id()).unwrap().executable == "sleep";
        while !is_sleeping() {
            std::thread::yield_now();
        }
        let clock = ProcessorClock::of(process.0.id()).unwrap();
        loop {
            let before = clock.read().unwrap();
            std::thread::sleep(Duration::from_millis(50));
            if clock.read().unwrap() == before {
                return process;
            }
        }
    }

    fn begin(process_id: u32) -> (Reading, Stat) {
        let mut stat = Stat::read(process_id).unwrap();
        let reading = Reading::begin(process_id, &mut stat).unwrap();
        (reading, stat)
    }

    #[test]
    fn one_that_did_nothing_is_not_read_until_that_was_long_ago() {
        let process = sleeping();
        let (mut reading, mut stat) = begin(process.0.id());
        assert!(stat.threads > 0 && stat.processor_time > Duration::ZERO);
        let before = stat.clone();
        stat.threads = 77;
        reading.refresh(&mut stat).unwrap();
        assert_eq!((stat.threads, stat.processor_time), (77, before.processor_time));
        assert!(stat.at > before.at);
        reading.expire();
        reading.refresh(&mut stat).unwrap();
        assert_eq!(stat.threads, before.threads);
        assert!(reading.due > stat.at);
    }

    #[test]
    fn one_that_did_something_is_read() {
        let own = std::process::id();
        let (mut reading, mut stat) = begin(own);
        reading.due = Duration::MAX;
        let (before, clock) = (stat.processor_time, ProcessorClock::of(own).unwrap());
        while clock.read().unwrap() < before + QUIET {
            std::hint::spin_loop();
        }
        stat.threads = 0;
        reading.refresh(&mut stat).unwrap();
        assert!(stat.threads > 0 && stat.processor_time >= before + QUIET);
    }

    #[test]
    fn a_clock_that_goes_back_is_not_believed() {
        let process = sleeping();
        let (mut reading, mut stat) = begin(process.0.id());
        (reading.busy, stat.threads) = (Duration::MAX, 0);
        reading.refresh(&mut stat).unwrap();
        assert!(stat.threads > 0);
    }

    #[test]
    fn one_that_ended_cannot_be_read() {
        let process = sleeping();
        let (mut reading, mut stat) = begin(process.0.id());
        drop(process);
        assert!(reading.refresh(&mut stat).is_err());
    }
}
