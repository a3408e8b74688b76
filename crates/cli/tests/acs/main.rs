//! The real `acs` against a supervisor that says what a test wants it to, over a real socket.

mod application;
mod calls;
mod diagnosed;
mod diagnostics;
mod failures;
mod manual;
mod ready;
mod replacement;
mod status;
mod watch;
