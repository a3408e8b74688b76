//! What can go wrong. Counting never does.

use std::io;

use crate::layout::{CAPACITY, NAME_LIMIT};

/// A type that does not exist.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no type of a metric: use u32, u64, i32, i64, f32 or f64")]
pub struct UnknownType(pub(crate) String);

/// A schema that cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SchemaError {
    /// Names go into formats that know no others.
    #[error("'{0}' is no name for a metric: use letters, digits and '_', not first a digit, and at most {NAME_LIMIT}")]
    Name(String),
    /// Two fields have the same name.
    #[error("the metric '{0}' is there twice")]
    Duplicate(String),
}

/// Why others cannot see the values of this process. It counts all the same.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ShareError {
    /// The kernel refused the memory when the first metric was made, for want of files or memory.
    #[error("no memory could be had that other processes can read: {0}")]
    Memory(String),
}

/// Why a segment has no place for a metric.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AppendError {
    #[error("there are {CAPACITY} metrics already, which is all that a segment can have")]
    Full,
    #[error("no more memory could be had that other processes can read: {0}")]
    Memory(io::Error),
    /// Both would make their next metrics in the same place.
    #[error("the memory is that of the process of which this one is a fork")]
    Inherited,
}

/// Why a process's values cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ViewError {
    /// The process is gone or may not be looked into, or has no such descriptor.
    #[error("could not open descriptor {descriptor} of process {process_id}")]
    Open {
        /// The process.
        process_id: u32,
        /// Its descriptor.
        descriptor: i32,
        /// What the kernel said.
        source: io::Error,
    },
    /// What is there could be cut while it is mapped, or have no memory left (on huge pages), and whoever reads it be killed for that, so
    /// it is not mapped.
    #[error("not a sealed memory file of ordinary pages: it could be taken away while it is being read")]
    NotSealed,
    /// It is something else.
    #[error("not a segment of metrics: {0}")]
    NotASegment(&'static str),
    /// It was written by another version of this library.
    #[error("a segment of version {0}, and this reader knows version {known}", known = crate::layout::VERSION)]
    Version(u32),
    /// The kernel did not map it.
    #[error("could not map a segment of metrics")]
    Map(#[source] io::Error),
}
