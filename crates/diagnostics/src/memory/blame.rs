//! Whose an allocation is. The rule is in the documentation of `memory`.

use std::sync::Arc;

use super::hook;
use crate::{
    report,
    symbols::{Frame, Place, Symbols},
    sys::allocator,
    unwind::Modules,
};

/// The innermost frames of a stack, among which the allocator is.
const ALLOCATOR_DEPTH: usize = 24;

/// The standard library.
const STANDARD: &[&str] = &["std", "core", "alloc", "proc_macro", "test", "__rustc"];

/// How the files of the C library are called.
const C_LIBRARY: &[&str] = &["libc.", "libc-", "libpthread", "ld-linux", "ld-musl"];

/// Crates that are containers for others, and nothing else.
const CONTAINERS: &[&str] = &[
    "hashbrown",
    "indexmap",
    "smallvec",
    "tinyvec",
    "thin_vec",
    "arrayvec",
    "slab",
    "bytes",
    "allocator_api2",
    "bumpalo",
    "typed_arena",
    "dashmap",
    "fnv",
    "ahash",
];

/// What an allocation goes under.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Blame {
    pub(super) krate: String,
    pub(super) file: String,
    pub(super) location: String,
    pub(super) kind: String,
}

/// The places of a stack, without those of the allocator.
pub(super) fn resolve(symbols: &Symbols, modules: &Modules, addresses: &[u64]) -> Vec<Arc<Place>> {
    if addresses.is_empty() {
        return vec![report::label("[stacks that are not told apart]")];
    }

    hook::unrecorded(|| without_allocator(symbols.resolve(modules, addresses)))
}

/// Whether what a better build of that module would add matters to whoever reads of memory.
pub(super) fn is_worth_a_note(note: &str) -> bool {
    // Libraries of the system are seldom built with line tables, and are seldom what one looks for.
    !note.starts_with("/lib") && !note.starts_with("/usr/lib") && !note.starts_with('[')
}

fn without_allocator(mut places: Vec<Arc<Place>>) -> Vec<Arc<Place>> {
    let frames =
        places.iter().enumerate().flat_map(|(place, at)| (0..at.frames.len()).map(move |frame| (place, frame)));
    let last = frames.take(ALLOCATOR_DEPTH).filter(|&(place, frame)| is_allocator(&places[place].frames[frame])).last();
    let Some((place, frame)) = last else { return places };
    places.drain(..place);

    // Functions into which the allocator was inlined are at the same address.
    if let Some(first) = places.first_mut() {
        if frame + 1 < first.frames.len() {
            Arc::make_mut(first).frames.drain(..=frame);
        } else {
            places.remove(0);
        }
    }

    places
}

fn is_allocator(frame: &Frame) -> bool {
    const SHIMS: [&str; 6] =
        ["__rust_alloc", "__rust_realloc", "__rust_alloc_zeroed", "__rg_alloc", "__rg_realloc", "__rg_alloc_zeroed"];
    let name = frame.function.rsplit("::").next().unwrap_or_default();
    SHIMS.contains(&name)
        || frame.file.as_deref().is_some_and(|file| file.ends_with(allocator::FILE))
        || frame.function.contains("async_container_diagnostics::memory::hook")
        || frame.function.contains("async_container_diagnostics::memory::recorder")
        || frame.function.contains("async_container_diagnostics::sys::allocator")
}

/// Finds whose it is.
pub(super) fn blame(places: &[Arc<Place>]) -> Blame {
    let frames: Vec<(&Frame, String)> = places
        .iter()
        .flat_map(|place| place.frames.iter().enumerate().map(move |(index, frame)| (place, index, frame)))
        .map(|(place, index, frame)| (frame, crate_of(place, index, frame)))
        .collect();
    let is_in = |list: &[&str], krate: &str| list.contains(&base(krate).replace('-', "_").as_str());
    let is_standard = |krate: &str| is_in(STANDARD, krate) || C_LIBRARY.iter().any(|name| krate.starts_with(name));
    let first = frames
        .iter()
        .position(|(_, krate)| !is_standard(krate) && !is_in(CONTAINERS, krate))
        .or_else(|| frames.iter().position(|(_, krate)| !is_standard(krate)))
        .or_else(|| frames.iter().position(|(_, krate)| krate == "std"))
        .unwrap_or_default();
    let Some((frame, krate)) = frames.get(first) else {
        let unknown = || "unknown".to_owned();
        return Blame { krate: unknown(), file: unknown(), location: unknown(), kind: unknown() };
    };
    let file = frame.file.as_deref().map(short);
    Blame {
        krate: krate.clone(),
        location: match (&file, frame.line) {
            (Some(file), Some(line)) => format!("{file}:{line}"),
            (Some(file), None) => file.clone(),
            (None, _) => frame.function.to_string(),
        },
        file: file.unwrap_or_else(|| "unknown".to_owned()),
        kind: kind(frames[..=first].iter().map(|(frame, _)| *frame)),
    }
}

/// A crate with its version, if the path tells it.
fn crate_of(place: &Place, index: usize, frame: &Frame) -> String {
    if let Some(krate) = frame.file.as_deref().and_then(crate_of_path) {
        return krate.to_owned();
    }

    // What was inlined has its bare name in lean debugging information. It may be told by the function that it was inlined
    // into, if that is of the same package.
    let same_package = |other: &&Frame| package(other) == package(frame);
    let named = place.frames[index..].iter().filter(same_package).find_map(|frame| crate_of_function(&frame.function));
    named
        .map(str::to_owned)
        .or_else(|| Some(package(frame)?.rsplit('/').next()?.to_owned()))
        .or_else(|| Some(place.module()?.rsplit('/').next()?.to_owned()))
        .unwrap_or_else(|| "unknown".to_owned())
}

/// The folder of the package that a source file is in, as far as its path tells.
fn package(frame: &Frame) -> Option<&str> {
    let file = frame.file.as_deref()?;
    let end = ["/src/", "/tests/", "/examples/", "/benches/"].iter().filter_map(|folder| file.rfind(folder)).max()?;
    Some(&file[..end])
}

/// `NAME-VERSION` of a registry's crate, or the name of one of the standard library, a vendored one, or one from git.
fn crate_of_path(path: &str) -> Option<&str> {
    let after = |folder: &str| path.split_once(folder).map(|(_, rest)| rest);

    if let Some(rest) = after("/registry/src/") {
        return rest.split('/').nth(1);
    }

    if let Some(rest) = after("/git/checkouts/") {
        // One repository may have many crates: the folder in which its source is has the best name.
        let (before, _) = rest.split_once("/src/")?;
        let folders: Vec<&str> = before.split('/').collect();
        return match folders[..] {
            [repository, _] => Some(repository.rsplit_once('-').map_or(repository, |(name, _)| name)),
            [_, _, .., folder] => Some(folder),
            _ => None,
        };
    }

    if path.starts_with("/rustc/") || path.contains("/rustlib/src/rust/") {
        return after("/library/").or_else(|| after("/deps/"))?.split('/').next();
    }

    if let Some(rest) = path.strip_prefix("/rust/deps/") {
        return rest.split('/').next();
    }

    after("/vendor/")?.split('/').next()
}

/// A path without what is the same for all.
fn short(path: &str) -> String {
    if let Some((_, rest)) = path.split_once("/registry/src/")
        && let Some((_, rest)) = rest.split_once('/')
    {
        return rest.to_owned();
    }

    if let Some((_, rest)) = path.split_once("/git/checkouts/") {
        return rest.to_owned();
    }

    if (path.starts_with("/rustc/") || path.contains("/rustlib/src/rust/"))
        && let Some(at) = path.find("/library/")
    {
        return path[at + 1..].to_owned();
    }

    path.to_owned()
}

/// A name without its version.
fn base(krate: &str) -> &str {
    let version = krate
        .match_indices('-')
        .find(|(at, _)| krate[at + 1..].starts_with(|character: char| character.is_ascii_digit()));
    version.map_or(krate, |(at, _)| &krate[..at])
}

/// The crate that the path of a function begins with.
fn crate_of_function(function: &str) -> Option<&str> {
    let mut rest = function;

    loop {
        let next = rest.trim_start_matches(['<', '&', '*', '[', '(', ' ']);
        let next = ["mut ", "const ", "dyn ", "impl "].iter().find_map(|word| next.strip_prefix(word)).unwrap_or(next);

        if next == rest {
            break;
        }

        rest = next;
    }

    let (first, _) = rest.split_once("::")?;
    let is_name = |character: char| character.is_alphanumeric() || character == '_';
    (!first.is_empty() && first.chars().all(is_name)).then_some(first)
}

/// What the memory is for, by the functions from the allocation up to the one to blame.
fn kind<'a>(frames: impl Iterator<Item = &'a Frame>) -> String {
    const KINDS: [(&str, &str); 16] = [
        ("alloc::string::String", "String"),
        ("hashbrown::raw::RawTable", "HashMap"),
        ("alloc::collections::btree", "BTreeMap"),
        ("alloc::collections::vec_deque::VecDeque", "VecDeque"),
        ("alloc::collections::linked_list", "LinkedList"),
        ("alloc::vec::Vec", "Vec"),
        ("alloc::vec::from_elem", "Vec"),
        ("alloc::boxed::box_new", "Box"),
        ("alloc::boxed::Box", "Box"),
        ("alloc::sync::Arc", "Arc"),
        ("alloc::rc::Rc", "Rc"),
        ("bytes::bytes_mut::BytesMut", "BytesMut"),
        ("smallvec::SmallVec", "SmallVec"),
        ("alloc::ffi::c_str::CString", "CString"),
        ("std::path::PathBuf", "PathBuf"),
        ("alloc::raw_vec::RawVec", "Vec"),
    ];
    const FILES: [(&str, &str); 10] = [
        ("alloc/src/string.rs", "String"),
        ("alloc/src/boxed.rs", "Box"),
        ("alloc/src/sync.rs", "Arc"),
        ("alloc/src/rc.rs", "Rc"),
        ("alloc/src/collections/vec_deque/mod.rs", "VecDeque"),
        ("alloc/src/collections/btree/node.rs", "BTreeMap"),
        ("alloc/src/vec/mod.rs", "Vec"),
        ("alloc/src/slice.rs", "Vec"),
        ("alloc/src/raw_vec/mod.rs", "Vec"),
        ("/hashbrown-", "HashMap"),
    ];
    let mut best: Option<String> = None;

    // The outermost one that says something is what the program has asked for: a `String` rather than its `Vec`.
    for frame in frames {
        let named = KINDS.iter().find_map(|(path, name)| {
            let rest = frame.function.trim_start_matches('<').strip_prefix(path)?;
            let is_whole = !rest.starts_with(|character: char| character.is_alphanumeric() || character == '_');
            is_whole.then(|| format!("{name}{}", elements(name, rest)))
        });
        let by_file = || {
            let file = frame.file.as_deref()?;
            let (_, name) = FILES.iter().find(|(part, _)| file.contains(part))?;
            Some(format!("{name}{}", elements(name, "")))
        };

        match (named.or_else(by_file), &best) {
            // The same container again, without saying of what.
            (Some(kind), Some(before))
                if kind.ends_with("<_>") && before.split('<').next() == kind.split('<').next() => {}
            (Some(kind), _) => best = Some(kind),
            (None, _) => {}
        }
    }

    best.unwrap_or_else(|| "unknown".to_owned())
}

/// What a container is of: the list of types that follows its name, if the compiler has put them there, and not `T`.
fn elements(name: &str, rest: &str) -> String {
    if ["String", "CString", "PathBuf", "BytesMut"].contains(&name) {
        return String::new();
    }

    // Between the path and the list there may be the name of what the container is made of, as in `btree::node::LeafNode<K, V>`.
    let rest = rest.trim_start_matches(|character: char| character.is_alphanumeric() || "_:".contains(character));
    let Some(list) = rest.strip_prefix('<') else { return "<_>".to_owned() };
    let mut depth = 1;
    let end = list.find(|character| {
        match character {
            '<' => depth += 1,
            '>' => depth -= 1,
            _ => {}
        }
        depth == 0
    });
    let Some(list) = end.map(|end| &list[..end]) else { return "<_>".to_owned() };
    let list = list.strip_suffix(", alloc::alloc::Global").unwrap_or(list);
    let is_parameter = |name: &str| !name.is_empty() && name.len() <= 2 && name.starts_with(char::is_uppercase);

    match list.split(',').next() {
        Some(first) if is_parameter(first.trim()) || first.is_empty() => "<_>".to_owned(),
        _ => format!("<{list}>"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::unwind::Mapping;

    fn frame(function: &str, file: &str, line: u32) -> Frame {
        Frame {
            function: function.into(),
            file: (!file.is_empty()).then(|| file.into()),
            line: Some(line),
            inlined: false,
        }
    }

    fn stack(frames: &[Frame]) -> Vec<Arc<Place>> {
        frames
            .iter()
            .map(|frame| {
                let is_libc = frame.function.contains("libc");
                let file = if is_libc { "/lib/libc.so.6".into() } else { "/bin/program".into() };
                let mapping = Some(Arc::new(Mapping { file, ..Mapping::default() }));
                Arc::new(Place { address: 1, mapping, frames: vec![frame.clone()], ..Place::default() })
            })
            .collect()
    }

    const VEC: &str = "/rustc/abc/library/alloc/src/vec/mod.rs";
    const REGISTRY: &str = "/x/registry/src/index-123";

    #[test]
    fn the_first_that_allocates_for_itself_is_to_blame() {
        let hashbrown = frame("reserve", &format!("{REGISTRY}/hashbrown-0.15.2/src/raw.rs"), 5);
        let places = stack(&[
            frame("alloc::vec::Vec<T,A>::push", VEC, 1),
            hashbrown.clone(),
            frame("hoarder::keep", &format!("{REGISTRY}/hoarder-sys-1.2.3-beta.1/src/lib.rs"), 7),
            frame("main", "/y/program/src/main.rs", 9),
        ]);
        let blamed = blame(&places);
        assert_eq!(blamed.krate, "hoarder-sys-1.2.3-beta.1");
        assert_eq!(blamed.file, "hoarder-sys-1.2.3-beta.1/src/lib.rs");
        assert_eq!(blamed.location, "hoarder-sys-1.2.3-beta.1/src/lib.rs:7");
        assert_eq!(blamed.kind, "HashMap<_>");

        // Nobody else there.
        assert_eq!(blame(&stack(&[frame("alloc::vec::Vec<T,A>::push", VEC, 1), hashbrown])).krate, "hashbrown-0.15.2");
        let std = frame("std::rt::lang_start", "/rustc/abc/library/std/src/rt.rs", 3);
        let start = frame("__libc_start_main", "../csu/libc-start.c", 3);
        let places = stack(&[frame("alloc::vec::Vec<T,A>::push", VEC, 1), std, start]);
        assert_eq!(blame(&places).location, "library/std/src/rt.rs:3");
        assert_eq!(blame(&[]).krate, "unknown");
    }

    #[test]
    fn crates_are_known_by_path_or_name() {
        let of = |function: &str, file: &str| blame(&stack(&[frame(function, file, 1)])).krate;
        assert_eq!(of("x", "/c/git/checkouts/tool-0123/abc/src/lib.rs"), "tool");
        assert_eq!(of("x", "/c/git/checkouts/tools-0123/abc/crates/hammer/src/lib.rs"), "hammer");
        assert_eq!(of("x", "/c/p/vendor/hammer/src/lib.rs"), "hammer");
        assert_eq!(of("<my_crate::T as core::fmt::Debug>::fmt", "/c/my-crate/src/lib.rs"), "my_crate");
        assert_eq!(of("<&mut dyn my_crate::T>::f", ""), "my_crate");
        assert_eq!(of("push", "/c/my-crate/src/lib.rs"), "my-crate");
        assert_eq!(of("program+0x12", ""), "program");
    }

    #[test]
    fn what_was_inlined_belongs_to_its_package() {
        let mut inlined = frame("push", "/c/my-crate/src/a.rs", 3);
        inlined.inlined = true;
        let outer = frame("my_name::outer", "/c/my-crate/src/lib.rs", 4);
        let place = Place { address: 1, frames: vec![inlined, outer], ..Place::default() };
        assert_eq!(blame(&[Arc::new(place)]).krate, "my_name");
    }

    #[test]
    fn the_allocator_is_left_out() {
        let shim = frame("__rustc::__rust_alloc", "/y/src/main.rs", 3);
        let own = frame("alloc", &format!("/z/{}", allocator::FILE), 3);
        let user = frame("user::f", "/y/src/main.rs", 5);
        let place = |frames: &[&Frame]| {
            let frames = frames.iter().map(|&frame| frame.clone()).collect();
            Arc::new(Place { address: 1, frames, ..Place::default() })
        };
        let rest = without_allocator(vec![place(&[&own]), place(&[&shim, &user]), place(&[&user])]);
        assert_eq!(rest.len(), 2);
        assert_eq!(without_allocator(vec![place(&[&own, &shim]), place(&[&user])]).len(), 1);
        assert_eq!(without_allocator(vec![place(&[&user])]).len(), 1);
        assert_eq!(rest[0].frames[..], [user]);
    }

    #[test]
    fn types_are_read_from_names() {
        let of = |functions: &[&str]| {
            let frames: Vec<Frame> = functions.iter().map(|function| frame(function, "", 1)).collect();
            kind(frames.iter())
        };
        assert_eq!(of(&["alloc::raw_vec::RawVec<u8>::grow_one", "<alloc::vec::Vec<u8>>::push"]), "Vec<u8>");
        assert_eq!(
            of(&["alloc::raw_vec::RawVec<(u8, Vec<u16>)>::grow_one", "alloc::vec::Vec<T,A>::push"]),
            "Vec<(u8, Vec<u16>)>"
        );
        assert_eq!(of(&["alloc::vec::Vec<T,A>::push"]), "Vec<_>");
        assert_eq!(of(&["alloc::raw_vec::RawVec<u8>::grow", "<alloc::string::String>::push_str"]), "String");
        assert_eq!(of(&["alloc::boxed::Box<my::Thing>::new"]), "Box<my::Thing>");
        assert_eq!(of(&["alloc::vec::from_elem::<u8>"]), "Vec<u8>");
        let node = "<alloc::collections::btree::node::LeafNode<alloc::string::String, u8>>::new";
        assert_eq!(of(&[node]), "BTreeMap<alloc::string::String, u8>");
        assert_eq!(of(&["<my::List<alloc::string::String>>::push"]), "unknown");
        assert_eq!(of(&["malloc"]), "unknown");
    }
}
