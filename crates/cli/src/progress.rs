//! How far something is that takes long, for whoever sits at a terminal.

use std::{
    io::{self, IsTerminal, Write},
    time::{Duration, Instant},
};

use crate::{output, table::shorten, units};

/// How often it is shown anew.
pub(crate) const PERIOD: Duration = Duration::from_millis(200);

/// How wide a bar is, in characters.
const WIDTH: usize = 24;

/// A line on standard error that shows how far something is. It is there only if that is a terminal, and goes when this is
/// dropped.
pub(crate) struct Progress {
    what: String,
    duration: Option<Duration>,
    start: Instant,
    received: usize,
    is_shown: bool,
}

impl Progress {
    pub(crate) fn new(what: String, duration: Option<Duration>) -> Self {
        let is_shown = io::stderr().is_terminal() && !output::is_dumb();
        let progress = Self { what, duration, start: Instant::now(), received: 0, is_shown };
        progress.show();
        progress
    }

    /// Notes that so many bytes have come.
    pub(crate) fn received(&mut self, bytes: usize) {
        self.received += bytes;
    }

    /// Shows how far it is now.
    pub(crate) fn show(&self) {
        if self.is_shown {
            let line = self.line(self.start.elapsed());
            // What goes on on the next line of the terminal could not be written over. The last column is left alone, for some
            // terminals go on there as soon as it is filled.
            let width = output::width_of(&io::stderr()).unwrap_or(usize::MAX);
            let line = shorten(&line, width.saturating_sub(1));
            // A terminal that is gone is nothing to fail for.
            let _ = write!(io::stderr(), "\r{line}\x1b[K");
        }
    }

    fn line(&self, elapsed: Duration) -> String {
        let seconds = |duration: Duration| units::elapsed(duration.as_secs() as f64);
        let what = output::clean_line(&self.what);

        match self.duration {
            _ if self.received > 0 => format!("{what}: {} received", units::bytes(self.received as u64)),
            Some(duration) if elapsed < duration => {
                let filled = (WIDTH as f64 * elapsed.as_secs_f64() / duration.as_secs_f64()) as usize;
                let bar = "━".repeat(filled) + &"─".repeat(WIDTH.saturating_sub(filled));
                format!("{what}: {} of {} {bar}", seconds(elapsed), seconds(duration))
            }
            _ => format!("{what}: waiting for the report, {}", seconds(elapsed)),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.is_shown {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_how_far_it_is() {
        let duration = Some(Duration::from_secs(4));
        let mut progress =
            Progress { what: "web#1".to_owned(), duration, start: Instant::now(), received: 0, is_shown: false };
        let line = progress.line(Duration::from_secs(1));
        assert_eq!(line, format!("web#1: 1 s of 4 s {}{}", "━".repeat(6), "─".repeat(18)));
        assert_eq!(progress.line(Duration::from_secs(5)), "web#1: waiting for the report, 5 s");
        progress.received(2048);
        assert_eq!(progress.line(Duration::from_secs(5)), "web#1: 2.0 KiB received");
    }
}
