#![no_main]

#[allow(dead_code, reason = "the other targets are programs of their own")]
#[path = "../../crates/protocol/tests/fuzz/targets.rs"]
mod targets;

libfuzzer_sys::fuzz_target!(|data: &[u8]| targets::frame(data));
