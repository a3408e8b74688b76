//! In which form a report is wanted, and where it goes.

use std::{io::ErrorKind, path::PathBuf};

use async_container_diagnostics::output::{self, OutputError};
pub(super) use async_container_diagnostics::report::Format;
use async_container_protocol::{Failure, Fields, Request, class};
use serde::{Serialize, Serializer};

/// What every diagnostic takes beside its own parameters: `path`, `log` and `format`.
#[derive(Clone, Debug)]
pub(super) struct Delivery {
    pub(super) path: Option<PathBuf>,
    log: Option<String>,
    pub(super) format: Format,
}

/// A report, in the form that was asked for.
pub(super) enum Report {
    Text(String),
    Bytes(Vec<u8>),
    /// For a program: a map.
    Map(Fields),
}

/// What is answered: the report, or where it is.
#[derive(Serialize)]
pub(super) struct Answer {
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Data>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<PathBuf>,
    /// How many samples it is made of, if it is made of any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) samples: Option<u64>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Data {
    Text(String),
    #[serde(serialize_with = "as_bytes")]
    Bytes(Vec<u8>),
    Map(Fields),
}

fn as_bytes<S: Serializer>(bytes: &[u8], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_bytes(bytes)
}

impl Delivery {
    /// What a call asks for. `formats` are those that the report can have, the default first.
    pub(super) fn of(request: &Request, formats: &[Format]) -> Result<Self, Failure> {
        let format = match request.get::<String>("format")? {
            None => formats.first().copied().unwrap_or(Format::Text),
            Some(name) => formats.iter().copied().find(|format| format.name() == name).ok_or_else(|| {
                let known: Vec<_> = formats.iter().map(|format| format.name()).collect();
                Failure::invalid_parameters(format!("'format' is '{name}', and has to be one of {}", known.join(", ")))
            })?,
        };
        Ok(Self { path: request.get("path")?, log: request.get("log")?, format })
    }

    /// A report for programs, as this delivery needs it.
    pub(super) fn structured<T: Serialize + ?Sized>(&self, report: &T) -> Result<Report, Failure> {
        if self.path.is_none() {
            return Ok(Report::Map(Fields::new(report)?));
        }

        let json = output::to_json(report)?;
        Ok(Report::Text(String::from_utf8(json)?))
    }

    /// Writes the report where it is to go, and gives what to answer. It may block.
    pub(super) fn deliver(self, report: Report) -> Result<Answer, Failure> {
        if let Some(message) = &self.log {
            match &report {
                Report::Text(text) => tracing::info!(data = %text, "{message}"),
                Report::Bytes(bytes) => tracing::info!(bytes = bytes.len(), "{message}: a report that is no text"),
                Report::Map(fields) => tracing::info!(data = ?fields, "{message}"),
            }
        }

        let Some(path) = self.path else {
            let data = match report {
                Report::Text(text) => Data::Text(text),
                Report::Bytes(bytes) => Data::Bytes(bytes),
                Report::Map(fields) => Data::Map(fields),
            };
            return Ok(Answer { data: Some(data), path: None, samples: None });
        };

        let written = match &report {
            Report::Text(text) => output::write(&path, text.as_bytes()),
            Report::Bytes(bytes) => output::write(&path, bytes),
            Report::Map(_) => return Err(Failure::new(class::INTERNAL, "a map cannot be written to a file")),
        };
        let path = written.map_err(refused)?;
        // Where that is, for somebody with another working directory.
        Ok(Answer { data: None, path: Some(std::path::absolute(&path).unwrap_or(path)), samples: None })
    }
}

/// What cannot be done with the path is the caller's to change; what the disk does is not.
pub(super) fn refused(error: OutputError) -> Failure {
    let is_callers = match &error {
        OutputError::Exists { .. } | OutputError::NoName { .. } => true,
        OutputError::Create { source, .. } => {
            use ErrorKind::{
                InvalidFilename, InvalidInput, NotADirectory, NotFound, PermissionDenied, ReadOnlyFilesystem,
            };
            [NotFound, NotADirectory, PermissionDenied, ReadOnlyFilesystem, InvalidInput, InvalidFilename]
                .contains(&source.kind())
        }
        _ => false,
    };
    let failure = Failure::from(error);

    match is_callers {
        true => Failure::invalid_parameters(failure.message().to_owned()),
        false => failure,
    }
}
