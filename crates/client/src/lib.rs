//! A client of a running supervisor. All that the command line `acs` does, it does with this.
//!
//! A [`Supervisor`] is a connection. It tells how the application is ([`status`](Supervisor::status),
//! [`root`](Supervisor::root), [`readiness`](Supervisor::readiness)), what happens
//! ([`subscribe`](Supervisor::subscribe)), and has things done ([`signal`](Supervisor::signal),
//! [`replace`](Supervisor::replace)). A [`Worker`] is one of those that are connected to it, found by its name. A
//! [`Diagnostic`] says what is wanted to be known of a worker, and the [`Report`] is what comes.
//!
//! ```no_run
//! use std::time::Duration;
//! use async_container_supervisor_client::{Diagnostic, Form, Supervisor};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let supervisor = Supervisor::connect("supervisor.ipc").await?;
//!
//! for child in supervisor.root().await?.children {
//!     println!("{} is {}, started again {} times", child.name, child.state, child.restarts);
//! }
//!
//! let worker = supervisor.worker("web#2").await?;
//! let sample = Diagnostic::memory_sample(Duration::from_secs(30)).form(Form::Text);
//! let report = supervisor.diagnose(&worker, &sample).bytes().await?;
//! println!("{}", String::from_utf8_lossy(&report));
//! # Ok(())
//! # }
//! ```
//!
//! # What it leaves out
//!
//! A supervisor that is replaced ends its connections, and calls over them fail with class `ConnectionClosed`. To connect
//! again, and whether what was under way should be asked for again, is left to the caller, who knows what it wanted.
//! Connections, calls and messages are those of `async-container-protocol`, which is enough for who needs no more than
//! calls; [`Supervisor::client`] gives access to it.

#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod diagnostic;
mod error;
mod farewell;
mod form;
mod report;
mod status;
mod supervisor;
mod worker;

pub use diagnostic::{Diagnostic, Kind, Records};
pub use error::Error;
pub use form::Form;
pub use report::Report;
pub use status::{Child, Pong, Readiness, Root, Status};
pub use supervisor::{Events, Signal, Supervisor};
pub use worker::{Worker, resolve, short_id_length, sort};
