//! Helpers for tests that start real processes, after ripgrep's `Dir` and `TestCommand`.
//!
//! A [`Dir`] is a temporary directory, and owns every process that was started in it. [`Dir::command`] and
//! [`Dir::example`] give a [`Launch`], which starts a [`Program`]: a process in that directory whose output goes
//! to files there. Waiting is always for something to happen, with a limit: [`Program::wait`] for the end of the
//! process, [`Program::wait_for`] for a condition, [`wait_for`] for one that no program owns.
//!
//! Nothing outlives its owner. Each process carries a mark in its environment, which its children inherit, so
//! that those that moved to another session or were left by their parent are found too; when the `Program` or
//! the `Dir` is dropped, whatever carries the mark is killed. [`proc`] is the view of `/proc` that this is made
//! of; the measurements in `xtask` use it as well.
//!
//! ```no_run
//! use std::time::Duration;
//! use async_container_supervisor_tests::{Dir, Signal};
//!
//! # fn main() -> std::io::Result<()> {
//! let dir = Dir::new()?;
//! let mut program = dir.example("simple")?.args(["--workers", "4"]).start()?;
//! let socket = dir.socket();
//! program.wait_for("the socket", Duration::from_secs(5), || Ok(socket.exists().then_some(())))?;
//! program.signal(Signal::TERM)?;
//! assert!(program.wait(Duration::from_secs(10))?.success());
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]

mod artifact;
mod dir;
mod picture;
pub mod proc;
mod program;
mod python;
mod supervisor;
mod terminal;
mod wait;

pub use artifact::{binary, example};
pub use dir::Dir;
pub use picture::svg;
pub use program::{Launch, Program};
pub use python::has_python;
pub use rustix::process::Signal;
pub use supervisor::{Supervisor, Worker};
pub use terminal::Terminal;
pub use wait::wait_for;
