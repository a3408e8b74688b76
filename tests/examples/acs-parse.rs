//! The loop of `parsing`, with the allocator of diagnostics: `acs-parse PARSES`. What it records is for `ACS_MEMORY_SAMPLING` to say.

#![forbid(unsafe_code)]

mod parsing;

use async_container_supervisor::diagnostics::memory::Allocator;

#[global_allocator]
static ALLOCATOR: Allocator = Allocator::system();

fn main() {
    parsing::run(parsing::parses());
}
