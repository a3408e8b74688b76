//! How a child tells the process that started it how it is.
//!
//! The protocol is one JSON object a line, written to the pipe whose descriptor `NOTIFY_PIPE` names:
//! `{"ready":true}`, `{"healthy":true}`, `{"status":"Preparing..."}` and the like. Any program in any
//! language can speak it. Programs that know systemd are given a socket instead, by `NOTIFY_SOCKET`, and speak
//! as sd_notify(3) has it.

mod client;
pub(crate) mod link;
mod message;
mod reader;
pub(crate) mod server;
mod socket;

pub use client::Notify;
pub use message::Message;
pub(crate) use message::{ExaminedRequest, ReplaceRequest, Request};
pub(crate) use reader::LineReader;

/// The variable that names the descriptor of the notify pipe.
pub const NOTIFY_PIPE: &str = "NOTIFY_PIPE";

/// The variable that names the socket of a service manager, see sd_notify(3).
pub const NOTIFY_SOCKET: &str = "NOTIFY_SOCKET";

/// The variable that names a file to which messages are appended.
pub const NOTIFY_LOG: &str = "NOTIFY_LOG";
