//! What a live process can say about itself, on demand, in production: where its memory is, what its threads and tasks
//! wait for, and where its time goes.
//!
//! The crate knows nothing of supervisors and of calls: any program can use it by itself. A supervised worker offers what
//! is here as operations.
//!
//! Everything works on stable Rust without special flags; what a better build would add is said in the reports, and what
//! cannot work is an error that says why.

#[cfg(feature = "stacks")]
pub mod cpu;
#[cfg(feature = "stacks")]
pub mod external;
pub mod incident;
#[cfg(feature = "memory")]
pub mod memory;
pub mod output;
#[cfg(feature = "stacks")]
pub mod report;
#[cfg(feature = "stacks")]
pub mod symbols;
#[cfg(any(feature = "stacks", feature = "tasks"))]
mod sys;
#[cfg(feature = "tasks")]
pub mod tasks;
#[cfg(feature = "stacks")]
pub mod threads;
#[cfg(feature = "stacks")]
pub mod unwind;

/// The tests of what runs in the middle of an allocation have to be in the middle of one.
#[cfg(all(test, feature = "memory"))]
#[global_allocator]
static ALLOCATOR: memory::Allocator = memory::Allocator::system();
