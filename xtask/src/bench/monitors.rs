//! What monitors cost.

use super::{report::Report, utilization};
use crate::Result;

pub(super) fn measure() -> Result<Report> {
    let mut report = Report::new("monitors", "what monitors cost, and what it costs to be watched");
    utilization::rows(&mut report)?;
    Ok(report)
}
