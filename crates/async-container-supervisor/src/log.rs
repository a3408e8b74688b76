//! Log events on standard error, for programs that set up nothing else.

#[cfg(feature = "log")]
mod fields;
#[cfg(feature = "log")]
mod writer;

/// The variable that says what is logged, such as `warn` or `info,async_container=debug`.
#[cfg(feature = "log")]
const VARIABLE: &str = "RUST_LOG";

/// Writes events to standard error from now on, unless the program has arranged for them itself.
#[cfg(feature = "log")]
pub(crate) fn init() {
    use std::io::IsTerminal;
    use tracing_subscriber::filter::{LevelFilter, Targets};
    use tracing_subscriber::layer::SubscriberExt;
    use tracing_subscriber::util::SubscriberInitExt;

    let variable = std::env::var(VARIABLE).ok();
    let filter: Option<Result<Targets, _>> = variable.as_deref().map(str::parse);
    let invalid = matches!(filter, Some(Err(_)));
    let filter = filter.and_then(Result::ok).unwrap_or_else(|| Targets::new().with_default(LevelFilter::INFO));
    let colors = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let writer = writer::Writer { waits: async_container::is_child() };
    let layer =
        tracing_subscriber::fmt::layer().fmt_fields(fields::Fields::default()).with_writer(writer).with_ansi(colors);
    let installed = tracing_subscriber::registry().with(filter).with(layer).try_init().is_ok();
    if installed {
        // Code of a service may end its process anywhere.
        async_container::at_exit(flush);
    }
    if installed && invalid {
        tracing::warn!(
            variable = VARIABLE,
            value = variable,
            "not understood: use a level, or TARGET=LEVEL separated by commas"
        );
    }
}

#[cfg(not(feature = "log"))]
pub(crate) fn init() {}

/// Has what was logged last written, as far as somebody reads it. To be called before the program ends.
#[cfg(feature = "log")]
pub(crate) fn flush() {
    writer::flush();
}

#[cfg(not(feature = "log"))]
pub(crate) fn flush() {}
