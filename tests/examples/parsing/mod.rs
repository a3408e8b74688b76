//! A loop that allocates as much as it computes: JSON is parsed into values of its own, and dropped.

use std::{fmt::Write as _, hint::black_box, time::Instant};

use serde_json::Value;

/// Parses so often, and prints the nanoseconds that one took, in the best of rounds of ten.
pub fn run(parses: usize) {
    let text = document();
    let mut best = f64::MAX;

    for _ in 0..parses.div_ceil(10) {
        let begun = Instant::now();

        for _ in 0..10 {
            black_box(serde_json::from_str::<Value>(black_box(&text)).is_ok());
        }

        best = best.min(begun.elapsed().as_nanos() as f64 / 10.0);
    }

    println!("{best}");
}

/// How often, by the first argument.
pub fn parses() -> usize {
    std::env::args().nth(1).and_then(|argument| argument.parse().ok()).unwrap_or(100)
}

/// 70 KB, in 6,000 blocks when it is parsed.
fn document() -> String {
    let mut text = "[".to_owned();

    for number in 0..600 {
        if number > 0 {
            text.push(',');
        }

        // Writing to a string does not fail.
        let _ = write!(
            text,
            r#"{{"id": {number}, "name": "user number {number}", "tags": ["a", "bc", "def"], "score": {number}.5, "nested": {{"x": 1, "y": [1, 2, 3]}}}}"#
        );
    }

    text.push(']');
    text
}
