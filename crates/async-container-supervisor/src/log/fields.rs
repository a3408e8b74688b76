//! The fields of events, as `tracing-subscriber` writes them, for less.
//!
//! A monitor may tell of a thousand processes a second, with twenty numbers each. A library that serves colours and any way to
//! show a value takes several calls through tables of functions for each, which is three times the work of writing a name and a
//! number.

use std::fmt;

use tracing::field::{Field, Visit};
use tracing_subscriber::field::{RecordFields, VisitOutput};
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::{DefaultFields, DefaultVisitor, Writer};

/// The field whose value stands for itself.
const MESSAGE: &str = "message";

/// Writes fields as [`DefaultFields`] does.
#[derive(Debug, Default)]
pub(super) struct Fields(DefaultFields);

impl<'writer> FormatFields<'writer> for Fields {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'writer>, fields: R) -> fmt::Result {
        if writer.has_ansi_escapes() {
            return self.0.format_fields(writer, fields);
        }
        let mut visitor = Visitor { writer, is_empty: true, result: Ok(()) };
        fields.record(&mut visitor);
        visitor.result
    }
}

struct Visitor<'writer> {
    writer: Writer<'writer>,
    is_empty: bool,
    result: fmt::Result,
}

impl Visitor<'_> {
    /// A value that is the same by whatever way it is shown.
    fn plain(&mut self, field: &Field, value: impl fmt::Debug, write: impl FnOnce(&mut Writer<'_>) -> fmt::Result) {
        let name = field.name();
        if name == MESSAGE || name.starts_with("r#") {
            return self.default(|visitor| visitor.record_debug(field, &value));
        }
        if self.result.is_ok() {
            self.result = self.write(name, write);
        }
    }

    fn write(&mut self, name: &str, value: impl FnOnce(&mut Writer<'_>) -> fmt::Result) -> fmt::Result {
        if !std::mem::replace(&mut self.is_empty, false) {
            self.writer.write_char(' ')?;
        }
        self.writer.write_str(name)?;
        self.writer.write_char('=')?;
        value(&mut self.writer)
    }

    fn default(&mut self, record: impl FnOnce(&mut DefaultVisitor<'_>)) {
        if self.result.is_ok() {
            let mut visitor = DefaultVisitor::new(self.writer.by_ref(), self.is_empty);
            record(&mut visitor);
            self.result = visitor.finish();
            self.is_empty = false;
        }
    }
}

impl Visit for Visitor<'_> {
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.plain(field, value, |writer| writer.write_str(itoa::Buffer::new().format(value)));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.plain(field, value, |writer| writer.write_str(itoa::Buffer::new().format(value)));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.plain(field, value, |writer| write!(writer, "{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.default(|visitor| visitor.record_str(field, value));
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.default(|visitor| visitor.record_error(field, value));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.default(|visitor| visitor.record_debug(field, value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;
    use std::sync::{Arc, Mutex};
    use tracing::{Event, Subscriber};
    use tracing_subscriber::layer::{Context, SubscriberExt};
    use tracing_subscriber::{Layer, Registry};

    /// What both make of each event.
    #[derive(Clone, Default)]
    struct Both(Arc<Mutex<Vec<(String, String)>>>);

    impl<S: Subscriber> Layer<S> for Both {
        fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
            let (mut ours, mut theirs) = (String::new(), String::new());
            Fields::default().format_fields(Writer::new(&mut ours), event).unwrap();
            DefaultFields::new().format_fields(Writer::new(&mut theirs), event).unwrap();
            self.0.lock().unwrap().push((ours, theirs));
        }
    }

    #[test]
    fn they_are_written_as_by_default() {
        let both = Both::default();
        tracing::subscriber::with_default(Registry::default().with(both.clone()), || {
            let error = io::Error::other(io::Error::from(io::ErrorKind::NotFound));
            let error = &error as &dyn std::error::Error;
            let (text, control) = ("a \"b\"\n", "\u{1b}[31mred");
            tracing::info!(count = 0u64, most = u64::MAX, least = i64::MIN, small = 7u32, "text {control}");
            tracing::info!(
                share = 0.25,
                tiny = 1e-300,
                whole = 3.0,
                not = f64::NAN,
                endless = f64::INFINITY,
                wide = 1u128
            );
            tracing::info!(text, control, shown = %text, told = ?text, is = true, none = None::<u64>, some = Some(5u64));
            tracing::info!(error, "failed");
            tracing::info!(r#type = 5, r#fn = "x", message = 5u64);
            tracing::info!(first.second = 1u64, last = -1i64);
            tracing::info!("nothing but this");
        });
        let events = both.0.lock().unwrap();
        assert_eq!(events.len(), 7);
        for (ours, theirs) in &*events {
            assert_eq!(ours, theirs);
        }
        assert!(events[0].0.contains("count=0 most=18446744073709551615 "), "{}", events[0].0);
    }
}
