//! Monitors against real processes.

#![cfg(all(feature = "memory", feature = "process"))]

mod helper;
mod host;
mod memory;
mod process;
mod sample;
