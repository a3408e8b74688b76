//! What `ps` shows of a child.

use std::sync::{Mutex, OnceLock, PoisonError};

use crate::sys::title::Area;

/// The bytes for the title of a child that is code of this program: its zeroth argument is filled up to this length.
pub(crate) const ROOM: usize = 256;

/// The longest name of a thread in bytes, see `PR_SET_NAME` of prctl(2).
const NAME_LIMIT: usize = 15;

static AREA: OnceLock<Option<Mutex<Area>>> = OnceLock::new();

/// The zeroth argument of a child, with room for later titles.
pub(crate) fn padded(title: &str) -> String {
    format!("{title:ROOM$}")
}

/// Takes the memory of the arguments for titles. To be called while there is one thread.
pub(crate) fn claim() {
    AREA.get_or_init(|| {
        Area::claim()
            .inspect_err(|error| tracing::debug!(%error, "titles are shown as the process's name: they are cut short"))
            .ok()
            .map(Mutex::new)
    });
}

/// Shows the title, as far as there is room. Without memory for it, its beginning is the process's name.
pub(crate) fn set(title: &str) {
    match AREA.get().and_then(Option::as_ref) {
        Some(area) => {
            let mut area = area.lock().unwrap_or_else(PoisonError::into_inner);
            let text = clean(title, area.room());
            area.write(text.as_bytes());
        }
        None => {
            // That of the process is the name of its first thread, which need not be this one.
            if let Err(error) = std::fs::write("/proc/self/comm", clean(title, NAME_LIMIT)) {
                tracing::debug!(%error, "cannot set the process's name");
            }
        }
    }
}

/// Names the calling thread, as far as there is room.
pub(crate) fn set_of_thread(title: &str) {
    let name = std::ffi::CString::new(clean(title, NAME_LIMIT)).unwrap_or_default();
    if let Err(error) = rustix::thread::set_name(&name) {
        tracing::debug!(%error, "cannot name a thread");
    }
}

/// The text on one line, cut off where a character begins. A NUL would be its end for whoever reads it.
fn clean(text: &str, limit: usize) -> String {
    let mut text = text.replace(char::is_control, " ");
    text.truncate(text.floor_char_boundary(limit));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_title_is_one_line_of_whole_characters() {
        assert_eq!(clean("worker\0#1\n(busy)", 100), "worker #1 (busy)");
        assert_eq!(clean("grün", 3), "gr");
        assert_eq!(clean("grün", 4), "grü");
        assert_eq!(clean("", 4), "");
    }

    #[test]
    fn there_is_room_behind_a_short_title() {
        assert_eq!(padded("app: worker#1").len(), ROOM);
        let long = "x".repeat(ROOM + 1);
        assert_eq!(padded(&long), long);
    }

    #[test]
    fn without_memory_for_it_the_name_is_set() {
        // Other tests run in threads of their own, so it cannot be claimed here.
        let before = std::fs::read_to_string("/proc/self/comm").unwrap();
        set("a title that is too long");
        assert_eq!(std::fs::read_to_string("/proc/self/comm").unwrap(), "a title that is\n");
        set(before.trim_end());
    }
}
