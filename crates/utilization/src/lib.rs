//! Metrics of many processes in shared memory.
//!
//! A process counts in a [`Registry`], usually [the one of the process](registry): [`metric`] gives a [`Metric`] by its name,
//! and to count something with it is one atomic instruction, without a lock and without a system call. The values live in
//! memory that the process owns and that others can read: whoever may look into the process opens a [`View`] of it, and sees
//! all values at any time, also of a process that hangs, and still those of one that has just been killed.
//!
//! ```
//! use std::sync::LazyLock;
//! use async_container_utilization::{self as utilization, Metric, View};
//!
//! static REQUESTS_TOTAL: LazyLock<Metric> = LazyLock::new(|| utilization::metric("requests_total"));
//! static REQUESTS_ACTIVE: LazyLock<Metric> = LazyLock::new(|| utilization::metric("requests_active"));
//!
//! fn answer() {
//!     REQUESTS_TOTAL.increment();
//!     let _active = REQUESTS_ACTIVE.track(); // One less when this function is left, also by a panic.
//! }
//!
//! answer();
//! assert_eq!(REQUESTS_TOTAL.value().as_u64(), 1);
//!
//! // In another process.
//! let shared = utilization::registry().share()?;
//! let view = View::open(shared.process_id(), shared.descriptor())?;
//! let (requests, _) = view.fields().find(|(field, _)| field.name() == "requests_total").unwrap();
//! assert_eq!(requests.name(), "requests_total");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # Who owns the memory
//!
//! The one who writes it: an anonymous file (`memfd_create(2)`), sealed so that nobody, the owner included, can ever make it
//! smaller, and nobody but the owner can write to it. So neither side can be killed by the other's mistakes: a page that is
//! mapped never goes away (`SIGBUS`), and readers who come and go, such as a supervisor that is restarted, are nothing that
//! the writer has to know of. There is no file in the file system that could be cut, replaced, or left behind. The layout is
//! in `docs/utilization.md`, for readers in other languages.
//!
//! # Order
//!
//! Updates are relaxed: each value is exact by itself, but two of them need not be seen in the order in which they were
//! written. A reader that adds up may see a request that ended before it sees that it began.
//!
//! # What is left out
//!
//! Histograms, labels, and sending anything anywhere: a metric is one number. Who reads them decides what becomes of them.

#![deny(unsafe_code)]
#![deny(missing_docs)]

mod error;
mod layout;
mod metric;
mod number;
mod registry;
mod schema;
mod segment;
#[allow(unsafe_code)]
mod sys;
mod view;
mod word;

pub use error::{SchemaError, ShareError, UnknownType, ViewError};
pub use layout::{CAPACITY, NAME_LIMIT, VERSION};
pub use metric::{Metric, Track};
pub use number::{Number, Type};
pub use registry::{Namespace, Registry, Shared, metric, namespace, registry};
pub use schema::{Field, Schema};
pub use view::{Identity, View};
