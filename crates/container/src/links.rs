//! Which linked children are to be told what.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Instant, SystemTime};

use crate::container::Key;
use crate::notify::link::Topic;
use crate::slot::Slot;
use crate::status::{RootStatus, Update};

/// The lines to all linked children, of which there are few.
#[derive(Default)]
pub(crate) struct Links {
    open: BTreeSet<Key>,
    /// True if somebody may have to be told something and may have room for it.
    waiting: bool,
}

impl Links {
    /// A linked child was started: it is told everything.
    pub(crate) fn opened(&mut self, slots: &mut BTreeMap<Key, Slot>, key: Key) {
        self.open.insert(key);
        self.waiting = true;
        let topics: Vec<Topic> = slots.iter().map(|(key, slot)| slot.topic(*key)).chain([Topic::Root]).collect();
        if let Some(link) = slots.get_mut(&key).and_then(Slot::link) {
            topics.into_iter().for_each(|topic| link.changed(topic));
        }
    }

    /// True if there is anybody to tell.
    pub(crate) fn is_open(&self) -> bool {
        !self.open.is_empty()
    }

    /// The child's process has ended.
    pub(crate) fn closed(&mut self, key: Key) {
        self.open.remove(&key);
    }

    /// Something is news for all.
    pub(crate) fn changed(&mut self, slots: &mut BTreeMap<Key, Slot>, topic: &Topic) {
        for key in &self.open {
            if let Some(link) = slots.get_mut(key).and_then(Slot::link) {
                link.changed(topic.clone());
                self.waiting = true;
            }
        }
    }

    /// One that had no room has some.
    pub(crate) fn unblocked(&mut self) {
        self.waiting = true;
    }

    /// Tells everybody what there is, as far as there is room.
    pub(crate) fn flush(&mut self, slots: &mut BTreeMap<Key, Slot>, root: &RootStatus) {
        if !std::mem::take(&mut self.waiting) {
            return;
        }
        let now = (Instant::now(), SystemTime::now());
        for key in &self.open {
            let Some(mut link) = slots.get_mut(key).and_then(Slot::take_link) else {
                continue;
            };
            link.flush(|topic| match topic {
                Topic::Root => Update::Root(root.clone()),
                Topic::Child { key, generation, name } => match slots.get(key) {
                    Some(slot) => Update::Child(Box::new(slot.status(now))),
                    // Another one may have its name by now.
                    None => match slots.values().find(|slot| slot.is_shown_as(*generation, name)) {
                        Some(slot) => Update::Child(Box::new(slot.status(now))),
                        None => Update::Removed { generation: *generation, name: name.clone() },
                    },
                },
            });
            if let Some(slot) = slots.get_mut(key) {
                slot.return_link(link);
            }
        }
    }
}
