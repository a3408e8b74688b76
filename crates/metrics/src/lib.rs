//! The numbers of a supervisor for [Prometheus](https://prometheus.io), and for whatever else reads its format: text over
//! HTTP, on a socket that somebody else has bound.
//!
//! [`serve`] answers `GET /metrics` by asking for [`Family`]s, which is what monitors and the supervisor give, and writing
//! them out ([`render`]) as [OpenMetrics](https://prometheus.io/docs/specs/om/open_metrics_spec/) to those who accept that,
//! else in the older text format of Prometheus.
//!
//! ```no_run
//! use async_container_metrics::{Family, serve};
//!
//! # async fn example() -> std::io::Result<()> {
//! let listener = tokio::net::UnixListener::bind("metrics.ipc")?;
//! serve(listener, || async { vec![Family::gauge("temperature", "Of the room.").unit("celsius").with(21.5)] }).await
//! # }
//! ```
//!
//! # What is left out
//!
//! Encryption and authentication: whoever can connect can read. On a Unix socket the mode of the file decides that, on a TCP
//! address everybody can who reaches it, so choose one that only those reach who should.
//!
//! # Features
//!
//! `otlp`, which is not a default: `Otlp`, which pushes the same numbers by OTLP over HTTP.

#![forbid(unsafe_code)]
#![deny(missing_docs)]

#[cfg(feature = "otlp")]
mod otlp;
mod render;
mod serve;

pub use async_container_monitors::{Family, Kind, Sample, Value};
#[cfg(feature = "otlp")]
pub use otlp::{Exporter, Otlp, OtlpError};
pub use render::{Format, PREFIX, render};
pub use serve::{Listener, serve};
