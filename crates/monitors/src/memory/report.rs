//! What a memory monitor shows.

use serde::Serialize;

use crate::{
    sample::{HostMemory, Pressure},
    turns,
};

#[derive(Serialize)]
pub(super) struct MemoryStatus {
    pub maximum_size_limit: Option<u64>,
    pub threshold_size: u64,
    pub increase_limit: Option<u64>,
    pub total_size: u64,
    pub total_size_limit: Option<u64>,
    pub free_size_minimum: Option<u64>,
    pub pressure_limit: Option<f64>,
    pub pressure: Option<Pressure>,
    pub host: Option<HostMemory>,
    /// For how many seconds more nobody is restarted for the sake of all, because that does not help.
    pub left_alone: Option<f64>,
    #[serde(serialize_with = "turns::serialize")]
    pub processes: Vec<ProcessStatus>,
}

#[derive(Serialize)]
pub(super) struct ProcessStatus {
    pub process_id: u32,
    pub name: String,
    pub sample_count: u64,
    pub current_size: u64,
    pub current_resident_size: u64,
    pub current_shared_size: u64,
    pub current_private_size: u64,
    pub maximum_size: u64,
    pub maximum_size_limit: Option<u64>,
    pub threshold_size: u64,
    pub increase_count: u64,
    pub increase_limit: Option<u64>,
    pub restarting: bool,
    /// For how many seconds more it is left alone, because restarts do not help.
    pub left_alone: Option<f64>,
}

/// The event `leak`.
#[derive(Serialize)]
pub(super) struct Leak {
    pub process_id: u32,
    pub name: String,
    pub rule: &'static str,
    pub reason: String,
    pub current_size: u64,
    pub current_private_size: u64,
    pub maximum_size_limit: Option<u64>,
    /// How many seconds the worker is left alone because restarts do not help.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub left_alone: Option<f64>,
}

/// A size for people, in KiB where MiB would round it to nothing.
pub(super) fn mebibytes(bytes: u64) -> String {
    let kibibytes = bytes as f64 / 1024.0;
    if kibibytes < 1024.0 { format!("{kibibytes:.1} KiB") } else { format!("{:.1} MiB", kibibytes / 1024.0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_humane() {
        assert_eq!(mebibytes(100 << 20), "100.0 MiB");
        assert_eq!(mebibytes(109_261_619), "104.2 MiB");
        assert_eq!(mebibytes(4096), "4.0 KiB");
    }
}
