//! Supervised worker processes: a root that never dies, a supervisor that watches, and workers that are replaced when they
//! hang, leak or crash.
//!
//! An [`Application`] composes the crates of this project. Its [root](container) starts every [`Service`] in processes of
//! its own and does nothing else; one of these processes is the [supervisor](server), which [monitors] the
//! others and answers whoever asks over a Unix socket, such as the command line `acs`; the others are
//! [workers](worker), which connect to it, and do their work with or without it.
//!
//! ```no_run
//! use std::process::ExitCode;
//! use async_container_supervisor::{Application, BoxError, Instance, Service, monitors::MemoryMonitor};
//!
//! fn main() -> ExitCode {
//!     Application::new("my-app")
//!         .service(Service::new("web", work).count(4).listen("http", "127.0.0.1:8080").supervised())
//!         .supervisor(|supervisor| supervisor.monitor(MemoryMonitor::new().maximum_size_limit(500 << 20)))
//!         .run()
//! }
//!
//! async fn work(instance: Instance) -> Result<(), BoxError> {
//!     let listener = instance.listener("http")?; // bound once, by the root
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
//! # What belongs where
//!
//! `main` runs again in every process, so what stands before [`Application::run`] should do little: read arguments,
//! set up a `tracing` subscriber. What a service needs, its own code sets up; what monitors need, the closure given to
//! [`Application::supervisor`], which runs in the supervisor's process.
//!
//! # The crates
//!
//! | module | crate | take it alone for |
//! | --- | --- | --- |
//! | [`container`] | `async-container` | running and keeping running any processes |
//! | [`protocol`] | `async-container-protocol` | any calls over a Unix socket |
//! | [`client`] | `async-container-supervisor-client` | asking a supervisor, and telling it what to do, as `acs` does |
//! | [`server`] | `async-container-supervisor-server` | a supervisor below a root of your own |
//! | [`worker`] | `async-container-supervisor-worker` | a worker below a root of your own |
//! | `diagnostics` | `async-container-diagnostics` | asking any process, this one or another, what it is doing |
//! | `utilization` | `async-container-utilization` | counting in shared memory |
//! | `metrics` | `async-container-metrics` | numbers for Prometheus and OpenTelemetry, from whatever has some |
//! | [`monitors`] | `async-container-monitors` | writing a monitor (no features needed), or watching processes |
//!
//! This crate adds only their composition. It contains no monitor, and knows no wire format.

#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod application;
#[cfg(feature = "diagnostics")]
mod black_box;
#[cfg(feature = "metrics")]
mod exposition;
#[cfg(feature = "diagnostics")]
mod external;
mod log;
#[cfg(feature = "otlp")]
mod pushing;
mod supervision;
mod tasks;

pub use async_container as container;
#[cfg(feature = "diagnostics")]
pub use async_container_diagnostics as diagnostics;
#[cfg(feature = "metrics")]
pub use async_container_metrics as metrics;
pub use async_container_monitors as monitors;
pub use async_container_protocol as protocol;
pub use async_container_supervisor_client as client;
pub use async_container_supervisor_server as server;
pub use async_container_supervisor_worker as worker;
#[cfg(feature = "utilization")]
pub use async_container_utilization as utilization;

pub use application::Application;
#[cfg(feature = "diagnostics")]
pub use black_box::BlackBox;
pub use container::{Address, Backoff, BoxError, Command, Instance, Probe, Readiness, Restart, Runtime, Service};
