//! The loop of `parsing`, with the allocator of the system: `acs-parse-bare PARSES`

#![forbid(unsafe_code)]

mod parsing;

fn main() {
    parsing::run(parsing::parses());
}
