//! For people.

use std::{collections::HashMap, fmt, fmt::Display, io, io::Write, sync::Arc};

use super::Header;
use crate::symbols::Place;

/// How many functions are listed.
const FUNCTIONS: usize = 30;

/// How many stacks are shown.
const STACKS: usize = 10;

/// How many frames of each.
const FRAMES: usize = 40;

/// A number of bytes, as people write it: `1.5 MB`, in powers of ten.
pub fn bytes(bytes: u64) -> impl Display {
    Humane { value: bytes, units: &["B", "kB", "MB", "GB", "TB", "PB", "EB"], space: " " }
}

/// A large number, as people write it: `1.5 M`.
pub fn count(count: u64) -> impl Display {
    Humane { value: count, units: &["", "k", "M", "G", "T", "P", "E"], space: "" }
}

struct Humane {
    value: u64,
    units: &'static [&'static str],
    space: &'static str,
}

impl Display for Humane {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut value = self.value as f64;
        let mut unit = 0;

        while value >= 999.5 && unit + 1 < self.units.len() {
            value /= 1000.0;
            unit += 1;
        }

        let decimals = usize::from(unit > 0 && value < 99.95);
        formatter.pad(&format!("{value:.decimals$}{}{}", self.space, self.units[unit]))
    }
}

/// What is kept of all stacks.
#[derive(Default)]
pub(super) struct Summary {
    total: u64,
    stacks: usize,
    /// By function: what it has itself, and with what it calls.
    functions: HashMap<Arc<str>, (u64, u64)>,
    /// The largest ones, the largest first.
    largest: Vec<(u64, Vec<Arc<Place>>)>,
}

impl Summary {
    pub(super) fn add(&mut self, places: &[Arc<Place>], value: u64) {
        if value == 0 {
            return;
        }

        self.total = self.total.saturating_add(value);
        self.stacks += 1;
        let mut seen: Vec<&Arc<str>> = Vec::new();

        for (index, frame) in places.iter().flat_map(|place| &place.frames).enumerate() {
            // One that calls itself has its number once.
            if seen.contains(&&frame.function) {
                continue;
            }

            let sums = self.functions.entry(frame.function.clone()).or_default();
            sums.1 = sums.1.saturating_add(value);

            if index == 0 {
                sums.0 = sums.0.saturating_add(value);
            }

            seen.push(&frame.function);
        }

        let position = self.largest.partition_point(|(other, _)| *other >= value);

        if position < STACKS {
            self.largest.insert(position, (value, places.to_vec()));
            self.largest.truncate(STACKS);
        }
    }

    pub(super) fn write(self, header: &Header, output: &mut impl Write) -> io::Result<()> {
        let unit = header.measures.get(header.main).map_or("", |measure| measure.unit);
        let show = |value: u64| match unit {
            "bytes" => bytes(value).to_string(),
            "nanoseconds" => format!("{:.2} s", value as f64 / 1e9),
            _ => value.to_string(),
        };
        let percent = |value: u64| 100.0 * value as f64 / self.total.max(1) as f64;
        let measure = header.measures.get(header.main).map_or("", |measure| measure.name);
        let duration = header.duration.as_secs_f64();

        writeln!(output, "{}", header.title)?;
        write!(output, "{measure} {} in {} stacks", show(self.total), self.stacks)?;

        if duration > 0.0 {
            write!(output, ", {duration:.1} s")?;
        }

        writeln!(output)?;

        for (name, value) in &header.totals {
            writeln!(output, "{} {}", name.replace('_', " "), bytes(*value))?;
        }

        for note in &header.notes {
            writeln!(output, "note: {note}")?;
        }

        let mut functions: Vec<_> = self.functions.iter().collect();
        functions.sort_by(|(name, a), (other, b)| b.cmp(a).then_with(|| name.cmp(other)));
        writeln!(output, "\n{:>10} {:>6}  {:>10} {:>6}  function", "self", "", "total", "")?;

        for (function, (own, all)) in functions.iter().take(FUNCTIONS) {
            writeln!(
                output,
                "{:>10} {:>5.1}%  {:>10} {:>5.1}%  {function}",
                show(*own),
                percent(*own),
                show(*all),
                percent(*all)
            )?;
        }

        if functions.len() > FUNCTIONS {
            writeln!(output, "and {} more functions", functions.len() - FUNCTIONS)?;
        }

        for (value, places) in &self.largest {
            writeln!(output, "\n{} {:.1}%", show(*value), percent(*value))?;
            let frames = places.iter().flat_map(|place| &place.frames);

            for frame in frames.clone().take(FRAMES) {
                writeln!(output, "    {frame}")?;
            }

            if let Some(rest) = frames.count().checked_sub(FRAMES).filter(|rest| *rest > 0) {
                writeln!(output, "    and {rest} more")?;
            }
        }

        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{super::tests::profile, *};

    #[test]
    fn numbers_are_humane() {
        let all = [0, 999, 1000, 99_949, 99_960, 999_499, 999_500, 1_500_000, u64::MAX];
        let texts: Vec<String> = all.iter().map(|&value| bytes(value).to_string()).collect();
        assert_eq!(texts, ["0 B", "999 B", "1.0 kB", "99.9 kB", "100 kB", "999 kB", "1.0 MB", "1.5 MB", "18.4 EB"]);
        assert_eq!(count(1_500_000).to_string(), "1.5M");
    }

    #[test]
    fn what_is_largest_comes_first() {
        let text = profile().to_string();
        let main = text.find("main").unwrap();
        let inner = text.find("inner").unwrap();
        assert!(text.contains("space 2.5 kB in 2 stacks"), "{text}");
        assert!(inner < main, "what has most itself is first: {text}");
        assert!(text.contains("100.0%  main"), "{text}");
        assert!(text.contains("    inner at a.rs:2\n    outer at a.rs:3\n    main at main.rs:1"), "{text}");
    }
}
