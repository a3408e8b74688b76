//! How the processes of a child ended, and why.

use std::collections::BTreeMap;
use std::time::SystemTime;

use crate::lifecycle::Failure;

/// How many causes are counted apart. They come from linked children, which may make up any.
const CAUSES: usize = 24;
const CAUSE_LENGTH: usize = 32;

/// The cause where nothing was wrong, but somebody wanted it so.
pub(crate) const REQUEST: &str = "request";

/// Why a process is being replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reason {
    /// For people.
    pub text: String,
    /// In a word.
    pub cause: String,
}

/// What became of the processes in one place.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Exits {
    pub last: Option<String>,
    pub last_at: Option<SystemTime>,
    pub last_cause: Option<String>,
    pub last_incident: Option<String>,
    pub by_cause: BTreeMap<String, u64>,
}

impl Exits {
    /// A process has ended, or could not be started.
    pub(crate) fn note(&mut self, how: String, cause: &str) {
        let is_room = self.by_cause.len() < CAUSES || self.by_cause.contains_key(cause);
        let cause = if is_room { cause } else { "other" };
        *self.by_cause.entry(cause.to_owned()).or_default() += 1;
        self.last = Some(how);
        self.last_at = Some(SystemTime::now());
        self.last_cause = Some(cause.to_owned());
        self.last_incident = None;
    }

    /// Adds those that came before.
    pub(crate) fn inherit(&mut self, before: &Exits) {
        for (cause, count) in &before.by_cause {
            *self.by_cause.entry(cause.clone()).or_default() += count;
        }
        if self.last_at < before.last_at {
            self.last.clone_from(&before.last);
            self.last_at = before.last_at;
            self.last_cause.clone_from(&before.last_cause);
            self.last_incident.clone_from(&before.last_incident);
        }
    }
}

/// What a failure is counted as.
pub(crate) fn cause_of(failure: Failure) -> &'static str {
    match failure {
        Failure::Startup { .. } => "startup",
        Failure::HealthCheck { .. } => "health_check",
        Failure::Reported => "watchdog",
        Failure::Probe { .. } => "probe",
    }
}

/// A cause as somebody else names it, fit to be a key.
pub(crate) fn named(cause: Option<&str>) -> String {
    let word = |character: char| if character.is_ascii_alphanumeric() { character.to_ascii_lowercase() } else { '_' };
    let cause: String = cause.unwrap_or_default().chars().take(CAUSE_LENGTH).map(word).collect();
    if cause.is_empty() { REQUEST.to_owned() } else { cause }
}

/// Seconds since 1970.
pub(crate) fn seconds(at: SystemTime) -> Option<f64> {
    at.duration_since(SystemTime::UNIX_EPOCH).ok().map(|since| since.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_words_and_bounded_in_number() {
        assert_eq!(named(Some("Memory Limit!")), "memory_limit_");
        assert_eq!(named(None), "request");
        let mut exits = Exits::default();
        (0..1000).for_each(|number| exits.note(String::new(), &format!("cause_{number}")));
        assert_eq!(exits.by_cause.len(), CAUSES + 1);
        assert_eq!(exits.by_cause["other"], 1000 - CAUSES as u64);
        assert_eq!(exits.last_cause.as_deref(), Some("other"));
    }

    #[test]
    fn what_came_before_counts_and_the_latest_is_the_last() {
        let (mut old, mut new) = (Exits::default(), Exits::default());
        old.note("status 1".to_owned(), "failure");
        new.note("too large, status 0".to_owned(), "memory");
        new.inherit(&old);
        assert_eq!(new.last_cause.as_deref(), Some("memory"));
        assert_eq!(new.by_cause, BTreeMap::from([("failure".to_owned(), 1), ("memory".to_owned(), 1)]));
    }
}
