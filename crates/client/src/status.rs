//! What a supervisor tells.
//!
//! The supervisor has types of its own for it: the two ends may be of different versions, and this one takes what it gets.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::worker::Worker;

/// Who answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Pong {
    /// The version of the one that answers.
    pub version: String,
    /// Its process.
    pub process_id: u32,
    /// How long it has been there, in seconds.
    pub uptime: f64,
}

/// What is known of the workers.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Status {
    /// What the monitors say, by their names. One that failed says `{"error": {"class": …, "message": …}}`.
    pub monitors: Map<String, Value>,
    /// The workers that are connected, by name, instance and process.
    pub workers: Vec<Worker>,
}

/// What the root says of itself and its children.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Root {
    /// Its process; 0 while a supervisor that has just started has not heard from it.
    pub process_id: u32,
    /// Which generation of children is in charge, from 1.
    pub generation: u64,
    /// How many attempts at a new generation have ended, well or not.
    pub reloads: u64,
    /// Whether such an attempt is under way.
    pub reloading: bool,
    /// Why the last one failed, if it did.
    pub reload_error: Option<String>,
    /// Whether all children of the generation in charge are ready.
    pub ready: bool,
    /// All children, also those of a generation that is coming or going.
    pub children: Vec<Child>,
}

/// What the root says of a child.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Child {
    /// Its name, such as `web#1`, unique within a generation.
    pub name: String,
    /// The service of which it is an instance.
    pub service: String,
    /// Which instance, from 1.
    pub instance: u32,
    /// The generation that it belongs to.
    pub generation: u64,
    /// Its process, while it has one.
    pub process_id: Option<u32>,
    /// `starting`, `ready`, `unready` (its readiness probe fails), `blocked` (until another service is ready), `held` (until
    /// others have ended), `waiting` (to be started again), `stopping` or `stopped` (for good).
    pub state: String,
    /// How often it was started again.
    pub restarts: u64,
    /// How its last process ended, and why.
    pub last_exit: Option<String>,
    /// When that was, in seconds since 1970.
    pub last_exit_at: Option<f64>,
    /// Why it ended, in a word: a key of [`exits`](Self::exits).
    pub last_exit_cause: Option<String>,
    /// The directory with what was found about its last process before that was ended, if somebody looked. If that was done
    /// twice, it is that of why the process was to end, not of why it did not. Until all is in it, its name ends in `.partial`.
    pub last_incident: Option<String>,
    /// Why its process is about to be killed, while it is being looked at before.
    pub condemned: Option<String>,
    /// How many of its processes ended, by cause. What monitors have replaced counts under the name of the monitor.
    pub exits: BTreeMap<String, u64>,
    /// How long its process, or the last one before it that became ready, took for that; in seconds.
    pub time_to_ready: Option<f64>,
    /// How many attempts in a row have come to nothing, which is what the pause before the next one grows by.
    pub failures: u32,
    /// While it is waiting: when it will be started, in seconds since 1970.
    pub next_start: Option<f64>,
}

/// Whether the application is ready, and how its last reload went.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
#[non_exhaustive]
pub struct Readiness {
    /// Whether all children of the generation in charge are ready.
    pub ready: bool,
    /// That generation.
    pub generation: u64,
    /// How many attempts at a new generation have ended, well or not.
    pub reloads: u64,
    /// Why the last one failed, if it did.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reload_error: Option<String>,
    /// The names of all children that are not ready, also those of an old generation that are being stopped.
    pub waiting: Vec<String>,
}

impl Readiness {
    /// Who is being waited for, for people; `None` if nobody is named.
    pub fn waiting_for(&self) -> Option<String> {
        (!self.waiting.is_empty()).then(|| format!("waiting for {}", self.waiting.join(", ")))
    }
}
