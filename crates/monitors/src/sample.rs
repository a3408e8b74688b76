//! What the operating system says about a process and about the host, read at the lowest cost.
//!
//! | read | costs about | gives |
//! | --- | --- | --- |
//! | [`Process::resident_size`] | 1–2 µs | resident size, from a file that is kept open |
//! | [`Process::open`], [`Stat::read`], [`Directory`] | 10–20 µs | times, parent, sizes |
//! | [`Process::memory`] | 1 ms for 50 MB, 46 ms for 4 GB | private, shared and proportional sizes |
//!
//! The last one walks the page tables and holds the process's memory map lock while it does, so it
//! slows the process that it looks at. Use it on demand, or at a pace that falls with its price.
//!
//! Linux only: everything here reads `/proc`, and `/sys/fs/cgroup`. A process that ended is an
//! [`io::Error`] of kind `NotFound` or, once a file of it was open, no value; see [`has_ended`].

#[cfg(any(feature = "memory", feature = "process"))]
mod activity;
#[cfg(any(feature = "memory", feature = "process"))]
mod clock;
mod host;
mod listing;

use std::{
    fs::File,
    io::{self, Read},
    os::{fd::OwnedFd, unix::fs::FileExt},
    path::{Path, PathBuf},
    sync::LazyLock,
    time::{Duration, SystemTime},
};

use rustix::{
    fs::{Mode, OFlags},
    time::{ClockId, clock_gettime},
};
use serde::Serialize;

#[cfg(any(feature = "memory", feature = "process"))]
pub(crate) use activity::Activity;
pub use host::{HostMemory, MemorySource, Pressure};
#[cfg(feature = "process")]
pub(crate) use listing::listing;
pub use listing::process_ids;
#[cfg(any(feature = "memory", feature = "process"))]
pub(crate) use listing::{last_process_id, started};

/// A command line is shown to people; one of many megabytes would only fill the log.
const COMMAND_LIMIT: u64 = 4096;

/// Longer ones are more than the kernel lets most programs have.
#[cfg(feature = "memory")]
const ENVIRONMENT_LIMIT: u64 = 1 << 20;

/// `stat` is 52 numbers of at most 20 digits and a name of at most 64 bytes.
const STAT_LIMIT: usize = 2048;

/// Those after the name, as far as they are wanted.
const STAT_FIELDS: usize = 22;

/// The clock and a reading are taken beside each other. If more than this is between, others had the processor meanwhile, and
/// they are taken anew, so often at most.
const SAME_MOMENT: Duration = Duration::from_millis(1);
const ATTEMPTS: usize = 3;

/// Bytes a page, and clock ticks a second. Neither changes while the system runs.
static PAGE_SIZE: LazyLock<u64> = LazyLock::new(|| rustix::param::page_size() as u64);
static TICKS_PER_SECOND: LazyLock<u64> = LazyLock::new(rustix::param::clock_ticks_per_second);

/// When the host was started, in whole seconds since 1970: as the kernel has it, for a difference of two clocks would be another one
/// each time.
static HOST_BEGAN: LazyLock<Option<Duration>> = LazyLock::new(|| {
    let text = std::fs::read_to_string("/proc/stat").ok()?;
    let seconds = text.lines().find_map(|line| line.strip_prefix("btime "))?;
    Some(Duration::from_secs(seconds.trim().parse().ok()?))
});

/// Whether this error means that the process is no longer there, which is in the nature of
/// sampling and no fault.
pub fn has_ended(error: &io::Error) -> bool {
    // Opening a file of a process that is gone gives ENOENT; reading one that was opened before
    // gives ESRCH, for which std has no kind.
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error())
}

/// The time since the host was started, in the clock that [`Stat::start_time`] uses.
pub fn uptime() -> Duration {
    // BOOTTIME and not MONOTONIC: start times count the time that the host was suspended.
    Duration::try_from(clock_gettime(ClockId::Boottime)).unwrap_or_default()
}

/// Reads something, and says when that was: the [`uptime`] of the host.
fn at_one_moment<T>(mut read: impl FnMut() -> io::Result<T>) -> io::Result<(Duration, T)> {
    let mut attempts = 1..ATTEMPTS;
    loop {
        let at = uptime();
        let value = read()?;
        if uptime().saturating_sub(at) < SAME_MOMENT || attempts.next().is_none() {
            return Ok((at, value));
        }
    }
}

/// A process whose resident size is read again and again.
///
/// It refers to this one process and never to a later one with the same id: the kernel binds an
/// open file of `/proc` to the process it was opened for. It costs one file descriptor.
#[derive(Debug)]
pub struct Process {
    process_id: u32,
    start_time: u64,
    statm: File,
}

impl Process {
    /// Finds the process that has this id now.
    ///
    /// # Errors
    /// Of kind `NotFound` if there is none; others, such as too many open files, as they come.
    pub fn open(process_id: u32) -> io::Result<Self> {
        let directory = Directory::open(process_id)?;
        let stat = directory.stat()?;
        let statm = directory.file("statm")?;
        Ok(Self { process_id, start_time: stat.start_time, statm })
    }

    /// The process's id.
    pub fn process_id(&self) -> u32 {
        self.process_id
    }

    /// When it was started; see [`Stat::start_time`].
    pub fn start_time(&self) -> u64 {
        self.start_time
    }

    /// The time since it was started.
    pub fn age(&self) -> Duration {
        uptime().saturating_sub(ticks(self.start_time))
    }

    /// The memory that it has resident, in bytes, shared pages included; `None` once it ended.
    ///
    /// Before Linux 6.16 the kernel adds this up lazily, and may be off by some hundred KiB for
    /// each processor.
    ///
    /// # Errors
    /// If the kernel's answer cannot be read, for another reason than that the process ended.
    pub fn resident_size(&self) -> io::Result<Option<u64>> {
        Ok(self.resident()?.map(|resident| resident.size))
    }

    /// As [`resident_size`](Self::resident_size), and what of it belongs to no file.
    pub(crate) fn resident(&self) -> io::Result<Option<Resident>> {
        let mut buffer = [0; 256];
        let length = match self.statm.read_at(&mut buffer, 0) {
            Ok(length) => length,
            Err(error) if has_ended(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        // A process that ended and was not reaped yet has no memory map: every number is zero.
        Ok(Some(parse_statm(&buffer[..length])?).filter(|resident| resident.size > 0))
    }

    /// Private, shared and proportional sizes. Expensive: see the module's table.
    ///
    /// # Errors
    /// Where the process ended ([`has_ended`]), or belongs to somebody else (`PermissionDenied`).
    pub fn memory(&self) -> io::Result<Memory> {
        let directory = Directory::open(self.process_id)?;
        if directory.stat()?.start_time != self.start_time {
            return Err(io::ErrorKind::NotFound.into());
        }
        directory.memory()
    }
}

/// What a process has resident, in bytes, as the kernel tells at next to no cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Resident {
    /// All of it, shared or not.
    pub(crate) size: u64,
    /// What belongs to no file, not even to one in memory.
    pub(crate) anonymous_size: u64,
}

/// One reading of a process's vital figures.
#[derive(Clone, Debug, PartialEq)]
pub struct Stat {
    /// When it was read: the [`uptime`] of the host at that very moment, however long others had the processor before or since.
    pub at: Duration,
    /// Its id.
    pub process_id: u32,
    /// The process that started it, or the reaper that it came to; 0 if that is out of sight.
    pub parent_process_id: u32,
    /// The process group.
    pub process_group_id: u32,
    /// The name of its executable, cut to 15 bytes by the kernel.
    pub executable: String,
    /// Whether it ended, and waits only to be reaped.
    pub ended: bool,
    /// The processor time of all its threads, user and system.
    pub processor_time: Duration,
    /// That of its children that have ended and that it has waited for, and of theirs.
    pub children_processor_time: Duration,
    /// How many threads it has.
    pub threads: u64,
    /// How often it used memory that was not mapped yet, and was there.
    pub minor_faults: u64,
    /// How often it used memory that had to be read from disk or swap.
    pub major_faults: u64,
    /// When it was started, in clock ticks since the host was. With the process id this tells a
    /// process from every other one until the host is restarted.
    pub start_time: u64,
    /// The address space, in bytes.
    pub virtual_size: u64,
    /// The memory that is resident, in bytes, shared pages included.
    pub resident_size: u64,
}

impl Stat {
    /// Reads the figures of the process that has this id now.
    ///
    /// # Errors
    /// Where there is no such process ([`has_ended`]), or it cannot be read.
    pub fn read(process_id: u32) -> io::Result<Self> {
        // One open instead of two: all that is wanted is in one file, so there is nothing that
        // could come from two processes.
        Self::from_file(process_id, &File::open(stat_path(process_id))?, String::new())
    }

    /// The time from its start until it was read.
    pub fn elapsed_time(&self) -> Duration {
        self.at.saturating_sub(ticks(self.start_time))
    }

    /// When it was started, by the clock. It is up to a second early, and the same for whoever asks, as long as nobody sets the
    /// clock. Nothing, where the kernel does not tell when the host was started.
    pub fn began(&self) -> Option<SystemTime> {
        SystemTime::UNIX_EPOCH.checked_add(*HOST_BEGAN.as_ref()?)?.checked_add(ticks(self.start_time))
    }

    /// `executable` is room for that.
    fn from_file(process_id: u32, file: &File, executable: String) -> io::Result<Self> {
        let mut buffer = [0; STAT_LIMIT];
        let (at, length) = at_one_moment(|| file.read_at(&mut buffer, 0))?;
        Self::parse(process_id, at, &buffer[..length], executable).ok_or_else(|| unexpected("stat"))
    }

    fn parse(process_id: u32, at: Duration, text: &[u8], mut executable: String) -> Option<Self> {
        // "PID (NAME) STATE …", where NAME may itself contain spaces and parentheses; only the
        // last one closes it.
        let open = text.iter().position(|byte| *byte == b'(')?;
        let close = text.iter().rposition(|byte| *byte == b')')?;
        executable.clear();
        executable.push_str(&String::from_utf8_lossy(text.get(open + 1..close)?));
        let mut fields = [&text[..0]; STAT_FIELDS];
        let rest = text.get(close + 2..)?.split(|byte| *byte == b' ');
        for (field, text) in fields.iter_mut().zip(rest) {
            *field = text;
        }
        let number = |index: usize| parse_number(fields.get(index)?);

        Some(Self {
            at,
            process_id,
            parent_process_id: u32::try_from(number(1)?).ok()?,
            // Negative, or 0, for a group that lives outside of this pid namespace.
            process_group_id: number(2).and_then(|id| u32::try_from(id).ok()).unwrap_or(0),
            executable,
            ended: matches!(*fields.first()?, b"Z" | b"X" | b"x"),
            processor_time: ticks(number(11)?.saturating_add(number(12)?)),
            children_processor_time: ticks(number(13)?.saturating_add(number(14)?)),
            threads: number(17)?,
            minor_faults: number(7)?,
            major_faults: number(9)?,
            start_time: number(19)?,
            virtual_size: number(20)?,
            resident_size: number(21)?.saturating_mul(*PAGE_SIZE),
        })
    }
}

/// A number without a sign, in decimal.
fn parse_number(text: &[u8]) -> Option<u64> {
    let digit = |byte: &u8| byte.is_ascii_digit().then(|| u64::from(byte - b'0'));
    text.iter()
        .try_fold(0u64, |number, byte| number.checked_mul(10)?.checked_add(digit(byte)?))
        .filter(|_| !text.is_empty())
}

/// A process whose vital figures are read again and again: always of this one, and never of a later one with its id.
#[cfg(feature = "process")]
pub(crate) struct StatFile {
    process_id: u32,
    file: File,
}

#[cfg(feature = "process")]
impl StatFile {
    pub(crate) fn open(process_id: u32) -> io::Result<Self> {
        Ok(Self { process_id, file: File::open(stat_path(process_id))? })
    }

    /// Reads the figures in the place of those of before.
    pub(crate) fn refresh(&self, stat: &mut Stat) -> io::Result<()> {
        let executable = std::mem::take(&mut stat.executable);
        *stat = Stat::from_file(self.process_id, &self.file, executable)?;
        Ok(())
    }
}

fn stat_path(process_id: u32) -> PathBuf {
    ["/proc", &process_id.to_string(), "stat"].iter().collect()
}

/// A process whose figures are read together, once.
///
/// All of them are of the same process, whatever becomes of its id meanwhile. It costs one file
/// descriptor.
#[derive(Debug)]
pub struct Directory {
    process_id: u32,
    descriptor: OwnedFd,
}

impl Directory {
    /// Finds the process that has this id now.
    ///
    /// # Errors
    /// Where there is no such process ([`has_ended`]), or it cannot be opened.
    pub fn open(process_id: u32) -> io::Result<Self> {
        let path = Path::new("/proc").join(process_id.to_string());
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let descriptor = rustix::fs::open(path, flags, Mode::empty())?;
        Ok(Self { process_id, descriptor })
    }

    /// Its vital figures.
    ///
    /// # Errors
    /// Where the process ended ([`has_ended`]), or the figures cannot be read.
    pub fn stat(&self) -> io::Result<Stat> {
        Stat::from_file(self.process_id, &self.file("stat")?, String::new())
    }

    /// Its command line, the arguments joined by spaces and cut to 4 KiB; where that is empty,
    /// as for kernel threads, the name of its executable.
    ///
    /// # Errors
    /// Where the process ended ([`has_ended`]), or the command line cannot be read.
    pub fn command(&self) -> io::Result<String> {
        for name in ["cmdline", "comm"] {
            let mut text = Vec::new();
            self.file(name)?.take(COMMAND_LIMIT).read_to_end(&mut text)?;
            let command = parse_command(&text);
            if !command.is_empty() {
                return Ok(command);
            }
        }
        Ok(String::new())
    }

    /// Private, shared and proportional sizes. Expensive: see the module's table.
    ///
    /// # Errors
    /// Where the process ended ([`has_ended`]), or belongs to somebody else (`PermissionDenied`).
    pub fn memory(&self) -> io::Result<Memory> {
        let mut text = String::new();
        // Before Linux 4.14, and in sandboxes, there is what each mapping has, and nobody adds it up.
        let (name, mut file) = match self.file("smaps_rollup") {
            Err(error) if error.kind() == io::ErrorKind::NotFound => ("smaps", self.file("smaps")?),
            file => ("smaps_rollup", file?),
        };
        file.read_to_string(&mut text)?;
        Memory::parse(&text).ok_or_else(|| unexpected(name))
    }

    /// How often its threads that are there now waited, and how often they had to give way to others.
    ///
    /// # Errors
    /// Where the process ended ([`has_ended`]), or its threads cannot be listed.
    pub fn switches(&self) -> io::Result<Switches> {
        let mut switches = Switches::default();
        let mut text = String::new();
        for thread in self.entries("task")? {
            text.clear();
            // A thread may have ended since.
            if let Ok(mut file) = self.file(&format!("task/{thread}/status"))
                && file.read_to_string(&mut text).is_ok()
            {
                let thread = Switches::parse(&text).ok_or_else(|| unexpected("status"))?;
                switches.voluntary += thread.voluntary;
                switches.involuntary += thread.involuntary;
            }
        }
        Ok(switches)
    }

    /// How many file descriptors it has open.
    ///
    /// # Errors
    /// Where the process ended ([`has_ended`]), or belongs to somebody else (`PermissionDenied`).
    pub fn open_files(&self) -> io::Result<u64> {
        self.count("fd")
    }

    /// How many mappings its address space has.
    ///
    /// # Errors
    /// Where the process ended ([`has_ended`]), or belongs to somebody else (`PermissionDenied`).
    pub fn map_count(&self) -> io::Result<u64> {
        let mut text = Vec::new();
        self.file("maps")?.read_to_end(&mut text)?;
        Ok(text.iter().filter(|byte| **byte == b'\n').count() as u64)
    }

    /// The processes that its threads started and that have not ended.
    ///
    /// # Errors
    /// Where the process ended ([`has_ended`]), or its threads cannot be listed.
    pub fn children(&self) -> io::Result<Vec<u32>> {
        let mut children = Vec::new();
        let mut text = String::new();
        for thread in self.entries("task")? {
            text.clear();
            // A thread may have ended since.
            if let Ok(mut file) = self.file(&format!("task/{thread}/children"))
                && file.read_to_string(&mut text).is_ok()
            {
                children.extend(text.split_ascii_whitespace().filter_map(|id| id.parse::<u32>().ok()));
            }
        }
        Ok(children)
    }

    /// The environment that it was started with, cut to 1 MiB: each variable as `NAME=value`, ended by NUL.
    #[cfg(feature = "memory")]
    pub(crate) fn environment(&self) -> io::Result<Vec<u8>> {
        let mut environment = Vec::new();
        self.file("environ")?.take(ENVIRONMENT_LIMIT).read_to_end(&mut environment)?;
        Ok(environment)
    }

    fn count(&self, name: &str) -> io::Result<u64> {
        Ok(self.entries(name)?.count() as u64)
    }

    /// The numbers that the entries of a directory of it are named by.
    fn entries(&self, name: &str) -> io::Result<impl Iterator<Item = u32>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::openat(&self.descriptor, name, flags, Mode::empty())?;
        let entries = rustix::fs::Dir::new(directory)?;
        Ok(entries.filter_map(|entry| entry.ok()?.file_name().to_str().ok()?.parse().ok()))
    }

    fn file(&self, name: &str) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.descriptor, name, flags, Mode::empty())?;
        Ok(file.into())
    }
}

/// How often the processor was taken from the threads of a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Switches {
    /// Because it waited for something.
    pub voluntary: u64,
    /// Because others were to have it.
    pub involuntary: u64,
}

impl Switches {
    fn parse(text: &str) -> Option<Self> {
        let count = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
            line.trim().parse().ok()
        };
        Some(Self { voluntary: count("voluntary_ctxt_switches")?, involuntary: count("nonvoluntary_ctxt_switches")? })
    }
}

/// Where a process's memory is, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Memory {
    /// What is resident.
    pub resident_size: u64,
    /// What is resident, each shared page divided by the number of processes that share it. The
    /// proportional sizes of all processes add up to the memory that is in use.
    pub proportional_size: u64,
    /// What of that belongs to files on disk: page cache, which the kernel gives up on demand. 0 where the kernel does not tell it apart
    /// (before Linux 5.3).
    pub proportional_file_size: u64,
    /// What only this process uses: what would be free if it ended, but for the page cache in it.
    pub private_size: u64,
    /// What other processes use as well.
    pub shared_size: u64,
    /// What others use as well and is as it is on disk.
    pub shared_clean_size: u64,
    /// What others use as well and was written to, as memory is that a fork shares.
    pub shared_dirty_size: u64,
    /// What only this process uses and is as it is on disk.
    pub private_clean_size: u64,
    /// What only this process uses and was written to.
    pub private_dirty_size: u64,
    /// What was used lately.
    pub referenced_size: u64,
    /// What belongs to no file.
    pub anonymous_size: u64,
    /// What was moved to swap.
    pub swap_size: u64,
    /// What was moved to swap, divided by the number of processes that share it.
    pub proportional_swap_size: u64,
}

impl Memory {
    /// What is resident or in swap.
    pub fn total_size(&self) -> u64 {
        self.resident_size.saturating_add(self.swap_size)
    }

    /// Of all mappings together or, added up, of each.
    fn parse(text: &str) -> Option<Self> {
        let size = |name: &str| {
            let lines = text.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            lines.map(|line| line.trim().strip_suffix(" kB")?.trim_end().parse().ok()).try_fold(
                None,
                |sum: Option<u64>, size: Option<u64>| {
                    Some(Some(sum.unwrap_or(0).saturating_add(size?.saturating_mul(1024))))
                },
            )?
        };
        let (shared_clean_size, shared_dirty_size) = (size("Shared_Clean")?, size("Shared_Dirty")?);
        let (private_clean_size, private_dirty_size) = (size("Private_Clean")?, size("Private_Dirty")?);
        Some(Self {
            resident_size: size("Rss")?,
            proportional_size: size("Pss")?,
            proportional_file_size: size("Pss_File").unwrap_or(0),
            private_size: private_clean_size.saturating_add(private_dirty_size),
            shared_size: shared_clean_size.saturating_add(shared_dirty_size),
            shared_clean_size,
            shared_dirty_size,
            private_clean_size,
            private_dirty_size,
            referenced_size: size("Referenced").unwrap_or(0),
            anonymous_size: size("Anonymous").unwrap_or(0),
            swap_size: size("Swap").unwrap_or(0),
            proportional_swap_size: size("SwapPss").unwrap_or(0),
        })
    }
}

fn ticks(count: u64) -> Duration {
    let rate = (*TICKS_PER_SECOND).max(1);
    // Whole seconds and the rest apart, for a start time in nanoseconds would overflow.
    let rest = count % rate * 1_000_000_000 / rate;
    Duration::from_secs(count / rate) + Duration::from_nanos(rest)
}

fn parse_statm(text: &[u8]) -> io::Result<Resident> {
    // All, resident, and what of that is in files, in pages.
    let mut pages = text.split(|byte| byte.is_ascii_whitespace()).skip(1).map(parse_number);
    let (Some(Some(resident)), Some(Some(in_files))) = (pages.next(), pages.next()) else {
        return Err(unexpected("statm"));
    };
    let size = |pages: u64| pages.saturating_mul(*PAGE_SIZE);
    Ok(Resident { size: size(resident), anonymous_size: size(resident.saturating_sub(in_files)) })
}

fn parse_command(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes).replace('\0', " ");
    text.trim().to_owned()
}

fn unexpected(file: &str) -> io::Error {
    let message = format!("/proc/PID/{file} is not in the form that the kernel documents");
    io::Error::new(io::ErrorKind::InvalidData, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &str = "4464 (a) b (c) R 4456 4450 2831 0 -1 4194304 100 0 0 0 150 50 20 10 20 0 1 0 \
                        70784 3133440 359 18446744073709551615 94414680735744";

    #[test]
    fn names_may_contain_what_closes_them() {
        let stat = Stat::parse(4464, Duration::ZERO, STAT.as_bytes(), String::new()).unwrap();
        assert_eq!(stat.executable, "a) b (c");
        assert_eq!(stat.parent_process_id, 4456);
        assert_eq!(stat.process_group_id, 4450);
        assert_eq!((stat.processor_time, stat.children_processor_time), (ticks(200), ticks(30)));
        assert_eq!(stat.start_time, 70784);
        assert_eq!(stat.virtual_size, 3_133_440);
        assert_eq!(stat.resident_size, 359 * *PAGE_SIZE);
        assert!(!stat.ended);
    }

    #[test]
    fn names_need_not_be_text() {
        let text = [b"7 (\xff)", &STAT.as_bytes()[STAT.rfind(')').unwrap() + 1..]].concat();
        assert_eq!(Stat::parse(7, Duration::ZERO, &text, String::new()).unwrap().executable, "\u{fffd}");
    }

    #[test]
    fn zombies_have_ended() {
        assert!(Stat::parse(1, Duration::ZERO, STAT.replace(") R", ") Z").as_bytes(), String::new()).unwrap().ended);
    }

    #[test]
    fn malformed_files_are_refused_and_do_not_panic() {
        for text in ["", "1", "1 (", "1 )x(", "1 (x)", "1 (x) R", "1 (x) R a b c"] {
            assert_eq!(Stat::parse(1, Duration::ZERO, text.as_bytes(), String::new()), None, "{text:?}");
        }
        assert!(parse_statm(b"").is_err());
        assert!(parse_statm(b"12 x").is_err());
        assert_eq!(Memory::parse("Rss: 12"), None);
    }

    #[test]
    fn rollup_is_in_bytes_and_keeps_similar_names_apart() {
        let text = "56302c647000-7ffdf483e000 ---p 00000000 00:00 0 [rollup]\n\
                    Rss:                1724 kB\nPss:                 459 kB\nPss_Dirty: 108 kB\n\
                    Shared_Clean:       1564 kB\nShared_Dirty:          4 kB\n\
                    Private_Clean:        52 kB\nPrivate_Dirty:       108 kB\n\
                    Swap:                  8 kB\nSwapPss:               2 kB\n";
        let memory = Memory::parse(text).unwrap();
        assert_eq!(memory.resident_size, 1724 << 10);
        assert_eq!(memory.proportional_size, 459 << 10);
        assert_eq!(memory.private_size, 160 << 10);
        assert_eq!(memory.shared_size, 1568 << 10);
        assert_eq!(memory.swap_size, 8 << 10);
    }

    #[test]
    fn where_nobody_adds_up_what_mappings_have_it_is_added_up() {
        let process = Directory::open(std::process::id()).unwrap();
        let (mut smaps, directory) = (String::new(), tempfile::tempdir().unwrap());
        process.file("smaps").unwrap().read_to_string(&mut smaps).unwrap();
        std::fs::write(directory.path().join("smaps"), smaps).unwrap();
        let descriptor = std::fs::File::open(directory.path()).unwrap().into();
        let memory = Directory { process_id: process.process_id, descriptor }.memory().unwrap();
        let whole = process.memory().unwrap();
        // This process goes on meanwhile.
        let is_near = |one: u64, other: u64| one.abs_diff(other) < 8 << 20;
        assert!(is_near(memory.resident_size, whole.resident_size), "{memory:?}, {whole:?}");
        assert!(is_near(memory.private_size, whole.private_size), "{memory:?}, {whole:?}");
        assert!(memory.anonymous_size > 0 && memory.proportional_size > 0, "{memory:?}");
        let ended = Directory { process_id: 1, descriptor: std::fs::File::open("/sys").unwrap().into() };
        assert!(has_ended(&ended.memory().unwrap_err()), "neither is there");
    }

    #[test]
    fn command_lines_are_joined_by_spaces() {
        assert_eq!(parse_command(b"sleep\x0010\0"), "sleep 10");
        assert_eq!(parse_command(b""), "");
        assert_eq!(parse_command(b"title\0\0\0"), "title");
    }

    #[test]
    fn ticks_of_a_host_that_ran_for_centuries_do_not_overflow() {
        assert_eq!(ticks(u64::MAX).as_secs(), u64::MAX / *TICKS_PER_SECOND);
    }

    #[test]
    fn a_process_began_when_it_was_started() {
        let before = SystemTime::now();
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let after = SystemTime::now();
        let stat = Stat::read(child.id()).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        let began = stat.began().unwrap();
        let tick = ticks(1);
        assert!(began >= before - tick - Duration::from_secs(1) && began <= after + tick, "{began:?}, {before:?}");
    }

    #[test]
    fn this_process_can_be_read() {
        let process_id = std::process::id();
        let process = Process::open(process_id).unwrap();
        let size = process.resident_size().unwrap().unwrap();
        assert!(size > 100 << 10, "{size}");
        let stat = Stat::read(process_id).unwrap();
        assert_eq!(stat.start_time, process.start_time());
        assert!(stat.elapsed_time() < Duration::from_secs(3600) && stat.at <= uptime());
    }
}
