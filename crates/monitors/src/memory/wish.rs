//! What is wanted of a worker, and what is told of that.

use std::time::Duration;

use super::{footprint::Size, report::Leak, settings::Settings};
use crate::{Action, Event};

/// A worker that is to be restarted.
pub(super) struct Wish {
    pub process_id: u32,
    pub start_time: u64,
    pub rule: &'static str,
    pub reason: String,
    pub is_urgent: bool,
    /// What another one would take at its start, if it may be started beside this one.
    pub start_size: Option<u64>,
    /// For the sake of all: how much is too much, and what it alone has.
    pub relief: Option<(u64, u64)>,
}

impl Wish {
    pub(super) fn event(&self, name: &str, size: Size, settings: &Settings, left_alone: Option<Duration>) -> Action {
        Action::Event(Event::new(
            "leak",
            Leak {
                process_id: self.process_id,
                name: name.to_owned(),
                rule: self.rule,
                reason: self.reason.clone(),
                current_size: size.proportional,
                current_private_size: size.private,
                maximum_size_limit: settings.maximum_size_limit,
                left_alone: left_alone.map(|pause| pause.as_secs_f64()),
            },
        ))
    }
}
