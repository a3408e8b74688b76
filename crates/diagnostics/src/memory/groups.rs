//! What lives, by whose it is.

use std::collections::HashMap;

use serde::{Serialize, Serializer, ser::SerializeMap};

use super::{
    blame::Blame,
    figures::{Figures, Sum},
};

/// How many rows each list has at most: enough for a person, and little enough for one to see the rest.
const ROWS: usize = 100;

/// Sums by crate, file, line and type.
///
/// Its [`Serialize`] gives a list for each, with what has most first.
pub(super) struct Groups {
    by_crate: HashMap<String, Sum>,
    by_file: HashMap<String, Sum>,
    by_location: HashMap<String, Sum>,
    by_type: HashMap<String, Sum>,
    is_estimate: bool,
}

#[derive(Serialize)]
struct Row<'a> {
    name: &'a str,
    #[serde(flatten)]
    figures: Figures,
}

impl Groups {
    /// Without anything. Figures of estimates have an error.
    pub(super) fn new(is_estimate: bool) -> Self {
        let empty = HashMap::new;
        Self { by_crate: empty(), by_file: empty(), by_location: empty(), by_type: empty(), is_estimate }
    }

    pub(super) fn add(&mut self, blame: Blame, sum: &Sum) {
        let Blame { krate, file, location, kind } = blame;
        self.by_crate.entry(krate).or_default().add(sum);
        self.by_file.entry(file).or_default().add(sum);
        self.by_location.entry(location).or_default().add(sum);
        self.by_type.entry(kind).or_default().add(sum);
    }

    fn rows<'a>(&self, group: &'a HashMap<String, Sum>) -> Vec<Row<'a>> {
        let row = |(name, sum): (&'a String, &Sum)| Row { name, figures: sum.figures(self.is_estimate) };
        let mut rows: Vec<Row<'a>> = group.iter().map(row).collect();
        rows.sort_by(|a, b| b.figures.bytes.cmp(&a.figures.bytes).then_with(|| a.name.cmp(b.name)));
        rows.truncate(ROWS);
        rows
    }
}

impl Serialize for Groups {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(4))?;
        map.serialize_entry("by_crate", &self.rows(&self.by_crate))?;
        map.serialize_entry("by_file", &self.rows(&self.by_file))?;
        map.serialize_entry("by_location", &self.rows(&self.by_location))?;
        map.serialize_entry("by_type", &self.rows(&self.by_type))?;
        map.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_most_is_first() {
        let mut groups = Groups::new(false);
        let blame = |line: u32| Blame {
            krate: "a".to_owned(),
            file: "a.rs".to_owned(),
            location: format!("a.rs:{line}"),
            kind: "Vec<u8>".to_owned(),
        };

        for (line, size) in [(1, 10), (2, 100), (1, 10)] {
            groups.add(blame(line), &Sum::of(size, 1.0));
        }

        let json = serde_json::to_value(&groups).unwrap();
        assert_eq!(json["by_crate"], serde_json::json!([{"name": "a", "bytes": 120, "count": 3}]));
        let lines: Vec<&str> =
            json["by_location"].as_array().unwrap().iter().map(|row| row["name"].as_str().unwrap()).collect();
        assert_eq!(lines, ["a.rs:2", "a.rs:1"]);
    }
}
