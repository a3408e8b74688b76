//! Files that reports are written to.
//!
//! Reports may hold secrets: names, paths, what system calls were given. So a file is made for its owner alone (mode 0600), it
//! is never one that was there before, nor reached through a symbolic link of that name, and a report that could not be
//! written completely leaves no file. Directories that are made here are for their owner alone, too (0700).
//!
//! ```
//! use std::io::Write;
//! use async_container_diagnostics::output::NewFile;
//!
//! # let directory = tempfile::tempdir().unwrap();
//! # let path = directory.path().join("threads.txt");
//! let mut file = NewFile::create(&path)?;
//! writeln!(file, "thread 1: sleeping").unwrap();
//! file.finish()?;
//!
//! assert!(NewFile::create(&path).is_err(), "what is there stays");
//! # Ok::<(), async_container_diagnostics::output::OutputError>(())
//! ```

use std::{
    fs::File,
    io::{self, BufWriter, Write},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, Mode, OFlags, RenameFlags, fstat, mkdirat, openat, renameat_with, statat, unlinkat},
    io::Errno,
};
use serde::Serialize;

/// How much is gathered before it is written.
const BUFFER: usize = 64 << 10;

/// Why a report could not be written to a file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OutputError {
    /// Something has that name already, be it a symbolic link. What is there is never written to.
    #[error("{} is there already: choose another name", path.display())]
    Exists {
        /// The name.
        path: PathBuf,
    },
    /// The directory cannot be used: it is not there, or is none, or may not be written to.
    #[error("could not create {}", path.display())]
    Create {
        /// What was to be created.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// Writing failed, because the disk is full for instance. The file was removed.
    #[error("could not write {}, and removed it", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// Nothing was written to a directory, which was removed for that reason.
    #[error("nothing could be kept in {}, and it was removed", path.display())]
    Empty {
        /// The directory.
        path: PathBuf,
    },
    /// The path names no file.
    #[error("'{}' does not name a file", path.display())]
    NoName {
        /// The path.
        path: PathBuf,
    },
}

/// A file that did not exist before. It is removed if it is dropped before it was [finished](Self::finish).
#[derive(Debug)]
pub struct NewFile {
    file: BufWriter<File>,
    /// Where the file is, whatever the directory is called by now.
    directory: OwnedFd,
    path: PathBuf,
    failed: Option<io::Error>,
    finished: bool,
}

impl NewFile {
    /// Creates it. The path is understood from the working directory of this process.
    pub fn create(path: impl Into<PathBuf>) -> Result<Self, OutputError> {
        let path = path.into();
        let (directory, name) = parent(&path)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(&directory, name, flags, Mode::RUSR | Mode::WUSR).map_err(|error| refused(&path, error))?;
        let file = BufWriter::with_capacity(BUFFER, File::from(file));
        Ok(Self { file, directory, path, failed: None, finished: false })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes what was gathered, and keeps the file. If anything failed, now or before, the file is removed.
    pub fn finish(mut self) -> Result<PathBuf, OutputError> {
        let result = match self.failed.take() {
            Some(error) => Err(error),
            None => self.file.flush(),
        };

        match result {
            Ok(()) => {
                self.finished = true;
                Ok(std::mem::take(&mut self.path))
            }
            Err(source) => Err(OutputError::Write { path: self.path.clone(), source }),
        }
    }

    fn remember<T>(&mut self, result: io::Result<T>) -> io::Result<T> {
        if let Err(error) = &result
            && self.failed.is_none()
        {
            self.failed = Some(error.raw_os_error().map_or_else(|| error.kind().into(), io::Error::from_raw_os_error));
        }

        result
    }
}

impl Write for NewFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let result = self.file.write(bytes);
        self.remember(result)
    }

    fn flush(&mut self) -> io::Result<()> {
        let result = self.file.flush();
        self.remember(result)
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if self.finished {
            return;
        }

        // Somebody may have put another file in its place: that one stays.
        let Some(name) = self.path.file_name() else { return };
        let own = fstat(self.file.get_ref());
        let there = statat(&self.directory, name, AtFlags::SYMLINK_NOFOLLOW);

        if let (Ok(own), Ok(there)) = (own, there)
            && (own.st_dev, own.st_ino) == (there.st_dev, there.st_ino)
        {
            let _ = unlinkat(&self.directory, name, AtFlags::empty());
        }
    }
}

/// Writes a whole report to a new file, and returns where it is.
pub fn write(path: impl Into<PathBuf>, contents: &[u8]) -> Result<PathBuf, OutputError> {
    let mut file = NewFile::create(path)?;
    // What fails is remembered.
    let _ = file.write_all(contents);
    file.finish()
}

/// Makes a directory that was not there, for its owner alone.
pub fn create_directory(path: &Path) -> Result<(), OutputError> {
    let (parent, name) = parent(path)?;
    mkdirat(&parent, name, Mode::RWXU).map_err(|error| refused(path, error))
}

/// Gives what is complete its name, in the same directory, if nothing else has that.
pub(crate) fn rename(from: &Path, to: &Path) -> Result<(), OutputError> {
    let (directory, old) = parent(from)?;
    let (_, new) = parent(to)?;

    match renameat_with(&directory, old, &directory, new, RenameFlags::NOREPLACE) {
        // Not all file systems can tell that in one step. Where they cannot, nobody but the owner could come in between.
        Err(Errno::INVAL | Errno::NOSYS) if statat(&directory, new, AtFlags::SYMLINK_NOFOLLOW).is_err() => {
            renameat_with(&directory, old, &directory, new, RenameFlags::empty())
        }
        result => result,
    }
    .map_err(|error| refused(to, error))
}

/// A report as one document of JSON, indented.
pub fn to_json<T: Serialize + ?Sized>(report: &T) -> io::Result<Vec<u8>> {
    let mut json = serde_json::to_vec_pretty(report)?;
    json.push(b'\n');
    Ok(json)
}

fn parent(path: &Path) -> Result<(OwnedFd, &std::ffi::OsStr), OutputError> {
    let name = path.file_name().ok_or_else(|| OutputError::NoName { path: path.to_owned() })?;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = openat(rustix::fs::CWD, parent, flags, Mode::empty()).map_err(|error| refused(path, error))?;
    Ok((directory, name))
}

fn refused(path: &Path, error: Errno) -> OutputError {
    let path = path.to_owned();

    match error {
        Errno::EXIST | Errno::LOOP => OutputError::Exists { path },
        error => OutputError::Create { path, source: error.into() },
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, symlink};

    use super::*;

    #[test]
    fn files_and_directories_are_for_their_owner_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("incident");
        create_directory(&path).unwrap();
        assert_eq!(path.metadata().unwrap().mode() & 0o777, 0o700);
        assert!(matches!(create_directory(&path), Err(OutputError::Exists { .. })));

        let file = write(path.join("threads.txt"), b"text").unwrap();
        assert_eq!(file.metadata().unwrap().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read(file).unwrap(), b"text");
    }

    #[test]
    fn what_is_there_is_never_written_to() {
        let directory = tempfile::tempdir().unwrap();
        let target = directory.path().join("target");
        let link = directory.path().join("link");
        symlink(&target, &link).unwrap();
        assert!(matches!(write(&link, b"text"), Err(OutputError::Exists { .. })));
        assert!(!target.exists());

        std::fs::write(&target, "mine").unwrap();
        assert!(matches!(write(&target, b"text"), Err(OutputError::Exists { .. })));
        assert!(matches!(write(&link, b"text"), Err(OutputError::Exists { .. })));
        assert_eq!(std::fs::read_to_string(&target).unwrap(), "mine");
    }

    #[test]
    fn what_was_not_finished_is_gone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("half");
        let mut file = NewFile::create(&path).unwrap();
        file.write_all(b"half of it").unwrap();
        assert!(path.exists());
        drop(file);
        assert!(!path.exists());

        let file = NewFile::create(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "of somebody else").unwrap();
        drop(file);
        assert!(path.exists(), "another file of that name is not ours to remove");
    }

    #[test]
    fn a_full_disk_is_told() {
        // The device that is always full is there already, so it cannot be created: what is written goes there instead.
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("dump");
        let mut file = NewFile::create(&path).unwrap();
        file.file = BufWriter::with_capacity(0, File::options().write(true).open("/dev/full").unwrap());
        assert!(file.write_all(b"text").is_err());
        let Err(OutputError::Write { source, .. }) = file.finish() else { panic!("it must fail") };
        assert_eq!(source.raw_os_error(), Some(Errno::NOSPC.raw_os_error()));
    }

    #[test]
    fn a_directory_that_is_not_there_is_an_error() {
        let Err(OutputError::Create { source, .. }) = write("/does/not/exist/file", b"") else {
            panic!("it must fail")
        };
        assert_eq!(source.kind(), io::ErrorKind::NotFound);
        assert!(matches!(write("/", b""), Err(OutputError::NoName { .. })));
    }
}
