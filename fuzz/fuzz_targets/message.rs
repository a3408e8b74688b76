#![cfg_attr(feature = "libfuzzer", no_main)]

#[allow(dead_code, reason = "the other targets are programs of their own")]
#[path = "../../crates/protocol/tests/fuzz/targets.rs"]
mod targets;

#[macro_use]
mod program;

program!(message);
