//! What it costs to be able to look into a process, and to do so.

use super::{report::Report, tasks};
use crate::Result;

pub(super) fn measure() -> Result<Report> {
    let mut report =
        Report::new("diagnostics", "what it costs to be able to look into a process, and what it costs to do so");
    tasks::rows(&mut report)?;
    Ok(report)
}
