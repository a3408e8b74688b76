//! Having children looked at that are about to be killed.

use std::time::Instant;

use rustix::process::Pid;

use super::{Container, Key};
use crate::notify::ExaminedRequest;

impl Container {
    /// Tells linked children that the child is about to be killed. If there is none, or it is one itself, nobody is waited for.
    pub(super) fn examine(&mut self, key: Key) {
        let has_examiner = self.links.is_open();
        let now = Instant::now();
        let Some(slot) = self.slots.get_mut(&key) else { return };
        if slot.service.linked || !has_examiner {
            slot.lifecycle.handle_examined(now);
        } else {
            let limit = slot.lifecycle.poll_timeout().map(|at| at.saturating_duration_since(now));
            tracing::warn!(
                child = slot.name,
                reason = slot.condemned(),
                ?limit,
                "having the child looked at before it is killed"
            );
            slot.shown = None;
        }
        self.touch(key);
    }

    /// A linked child has looked.
    pub(super) fn handle_examined(&mut self, request: ExaminedRequest) {
        let key = Pid::from_raw(request.process_id).and_then(|pid| self.processes.get(&pid).copied());
        let Some((key, slot)) = key.and_then(|key| Some((key, self.slots.get_mut(&key)?))) else {
            return;
        };
        // What comes after the time for it says at least where to look.
        let incident = match slot.lifecycle.overstay() {
            Some(_) => &mut slot.late_incident,
            None => &mut slot.incident,
        };
        *incident = request.incident.or(incident.take());
        slot.lifecycle.handle_examined(Instant::now());
        self.touch(key);
    }
}
