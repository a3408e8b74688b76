//! The debugging information of one file.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use object::Object;

use super::Frame;
use crate::{sys::map::Mapped, unwind::hexadecimal};

/// The debugging information of one file, and of the one beside it that it was separated into, if there is one.
pub(super) struct Loader {
    file: addr2line::Loader,
    separate: Option<addr2line::Loader>,
    note: Option<&'static str>,
}

impl Loader {
    /// `None` if the file cannot be read, or is none that has symbols.
    pub(super) fn open(path: &Path) -> Option<Self> {
        let file = addr2line::Loader::new(path).ok()?;
        let contents = Contents::of(path);
        let separate = contents.separate.as_deref().and_then(|path| addr2line::Loader::new(path).ok());
        let note = match (contents.has_lines || separate.is_some(), contents.has_symbols) {
            (true, _) => None,
            (false, true) => Some(
                "built without line tables: set debug = \"line-tables-only\" in its Cargo profile to see files, lines and inlined functions",
            ),
            (false, false) => Some(
                "stripped of its symbols: set strip = false, and debug = \"line-tables-only\", in its Cargo profile to see functions, files and lines",
            ),
        };
        Some(Self { file, separate, note })
    }

    /// What a better build would add.
    pub(super) fn note(&self) -> Option<&'static str> {
        self.note
    }

    /// The functions at an address of the file, the innermost first. Empty if nothing is known of it.
    pub(super) fn frames(&self, address: u64) -> Vec<Frame> {
        let mut frames = Vec::new();

        for loader in self.separate.iter().chain([&self.file]) {
            let Ok(mut found) = loader.find_frames(address) else { continue };

            while let Ok(Some(frame)) = found.next() {
                let name = frame.function.as_ref().and_then(|name| Some(demangled(&name.raw_name().ok()?)));
                let location = frame.location.as_ref();
                frames.push(Frame {
                    function: name.unwrap_or_default().into(),
                    file: location.and_then(|location| location.file).map(Arc::from),
                    line: location.and_then(|location| location.line),
                    inlined: true,
                });
            }

            if !frames.is_empty() {
                break;
            }
        }

        let symbol = [Some(&self.file), self.separate.as_ref()]
            .into_iter()
            .flatten()
            .find_map(|loader| loader.find_symbol(address));

        // The last one is the function itself. Its symbol has the whole path, which debugging information of the lean kind
        // lacks.
        match (frames.last_mut(), symbol) {
            (Some(frame), Some(symbol)) => {
                frame.function = demangled(symbol).into();
                frame.inlined = false;
            }
            (Some(frame), None) => frame.inlined = false,
            (None, Some(symbol)) => frames.push(Frame { function: demangled(symbol).into(), ..Frame::default() }),
            (None, None) => {}
        }

        frames.retain(|frame| !frame.function.is_empty() || frame.file.is_some());
        frames
    }
}

/// The name as it is written in the program, without the hash that makes it unique.
fn demangled(name: &str) -> String {
    // Compilers append what they made of a function, as in `.llvm.123` or `.cold`.
    format!("{:#}", rustc_demangle::demangle(name))
}

/// What a file has.
struct Contents {
    has_lines: bool,
    has_symbols: bool,
    separate: Option<PathBuf>,
}

impl Contents {
    fn of(path: &Path) -> Self {
        let none = Self { has_lines: false, has_symbols: false, separate: None };
        let Some(mapped) = fs::File::open(path).ok().and_then(|file| Mapped::file(&file).ok()) else { return none };
        let Ok(file) = object::File::parse(&mapped[..]) else { return none };
        let has_lines = file.section_by_name(".debug_line").is_some();
        Self {
            has_lines,
            has_symbols: file.symbols().next().is_some(),
            separate: if has_lines { None } else { separate(&file, path) },
        }
    }
}

/// Where distributions put what they have separated from a file: by its build id, or by the name that it gives.
fn separate(file: &object::File<'_>, path: &Path) -> Option<PathBuf> {
    let by_build_id = file.build_id().ok().flatten().filter(|id| id.len() > 1).map(|id| {
        let hex = hexadecimal(id);
        PathBuf::from(format!("/usr/lib/debug/.build-id/{}/{}.debug", &hex[..2], &hex[2..]))
    });
    let by_name = file.gnu_debuglink().ok().flatten().and_then(|(name, _)| {
        let folder = path.parent()?;
        let name = std::str::from_utf8(name).ok()?;
        Some([folder.join(name), folder.join(".debug").join(name)])
    });
    by_build_id.into_iter().chain(by_name.into_iter().flatten()).find(|path| path.is_file())
}
