//! Flame graphs.

use std::{io, io::Write};

use inferno::flamegraph;

use super::Header;

pub(super) fn write<W: Write>(header: &Header, lines: &[String], mut output: W) -> io::Result<W> {
    if lines.is_empty() {
        // The library takes this for an error. For us, it is an answer.
        let title = escaped(&header.title);
        write!(
            output,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"600\" height=\"40\"><text x=\"10\" y=\"25\">{title}: \
             no stacks</text></svg>"
        )?;
        return Ok(output);
    }

    let mut options = flamegraph::Options::default();
    options.title = header.title.clone();
    options.count_name = header.measures.get(header.main).map(|measure| measure.unit.to_owned()).unwrap_or_default();
    options.notes = header.notes.join("; ");
    flamegraph::from_lines(&mut options, lines.iter().map(String::as_str), &mut output).map_err(io::Error::other)?;
    Ok(output)
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::super::{Format, Measure, Profile, tests::profile};

    #[test]
    fn functions_are_in_the_picture() {
        let text = String::from_utf8(profile().to_bytes(Format::Svg).unwrap()).unwrap();
        assert!(text.contains("<svg") && text.contains("outer") && text.contains("bytes"));
    }

    #[test]
    fn nothing_is_a_picture_that_says_so() {
        let profile = Profile::new("a < b", vec![Measure::new("samples", "count")]);
        let text = String::from_utf8(profile.to_bytes(Format::Svg).unwrap()).unwrap();
        assert!(text.contains("a &lt; b: no stacks"));
    }
}
