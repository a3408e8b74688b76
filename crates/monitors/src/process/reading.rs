//! A process that is read again and again, at the lowest cost.

use std::{io, time::Duration};

use crate::sample::{Activity, Stat, StatFile};

/// One that had the processor for less than this since all of it was read is not read again: of what it may have done in that time, only
/// the processor time is worth telling.
const QUIET: Duration = Duration::from_millis(1);

/// The descriptor and the clock of a process.
pub(super) struct Reading {
    file: StatFile,
    activity: Activity,
}

impl Reading {
    /// Of the process that has this id now.
    pub(super) fn begin(process_id: u32, stat: &mut Stat) -> io::Result<Self> {
        let (file, activity) = (StatFile::open(process_id)?, Activity::of(process_id, QUIET));
        let mut reading = Self { file, activity };
        reading.refresh(stat)?;
        Ok(reading)
    }

    /// Reads the figures in the place of those of before: the time that it had the processor always, the others as far as they may
    /// have changed.
    pub(super) fn refresh(&mut self, stat: &mut Stat) -> io::Result<()> {
        let Some(look) = self.activity.look()? else { return self.file.refresh(stat) };

        if !look.is_quiet {
            self.file.refresh(stat)?;
        }

        (stat.at, stat.processor_time) = (look.at, look.processor_time);
        Ok(())
    }

    /// Has all of it read the next time.
    pub(super) fn expire(&mut self) {
        self.activity.expire();
    }
}
