//! What was measured, beside its floor and its target.

use std::{
    fmt::{self, Write as _},
    fs, thread,
    time::Duration,
};

use serde_json::{Value, json};

/// The result of one benchmark.
#[derive(Debug)]
pub(super) struct Report {
    name: &'static str,
    /// What was done, in a sentence.
    what: String,
    rows: Vec<(Row, Vec<Compared>)>,
}

/// The same figure of somebody else.
#[derive(Debug)]
struct Compared {
    name: &'static str,
    amount: f64,
}

/// One figure.
#[derive(Debug)]
pub(super) struct Row {
    pub(super) what: String,
    pub(super) unit: Unit,
    pub(super) floor: Option<f64>,
    pub(super) ours: f64,
    pub(super) target: Option<Target>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Unit {
    Microseconds,
    Milliseconds,
    /// 1,000,000 bytes.
    Megabytes,
    Thousands,
    Times,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Target {
    /// Ours over the floor is at most this.
    Ratio(f64),
    /// Ours over the floor is at least this.
    AtLeastRatio(f64),
    /// Ours is less than this.
    Below(f64),
    /// Ours is at most this.
    AtMost(f64),
}

impl Report {
    pub(super) fn new(name: &'static str, what: impl Into<String>) -> Report {
        Report { name, what: what.into(), rows: Vec::new() }
    }

    pub(super) fn row(&mut self, row: Row) {
        self.rows.push((row, Vec::new()));
    }

    /// Puts the figure of a peer beside that of the row that was added last.
    pub(super) fn beside(&mut self, name: &'static str, amount: f64) {
        if let Some((_, peers)) = self.rows.last_mut() {
            peers.push(Compared { name, amount });
        }
    }

    /// The peers of any row, in the order in which they were added first.
    fn peers(&self) -> Vec<&'static str> {
        let mut names = Vec::new();
        for peer in self.rows.iter().flat_map(|(_, peers)| peers) {
            if !names.contains(&peer.name) {
                names.push(peer.name);
            }
        }
        names
    }

    /// Whether all targets are met.
    pub(super) fn is_met(&self) -> bool {
        self.rows.iter().all(|(row, _)| row.is_met() != Some(false))
    }

    pub(super) fn to_json(&self) -> Value {
        json!({
            "benchmark": self.name,
            "what": self.what,
            "machine": machine(),
            "met": self.is_met(),
            "rows": self.rows.iter().map(|(row, peers)| row.to_json(peers)).collect::<Vec<Value>>(),
        })
    }
}

impl Row {
    /// A figure without a floor or a target.
    pub(super) fn plain(what: impl Into<String>, unit: Unit, ours: f64) -> Row {
        Row { what: what.into(), unit, floor: None, ours, target: None }
    }

    fn ratio(&self) -> Option<f64> {
        self.floor.filter(|floor| *floor > 0.0).map(|floor| self.ours / floor)
    }

    fn is_met(&self) -> Option<bool> {
        Some(match self.target? {
            Target::Ratio(limit) => self.ratio()? <= limit,
            Target::AtLeastRatio(limit) => self.ratio()? >= limit,
            Target::Below(limit) => self.ours < limit,
            Target::AtMost(limit) => self.ours <= limit,
        })
    }

    fn to_json(&self, peers: &[Compared]) -> Value {
        let mut value = json!({
            "what": self.what,
            "unit": self.unit.name(),
            "floor": self.floor,
            "ours": self.ours,
            "ratio": self.ratio(),
            "target": self.target.map(|target| match target {
                Target::Ratio(limit) => json!({"ratio_at_most": limit}),
                Target::AtLeastRatio(limit) => json!({"ratio_at_least": limit}),
                Target::Below(limit) => json!({"below": limit}),
                Target::AtMost(limit) => json!({"at_most": limit}),
            }),
            "met": self.is_met(),
        });
        if !peers.is_empty() {
            let figure = |peer: &Compared| json!({"amount": peer.amount, "times_ours": self.times_ours(peer)});
            value["peers"] = peers.iter().map(|peer| (peer.name.to_owned(), figure(peer))).collect();
        }
        value
    }

    fn times_ours(&self, peer: &Compared) -> Option<f64> {
        (self.ours > 0.0).then(|| peer.amount / self.ours)
    }

    /// What the table has of a peer, after the figure its ratio to ours.
    fn peer_cell(&self, peer: &Compared) -> String {
        let amount = self.unit.amount(peer.amount);
        match self.times_ours(peer) {
            Some(ratio) => format!("{amount} ({ratio:.1})"),
            None => amount,
        }
    }

    fn cells(&self) -> [String; 6] {
        let target = self.target.map(|target| match target {
            Target::Ratio(limit) => format!("ratio at most {limit}"),
            Target::AtLeastRatio(limit) => format!("ratio at least {limit}"),
            Target::Below(limit) => format!("less than {}", self.unit.amount(limit)),
            Target::AtMost(limit) => format!("at most {}", self.unit.amount(limit)),
        });
        let met = match self.is_met() {
            None => "",
            Some(true) => "met",
            Some(false) => "MISSED",
        };
        [
            self.what.clone(),
            self.floor.map(|floor| self.unit.amount(floor)).unwrap_or_default(),
            self.unit.amount(self.ours),
            self.ratio().map(|ratio| format!("{ratio:.2}")).unwrap_or_default(),
            target.unwrap_or_default(),
            met.to_owned(),
        ]
    }
}

impl Unit {
    fn name(self) -> &'static str {
        match self {
            Unit::Microseconds => "µs",
            Unit::Milliseconds => "ms",
            Unit::Megabytes => "MB",
            Unit::Thousands => "k",
            Unit::Times => "times",
        }
    }

    fn amount(self, number: f64) -> String {
        match self {
            Unit::Times => format!("{number:.0}"),
            _ => format!("{number:.1} {}", self.name()),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(formatter, "{}: {}\n({})\n", self.name, self.what, machine())?;
        let peers = self.peers();
        let mut head = ["", "floor", "ours", "ratio", "target", ""].map(str::to_owned).to_vec();
        head.extend(peers.iter().map(|name| format!("{name} (/ ours)")));
        let mut table = vec![head];
        for (row, compared) in &self.rows {
            let mut cells = row.cells().to_vec();
            cells.extend(peers.iter().map(|name| {
                let peer = compared.iter().find(|peer| peer.name == *name);
                peer.map(|peer| row.peer_cell(peer)).unwrap_or_default()
            }));
            table.push(cells);
        }
        let width = |column: usize| table.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..table[0].len()).map(width).collect();
        for row in &table {
            let mut line = String::new();
            for (column, (cell, &width)) in row.iter().zip(&widths).enumerate() {
                match column {
                    0 => write!(line, "{cell:width$}")?,
                    1..=3 => write!(line, "  {cell:>width$}")?,
                    4 | 5 => write!(line, "  {cell:width$}")?,
                    _ => write!(line, "  {cell:>width$}")?,
                }
            }
            writeln!(formatter, "{}", line.trim_end())?;
        }
        let missed = self.rows.iter().filter(|(row, _)| row.is_met() == Some(false)).count();
        match missed {
            0 => writeln!(formatter, "\nAll targets are met."),
            1 => writeln!(formatter, "\n1 target is MISSED."),
            _ => writeln!(formatter, "\n{missed} targets are MISSED."),
        }
    }
}

/// What the figures depend on first.
fn machine() -> String {
    let processors = thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let noun = if processors == 1 { "processor" } else { "processors" };
    format!("{processors} {noun}, Linux {}", kernel.trim())
}

/// The value below which that part of the sorted values lies, by the nearest rank.
pub(super) fn percentile(sorted: &[Duration], part: f64) -> Duration {
    let rank = (part * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default()
}

/// A unit, and how much of it a time is.
pub(super) type Scale = (Unit, fn(Duration) -> f64);

pub(super) const MICROSECONDS: Scale = (Unit::Microseconds, microseconds);
pub(super) const MILLISECONDS: Scale = (Unit::Milliseconds, milliseconds);

pub(super) fn microseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

pub(super) fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

pub(super) fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(floor: Option<f64>, ours: f64, target: Target) -> Row {
        Row { what: "it".to_owned(), unit: Unit::Microseconds, floor, ours, target: Some(target) }
    }

    #[test]
    fn targets_are_limits() {
        assert_eq!(row(Some(2.0), 3.0, Target::Ratio(1.5)).is_met(), Some(true));
        assert_eq!(row(Some(2.0), 3.1, Target::Ratio(1.5)).is_met(), Some(false));
        assert_eq!(row(Some(2.0), 3.0, Target::AtLeastRatio(1.5)).is_met(), Some(true));
        assert_eq!(row(Some(2.0), 2.9, Target::AtLeastRatio(1.5)).is_met(), Some(false));
        assert_eq!(row(None, 4.0, Target::Below(4.0)).is_met(), Some(false));
        assert_eq!(row(None, 4.0, Target::AtMost(4.0)).is_met(), Some(true));
        assert_eq!(Row::plain("it", Unit::Times, 4.0).is_met(), None);
    }

    #[test]
    fn a_missed_target_is_said_clearly() {
        let mut report = Report::new("restart", "Something was done.");
        report.row(row(Some(2.0), 3.0, Target::Ratio(1.5)));
        assert!(report.is_met() && report.to_string().ends_with("All targets are met.\n"));
        report.row(row(Some(2.0), 4.0, Target::Ratio(1.5)));
        let text = report.to_string();
        assert!(!report.is_met() && text.contains("MISSED\n") && text.ends_with("1 target is MISSED.\n"), "{text}");
        assert_eq!(report.to_json()["rows"][1]["ratio"], 2.0);
        assert_eq!(report.to_json()["met"], false);
    }

    #[test]
    fn peers_stand_beside_the_row_that_they_are_compared_with() {
        let mut report = Report::new("restart", "Something was done.");
        report.row(row(Some(2.0), 3.0, Target::Ratio(1.5)));
        report.beside("s6", 30.0);
        report.row(row(Some(2.0), 0.0, Target::AtMost(0.0)));
        report.beside("runit", 4.0);
        let text = report.to_string();
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[3].ends_with("s6 (/ ours)  runit (/ ours)"), "{text}");
        assert!(lines[4].ends_with("30.0 µs (10.0)"), "{text}");
        assert!(lines[5].ends_with("4.0 µs"), "there is no ratio to nothing: {text}");
        assert_eq!(report.to_json()["rows"][0]["peers"]["s6"], json!({"amount": 30.0, "times_ours": 10.0}));
        assert_eq!(report.to_json()["rows"][1]["peers"]["runit"]["times_ours"], Value::Null);
        assert!(report.is_met(), "nothing is asked of peers");
    }

    #[test]
    fn percentiles_are_values_that_occurred() {
        let times: Vec<Duration> = (1..=30).map(Duration::from_millis).collect();
        assert_eq!(percentile(&times, 0.5), Duration::from_millis(15));
        assert_eq!(percentile(&times, 0.9), Duration::from_millis(27));
        assert_eq!(percentile(&times, 1.0), Duration::from_millis(30));
        assert_eq!(percentile(&[], 0.5), Duration::ZERO);
    }
}
