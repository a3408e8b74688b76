//! The worker side of supervision: a [`Worker`] connects the process that it lives in to its supervisor, says who it is,
//! answers what is asked of it, and comes back whenever the connection is lost.
//!
//! A process works just as well without a supervisor: whatever happens to that, [`Worker::run`] neither ends nor gets in the
//! way.
//!
//! ```
//! use async_container_protocol::{Client, Request};
//! use async_container_supervisor_server::Server;
//! use async_container_supervisor_worker::Worker;
//! use serde_json::json;
//! use tokio::{net::UnixListener, sync::oneshot};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let directory = tempfile::tempdir()?;
//! # let path = directory.path().join("supervisor.ipc");
//! let (stop, stopped) = oneshot::channel::<()>();
//!
//! let worker = Worker::new(&path)
//!     .name("web")
//!     .state(&json!({"port": 8080}))?
//!     .operation("double", |request: Request| async move {
//!         Ok(json!({"result": request.require::<i64>("number")? * 2}))
//!     });
//! let mut registration = worker.registration();
//! tokio::spawn(worker.run(stopped));
//!
//! // The supervisor, in another process.
//! tokio::spawn(Server::new().serve(UnixListener::bind(&path)?, std::future::pending::<()>()));
//! let connection_id = registration.wait_for(Option::is_some).await?.as_ref().map(|one| one.connection_id.clone());
//!
//! // Somebody who wants something of the worker.
//! let client = Client::connect(&path).await?;
//! let answer = client
//!     .call("forward", &json!({"connection_id": connection_id, "operation": {"do": "double", "number": 21}}))
//!     .await?;
//! assert_eq!(answer.get("result")?, Some(42));
//!
//! drop(stop);
//! # Ok(())
//! # }
//! ```
//!
//! # Coming back
//!
//! When the connection is lost, the first attempt is made at once, the next ones after pauses that are random and grow to a
//! second at most. The loss is logged once, however long it lasts. The supervisor gives another connection id each time;
//! `instance_id` in the state stays, so that a tool can tell that it is the same worker.
//!
//! # Features
//!
//! Without any, a worker answers `ping`. With `diagnostics`, [`Worker`] can offer what the crate
//! `async-container-diagnostics` knows to find out. With `utilization`, it says where the metrics of its process are, which
//! are those of the crate `async-container-utilization`, so that a supervisor can read them.

#![forbid(unsafe_code)]
#![deny(missing_docs)]

#[cfg(feature = "diagnostics")]
mod diagnostics;
mod reconnect;
#[cfg(feature = "utilization")]
mod utilization;
mod worker;

pub use worker::{Registration, Worker};
