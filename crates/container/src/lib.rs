//! Start, watch, restart, replace and stop child processes.
//!
//! A [`Controller`] is the root of an application: it never does anything but look after its children.
//! A [`Service`] says what a kind of child runs, either code of this very program or any other
//! [`Command`], how many instances of it there are, and what is expected of them. The code of a service
//! gets an [`Instance`], through which it says that it is ready and hears that it is to end.
//!
//! Five lines that keep a program running:
//!
//! ```no_run
//! use async_container::{Command, Controller, Service};
//!
//! fn main() -> std::process::ExitCode {
//!     Controller::new("app").service(Service::command("sleep", Command::new("sleep").argument("1000")).count(1)).run()
//! }
//! ```
//!
//! Kill the `sleep`, and another one runs; press Ctrl-C, and everything ends. And a service that is code of
//! this program, four processes of it that share a socket:
//!
//! ```no_run
//! use std::process::ExitCode;
//! use async_container::{BoxError, Controller, Instance, Service};
//!
//! fn main() -> ExitCode {
//!     Controller::new("my-app")
//!         .service(Service::new("worker", work).count(4).listen("http", "127.0.0.1:8080"))
//!         .run()
//! }
//!
//! async fn work(instance: Instance) -> Result<(), BoxError> {
//!     let listener = instance.listener("http")?;
//!     instance.ready()?;
//!     loop {
//!         tokio::select! {
//!             connection = listener.accept() => drop(connection?),
//!             () = instance.shutdown() => return Ok(()),
//!         }
//!     }
//! }
//! ```
//!
//! # What it takes care of
//!
//! - **Restart.** A child that ends is started again, at once after a healthy run, else after a [`Backoff`] that grows and
//!   never gives up. [`Restart`] and exit statuses say when; [`Strategy`], whether others are started again with it.
//! - **Policies.** A [`Policy`] sees starts, ends and failed checks, with [`Statistics`], and may decide otherwise;
//!   [`FailureRate`] gives up when failures are too many. A service may be [essential](Service::essential).
//! - **Health.** A child that is not ready in time, or that is ready and then says nothing for too long, is killed and
//!   replaced. Children speak by a pipe or as sd_notify(3) has it ([`Readiness`]); those that say nothing are asked by
//!   [probes](Probe).
//! - **Dependencies.** A service may start [after](Service::after) others are ready, and stops before them.
//! - **Replacing.** SIGHUP starts a new generation of all children beside the old one, which goes only when the new one is
//!   ready; or replaces [a few at a time](Reload::Rolling); or only what [changed](Controller::services_from). Children may
//!   be replaced [by age](Service::maximum_age), too.
//! - **Threads.** An instance may be [several threads](Service::threads) of a process, or [one of the root](Service::thread),
//!   each with a runtime of its own.
//! - **Stopping always ends.** SIGINT and SIGTERM ask everything to end and kill what takes longer than its
//!   [grace](Controller::graceful_stop); a second one kills at once. Even a process that the kernel does not let go of
//!   holds up nothing for ever.
//! - **No orphan.** Every child leads a process group, and dies with the root, whatever ends the root; so do its own
//!   children, even those that detached themselves.
//! - **Limits** of memory, processors and processes, by a [cgroup](Cgroups) of each child's own where one can be had
//!   ([`Limits`]), which also lets nothing escape that a child has started.
//! - **Sockets** are bound once, by the root, or taken over from who started it, and inherited, so that no restart refuses
//!   a connection.
//! - **Output.** What commands write may become [events of the log](Stdio::Log), within bounds.
//! - **Testing.** The feature `testing` has a simulation (`testing::Simulation`), in which scripted children meet real policies
//!   and settings, under a clock that jumps: nothing is started, and nobody waits.
//! - **Exit statuses** tell causes apart: [`exit_code`].
//!
//! # What it leaves out
//!
//! It knows nothing of supervisors, monitors or remote calls: the crate `async-container-supervisor`
//! composes those with this one. The life of a single child, [`lifecycle`], does no I/O and reads
//! no clock, so it can be used, and is tested, by itself.
//!
//! It needs Linux 5.4 or later.

#![deny(missing_docs)]

mod backoff;
mod cgroup;
mod clock;
mod command;
mod container;
mod controller;
mod entry;
mod error;
mod exit;
mod exits;
mod guardian;
mod identity;
mod instance;
pub mod lifecycle;
mod limits;
mod links;
mod listener;
mod manager;
mod notify;
mod orders;
mod orphans;
mod output;
mod plan;
mod policies;
mod policy;
mod poller;
mod probe;
mod process;
mod reaper;
mod root;
mod signal;
mod slot;
mod spec;
mod statistics;
mod status;
mod sys;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod thread;
mod threads;
mod time;
mod title;

pub use backoff::Backoff;
pub use cgroup::{CGROUP, Cgroups};
pub use command::{Command, Resource, Stdio};
pub use controller::{Controller, GRACEFUL_STOP};
pub use entry::is_child;
pub use error::{
    BindError, BoxError, CgroupError, CommandError, ConfigurationError, InstanceError, ProbeError, SpawnError,
    StartError,
};
pub use exit::{ExitStatus, exit_code};
pub use instance::Instance;
pub use limits::Limits;
pub use listener::Address;
pub use notify::link::{Link, Replacement};
pub use notify::{Message, NOTIFY_LOG, NOTIFY_PIPE, NOTIFY_SOCKET, Notify};
pub use policy::{Context, FailureRate, Policy, PolicyChild, Verdict};
pub use probe::{Probe, ProbeFailure, ProbeKind};
pub use signal::Signal;
pub use spec::{PROCESSOR_COUNT, Readiness, Reload, Restart, Runtime, Service, Strategy, processor_count};
pub use statistics::{Rate, Statistics, StatisticsSummary};
pub use status::{ChildStatus, RootStatus, Status};
pub use sys::exit::at_exit;
