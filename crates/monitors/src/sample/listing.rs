//! Which processes there are, and which of them are new.

use std::io;
#[cfg(any(feature = "memory", feature = "process"))]
use std::io::Read;

use rustix::fs::{Mode, OFlags};

#[cfg(any(feature = "memory", feature = "process"))]
use super::Directory;

/// So many ids are looked at one by one, which takes some microseconds each; a listing of a thousand processes takes more than a
/// millisecond.
#[cfg(any(feature = "memory", feature = "process"))]
const LOOKED_AT: u32 = 64;

/// The process ids that are visible to this process, in no particular order.
///
/// # Errors
/// If `/proc` cannot be listed.
pub fn process_ids() -> io::Result<impl Iterator<Item = u32>> {
    Ok(listing()?.map(|(process_id, _)| process_id))
}

/// The process ids that are visible, and the number of the directory of each.
pub(crate) fn listing() -> io::Result<impl Iterator<Item = (u32, u64)>> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let entries = rustix::fs::Dir::new(rustix::fs::open("/proc", flags, Mode::empty())?)?;
    Ok(entries.filter_map(|entry| {
        let entry = entry.ok()?;
        Some((entry.file_name().to_str().ok()?.parse().ok()?, entry.ino()))
    }))
}

/// The process or thread id that was given last, in this pid namespace: as long as that is the same, none was started. Nothing where
/// that is not told.
#[cfg(any(feature = "memory", feature = "process"))]
pub(crate) fn last_process_id() -> Option<u32> {
    // "0.20 0.18 0.12 1/80 11206"
    let last = std::fs::read_to_string("/proc/loadavg").ok()?.split_ascii_whitespace().nth(4)?.parse().ok()?;
    // Sandboxes that do not know it say 0.
    Some(last).filter(|last| *last > 0)
}

/// What a [`listing`] would have of the processes whose ids were given after one and up to another, in the order of these. Nothing
/// where to list all is quicker.
#[cfg(any(feature = "memory", feature = "process"))]
pub(crate) fn started(after: u32, last: u32) -> Option<Vec<(u32, u64)>> {
    // They are given in their order; after the highest one come those that have become free.
    let count = last.checked_sub(after)?;
    (count <= LOOKED_AT).then(|| (after + 1..=last).filter_map(|id| Some((id, find(id).ok()??))).collect())
}

/// The number of the directory of a process. A thread has one too, that no listing has.
#[cfg(any(feature = "memory", feature = "process"))]
fn find(process_id: u32) -> io::Result<Option<u64>> {
    let (directory, mut status) = (Directory::open(process_id)?, String::new());
    directory.file("status")?.read_to_string(&mut status)?;
    let process = status.lines().find_map(|line| line.strip_prefix("Tgid:"));
    let is_process = process.is_some_and(|id| id.trim().parse() == Ok(process_id));
    Ok(is_process.then_some(rustix::fs::fstat(&directory.descriptor)?.st_ino))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_listed() {
        assert!(process_ids().unwrap().any(|id| id == std::process::id()));
    }

    #[cfg(any(feature = "memory", feature = "process"))]
    #[test]
    fn what_was_started_is_what_a_listing_has() {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let id = child.id();
        let last = last_process_id().unwrap();
        let listed = listing().unwrap().find(|(listed, _)| *listed == id);
        assert_eq!(started(id - 1, id).unwrap(), listed.into_iter().collect::<Vec<_>>());
        assert_eq!(started(id, id), Some(Vec::new()));
        assert_eq!(started(id, id + LOOKED_AT + 1), None, "too many");
        assert_eq!(started(id, id - 1), None, "they began anew");
        assert!(last != id - 1, "it was given since");
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(started(id - 1, id), Some(Vec::new()), "it has ended");
    }

    #[cfg(any(feature = "memory", feature = "process"))]
    #[test]
    fn a_thread_is_no_process() {
        let (sender, receiver) = std::sync::mpsc::channel::<()>();
        let (tell, told) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            tell.send(rustix::thread::gettid().as_raw_nonzero().get()).unwrap();
            let _ = receiver.recv();
        });
        let id = u32::try_from(told.recv().unwrap()).unwrap();
        assert!(std::fs::exists(format!("/proc/{id}")).unwrap());
        assert_eq!(started(id - 1, id), Some(Vec::new()));
        drop(sender);
        thread.join().unwrap();
    }
}
