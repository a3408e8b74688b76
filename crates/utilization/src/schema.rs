//! Which metrics there are.

use crate::{
    error::SchemaError,
    layout::{self, NAME_LIMIT},
    number::Type,
};

/// A metric's name and type, and where its value is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Field {
    pub(crate) name: String,
    pub(crate) kind: Type,
    /// Which record of the segment it is.
    pub(crate) index: usize,
}

impl Field {
    /// The metric's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its type.
    pub fn kind(&self) -> Type {
        self.kind
    }

    /// Where its value is, in bytes from the beginning of the segment.
    pub fn offset(&self) -> usize {
        layout::value_offset(self.index)
    }
}

/// The metrics of a process, in their order.
///
/// ```
/// use async_container_utilization::{Registry, Schema, Type};
///
/// let schema = Schema::default().with("queue_depth", Type::I64)?.with("load", Type::F64)?;
/// let registry = Registry::with_schema(&schema);
/// let names: Vec<String> = registry.schema().fields().map(|field| field.name().to_owned()).collect();
/// assert_eq!(names[3..], ["requests_total", "queue_depth", "load"]);
/// # Ok::<(), async_container_utilization::SchemaError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schema {
    fields: Vec<Field>,
}

/// The metrics of every server, and their types.
const DEFAULT: [(&str, Type); 4] = [
    ("connections_active", Type::U32),
    ("connections_total", Type::U64),
    ("requests_active", Type::U32),
    ("requests_total", Type::U64),
];

/// `connections_active` (u32), `connections_total` (u64), `requests_active` (u32) and `requests_total` (u64).
impl Default for Schema {
    fn default() -> Self {
        let field = |(index, (name, kind)): (usize, (&str, Type))| Field { name: name.to_owned(), kind, index };
        Self { fields: DEFAULT.into_iter().enumerate().map(field).collect() }
    }
}

impl Schema {
    /// No metrics.
    pub fn empty() -> Self {
        Self { fields: Vec::new() }
    }

    /// Those of this schema, and one more.
    pub fn with(mut self, name: impl Into<String>, kind: Type) -> Result<Self, SchemaError> {
        let name = name.into();

        if !is_name(name.as_bytes()) {
            return Err(SchemaError::Name(name));
        }

        if self.fields.iter().any(|field| field.name == name) {
            return Err(SchemaError::Duplicate(name));
        }

        let index = self.fields.len();
        self.fields.push(Field { name, kind, index });
        Ok(self)
    }

    /// Its metrics, in their order.
    pub fn fields(&self) -> impl ExactSizeIterator<Item = &Field> {
        self.fields.iter()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    pub(crate) fn of(fields: Vec<Field>) -> Self {
        Self { fields }
    }
}

/// The type of a metric of which nobody said one.
pub(crate) fn usual_type(name: &str) -> Type {
    DEFAULT.iter().find(|(usual, _)| *usual == name).map_or(Type::default(), |(_, kind)| *kind)
}

/// What all formats take that metrics may be written in, and what a hostile writer can do no harm with.
pub(crate) fn is_name(name: &[u8]) -> bool {
    let allowed = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
    name.len() <= NAME_LIMIT && name.first().is_some_and(|first| !first.is_ascii_digit()) && name.iter().all(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        for good in ["a", "_", "requests_total", "A9"] {
            assert!(is_name(good.as_bytes()), "{good}");
        }
        for bad in ["", "9a", "a b", "a\n", "ä", "a-b"] {
            assert!(matches!(Schema::empty().with(bad, Type::U32), Err(SchemaError::Name(_))), "{bad}");
        }
        assert!(is_name(&[b'a'; NAME_LIMIT]));
        assert!(!is_name(&[b'a'; NAME_LIMIT + 1]));
    }

    #[test]
    fn a_name_is_there_once() {
        let twice = Schema::default().with("requests_total", Type::F64);
        assert_eq!(twice, Err(SchemaError::Duplicate("requests_total".to_owned())));
    }
}
