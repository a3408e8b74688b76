//! The metrics of a process.

use std::{
    collections::HashMap,
    fmt, io, mem,
    os::fd::RawFd,
    sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError},
};

use crate::{
    error::{AppendError, SchemaError, ShareError},
    layout,
    metric::Metric,
    number::{Number, Type},
    schema::{self, Schema},
    segment::Segment,
    sys::{self, Memory as _},
};

/// How large a segment is at first, in bytes: a page of most machines. It doubles whenever it is full.
const FIRST_SIZE: usize = 4096;

static DEFAULT: LazyLock<Registry> = LazyLock::new(Registry::new);

/// The registry of this process, which is the one that its supervisor asks for. It is empty at first.
pub fn registry() -> &'static Registry {
    &DEFAULT
}

/// A metric of the registry of this process, see [`Registry::metric`].
pub fn metric(name: &str) -> Metric {
    DEFAULT.metric(name)
}

/// A namespace in the registry of this process, see [`Registry::namespace`].
pub fn namespace(name: &str) -> Namespace {
    DEFAULT.namespace(name)
}

/// Metrics by their names, and the memory in which they are.
///
/// A handle: its clones are the same registry. One that is made anew is for tests, and for those who have their own ways to
/// show it to others; supervisors read [the one of the process](registry()).
///
/// The memory is had when the first metric is made. Where there is none to be had, or a segment is full, metrics
/// count in the memory of the process alone, and a warning is logged.
#[derive(Clone, Default)]
pub struct Registry {
    table: Arc<Mutex<Table>>,
}

#[derive(Default)]
struct Table {
    /// By name, those that nobody else can see included.
    metrics: HashMap<String, Metric>,
    segment: Option<Result<Segment<sys::Shared>, String>>,
    /// Whether it was logged that there is no room.
    is_told: bool,
}

/// Memory that others can read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shared {
    descriptor: RawFd,
    size: usize,
}

impl Shared {
    /// The process whose memory it is: this one.
    pub fn process_id(&self) -> u32 {
        std::process::id()
    }

    /// The descriptor by which this process has it. Others find it as `/proc/PROCESS/fd/DESCRIPTOR`. It is open for as long
    /// as the registry is there.
    pub fn descriptor(&self) -> RawFd {
        self.descriptor
    }

    /// How large it is now, in bytes.
    pub fn size(&self) -> usize {
        self.size
    }
}

impl Registry {
    /// A registry without metrics.
    pub fn new() -> Self {
        Self::default()
    }

    /// A registry with these metrics, all of them zero.
    pub fn with_schema(schema: &Schema) -> Self {
        let registry = Self::new();
        registry.extend(schema);
        registry
    }

    /// Makes these metrics, as far as they are not there yet, so that they are seen before something is counted.
    pub fn extend(&self, schema: &Schema) {
        for field in schema.fields() {
            self.metric_of(field.name(), field.kind());
        }
    }

    /// The metric of that name. If there is none yet, one is made: of the type that it has in [`Schema::default`], of
    /// [`Type::U64`] if it is not in there.
    pub fn metric(&self, name: &str) -> Metric {
        self.find_or_make(name, None)
    }

    /// The metric of that name. If there is none yet, one of this type is made; if there is one of another type, that is it.
    pub fn metric_of(&self, name: &str, kind: Type) -> Metric {
        self.find_or_make(name, Some(kind))
    }

    /// A part of this registry, whose metrics have names that begin with this one and a `_`.
    ///
    /// ```
    /// use async_container_utilization::Registry;
    ///
    /// let registry = Registry::new();
    /// registry.namespace("http").namespace("client").metric("requests_total").increment();
    /// assert_eq!(registry.metric("http_client_requests_total").value().as_u64(), 1);
    /// ```
    pub fn namespace(&self, name: impl Into<String>) -> Namespace {
        Namespace { registry: self.clone(), name: name.into() }
    }

    /// The metrics that others can see.
    pub fn schema(&self) -> Schema {
        let table = self.lock();
        let segment = table.segment.as_ref().and_then(|segment| segment.as_ref().ok());
        Schema::of(segment.map(|segment| segment.fields().to_vec()).unwrap_or_default())
    }

    /// All metrics with their values, sorted by name, also those that nobody else can see.
    pub fn values(&self) -> Vec<(String, Number)> {
        let table = self.lock();
        let mut values: Vec<_> = table.metrics.iter().map(|(name, metric)| (name.clone(), metric.value())).collect();
        values.sort_by(|(one, _), (other, _)| one.cmp(other));
        values
    }

    /// The memory for others to read. There is some afterwards, even if there are no metrics yet: those that are made
    /// later will be in it.
    pub fn share(&self) -> Result<Shared, ShareError> {
        let mut table = self.lock();
        let memory = table.segment().map_err(ShareError::Memory)?.memory();
        Ok(Shared { descriptor: memory.descriptor(), size: layout::size(memory.words()) })
    }

    fn find_or_make(&self, name: &str, kind: Option<Type>) -> Metric {
        let mut table = self.lock();

        if let Some(metric) = table.metrics.get(name) {
            if let Some(kind) = kind.filter(|kind| *kind != metric.kind()) {
                tracing::warn!(metric = name, %kind, "a metric of this name is there already as {}", metric.kind());
            }

            return metric.clone();
        }

        let kind = kind.unwrap_or_else(|| schema::usual_type(name));
        let metric = Metric::new(table.place(name, kind), kind);
        table.metrics.insert(name.to_owned(), metric.clone());
        metric
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    /// Gives a metric its place in shared memory, or one of its own if it can have none.
    fn place(&mut self, name: &str, kind: Type) -> sys::Cell {
        if !schema::is_name(name.as_bytes()) {
            let reason = SchemaError::Name(name.to_owned()).to_string();
            tracing::warn!(metric = name, reason, "a metric can be seen by this process only");
            return sys::Cell::own();
        }

        let cell = self.segment().and_then(|segment| {
            let is_inherited = segment.memory().is_inherited();
            let cell = if is_inherited { Err(AppendError::Inherited) } else { segment.append(name, kind) };
            cell.map_err(|error| error.to_string())
        });
        cell.unwrap_or_else(|reason| {
            // Who makes a metric a user, say, makes thousands.
            if !mem::replace(&mut self.is_told, true) {
                tracing::warn!(
                    metric = name,
                    reason,
                    "a metric, and all further ones for which there is no room, can be seen by this process only"
                );
            }

            sys::Cell::own()
        })
    }

    /// The shared memory. Whether there is any is decided once.
    fn segment(&mut self) -> Result<&mut Segment<sys::Shared>, String> {
        let make = || -> io::Result<Segment<sys::Shared>> {
            let page = rustix::param::page_size();
            let size = FIRST_SIZE.next_multiple_of(page);
            let memory = sys::Shared::new("utilization", size, layout::SIZE_LIMIT.next_multiple_of(page))?;
            Ok(Segment::new(memory))
        };
        let segment = self.segment.get_or_insert_with(|| make().map_err(|error| error.to_string()));
        segment.as_mut().map_err(|error| error.clone())
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_map().entries(self.values()).finish()
    }
}

/// A part of a registry, see [`Registry::namespace`].
#[derive(Clone, Debug)]
pub struct Namespace {
    registry: Registry,
    name: String,
}

impl Namespace {
    /// The metric of that name in here, see [`Registry::metric`].
    pub fn metric(&self, name: &str) -> Metric {
        self.registry.metric(&self.join(name))
    }

    /// The metric of that name and type in here, see [`Registry::metric_of`].
    pub fn metric_of(&self, name: &str, kind: Type) -> Metric {
        self.registry.metric_of(&self.join(name), kind)
    }

    /// A part of this part.
    pub fn namespace(&self, name: &str) -> Namespace {
        Namespace { registry: self.registry.clone(), name: self.join(name) }
    }

    /// What the names of all metrics in here begin with.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn join(&self, name: &str) -> String {
        format!("{}_{name}", self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{View, sys::fork::fork};

    /// A fork has the segment, too, and would make its metrics in the places of those that the other process makes.
    #[test]
    fn a_fork_counts_in_the_metrics_that_there_are_and_makes_none_where_the_other_one_does() {
        let registry = Registry::new();
        registry.metric("before").increment();

        for name in ["before", "forked"] {
            fork(|| registry.metric(name).increment());
        }

        registry.metric("after").increment();
        let shared = registry.share().unwrap();
        let view = View::open(shared.process_id(), shared.descriptor()).unwrap();
        let values: Vec<_> = view.fields().map(|(field, value)| (field.name(), value.as_u64())).collect();
        assert_eq!(values, [("before", 2), ("after", 1)]);
    }
}
