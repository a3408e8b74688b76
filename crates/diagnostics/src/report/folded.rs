//! One line a stack.

use std::sync::Arc;

use crate::symbols::Place;

/// The line of a stack, without its end: the functions from the outermost on, and the number.
pub(super) fn line(places: &[Arc<Place>], value: u64) -> String {
    let mut line = String::new();

    for frame in places.iter().rev().flat_map(|place| place.frames.iter().rev()) {
        if !line.is_empty() {
            line.push(';');
        }
        // What separates functions must not be in their names, as it is in those of arrays, nor may a line end within one.
        line.extend(frame.function.chars().map(|character| match character {
            ';' => ',',
            '\n' | '\r' => ' ',
            other => other,
        }));
    }

    line.push_str(&format!(" {value}"));
    line
}

#[cfg(test)]
mod tests {
    use super::super::{Format, tests::profile};

    #[test]
    fn stacks_are_lines_with_what_was_inlined() {
        let text = String::from_utf8(profile().to_bytes(Format::Folded).unwrap()).unwrap();
        assert_eq!(text, "main;outer;inner 2500\nmain;other::<[u8, 2]> 30\n");
    }
}
