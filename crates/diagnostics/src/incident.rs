//! Directories for what was found out about processes before they were ended.
//!
//! A [`Store`] is one directory, in which each incident has one of its own, named for when it was and for which process.
//! It is bounded: when there are too many incidents, or they take too much room, the oldest go.
//!
//! A name that ends in `.partial` is of what is not complete, be it a directory or a file in one: it gets its own name in one
//! step, so whoever reads what has its own name reads all of it. What nobody has completed, because the process that wrote it
//! ended, keeps that ending.
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
    fs,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use crate::output::{self, OutputError};

/// What the names of all incidents begin with. Nothing else in the directory is ever removed.
const PREFIX: &str = "incident-";

/// What the names of directories and files end with that are not complete.
const PARTIAL: &str = ".partial";

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

    /// Makes a directory for what is found out about a process, and removes the oldest ones that there is no room for.
    pub fn begin(&self, name: &str, process_id: u32) -> Result<Incident, OutputError> {
        match output::create_directory(&self.directory) {
            Ok(()) | Err(OutputError::Exists { .. }) => {}
            Err(error) => return Err(error),
        }

        self.prune();
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

        Ok(Incident { path: std::path::absolute(&path).unwrap_or(path) })
    }

    /// Removes the oldest incidents, so that there is room for another one.
    fn prune(&self) {
        let modified = |entry: &fs::DirEntry| entry.metadata().and_then(|metadata| metadata.modified()).ok();
        let mut incidents: Vec<(Option<SystemTime>, PathBuf, u64)> = fs::read_dir(&self.directory)
            .into_iter()
            .flatten()
            .filter_map(Result::ok)
            .filter(|entry| entry.file_name().to_string_lossy().starts_with(PREFIX))
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
            .map(|entry| (modified(&entry), entry.path(), size(&entry.path())))
            .collect();
        incidents.sort();
        let mut total: u64 = incidents.iter().map(|(.., size)| size).sum();
        let mut count = incidents.len();

        for (_, path, size) in incidents {
            if count < self.count_limit.max(1) && total <= self.size_limit {
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

    /// Gives the directory its name. One without a file is removed: on a disk that is full, say.
    pub fn finish(self) -> Result<PathBuf, OutputError> {
        let written = partial(&self.path);

        // A directory that has something in it is not removed.
        if fs::remove_dir(&written).is_ok() {
            return Err(OutputError::Empty { path: self.path });
        }

        output::rename(&written, &self.path)?;
        Ok(self.path)
    }
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
}
