//! From code addresses to functions, files and lines.
//!
//! ```
//! use async_container_diagnostics::{symbols::Symbols, unwind::{Cache, Unwinder}};
//!
//! let unwinder = Unwinder::of_this_process()?;
//! let mut addresses = [0; 64];
//! let depth = unwinder.walk_here(&mut Cache::new(), &mut addresses);
//!
//! for place in Symbols::shared().resolve(unwinder.modules(), &addresses[..depth]) {
//!     for frame in &place.frames {
//!         println!("{frame}");
//!     }
//! }
//! # Ok::<(), async_container_diagnostics::unwind::UnwindError>(())
//! ```
//!
//! What is found depends on how the program was built. With `debug = "line-tables-only"`, which costs nothing at run time,
//! files, lines and inlined functions are there. Without, there are only the functions that were not inlined; in a stripped
//! program, only addresses, and [`Place::note`] says so.

mod loader;

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use serde::Serialize;

use crate::{
    sys::memory,
    unwind::{FileId, Mapping, Modules},
};
use loader::Loader;

/// How many addresses are remembered. Beyond that, all are forgotten: what is looked up after that is found again.
const PLACE_LIMIT: usize = 1 << 17;

/// A function that an address belongs to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize)]
#[non_exhaustive]
pub struct Frame {
    /// The function, as it is written in the program, with its path where that is known. An address if it is not.
    pub function: Arc<str>,
    /// The source file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<Arc<str>>,
    /// The line in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<u32>,
    /// Whether the compiler has put it into the function that follows.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub inlined: bool,
}

impl fmt::Display for Frame {
    /// Writes `function at file:line`.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.function)?;

        match (&self.file, self.line) {
            (Some(file), Some(line)) => write!(formatter, " at {file}:{line}"),
            (Some(file), None) => write!(formatter, " at {file}"),
            _ => Ok(()),
        }
    }
}

/// What is known of an address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Place {
    /// The address in the process.
    pub address: u64,
    /// The part of the program or library that it lies in.
    pub mapping: Option<Arc<Mapping>>,
    /// The functions, the innermost first: those that were inlined, and last the one that they were inlined into. Never
    /// empty.
    pub frames: Vec<Frame>,
    /// Whether these are functions, and not only what stands for one that has no name.
    pub is_named: bool,
    /// What a better build would add, if there is something.
    pub note: Option<&'static str>,
}

impl Place {
    /// The program or library that it lies in.
    pub fn module(&self) -> Option<&Arc<str>> {
        self.mapping.as_ref().map(|mapping| &mapping.file)
    }
}

/// Looks addresses up, and remembers what it found.
///
/// To look something up for the first time reads the debugging information of the program, which takes from milliseconds to
/// a second: it is for a thread that may block, not for one that serves.
pub struct Symbols {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    loaders: HashMap<Key, Option<Loader>>,
    /// By the module and the address in its file.
    places: HashMap<(Key, u64), Arc<Place>>,
    last_used: Option<Instant>,
}

/// Which contents of a file: one that was replaced by another with the same inode must not answer for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    file: FileId,
    changed: Option<SystemTime>,
}

impl Symbols {
    /// One that knows nothing yet.
    pub fn new() -> Self {
        Self { inner: Mutex::default() }
    }

    /// The one that everybody in this process shares, so that nothing is read twice.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Symbols> = OnceLock::new();
        SHARED.get_or_init(Self::new)
    }

    /// Looks addresses up that lie within the instructions in question, as [`Unwinder::walk`](crate::unwind::Unwinder::walk)
    /// gives them. There is one place for each, in the same order.
    pub fn resolve(&self, modules: &Modules, addresses: &[u64]) -> Vec<Arc<Place>> {
        // What is read for it is none of the program's own, and would be in the way in a report about memory.
        #[cfg(feature = "memory")]
        return crate::memory::hook::unrecorded(|| self.look_up(modules, addresses));
        #[cfg(not(feature = "memory"))]
        self.look_up(modules, addresses)
    }

    fn look_up(&self, modules: &Modules, addresses: &[u64]) -> Vec<Arc<Place>> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        inner.last_used = Some(Instant::now());
        // Files do not change while a list of addresses is looked up, as far as this is concerned.
        let mut keys = HashMap::new();
        addresses.iter().map(|&address| inner.resolve(modules, &mut keys, address)).collect()
    }

    /// Gives back what was read of the programs, to the system if the C library can, if it was not used for as long as that:
    /// several times as much as a small program has. What was found is still remembered.
    pub fn release(&self, unused: Duration) {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);

        if inner.last_used.is_none_or(|last| last.elapsed() >= unused) && !inner.loaders.is_empty() {
            inner.loaders = HashMap::new();
            // What was found meanwhile lies in between, so that it would be kept otherwise.
            memory::trim();
        }
    }
}

impl Default for Symbols {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Symbols {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Symbols").finish_non_exhaustive()
    }
}

impl Inner {
    fn resolve(&mut self, modules: &Modules, keys: &mut HashMap<FileId, Key>, address: u64) -> Arc<Place> {
        let Some(module) = modules.find(address) else {
            let place = Place {
                address,
                frames: vec![unknown(address, None)],
                note: Some("code that no file is known for, such as one that was generated at run time"),
                ..Place::default()
            };
            return Arc::new(place);
        };

        let key = *keys.entry(module.id()).or_insert_with(|| Key {
            file: module.id(),
            changed: module.path().metadata().and_then(|metadata| metadata.modified()).ok(),
        });
        let in_file = module.to_file(address);
        let mapping = module.mapping(address).cloned();

        if let Some(place) = self.places.get(&(key, in_file)) {
            // In another process, the same place has another address.
            return match place.address == address && place.mapping == mapping {
                true => place.clone(),
                false => Arc::new(Place { address, mapping, ..Place::clone(place) }),
            };
        }

        let loader = self.loaders.entry(key).or_insert_with(|| Loader::open(module.path(), module.name()));
        let (mut frames, note) = match loader {
            Some(loader) => (loader.frames(in_file), loader.note()),
            None => (Vec::new(), Some("the file could not be read")),
        };

        let is_named = !frames.is_empty();

        if !is_named {
            frames.push(unknown(in_file, Some(module.name())));
        }

        let place = Arc::new(Place { address, mapping, frames, is_named, note });

        if self.places.len() >= PLACE_LIMIT {
            self.places.clear();
        }

        self.places.insert((key, in_file), place.clone());
        place
    }
}

/// What stands for a function whose name is not looked up.
pub(crate) fn unnamed(modules: &Modules, address: u64) -> Frame {
    match modules.find(address) {
        Some(module) => unknown(module.to_file(address), Some(module.name())),
        None => unknown(address, None),
    }
}

/// What stands for a function that has no name.
fn unknown(address: u64, module: Option<&str>) -> Frame {
    let function = match module {
        Some(module) => format!("{}+{address:#x}", module.rsplit('/').next().unwrap_or(module)),
        None => format!("{address:#x}"),
    };
    Frame { function: function.into(), ..Frame::default() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::unwind::{Cache, Unwinder};

    #[inline(always)]
    fn inlined_walk(unwinder: &Unwinder, addresses: &mut [u64]) -> usize {
        unwinder.walk_here(&mut Cache::new(), addresses)
    }

    #[inline(never)]
    fn outer_walk(unwinder: &Unwinder, addresses: &mut [u64]) -> usize {
        std::hint::black_box(inlined_walk(unwinder, addresses))
    }

    #[test]
    fn functions_lines_and_what_was_inlined_are_named() {
        let unwinder = Unwinder::of_this_process().unwrap();
        let mut addresses = [0; 128];
        let depth = outer_walk(&unwinder, &mut addresses);
        let places = Symbols::new().resolve(unwinder.modules(), &addresses[..depth]);
        let frames: Vec<&Frame> = places.iter().flat_map(|place| &place.frames).collect();
        let text: Vec<String> = frames.iter().map(ToString::to_string).collect();

        let inlined = frames.iter().position(|frame| frame.function.contains("inlined_walk")).expect("it is inlined");
        assert!(frames[inlined].inlined);
        assert!(frames[inlined].file.as_deref().unwrap().ends_with("symbols.rs"), "{text:?}");
        assert!(frames[inlined + 1].function.contains("outer_walk"));
        assert!(text.iter().any(|frame| frame.contains("functions_lines_and_what_was_inlined_are_named")), "{text:#?}");
        assert!(text.last().unwrap().contains("clone") || text.last().unwrap().contains("start"), "{text:#?}");
        assert!(frames.iter().all(|frame| !frame.function.contains("::h0")), "{text:#?}");
    }

    #[test]
    fn what_lies_in_no_module_is_an_address() {
        let unwinder = Unwinder::of_this_process().unwrap();
        let places = Symbols::new().resolve(unwinder.modules(), &[0x10]);
        assert_eq!(&*places[0].frames[0].function, "0x10");
        assert!(places[0].note.is_some());
    }
}
