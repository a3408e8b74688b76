//! Where a report goes: standard output, or a file that is there as a whole or not at all.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, IsTerminal, Write},
    path::{Path, PathBuf},
};

use tempfile::NamedTempFile;

use crate::{
    error::{Error, Result},
    output,
};

/// The name that stands for standard output.
pub(crate) const STANDARD_OUTPUT: &str = "-";

/// Where a report is being written.
#[derive(Debug)]
pub(crate) enum Destination {
    /// Standard output, where control characters that might do harm are replaced if it is a terminal.
    Standard { is_terminal: bool },
    /// A file of another name in the same directory, which is renamed once it is complete, and removed if it never is.
    File { file: NamedTempFile, path: PathBuf, target: PathBuf },
    /// Something that is no ordinary file, such as a pipe with a name, and can only be written to as it is.
    Special { file: File, path: PathBuf },
}

impl Destination {
    pub(crate) fn standard() -> Self {
        Self::Standard { is_terminal: io::stdout().is_terminal() }
    }

    /// Opens it, before anything is asked for that would be of no use without it.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        if path == Path::new(STANDARD_OUTPUT) {
            return Ok(Self::standard());
        }

        let open = || {
            // What a link leads to is what is replaced.
            let target = match fs::metadata(path) {
                Ok(metadata) if metadata.is_dir() => return Err(io::ErrorKind::IsADirectory.into()),
                Ok(metadata) if !metadata.is_file() => {
                    let file = OpenOptions::new().write(true).open(path)?;
                    return Ok(Self::Special { file, path: path.to_owned() });
                }
                Ok(_) => fs::canonicalize(path)?,
                Err(error) if error.kind() == io::ErrorKind::NotFound => path.to_owned(),
                Err(error) => return Err(error),
            };
            let directory = match target.parent() {
                Some(parent) if parent != Path::new("") => parent,
                _ => Path::new("."),
            };
            fs::metadata(directory)?;
            // It is created with mode 0600: what a process has in its memory is nobody else's business.
            let file = tempfile::Builder::new().prefix(".acs-").tempfile_in(directory);
            // Without the path of the temporary file, which nobody has asked for.
            let file = file.map_err(|error| io::Error::from(error.kind()))?;
            Ok(Self::File { file, path: path.to_owned(), target })
        };

        open().map_err(|source| Error::File { path: path.to_owned(), source })
    }

    /// The file's path; `None` for standard output.
    pub(crate) fn path(&self) -> Option<&Path> {
        match self {
            Self::Standard { .. } => None,
            Self::File { path, .. } | Self::Special { path, .. } => Some(path),
        }
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result {
        match self {
            Self::Standard { is_terminal: true } => {
                output::write(output::clean(&String::from_utf8_lossy(bytes)).as_bytes())
            }
            Self::Standard { .. } => output::write(bytes),
            // The file itself: what the other one says of an error has its temporary path in it.
            Self::File { file, path, .. } => {
                file.as_file_mut().write_all(bytes).map_err(|source| of_file(path, source))
            }
            Self::Special { file, path } => file.write_all(bytes).map_err(|source| of_file(path, source)),
        }
    }

    /// Gives the file its name, with all that was written safely in it.
    pub(crate) fn complete(self) -> Result {
        match self {
            Self::Standard { .. } => Ok(()),
            Self::File { file, path, target } => {
                // A disk may find out only now that it is full.
                let synced = file.as_file().sync_all();
                synced
                    .and_then(|()| file.persist(target).map(drop).map_err(|error| error.error))
                    .map_err(|source| of_file(&path, source))
            }
            Self::Special { mut file, path } => file.flush().map_err(|source| of_file(&path, source)),
        }
    }
}

/// A reader of a pipe that has enough is no failure, wherever the pipe is.
fn of_file(path: &Path, source: io::Error) -> Error {
    match source.kind() {
        io::ErrorKind::BrokenPipe => Error::BrokenPipe,
        _ => Error::File { path: path.to_owned(), source },
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).unwrap();
        let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_is_complete_or_not_there() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("report");
        let mut file = Destination::open(&path).unwrap();
        file.write(b"half").unwrap();
        assert!(!path.exists());
        drop(file);
        assert_eq!(names(directory.path()), [""; 0]);

        let mut file = Destination::open(&path).unwrap();
        file.write(b"whole").unwrap();
        file.complete().unwrap();
        assert_eq!(names(directory.path()), ["report"]);
        assert_eq!(fs::read(&path).unwrap(), b"whole");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn one_that_is_there_is_replaced_by_a_complete_one_only() {
        let directory = tempfile::tempdir().unwrap();
        let (path, link) = (directory.path().join("report"), directory.path().join("link"));
        fs::write(&path, "old").unwrap();
        symlink(&path, &link).unwrap();

        drop(Destination::open(&link).unwrap());
        assert_eq!(fs::read(&path).unwrap(), b"old");

        let mut file = Destination::open(&link).unwrap();
        file.write(b"new").unwrap();
        file.complete().unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(names(directory.path()), ["link", "report"]);
    }

    #[test]
    fn what_cannot_be_written_is_told_with_its_path() {
        let directory = tempfile::tempdir().unwrap();
        let error = Destination::open(directory.path()).unwrap_err();
        assert!(error.to_string().starts_with("cannot write to /"), "{error}");
        assert!(Destination::open(&directory.path().join("no/such/file")).is_err());

        let mut full = Destination::open(Path::new("/dev/full")).unwrap();
        let error = full.write(b"x").unwrap_err();
        assert_eq!((error.status(), error.to_string().as_str()), (1, "cannot write to /dev/full"));
    }
}
