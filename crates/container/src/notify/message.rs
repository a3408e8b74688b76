//! The messages.

use serde::{Deserialize, Serialize};

/// What a child says about itself. Absent fields say nothing; unknown ones are ignored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Message {
    /// True when it is ready, false when it is not for now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready: Option<bool>,
    /// True, again and again, while it lives.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthy: Option<bool>,
    /// True when it is about to load its configuration anew.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reloading: Option<bool>,
    /// True when it is about to end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stopping: Option<bool>,
    /// What it is doing, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
    /// The error that it met with, as errno(3) has it, or -1 for any other.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub errno: Option<i32>,
    /// The process that the service manager is to take for the main one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub main_process_id: Option<u32>,
    /// In how many microseconds from now the time-out that it is subject to may expire at the earliest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub extend_timeout_usec: Option<u64>,
    /// What it asks of the root.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) request: Option<Request>,
}

/// What a child asks of the root.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Request {
    /// To replace another child; heard only from linked children.
    Replace(ReplaceRequest),
    /// To kill a child that it was told of before: it has been looked at. Heard only from linked children.
    Examined(ExaminedRequest),
    /// To replace itself.
    Recycle(RecycleRequest),
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct RecycleRequest {
    pub reason: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct ExaminedRequest {
    pub process_id: i32,
    /// Where what was found is kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub incident: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct ReplaceRequest {
    pub process_id: i32,
    pub reason: String,
    /// The reason in a word.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// Where what was found about the old process is kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub incident: Option<String>,
    /// To start the new process first, and to stop the old one when that is ready, or after so many milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_first: Option<u64>,
}
