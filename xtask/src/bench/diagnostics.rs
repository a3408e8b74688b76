//! What it costs to be able to look into a process, and to do so.

use super::{allocator, report::Report, tasks, threads};
use crate::Result;

pub(super) fn measure() -> Result<Report> {
    let mut report =
        Report::new("diagnostics", "what it costs to be able to look into a process, and what it costs to do so");
    allocator::rows(&mut report)?;
    threads::rows(&mut report)?;
    tasks::rows(&mut report)?;
    Ok(report)
}
