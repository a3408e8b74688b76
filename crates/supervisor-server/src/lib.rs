//! The supervisor of an application: workers connect to it and register; people and tools connect to it and ask.
//!
//! A [`Server`] is put together from [`Monitor`](async_container_monitors::Monitor)s, which watch the workers, from
//! operations of the application's own, and from a [`Root`], which is how it reaches the process that owns all
//! children. Then it serves a socket.
//!
//! ```
//! use async_container_protocol::{Client, Request};
//! use async_container_supervisor_server::Server;
//! use tokio::{net::UnixListener, sync::oneshot};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let directory = tempfile::tempdir()?;
//! # let path = directory.path().join("supervisor.ipc");
//! let listener = UnixListener::bind(&path)?;
//! let (stop, stopped) = oneshot::channel::<()>();
//!
//! let server = Server::new();
//! let workers = server.workers();
//! let server = server.operation("names", move |_: Request| {
//!     let workers = workers.clone();
//!     async move {
//!         let names = workers.all().iter().filter_map(|worker| worker.state().get("name").ok()?).collect();
//!         Ok(std::collections::BTreeMap::<_, Vec<String>>::from([("names", names)]))
//!     }
//! });
//! let serving = tokio::spawn(server.serve(listener, stopped));
//!
//! let client = Client::connect(&path).await?;
//! let status = client.call("status", &()).await?;
//! assert_eq!(status.to_json()["connections"].as_array().map(Vec::len), Some(0));
//! assert_eq!(client.call("names", &()).await?.get::<Vec<String>>("names")?, Some(vec![]));
//!
//! drop(stop);
//! serving.await??;
//! # Ok(())
//! # }
//! ```
//!
//! # Operations
//!
//! | `do` | parameters | answer |
//! | --- | --- | --- |
//! | `register` | `state`: a map; `process_id` and `name` are expected in it, anything else is kept | `connection_id`. Again on the same connection: what it says then replaces what it said before, field by field, and the id stays |
//! | `status` | | a response for each monitor, `{<name>: …}`; at the end `connections: [{connection_id, process_id, state}]` |
//! | `forward` | `connection_id`, `operation`: a map with its own `do` | the responses of the worker |
//! | `restart` | `signal`: `INT` (default), `HUP`, `TERM`, `USR1`, `USR2` | nothing; then the signal goes to the root controller |
//! | `subscribe` | `events`: names (all) | a response for each event: `event`, `at`, and what there is to say of it |
//! | `ping` | | `version`, `process_id`, `uptime` in seconds |
//! | `children` | | the [`RootState`] |
//! | `ready` | `wait` (false), `reloads` | `ready`, `generation`, `reloads`, `reload_error`, `waiting`: the children that are not ready. With `wait`, it comes once all are and no reload is under way; with `reloads` besides, once more than that many have ended |
//!
//! `children` and `ready` fail with class `NotSupported` where the root does not tell its state.
//!
//! # Events
//!
//! `register`, `remove`, `restart`, `incident` and `stopping` come from the supervisor; `leak`, `metrics`, `health`, `diagnosis` and others from
//! monitors, by [`Action::Event`](async_container_monitors::Action::Event). 1024 wait for a subscriber that does not keep
//! up; where more would, an event `lost` has their `count`. Nobody but the subscriber pays for it.
//!
//! # Whom it trusts
//!
//! Nobody but the kernel. The user of a peer comes from the socket, and so does its process: a `process_id` that a worker
//! claims is compared with that, and signals go through a handle that was taken when it connected, so that they never
//! reach a stranger who got the number since. A worker in another pid namespace cannot know the number by which it is
//! known here: its claim is left standing in its state, and `process_id` beside it is the one that is true here, or nothing
//! if it cannot be seen from here; monitors are not told of such a one.
//!
//! The user that it runs as and root may do everything. Others are let in by
//! [`allow_user`](Server::allow_user) and [`allow_group`](Server::allow_group) with a [`Role`]. What takes the role to operate
//! or to diagnose is told to the log as it ends, with target `async_container_supervisor_server::audit`: who, what, and what came of
//! it: `process_id`, `user_id` and `group_id` of the caller as the kernel has them, `operation`, `role`, `result`, which is
//! `finished`, `cancelled` or the class of a failure, and `worker.id`, `worker.process_id` and `worker.name` of the worker whose
//! operation it was. Calls that were permitted are told at level info, others at level warn and at once.
//!
//! # What it counts
//!
//! The calls of each operation, how they ended, and how long they took: see [`Server::statistics`].
//!
//! # What a monitor can do to it
//!
//! Nothing. Each has a thread of its own for its checks. One that does not answer within a second is shown in `status` as
//! `{error: {class, message}}`. Its status is given for a tenth of a second, and for three
//! while it is asked again, so that asking often is cheap.
//!
//! One that panics is not called any more: what it left half done is not to decide about workers. It is shown as an error,
//! begins anew after a pause, of 100 ms at first and twice as long each time up to a minute, and is told of all workers.
//!
//! What it wants done is paced: a process is replaced once, however often that is wanted; at most
//! [8 at once](Server::restarts_at_once); and a diagnostic that is to be made before has a deadline, and is given up when a
//! restart of that process becomes urgent.

#![deny(unsafe_code)]
#![deny(missing_docs)]

mod access;
mod asking;
mod audit;
mod complaints;
mod diagnosis;
mod error;
mod events;
mod examine;
mod forward;
mod metrics;
mod monitor;
mod operation;
mod process;
mod registry;
mod replacement;
mod restart;
mod root;
mod schedule;
mod server;
mod session;
mod statistics;
#[allow(unsafe_code)]
mod sys;
mod under_way;
mod workers;

pub use access::Role;
pub use error::ServeError;
pub use examine::{Case, Examination, Examiner};
pub use metrics::Metrics;
pub use root::{ChildState, ParentProcess, Replacement, Root, RootError, RootState, Signal, UnknownSignal};
pub use server::Server;
pub use statistics::{Latency, OperationStatistics, Statistics};
pub use workers::{Worker, Workers};
