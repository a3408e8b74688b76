//! The forms that a report may have.

use std::{ffi::OsStr, fmt, path::Path};

/// The form of a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Form {
    /// For programs: one document.
    Json,
    /// For people.
    Text,
    /// A compressed profile for `pprof`, and for what reads the same.
    Pprof,
    /// One stack a line, for programs that draw flame graphs.
    Folded,
    /// A flame graph, as a picture.
    Svg,
    /// What jemalloc writes of the heap itself, for `jeprof`.
    Heap,
}

impl Form {
    /// All of them.
    pub const ALL: &[Self] = &[Self::Json, Self::Text, Self::Pprof, Self::Folded, Self::Svg, Self::Heap];

    /// Its name in the protocol.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Json => "json",
            Self::Text => "text",
            Self::Pprof => "pprof",
            Self::Folded => "folded",
            Self::Svg => "svg",
            Self::Heap => "heap",
        }
    }

    /// How names of files end that have this form.
    pub const fn extension(self) -> &'static str {
        match self {
            Self::Json => ".json",
            Self::Text => ".txt",
            Self::Pprof => ".pb.gz",
            Self::Folded => ".folded",
            Self::Svg => ".svg",
            Self::Heap => ".heap",
        }
    }

    /// The form that a file's name asks for; `None` if it asks for none.
    ///
    /// ```
    /// # use async_container_supervisor_client::Form;
    /// # use std::path::Path;
    /// assert_eq!(Form::of(Path::new("heap.pb.gz")), Some(Form::Pprof));
    /// assert_eq!(Form::of(Path::new("heap")), None);
    /// ```
    pub fn of(path: &Path) -> Option<Self> {
        let name = path.file_name().and_then(OsStr::to_str)?.to_ascii_lowercase();
        Self::ALL.iter().copied().find(|form| name.ends_with(form.extension()))
    }
}

impl fmt::Display for Form {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_files_ask_for_forms() {
        for form in Form::ALL {
            assert_eq!(Form::of(Path::new(&format!("dir.json/x{}", form.extension()))), Some(*form));
        }

        assert_eq!(Form::of(Path::new("X.SVG")), Some(Form::Svg));
        assert_eq!(Form::of(Path::new("dir.json/x")), None);
        assert_eq!(Form::of(Path::new("..")), None);
    }
}
