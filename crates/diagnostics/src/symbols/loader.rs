//! The debugging information of one file.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use object::{Object, ObjectSymbol};

use super::Frame;
use crate::{sys::map::Mapped, unwind::hexadecimal};

/// The debugging information of one file, and of the one beside it that it was separated into, if there is one.
pub(super) struct Loader {
    file: addr2line::Loader,
    separate: Option<Separate>,
    note: Option<&'static str>,
}

impl Loader {
    /// `None` if the file, which is called that, cannot be read, or is none that has symbols.
    pub(super) fn open(path: &Path, name: &str) -> Option<Self> {
        let file = addr2line::Loader::new(path).ok()?;
        let contents = Contents::of(path);
        let separate = contents.separate.as_deref().and_then(|separate| Separate::open(separate, name));
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

        let lines = self.separate.as_ref().and_then(Separate::lines);

        for loader in lines.into_iter().chain([&self.file]) {
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

        let symbol = match &self.separate {
            Some(Separate::Symbols(file)) => symbol(file, address),
            _ => None,
        };
        let symbol = symbol.or_else(|| self.file.find_symbol(address).map(demangled));
        let symbol = symbol.or_else(|| lines.and_then(|loader| loader.find_symbol(address)).map(demangled));

        // The last one is the function itself. Its symbol has the whole path, which debugging information of the lean kind
        // lacks.
        match (frames.last_mut(), symbol) {
            (Some(frame), Some(symbol)) => {
                frame.function = symbol.into();
                frame.inlined = false;
            }
            (Some(frame), None) => frame.inlined = false,
            (None, Some(symbol)) => frames.push(Frame { function: symbol.into(), ..Frame::default() }),
            (None, None) => {}
        }

        frames.retain(|frame| !frame.function.is_empty() || frame.file.is_some());
        frames
    }
}

/// What was separated from a file.
enum Separate {
    Lines(Box<addr2line::Loader>),
    /// That of a library: its functions suffice. Its lines are usually compressed, and would take several times as much memory as all
    /// that a program has of its own, to tell what only the library's authors could change.
    Symbols(Mapped),
}

impl Separate {
    fn open(path: &Path, of: &str) -> Option<Self> {
        let is_library = of.rsplit('/').next().is_some_and(|name| name.contains(".so"));
        match is_library {
            true => Some(Self::Symbols(Mapped::file(&fs::File::open(path).ok()?).ok()?)),
            false => Some(Self::Lines(Box::new(addr2line::Loader::new(path).ok()?))),
        }
    }

    fn lines(&self) -> Option<&addr2line::Loader> {
        match self {
            Self::Lines(loader) => Some(loader),
            Self::Symbols(_) => None,
        }
    }
}

/// The function at an address. All are gone through each time, since what is found is remembered elsewhere.
fn symbol(file: &Mapped, address: u64) -> Option<String> {
    let file = object::File::parse(&file[..]).ok()?;
    let is_there = |symbol: &object::Symbol<'_, '_>| {
        symbol.kind() == object::SymbolKind::Text
            && (symbol.address()..symbol.address() + symbol.size()).contains(&address)
    };
    let symbol = file.symbols().find(is_there)?;
    Some(demangled(symbol.name().ok()?))
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
