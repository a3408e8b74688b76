//! For people.

use std::{
    fmt,
    io::{self, Write},
};

use super::{AllocatorReport, Figures, MemorySample, Row, Snapshot};
use crate::report::{bytes, count};

/// Rows of each list.
const ROWS: usize = 20;

pub(super) fn sample(sample: &MemorySample, output: &mut impl Write) -> io::Result<()> {
    write!(output, "memory, {:.1} s", sample.duration.as_secs_f64())?;

    match sample.rate {
        Some(rate) => writeln!(output, ", estimated from samples, one in {}", bytes(rate))?,
        None => writeln!(output, ", all allocations")?,
    }

    writeln!(output, "allocated {}", total(&sample.total_allocated))?;
    writeln!(output, "retained  {}", total(&sample.total_retained))?;

    for note in &sample.notes {
        writeln!(output, "note: {note}")?;
    }

    let lists = [
        ("crate", &sample.by_crate),
        ("file", &sample.by_file),
        ("location", &sample.by_location),
        ("type", &sample.by_type),
    ];

    for (name, rows) in lists.into_iter().filter(|(_, rows)| !rows.is_empty()) {
        list(name, rows, output)?;
    }

    Ok(())
}

fn total(figures: &Figures) -> String {
    format!("{} in {} blocks{}", bytes(figures.bytes), count(figures.count), error(figures))
}

fn error(figures: &Figures) -> String {
    figures.error.map_or_else(String::new, |error| format!(" ±{:.0}%", error * 100.0))
}

fn list(name: &str, rows: &[Row], output: &mut impl Write) -> io::Result<()> {
    writeln!(output, "\n{:>10} {:>6} {:>8}  {:>10} {:>8}  by {name}", "retained", "", "blocks", "allocated", "blocks")?;

    for row in rows.iter().take(ROWS) {
        writeln!(
            output,
            "{:>10} {:>6} {:>8}  {:>10} {:>8}  {}",
            bytes(row.retained.bytes),
            error(&row.retained).trim_start(),
            count(row.retained.count),
            bytes(row.allocated.bytes),
            count(row.allocated.count),
            row.name
        )?;
    }

    if rows.len() > ROWS {
        writeln!(output, "and {} more", rows.len() - ROWS)?;
    }

    Ok(())
}

pub(super) fn allocator(report: &AllocatorReport, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
    let seconds = report.duration.as_secs_f64();
    writeln!(formatter, "allocator, {seconds:.1} s")?;

    if let Some(counts) = &report.counts {
        let a_second = |number: u64| count((number as f64 / seconds.max(1e-9)) as u64);
        writeln!(
            formatter,
            "allocations {:>9}  {:>10}  {}/s",
            count(counts.allocations),
            bytes(counts.bytes_allocated),
            a_second(counts.allocations)
        )?;
        writeln!(
            formatter,
            "frees       {:>9}  {:>10}  {}/s",
            count(counts.frees),
            bytes(counts.bytes_freed),
            a_second(counts.frees)
        )?;
    }

    if let Some(growth) = report.growth {
        writeln!(formatter, "growth      {:>21}", signed(growth))?;
    }

    writeln!(formatter, "resident    {:>21}", signed(report.resident_change))?;
    writeln!(formatter, "faults      {:>9} minor, {} major", report.minor_faults, report.major_faults)?;
    writeln!(formatter, "\n{:>22} {:>12}", "before", "after")?;
    let mut row = |name: &str, of: &dyn Fn(&Snapshot) -> Option<String>| -> fmt::Result {
        match (of(&report.before), of(&report.after)) {
            (Some(before), Some(after)) => writeln!(formatter, "{name:<13}{before:>9} {after:>12}"),
            _ => Ok(()),
        }
    };
    let size = |value: u64| bytes(value).to_string();
    row("resident", &|snapshot| Some(size(snapshot.totals.process.resident)))?;
    row("private", &|snapshot| snapshot.totals.process.private.map(size))?;
    row("allocated", &|snapshot| snapshot.totals.allocator.map(|totals| size(totals.allocated)))?;
    row("mapped", &|snapshot| snapshot.totals.allocator.map(|totals| size(totals.mapped)))?;
    row("free", &|snapshot| snapshot.totals.allocator.map(|totals| size(totals.free)))?;
    row("fragmentation", &|snapshot| snapshot.fragmentation.map(|part| format!("{:.1}%", part * 100.0)))?;

    for note in &report.notes {
        writeln!(formatter, "note: {note}")?;
    }

    Ok(())
}

fn signed(value: i64) -> String {
    format!("{}{}", if value < 0 { '-' } else { '+' }, bytes(value.unsigned_abs()))
}
