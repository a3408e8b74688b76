//! What can be asked of a worker about itself.

use std::time::Duration;

use serde_json::{Map, Value};

use crate::form::Form;

/// A kind of diagnostic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// What is allocated during some time, and what of it is kept, by crate, file and line.
    MemorySample,
    /// What is allocated now.
    MemoryDump,
    /// Where each thread is.
    ThreadDump,
    /// Which tasks there are, and what they wait for.
    SchedulerDump,
    /// How the allocator is used during some time.
    AllocatorProfile,
    /// Where the time of processors goes.
    CpuProfile,
}

impl Kind {
    /// All of them.
    pub const ALL: &[Self] = &[
        Self::MemorySample,
        Self::MemoryDump,
        Self::ThreadDump,
        Self::SchedulerDump,
        Self::AllocatorProfile,
        Self::CpuProfile,
    ];

    /// Its name for people, which is also that of the command of `acs`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::MemorySample => "memory-sample",
            Self::MemoryDump => "memory-dump",
            Self::ThreadDump => "thread-dump",
            Self::SchedulerDump => "scheduler-dump",
            Self::AllocatorProfile => "allocator-profile",
            Self::CpuProfile => "cpu-profile",
        }
    }

    /// The forms that its report may have, the default first.
    pub const fn forms(self) -> &'static [Form] {
        match self {
            Self::MemorySample => &[Form::Json, Form::Text, Form::Pprof, Form::Folded, Form::Svg],
            Self::AllocatorProfile => &[Form::Json, Form::Text],
            Self::MemoryDump => &[Form::Pprof, Form::Json, Form::Text, Form::Folded, Form::Svg, Form::Heap],
            Self::ThreadDump | Self::SchedulerDump => &[Form::Text, Form::Json],
            Self::CpuProfile => &[Form::Folded, Form::Pprof, Form::Svg, Form::Json, Form::Text],
        }
    }

    /// How long it takes unless that is said: 30 s, 10 s for a profile of processors. `None` where it takes what it takes.
    pub const fn default_duration(self) -> Option<Duration> {
        match self {
            Self::MemorySample | Self::AllocatorProfile => Some(Duration::from_secs(30)),
            Self::CpuProfile => Some(Duration::from_secs(10)),
            Self::MemoryDump | Self::ThreadDump | Self::SchedulerDump => None,
        }
    }

    /// The name of its operation, which is the one that gives the report.
    pub(crate) const fn operation(self) -> &'static str {
        match self {
            Self::MemorySample => "memory_sample",
            Self::MemoryDump => "memory_dump",
            Self::ThreadDump => "thread_dump",
            Self::SchedulerDump => "scheduler_dump",
            Self::AllocatorProfile => "allocator_profile_stop",
            Self::CpuProfile => "cpu_profile",
        }
    }
}

/// A diagnostic to be taken of a worker.
///
/// The worker has to be able to: one that was built without what a diagnostic needs answers with class `NotSupported`, and
/// says what to do about that.
#[derive(Clone, Debug, PartialEq)]
pub struct Diagnostic {
    kind: Kind,
    duration: Option<Duration>,
    frequency: Option<u32>,
    records: Option<Records>,
    form: Option<Form>,
    path: Option<String>,
}

/// Which allocations a memory sample records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Records {
    /// Every one, which slows down a program that allocates much.
    All,
    /// One in so many bytes. The rest is estimated.
    OneIn {
        /// The bytes.
        bytes: u64,
    },
}

impl Diagnostic {
    /// One of that kind, with its default duration.
    pub fn new(kind: Kind) -> Self {
        Self { kind, duration: kind.default_duration(), frequency: None, records: None, form: None, path: None }
    }

    /// What is allocated during that time, and what of it is kept.
    pub fn memory_sample(duration: Duration) -> Self {
        Self::new(Kind::MemorySample).duration(duration)
    }

    /// What is allocated now.
    pub fn memory_dump() -> Self {
        Self::new(Kind::MemoryDump)
    }

    /// Where each thread is.
    pub fn thread_dump() -> Self {
        Self::new(Kind::ThreadDump)
    }

    /// Which tasks there are.
    pub fn scheduler_dump() -> Self {
        Self::new(Kind::SchedulerDump)
    }

    /// How the allocator is used during that time. It is started, and stopped from here: also when it is given up.
    pub fn allocator_profile(duration: Duration) -> Self {
        Self::new(Kind::AllocatorProfile).duration(duration)
    }

    /// Where the time of processors goes during that time.
    pub fn cpu_profile(duration: Duration) -> Self {
        Self::new(Kind::CpuProfile).duration(duration)
    }

    /// Sets how long it lasts. It has to be more than nothing, and means nothing to dumps. Default is the
    /// [kind's](Kind::default_duration).
    pub fn duration(mut self, duration: Duration) -> Self {
        if self.kind.default_duration().is_some() {
            self.duration = Some(duration);
        }

        self
    }

    /// Sets how often a profile of processors looks, in times a second. Default is the worker's: 99.
    pub fn frequency(mut self, frequency: u32) -> Self {
        self.frequency = Some(frequency);
        self
    }

    /// Sets which allocations a memory sample records. Default is the worker's: one in 512 KiB.
    pub fn records(mut self, records: Records) -> Self {
        self.records = Some(records);
        self
    }

    /// Sets the form of the report. Default is the first of the [kind's](Kind::forms).
    pub fn form(mut self, form: Form) -> Self {
        self.form = Some(form);
        self
    }

    /// Has the worker write the report to a file of its own, which must not exist, and tell no more than that. A path that
    /// is not absolute is understood there.
    pub fn path(mut self, path: impl Into<String>) -> Self {
        self.path = Some(path.into());
        self
    }

    /// Its kind.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// How long it lasts, where that is said.
    pub fn lasts(&self) -> Option<Duration> {
        self.duration
    }

    /// The form that its report will have.
    pub fn report_form(&self) -> Form {
        self.form.unwrap_or(self.kind.forms()[0])
    }

    /// The call of the worker's operation that gives the report.
    pub(crate) fn call(&self) -> Map<String, Value> {
        let mut call = Map::new();
        call.insert("do".to_owned(), self.kind.operation().into());

        if let Some(duration) = self.duration
            && self.kind != Kind::AllocatorProfile
        {
            call.insert("duration".to_owned(), duration.as_secs_f64().into());
        }

        if let Some(frequency) = self.frequency {
            call.insert("frequency".to_owned(), frequency.into());
        }

        match self.records {
            Some(Records::All) => call.insert("mode".to_owned(), "full".into()),
            Some(Records::OneIn { bytes }) => call.insert("rate".to_owned(), bytes.into()),
            None => None,
        };

        if let Some(form) = self.form {
            call.insert("format".to_owned(), form.name().into());
        }

        if let Some(path) = &self.path {
            call.insert("path".to_owned(), path.as_str().into());
        }

        call
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn calls_say_what_was_asked_for_and_no_more() {
        let call = |diagnostic: Diagnostic| Value::from(diagnostic.call());
        assert_eq!(call(Diagnostic::thread_dump()), json!({"do": "thread_dump"}));
        assert_eq!(
            call(Diagnostic::cpu_profile(Duration::from_millis(1500)).frequency(49).form(Form::Svg)),
            json!({"do": "cpu_profile", "duration": 1.5, "frequency": 49, "format": "svg"})
        );
        let sample = || Diagnostic::memory_sample(Duration::from_secs(1));
        assert_eq!(
            call(sample().records(Records::All)),
            json!({"do": "memory_sample", "duration": 1.0, "mode": "full"})
        );
        assert_eq!(
            call(sample().records(Records::OneIn { bytes: 4096 })),
            json!({"do": "memory_sample", "duration": 1.0, "rate": 4096})
        );
        // Its duration is kept here.
        assert_eq!(
            call(Diagnostic::allocator_profile(Duration::from_secs(1)).path("/tmp/x")),
            json!({"do": "allocator_profile_stop", "path": "/tmp/x"})
        );
    }

    #[test]
    fn dumps_last_no_time() {
        assert_eq!(Diagnostic::memory_dump().duration(Duration::from_secs(1)).lasts(), None);
        assert_eq!(Diagnostic::new(Kind::CpuProfile).lasts(), Some(Duration::from_secs(10)));
    }
}
