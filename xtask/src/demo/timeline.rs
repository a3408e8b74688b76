//! What was seen, and when.

use std::{
    io::{self, IsTerminal as _},
    time::{Duration, Instant},
};

use serde::Serialize;

use crate::Result;

/// One thing that was to be seen.
#[derive(Debug, Serialize)]
pub(super) struct Step {
    name: &'static str,
    ok: bool,
    /// When it began, since the beginning of the demo.
    at_ms: f64,
    /// How long it took.
    took_ms: f64,
    /// What was observed, or why it was not.
    observed: String,
}

/// The steps so far, printed as they happen.
#[derive(Debug)]
pub(super) struct Timeline {
    begin: Instant,
    steps: Vec<Step>,
    json: bool,
}

#[derive(Debug, Serialize)]
struct Document<'steps> {
    ok: bool,
    took_ms: f64,
    steps: &'steps [Step],
}

impl Timeline {
    pub(super) fn new(json: bool) -> Timeline {
        Timeline { begin: Instant::now(), steps: Vec::new(), json }
    }

    /// Takes a step, which gives what was observed. False if it was not; then the demo is over.
    pub(super) fn step(&mut self, name: &'static str, step: impl FnOnce() -> Result<String>) -> bool {
        let at = self.begin.elapsed();
        let result = step();
        let took = self.begin.elapsed() - at;
        let ok = result.is_ok();
        let observed = result.unwrap_or_else(|error| error.to_string());
        let step = Step { name, ok, at_ms: milliseconds(at), took_ms: milliseconds(took), observed };
        if !self.json {
            print(&step);
        }
        self.steps.push(step);
        ok
    }

    /// Prints the end. True if every step was seen.
    pub(super) fn finish(self) -> Result<bool> {
        let ok = self.steps.iter().all(|step| step.ok);
        let took = self.begin.elapsed();
        if self.json {
            let document = Document { ok, took_ms: milliseconds(took), steps: &self.steps };
            serde_json::to_writer_pretty(io::stdout().lock(), &document)?;
            println!();
        } else if ok {
            println!("\nall {} steps were observed, in {:.1} s", self.steps.len(), took.as_secs_f64());
        }
        if let Some(failed) = self.steps.iter().find(|step| !step.ok) {
            eprintln!("error: the step \"{}\" was not observed: {}", failed.name, failed.observed);
        }
        Ok(ok)
    }
}

fn print(step: &Step) {
    let mark = match (step.ok, io::stdout().is_terminal()) {
        (true, true) => "\u{1b}[32mok\u{1b}[0m  ",
        (true, false) => "ok  ",
        (false, true) => "\u{1b}[31mFAIL\u{1b}[0m",
        (false, false) => "FAIL",
    };
    println!("{:8.3} s  {mark}  {:<44} {:>9.1} ms   {}", step.at_ms / 1000.0, step.name, step.took_ms, step.observed);
}

fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}
