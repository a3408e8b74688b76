//! The examples are in the folder above, one file each.
//!
//! The Rust code of the guides is compiled by the documentation tests of this crate, which has at hand what readers have.

macro_rules! guides {
    ($($name:ident: $page:literal,)*) => {
        $(
            #[cfg(doctest)]
            #[doc = include_str!($page)]
            mod $name {}
        )*
    };
}

guides! {
    readme: "../../README.md",
    getting_started: "../../docs/getting-started.md",
    containers: "../../docs/containers.md",
    memory_monitor: "../../docs/memory-monitor.md",
    process_monitor: "../../docs/process-monitor.md",
    health_monitor: "../../docs/health-monitor.md",
    utilization: "../../docs/utilization.md",
    diagnostics: "../../docs/diagnostics.md",
    writing_a_monitor: "../../docs/writing-a-monitor.md",
    custom_operations: "../../docs/custom-operations.md",
    metrics: "../../docs/metrics.md",
}
