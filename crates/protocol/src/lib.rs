//! The wire protocol of async-container-supervisor: what a supervisor, its workers and its tools say to each other over
//! one Unix socket.
//!
//! Both sides of a connection can make calls, and any number of them at once. A [`Client`] is a handle to make calls by;
//! it gives a [`Call`], which gives responses. Calls that come in go to a [`Handler`], nearly always a table of
//! [`Operations`], and are answered by a [`Responder`]. A [`Driver`] carries all that over a socket.
//!
//! ```
//! use async_container_protocol::{Driver, Operations, NoOperations, Request, Settings, Side, Socket};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let (here, there) = tokio::net::UnixStream::pair()?;
//!
//! let operations = Operations::new()
//!     .operation("greet", |request: Request| async move {
//!         let name = request.require::<String>("name")?;
//!         Ok([("greeting", format!("Hello, {name}!"))].into_iter().collect::<std::collections::BTreeMap<_, _>>())
//!     });
//!
//! let (_, driver) = Driver::new(Socket::from(there), Side::Accepted, operations, Settings::default());
//! driver.spawn();
//!
//! let (client, driver) = Driver::new(Socket::from(here), Side::Connected, NoOperations, Settings::default());
//! driver.spawn();
//!
//! let answer = client.call("greet", &[("name", "world")].into_iter().collect::<std::collections::BTreeMap<_, _>>()).await?;
//! assert_eq!(answer.get::<String>("greeting")?.as_deref(), Some("Hello, world!"));
//! # Ok(())
//! # }
//! ```
//!
//! The protocol itself is [`Connection`](connection::Connection), a state machine without a socket and without a clock:
//! whoever wants to carry it over something else, or to test against it, starts there. What supervisors and workers say
//! by it, that is, which operations there are, is not known here: see `async-container-supervisor-server` and
//! `async-container-supervisor-worker`.
//!
//! # The wire
//!
//! A message is a map with string keys. By default it is MessagePack behind its length, four bytes, big-endian:
//!
//! ```text
//! 00 00 00 0f                                   15 bytes
//! 82                                            a map of 2
//!    a2 69 64  02                               "id": 2
//!    a2 64 6f  a6 73 74 61 74 75 73             "do": "status"
//! ```
//!
//! If the first byte that a peer sends is `{`, the connection speaks one JSON object a line, both ways, with the same
//! messages; binary values are base64. No length within the frame limit begins with that byte.
//!
//! | message | fields |
//! | --- | --- |
//! | call | `id`, `do`, and the operation's own parameters |
//! | response | `id`, and any fields |
//! | final response | `id`, `finished: true`, and any fields |
//! | failure | `id`, `finished: true`, `failed: true`, `error: {class, message, …}`, and any fields |
//! | cancel | `id`, `cancel: true` |
//! | window | `id: 0`, `window`: how many responses to each call may be sent before more are asked for |
//! | more | `id: 0`, `call`, `more`: so many more may be sent to that call |
//!
//! The side that connected calls with even ids from 2, the side that accepted with odd ones from 3; any integer is taken.
//! An answer to a call that is over is dropped. A frame of length 0 or over the limit, something that is no map, text that
//! is not UTF-8, maps and arrays more than 128 deep, and a message without an `id` are answered with class `InvalidMessage`
//! if there is an id to answer to, and close the connection.
//!
//! # Bounds
//!
//! Whatever a peer does, a connection takes bounded memory: see [`Settings`]. Each side tells the other how many responses to
//! one call it is ready for, and asks for more as they are taken, so that a call whose responses nobody takes has its sender
//! wait, and no other. A peer that knows nothing of that is not read while 64 responses of one call wait to be taken; a
//! caller that takes none for 3 s has its call cancelled then, if another is waiting. And while 1 MiB of final answers waits to
//! be read by the peer, its calls wait as well; once 1 MiB of these does, nothing more is read.
//!
//! # Cost
//!
//! A connection is one task, one buffer for input, of 2 KiB, or 4 KiB where many messages come at a time, and one for
//! output. Messages are encoded into the output directly, and all that is ready when the task runs leaves in one write:
//! with 64 calls in flight, that is what decides. Handlers that do not wait run on that task; the others get one each. A call that is passed on, by
//! [`Responder::relay`], gets none: what comes for it on one connection goes straight into the output of the other. An idle
//! connection sets no timers, and over a [`Socket`] it is woken only when there is something to read.

#![forbid(unsafe_code)]
#![deny(missing_docs)]

mod calls;
mod client;
pub mod connection;
mod deadlines;
mod driver;
mod encode;
pub mod endpoint;
mod error;
mod failure;
mod fields;
mod flow;
mod frame;
mod handler;
mod hash;
mod held;
mod json;
mod message;
mod notice;
mod operations;
mod output;
mod places;
mod reader;
mod relay;
mod settings;
mod shared;
mod socket;

pub use calls::CallKey;
pub use client::{Call, Client};
pub use connection::Side;
pub use driver::Driver;
pub use error::{
    CallError, ConnectError, ConnectionError, DecodeError, EncodeError, FrameError, MessageError, PathTooLong,
    SendError, describe,
};
pub use failure::{Failure, class};
pub use fields::Fields;
pub use frame::Framing;
pub use handler::{Behind, BoxFuture, Handler, NoOperations, Outcome, Request, Responder, Sent};
pub use message::{Id, Message, is_reserved};
pub use operations::Operations;
pub use reader::MAXIMUM_DEPTH;
pub use rmpv::Value;
pub use settings::Settings;
pub use socket::{Socket, Transport};
