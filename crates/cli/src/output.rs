//! Standard output: for people or for programs.

use std::{
    env,
    io::{self, IsTerminal, Write},
    os::fd::AsFd,
};

use serde_json::Value;

use crate::{
    arguments::{Color, Format},
    error::{Error, Result},
};

pub(crate) struct Output {
    format: Format,
    color: bool,
    /// How many characters fit on a line, where that is bounded.
    width: Option<usize>,
}

impl Output {
    pub(crate) fn new(format: Format, color: Color) -> Self {
        let color = match color {
            Color::Always => true,
            Color::Never => false,
            Color::Auto => {
                let is_set = |name| env::var_os(name).is_some_and(|value| !value.is_empty());
                io::stdout().is_terminal() && !is_set("NO_COLOR") && !is_dumb()
            }
        };

        Self { format, color, width: width_of(&io::stdout()) }
    }

    pub(crate) fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    /// Whether text is coloured.
    pub(crate) fn has_color(&self) -> bool {
        self.color
    }

    pub(crate) fn style(&self) -> Style {
        Style { color: self.color, width: self.width }
    }

    /// Prints one document, in the form that was asked for. The text is made only if it is wanted.
    pub(crate) fn print(&self, document: &Value, text: impl FnOnce(Style) -> String) -> Result {
        let mut line = if self.is_json() { document.to_string() } else { text(self.style()) };

        if !line.is_empty() && !line.ends_with('\n') {
            line.push('\n');
        }

        write(line.as_bytes())
    }
}

/// Writes to standard output.
pub(crate) fn write(bytes: &[u8]) -> Result {
    let mut output = io::stdout().lock();
    output.write_all(bytes).and_then(|()| output.flush()).map_err(Error::standard_output)
}

/// How wide the terminal is, if that is one: what is printed into files and pipes is not cut.
pub(crate) fn width_of(output: &(impl IsTerminal + AsFd)) -> Option<usize> {
    if !output.is_terminal() {
        return None;
    }

    let told = rustix::termios::tcgetwinsize(output).ok().map(|size| usize::from(size.ws_col));
    let variable = || env::var("COLUMNS").ok()?.parse().ok();
    told.filter(|width| *width > 0).or_else(variable).filter(|width| *width > 0)
}

/// Whether the terminal can do nothing but print.
pub(crate) fn is_dumb() -> bool {
    env::var_os("TERM").is_some_and(|term| term == "dumb")
}

/// How text is emphasised, if it is.
#[derive(Clone, Copy)]
pub(crate) struct Style {
    color: bool,
    /// How many characters fit on a line, where that is bounded.
    pub(crate) width: Option<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Paint {
    Plain,
    /// What structures the text.
    Bold,
    Good,
    /// What is on its way to be good, or otherwise.
    Passing,
    Bad,
}

impl Style {
    #[cfg(test)]
    pub(crate) const PLAIN: Self = Self { color: false, width: None };

    /// As this, where that many characters fit on a line.
    #[cfg(test)]
    pub(crate) fn within(self, width: usize) -> Self {
        Self { width: Some(width), ..self }
    }

    pub(crate) fn paint(self, paint: Paint, text: &str) -> String {
        let code = match paint {
            Paint::Bold => 1,
            Paint::Good => 32,
            Paint::Passing => 33,
            Paint::Bad => 31,
            Paint::Plain => return text.to_owned(),
        };

        if self.color && !text.is_empty() { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

/// Text of others, made harmless: what a worker calls itself must not be able to rewrite the reader's terminal. Line breaks
/// and tabs stay.
pub(crate) fn clean(text: &str) -> String {
    text.chars()
        .map(|character| match character {
            '\n' | '\t' => character,
            _ if character.is_control() => char::REPLACEMENT_CHARACTER,
            _ => character,
        })
        .collect()
}

/// As [`clean`], for what has to stay on one line.
pub(crate) fn clean_line(text: &str) -> String {
    clean(text).replace(['\n', '\t'], " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_there_is_coloured() {
        let style = Style { color: true, width: None };
        assert_eq!(style.paint(Paint::Good, "ready"), "\x1b[32mready\x1b[0m");
        assert_eq!(style.paint(Paint::Good, ""), "");
    }

    #[test]
    fn control_characters_do_not_reach_the_terminal() {
        assert_eq!(clean("a\x1b[2Jb\r\n\tc"), "a\u{fffd}[2Jb\u{fffd}\n\tc");
        assert_eq!(clean_line("a\nb"), "a b");
    }

    #[test]
    fn color_is_applied_only_if_wanted() {
        assert_eq!(Style::PLAIN.paint(Paint::Bad, "x"), "x");
        assert_eq!(Style { color: true, ..Style::PLAIN }.paint(Paint::Bad, "x"), "\x1b[31mx\x1b[0m");
        assert_eq!(Style { color: true, ..Style::PLAIN }.paint(Paint::Plain, "x"), "x");
    }
}
