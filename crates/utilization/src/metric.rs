//! Counting.

use std::{borrow::Cow, fmt, sync::atomic::Ordering};

use crate::{
    layout,
    number::{Number, Type},
    sys::Cell,
};

/// A number that this process counts, and others see.
///
/// A handle: its clones count together. To get one takes a lock and a look into a table, so keep it; to use it takes
/// one relaxed atomic instruction, or a short loop of them for [floating-point types](Type::F64). Nothing here blocks, fails,
/// or panics.
#[derive(Clone)]
pub struct Metric {
    cell: Cell,
    kind: Type,
}

impl Metric {
    pub(crate) fn new(cell: Cell, kind: Type) -> Self {
        Self { cell, kind }
    }

    /// Adds one.
    #[inline]
    pub fn increment(&self) {
        self.increment_by(1u64);
    }

    /// Adds a number. Integers wrap around at their width; of what is added to an integer, only what is before the point
    /// counts.
    #[inline]
    pub fn increment_by(&self, amount: impl Into<Number>) {
        layout::add(&*self.cell, self.kind, self.kind.encode(amount.into()));
    }

    /// Takes one away.
    #[inline]
    pub fn decrement(&self) {
        self.decrement_by(1u64);
    }

    /// Takes a number away, as [`increment_by`](Self::increment_by) adds it.
    #[inline]
    pub fn decrement_by(&self, amount: impl Into<Number>) {
        let word = self.kind.encode(amount.into());
        let negative = match self.kind {
            Type::U32 | Type::U64 | Type::I32 | Type::I64 => word.wrapping_neg(),
            Type::F32 => word ^ 1 << 31,
            Type::F64 => word ^ 1 << 63,
        };
        layout::add(&*self.cell, self.kind, negative);
    }

    /// Replaces the value.
    #[inline]
    pub fn set(&self, value: impl Into<Number>) {
        self.cell.store(self.kind.encode(value.into()), Ordering::Relaxed);
    }

    /// The value, as it is now.
    pub fn value(&self) -> Number {
        self.kind.decode(self.cell.load(Ordering::Relaxed))
    }

    /// Its type.
    pub fn kind(&self) -> Type {
        self.kind
    }

    /// Whether others can see it. If not, a warning was logged when it was made.
    pub fn is_shared(&self) -> bool {
        self.cell.is_shared()
    }

    /// Adds one now, and takes it away when the answer is dropped, in whatever way the scope is left: by its end, by `?`, by
    /// a panic, or because a future was cancelled.
    ///
    /// ```
    /// use async_container_utilization::Registry;
    ///
    /// let active = Registry::new().metric("requests_active");
    /// {
    ///     let _active = active.track();
    ///     assert_eq!(active.value().as_u64(), 1);
    /// }
    /// assert_eq!(active.value().as_u64(), 0);
    /// ```
    #[must_use = "it counts only as long as it is kept: `let _active = …`"]
    pub fn track(&self) -> Track<'_> {
        self.increment();
        Track { metric: Cow::Borrowed(self) }
    }

    /// As [`track`](Self::track), for what outlives this handle, such as a task.
    #[must_use = "it counts only as long as it is kept: `let _active = …`"]
    pub fn track_owned(&self) -> Track<'static> {
        self.increment();
        Track { metric: Cow::Owned(self.clone()) }
    }
}

impl fmt::Debug for Metric {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = formatter.debug_struct("Metric");
        debug.field("kind", &self.kind).field("value", &self.value()).field("is_shared", &self.is_shared()).finish()
    }
}

/// Something that is being done, and counted as long as it is.
#[derive(Debug)]
pub struct Track<'a> {
    metric: Cow<'a, Metric>,
}

impl Drop for Track<'_> {
    fn drop(&mut self) {
        self.metric.decrement();
    }
}
