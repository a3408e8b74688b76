//! Directories for what was found out about processes before they were ended.
//!
//! A [`Store`] is one directory, in which each incident has one of its own, named for when it was and for which process.
//! It is bounded: when there are too many incidents, or they take too much room, the oldest go.
//!
//! A name that ends in `.partial` is of what is not complete, be it a directory or a file in one: it gets its own name in one
//! step, so whoever reads what has its own name reads all of it. What nobody completes any more, because the process that wrote it
//! has ended, is found by the next one, see [`Store::recover`].
//!
//! ```
//! use async_container_diagnostics::incident::Store;
//!
//! # let directory = tempfile::tempdir().unwrap();
//! let store = Store::new(directory.path().join("incidents")).count_limit(20);
//! let incident = store.begin("web#1", 4242)?;
//! incident.write("threads.txt", b"thread 1: sleeping")?;
//! let path = incident.finish()?;
//! assert!(path.join("threads.txt").is_file());
//! # Ok::<(), async_container_diagnostics::output::OutputError>(())
//! ```

use std::{
    fs, io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rustix::fs::{CWD, FlockOperation, Mode, OFlags, flock, openat};

use crate::output::{self, OutputError};

/// What the names of all incidents begin with. Nothing else in the directory is ever removed.
const PREFIX: &str = "incident-";

/// What the names of directories and files end with that are not complete.
const PARTIAL: &str = ".partial";

/// What says in an incident that it is not all that it was to be.
const INCOMPLETE: &str = "incomplete.txt";
const INCOMPLETE_TEXT: &[u8] = b"The supervisor that wrote this ended before it had written all of it.\n";

/// A directory with nothing in it may be one that somebody has only just made, and is about to lock.
const NEW: Duration = Duration::from_secs(60);

/// An incident that is dated so far ahead counts as the oldest. A clock that was set back by less than that leaves the order as it was.
const CLOCK_SET_BACK: Duration = Duration::from_secs(24 * 60 * 60);

/// How much of a process's name is part of the incident's.
const NAME_LENGTH: usize = 48;

/// How many incidents of one process may begin in the same second.
const SAME_SECOND: u32 = 100;

/// Where incidents are kept.
#[derive(Clone, Debug)]
pub struct Store {
    directory: PathBuf,
    count_limit: usize,
    size_limit: u64,
}

impl Store {
    const COUNT_LIMIT: usize = 20;
    const SIZE_LIMIT: u64 = 64 << 20;

    /// One in that directory, which is made when it is needed, for its owner alone. Its parent has to be there.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self { directory: directory.into(), count_limit: Self::COUNT_LIMIT, size_limit: Self::SIZE_LIMIT }
    }

    /// Sets how many incidents are kept. Default is 20.
    pub fn count_limit(mut self, limit: usize) -> Self {
        self.count_limit = limit;
        self
    }

    /// Sets how many bytes all incidents may take together. The latest is kept whatever it takes. Default is 64 MiB.
    pub fn size_limit(mut self, limit: u64) -> Self {
        self.size_limit = limit;
        self
    }

    /// Where incidents are kept.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Makes a directory for what is found out about a process. What is there already stays until it is
    /// [finished](Incident::finish).
    pub fn begin(&self, name: &str, process_id: u32) -> Result<Incident, OutputError> {
        match output::create_directory(&self.directory) {
            Ok(()) | Err(OutputError::Exists { .. }) => {}
            Err(error) => return Err(error),
        }

        let name = format!("{PREFIX}{}-{}-{process_id}", stamp(SystemTime::now()), fit(name));
        let mut path = self.directory.join(&name);

        for number in 2..=SAME_SECOND {
            let created = match path.symlink_metadata() {
                Ok(_) => Err(OutputError::Exists { path: path.clone() }),
                Err(_) => output::create_directory(&partial(&path)),
            };

            match created {
                Ok(()) => break,
                Err(OutputError::Exists { .. }) if number < SAME_SECOND => {
                    path = self.directory.join(format!("{name}.{number}"));
                }
                Err(error) => return Err(error),
            }
        }

        let path = std::path::absolute(&path).unwrap_or(path);
        let lock = lock(&partial(&path)).ok().map(Arc::new);
        Ok(Incident { path, store: self.clone(), _lock: lock })
    }

    /// Finishes the incidents whose writer has ended before it did: each gets its name with what there is of it, and with a file
    /// `incomplete.txt` that says so. One in which there is nothing is removed. Those that somebody still writes are left alone, be it
    /// another process.
    ///
    /// Gives those that were finished.
    pub fn recover(&self) -> Vec<PathBuf> {
        let partial = self.entries().filter(|path| path.extension().is_some_and(|it| it == &PARTIAL[1..]));
        let recovered: Vec<PathBuf> = partial.filter_map(|path| recover(&path)).collect();

        if let Some(last) = recovered.last() {
            self.prune(last);
        }

        recovered
    }

    /// The directories of incidents, complete or not, in no order.
    fn entries(&self) -> impl Iterator<Item = PathBuf> {
        let entries = fs::read_dir(&self.directory).into_iter().flatten().filter_map(Result::ok);
        entries
            .filter(|entry| entry.file_name().to_string_lossy().starts_with(PREFIX))
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
            .map(|entry| entry.path())
    }

    /// Removes the oldest incidents that there is no room for beside this one. What is not complete is not one yet: it may never
    /// be.
    fn prune(&self, latest: &Path) {
        // By a clock that was wrong, and would have one stay when all others have gone.
        let tomorrow = SystemTime::now() + CLOCK_SET_BACK;
        let age = |path: &Path| modified(path).filter(|at| *at < tomorrow);
        let mut incidents: Vec<(Option<SystemTime>, PathBuf, u64)> = self
            .entries()
            .filter(|path| {
                path.extension().is_none_or(|it| it != &PARTIAL[1..]) && path.file_name() != latest.file_name()
            })
            .map(|path| (age(&path), path.clone(), size(&path)))
            .collect();
        incidents.sort();
        let mut total = size(latest) + incidents.iter().map(|(.., size)| size).sum::<u64>();
        let mut count = incidents.len() + 1;

        for (_, path, size) in incidents {
            if count <= self.count_limit.max(1) && total <= self.size_limit {
                break;
            }

            // Nothing in it is followed: it goes by names within the directory.
            if let Err(error) = fs::remove_dir_all(&path) {
                tracing::warn!(path = %path.display(), %error, "could not remove an old incident");
            }

            total -= size;
            count -= 1;
        }
    }
}

/// What is found out about one process.
#[derive(Clone, Debug)]
pub struct Incident {
    path: PathBuf,
    store: Store,
    /// Lets others know that somebody writes it, for as long as this process lives. Not all file systems can.
    _lock: Option<Arc<OwnedFd>>,
}

impl Incident {
    /// Its directory, absolute, as it is called once it is [finished](Self::finish).
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Adds a file that is not there yet. It is not there before all of it is.
    pub fn write(&self, name: &str, contents: &[u8]) -> Result<(), OutputError> {
        let path = partial(&self.path).join(name);
        let written = output::write(partial(&path), contents)?;
        output::rename(&written, &path).inspect_err(|_| {
            // It is ours: it was made a moment ago. If it cannot be removed, its name says what it is.
            let _ = fs::remove_file(&written);
        })
    }

    /// Gives the directory its name, and removes the oldest incidents that there is no room for any more. One without a file is
    /// removed: on a disk that is full, say.
    pub fn finish(self) -> Result<PathBuf, OutputError> {
        let written = partial(&self.path);

        // A directory that has something in it is not removed.
        if fs::remove_dir(&written).is_ok() {
            return Err(OutputError::Empty { path: self.path });
        }

        output::rename(&written, &self.path)?;
        self.store.prune(&self.path);
        Ok(self.path)
    }

    /// Removes it: it turned out that there is nothing to tell.
    pub fn discard(self) -> io::Result<()> {
        fs::remove_dir_all(partial(&self.path))
    }
}

/// Locks a directory, or fails if somebody else has done so.
fn lock(directory: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = openat(CWD, directory, flags, Mode::empty())?;
    flock(&directory, FlockOperation::NonBlockingLockExclusive)?;
    Ok(directory)
}

/// Finishes what nobody writes any more.
fn recover(written: &Path) -> Option<PathBuf> {
    let _lock = lock(written).ok()?;
    let path = written.with_extension("");
    let is_old = modified(written).and_then(|at| at.elapsed().ok()).is_some_and(|age| age > NEW);
    let files = || fs::read_dir(written).into_iter().flatten().filter_map(Result::ok).map(|entry| entry.path());

    for file in files().filter(|file| file.extension().is_some_and(|it| it == &PARTIAL[1..])) {
        let _ = fs::remove_file(file);
    }

    if files().next().is_none() {
        if is_old {
            let _ = fs::remove_dir(written);
        }
        return None;
    }

    // Where there is no room for that, its name is worth more.
    let _ = output::write(written.join(INCOMPLETE), INCOMPLETE_TEXT);

    if let Err(error) = output::rename(written, &path) {
        tracing::warn!(path = %written.display(), %error, "could not finish an incident that was left behind");
        return None;
    }

    Some(path)
}

fn modified(path: &Path) -> Option<SystemTime> {
    path.symlink_metadata().and_then(|metadata| metadata.modified()).ok()
}

fn partial(path: &Path) -> PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push(PARTIAL);
    path.into()
}

fn size(directory: &Path) -> u64 {
    let entries = fs::read_dir(directory).into_iter().flatten().filter_map(Result::ok);
    entries.filter_map(|entry| Some(entry.metadata().ok()?.len())).sum()
}

/// A name that can be part of a file's: `worker#1` stays what it is, a path does not.
fn fit(name: &str) -> String {
    let is_fit = |character: char| character.is_ascii_alphanumeric() || "#._-".contains(character);
    let fit: String = name.chars().take(NAME_LENGTH).map(|it| if is_fit(it) { it } else { '_' }).collect();
    if fit.is_empty() { "process".to_owned() } else { fit }
}

/// A time in UTC, such as `20260101T123456Z`, so that names are in the order of time.
fn stamp(at: SystemTime) -> String {
    let seconds = at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let (days, time) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = date(days);
    format!("{year:04}{month:02}{day:02}T{:02}{:02}{:02}Z", time / 3600, time / 60 % 60, time % 60)
}

/// The date so many days after 1970 began, by counting: there are too few years to need more.
fn date(mut days: u64) -> (u64, usize, u64) {
    let mut year = 1970;

    loop {
        let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
        let months = [31, if is_leap { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];

        for (month, length) in months.into_iter().enumerate() {
            if days < length {
                return (year, month + 1, days + 1);
            }
            days -= length;
        }

        year += 1;
    }
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::MetadataExt, time::Duration};

    use super::*;

    #[test]
    fn times_are_dates() {
        let at = |seconds| stamp(UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(at(0), "19700101T000000Z");
        assert_eq!(at(951_827_696), "20000229T123456Z");
        assert_eq!(at(4_107_542_399), "21000228T235959Z");
        assert_eq!(at(4_107_542_400), "21000301T000000Z");
    }

    #[test]
    fn names_are_fit_for_files() {
        assert_eq!(fit("worker#1"), "worker#1");
        assert_eq!(fit("../etc"), ".._etc");
        assert_eq!(fit(""), "process");
    }

    #[test]
    fn the_oldest_go_when_there_are_too_many_or_they_are_too_large() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::new(directory.path().join("incidents")).count_limit(3).size_limit(1000);
        fs::create_dir(store.directory()).unwrap();
        fs::write(store.directory().join("incident-0-notes"), "of somebody").unwrap();
        let names = || {
            let entries = fs::read_dir(store.directory()).unwrap().map(|entry| entry.unwrap().path());
            entries.filter(|path| path.is_dir()).count()
        };

        let incident = |process_id| {
            let incident = store.begin("worker", process_id).unwrap();
            incident.write("reason.json", b"{}").unwrap();
            incident.finish().unwrap()
        };
        let first = incident(1);
        assert_eq!(first.metadata().unwrap().mode() & 0o777, 0o700);
        for process_id in 2..7 {
            incident(process_id);
        }
        assert_eq!(names(), 3);
        assert!(!first.exists());

        let large = store.begin("worker", 7).unwrap();
        large.write("memory.json", &[b' '; 2000]).unwrap();
        assert!(large.write("memory.json", b"").is_err(), "what is there stays");
        let large = large.finish().unwrap();
        let last = incident(8);
        assert_eq!(names(), 1);
        assert!(last.exists() && !large.exists());
        assert!(store.directory().join("incident-0-notes").exists());
    }

    #[test]
    fn those_of_a_clock_that_was_wrong_do_not_outlive_all_others() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::new(directory.path().join("incidents")).count_limit(3);
        let incident = |process_id, ahead| {
            let incident = store.begin("worker", process_id).unwrap();
            incident.write("reason.json", b"{}").unwrap();
            let path = incident.finish().unwrap();
            fs::File::open(&path).unwrap().set_modified(SystemTime::now() + ahead).unwrap();
            path
        };
        let hour = Duration::from_secs(60 * 60);
        let from_ahead = [incident(1, 24 * 365 * hour), incident(2, 24 * 366 * hour)];
        let latest = [incident(3, hour), incident(4, Duration::ZERO), incident(5, Duration::ZERO)];
        assert!(latest.iter().all(|path| path.exists()) && !from_ahead.iter().any(|path| path.exists()));
    }

    #[test]
    fn nothing_has_its_name_before_it_is_complete() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::new(directory.path());
        let names = |path: &Path| -> Vec<String> {
            let entries = fs::read_dir(path).unwrap();
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
        };

        let incident = store.begin("worker", 1).unwrap();
        assert!(!incident.path().exists());
        incident.write("threads.txt", b"all of it").unwrap();
        assert!(!incident.path().exists());
        let path = incident.finish().unwrap();
        assert_eq!(names(&path), ["threads.txt"]);
        assert_eq!(names(directory.path()), [path.file_name().unwrap().to_str().unwrap()]);

        let path = store.begin("worker", 2).unwrap();
        let Err(OutputError::Empty { .. }) = path.finish() else { panic!("there is nothing in it") };
        assert_eq!(names(directory.path()).len(), 1, "what is empty goes");
    }

    #[test]
    fn what_is_discarded_leaves_nothing_and_takes_the_room_of_none() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::new(directory.path().join("incidents")).count_limit(1);
        let first = store.begin("worker", 1).unwrap();
        first.write("reason.json", b"{}").unwrap();
        let first = first.finish().unwrap();

        let second = store.begin("worker", 2).unwrap();
        second.write("reason.json", b"{}").unwrap();
        assert!(first.is_dir());
        second.discard().unwrap();
        assert_eq!(fs::read_dir(store.directory()).unwrap().count(), 1);
        assert!(first.is_dir());
    }

    #[test]
    fn what_was_left_behind_is_finished_and_what_is_written_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::new(directory.path());
        let left = |name: &str| {
            let path = directory.path().join(format!("incident-20260101T123456Z-{name}.partial"));
            fs::create_dir(&path).unwrap();
            path
        };
        let (begun, half, empty) = (left("worker-1"), left("worker#2-2.2"), left("worker-3"));
        fs::write(begun.join("threads.txt.partial"), "half of").unwrap();
        fs::write(half.join("reason.json"), "{}").unwrap();
        fs::write(half.join("threads.txt.partial"), "half of").unwrap();
        let old = SystemTime::now() - 2 * NEW;
        fs::File::open(&empty).unwrap().set_modified(old).unwrap();
        let written = store.begin("worker", 4).unwrap();
        written.write("reason.json", b"{}").unwrap();

        let recovered = store.recover();
        let finished = directory.path().join("incident-20260101T123456Z-worker#2-2.2");
        assert_eq!(recovered, std::slice::from_ref(&finished));
        let mut files: Vec<_> = fs::read_dir(&finished).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        files.sort();
        assert_eq!(files, ["incomplete.txt", "reason.json"]);
        assert!(!empty.exists(), "nothing is in it, and nobody writes it");
        assert!(begun.exists(), "it may be about to be locked");
        assert!(written.finish().unwrap().is_dir());
        assert!(store.recover().is_empty());
    }
}
