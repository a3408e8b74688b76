//! The machine that this runs on, as far as it matters to those who share it.

use std::fs;

/// What is left of the machine.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Host {
    /// Bytes of memory.
    pub(crate) total: Option<u64>,
    /// Bytes that could be used without swapping.
    pub(crate) available: Option<u64>,
    /// The share of the last ten seconds in which somebody waited for memory: 0.01 is one per cent.
    pub(crate) pressure: Option<f64>,
    /// How many tasks want a processor, on average over a minute.
    pub(crate) load: Option<f64>,
}

impl Host {
    pub(crate) fn read() -> Self {
        let text = |path| fs::read_to_string(path).unwrap_or_default();
        let memory = text("/proc/meminfo");

        Self {
            total: field(&memory, "MemTotal:"),
            available: field(&memory, "MemAvailable:"),
            pressure: pressure(&text("/proc/pressure/memory")),
            load: text("/proc/loadavg").split(' ').next().and_then(|load| load.parse().ok()),
        }
    }
}

fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kibibytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kibibytes * 1024)
}

fn pressure(text: &str) -> Option<f64> {
    let line = text.lines().find(|line| line.starts_with("some "))?;
    let percent: f64 = line.split(' ').find_map(|word| word.strip_prefix("avg10="))?.parse().ok()?;
    Some(percent / 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_the_kernel_are_understood() {
        let memory = "MemTotal:       24117248 kB\nMemFree:            5 kB\nMemAvailable:   20480 kB\n";
        assert_eq!(field(memory, "MemTotal:"), Some(24_117_248 * 1024));
        assert_eq!(field(memory, "MemAvailable:"), Some(20_971_520));
        let text = "some avg10=1.50 avg60=0.00 avg300=0.00 total=1\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n";
        assert_eq!(pressure(text), Some(0.015));
        assert_eq!((pressure(""), field("", "MemTotal:")), (None, None));
        assert!(Host::read().total.is_some_and(|total| total > 1 << 20));
    }
}
