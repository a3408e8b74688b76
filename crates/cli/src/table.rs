//! Rows in aligned columns.

use std::{borrow::Cow, ops::Range};

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use crate::output::{Paint, Style, clean_line};

/// What stands between two columns.
const GAP: &str = "  ";

/// Where a row goes on that does not fit on one line.
const INDENTATION: &str = "  ";

/// How narrow a column of words becomes at most where there is not room for all: less would be a word a line.
const NARROWEST: usize = 16;

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Align {
    Left,
    /// For figures.
    Right,
}

pub(crate) struct Table {
    columns: &'static [(&'static str, Align)],
    rows: Vec<Vec<Cell>>,
}

pub(crate) struct Cell {
    text: String,
    paint: Paint,
}

impl Cell {
    pub(crate) fn painted(text: impl AsRef<str>, paint: Paint) -> Self {
        Self { text: clean_line(text.as_ref()), paint }
    }

    /// What is shown of something that may be unknown.
    pub(crate) fn optional<T: ToString>(value: Option<T>) -> Self {
        value.map_or_else(|| "-".into(), |value| value.to_string().into())
    }
}

impl<T: AsRef<str>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::painted(text, Paint::Plain)
    }
}

impl Table {
    pub(crate) fn new(columns: &'static [(&'static str, Align)]) -> Self {
        Self { columns, rows: Vec::new() }
    }

    /// Adds a row, which has a cell for each column.
    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = Cell>) {
        self.rows.push(cells.into_iter().collect());
    }

    /// The table with its headings, each line with an end.
    pub(crate) fn render(&self, style: Style) -> String {
        let headings: Vec<Cell> = self.columns.iter().map(|(title, _)| Cell::painted(title, Paint::Bold)).collect();
        let lines = || std::iter::once(&headings).chain(&self.rows);
        let mut widths: Vec<usize> = (0..self.columns.len())
            .map(|column| lines().filter_map(|row| row.get(column)).map(|cell| cell.text.width()).max().unwrap_or(0))
            .collect();
        let limit = style.width.unwrap_or(usize::MAX);
        self.narrow(&mut widths, limit);

        let parts = parts(&widths, limit);
        let mut text = String::new();
        for row in lines() {
            for (number, part) in parts.iter().enumerate() {
                let indentation = if number == 0 { "" } else { INDENTATION };
                let cells: Vec<Vec<Cow<'_, str>>> =
                    part.clone().map(|index| wrap(&row[index].text, widths[index])).collect();
                let height = cells.iter().map(Vec::len).max().unwrap_or(0);
                for at in 0..height {
                    let mut line = indentation.to_owned();
                    for (index, cell) in part.clone().zip(&cells) {
                        let text = cell.get(at).map_or("", AsRef::as_ref);
                        let padding = " ".repeat(widths[index].saturating_sub(text.width()));
                        let content = style.paint(row[index].paint, text);
                        line.push_str(if index == part.start { "" } else { GAP });
                        // What is invisible is outside of the colour, so that an underline or a background would end with the
                        // text.
                        line.push_str(&match self.columns[index].1 {
                            Align::Left => content + &padding,
                            Align::Right => padding + &content,
                        });
                    }
                    text.push_str(line.trim_end());
                    text.push('\n');
                }
            }
        }

        text
    }

    /// Takes from the widest columns of words what does not fit, and they go on in the next line; a figure that did would be
    /// taken for two. Where that is not enough, rows go on below, and there is room.
    fn narrow(&self, widths: &mut [usize], limit: usize) {
        let natural = widths.to_vec();
        let taken = |widths: &[usize]| widths.iter().map(|width| width + GAP.len()).sum::<usize>() - GAP.len();

        while !widths.is_empty() && taken(widths) > limit {
            let words = self.columns.iter().enumerate().filter(|(_, column)| column.1 == Align::Left);
            let widest = words.map(|(index, _)| index).max_by_key(|index| widths[*index]);

            match widest {
                Some(index) if widths[index] > NARROWEST => widths[index] -= 1,
                _ => {
                    let line = limit.saturating_sub(INDENTATION.len()).max(NARROWEST);
                    let is_word = |index: usize| self.columns[index].1 == Align::Left;
                    let width = |(index, width): (usize, usize)| if is_word(index) { width.min(line) } else { width };
                    widths.copy_from_slice(&natural.into_iter().enumerate().map(width).collect::<Vec<_>>());
                    return;
                }
            }
        }
    }
}

/// Which columns stand on one line: all of them, or as many as fit, and the others on lines below.
fn parts(widths: &[usize], limit: usize) -> Vec<Range<usize>> {
    let mut parts: Vec<Range<usize>> = Vec::new();
    let mut taken = 0;

    for (index, width) in widths.iter().enumerate() {
        taken += GAP.len() + width;

        match parts.last_mut() {
            Some(part) if taken <= limit => part.end += 1,
            Some(_) => {
                taken = INDENTATION.len() + width;
                parts.push(index..index + 1);
            }
            None => {
                taken = *width;
                parts.push(0..1);
            }
        }
    }

    parts
}

/// The lines of a text within that many columns of the terminal, broken between words where that can be.
fn wrap(text: &str, width: usize) -> Vec<Cow<'_, str>> {
    // What fits, and nothing, are one line.
    if text.width() <= width { vec![text.into()] } else { textwrap::wrap(text, width) }
}

/// The text within that many columns of the terminal, cut if it has to be.
pub(crate) fn shorten(text: &str, width: usize) -> Cow<'_, str> {
    if text.width() <= width {
        return text.into();
    }

    let mut left = width.saturating_sub(1);
    let fits = |character: &char| {
        let taken = character.width().unwrap_or(0);
        let fits = taken <= left;
        left = left.saturating_sub(taken);
        fits
    };
    let mut cut: String = text.chars().take_while(fits).collect();
    cut.push('…');
    cut.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_lines_end_with_their_text() {
        let mut table = Table::new(&[("NAME", Align::Left), ("SIZE", Align::Right), ("STATE", Align::Left)]);
        table.row(["web".into(), "5 B".into(), "ok".into()]);
        table.row(["größer".into(), "45.2 MiB".into(), Cell::optional::<u32>(None)]);
        assert_eq!(
            table.render(Style::PLAIN),
            "NAME        SIZE  STATE\n\
             web          5 B  ok\n\
             größer  45.2 MiB  -\n"
        );
    }

    #[test]
    fn what_does_not_fit_goes_on_in_the_next_line_where_it_is_widest() {
        let mut table = Table::new(&[("NAME", Align::Left), ("SIZE", Align::Right), ("EXIT", Align::Left)]);
        table.row(["worker#1".into(), "45.2 MiB".into(), "killed by SIGKILL, 漢字漢字漢字".into()]);
        table.row(["worker#2".into(), "5 B".into(), "-".into()]);
        let render = |width| table.render(Style::PLAIN.within(width));
        let width = |text: &str| text.lines().map(UnicodeWidthStr::width).max().unwrap();
        assert_eq!(width(&render(80)), 51);
        assert_eq!(
            render(48),
            "NAME          SIZE  EXIT\n\
             worker#1  45.2 MiB  killed by SIGKILL,\n                    漢字漢字漢字\n\
             worker#2       5 B  -\n"
        );
        // A word that is too long for a line is broken, and nothing is lost.
        let narrowest = render(36);
        assert!(width(&narrowest) <= 36, "{narrowest}");
        assert_eq!(narrowest.split_whitespace().collect::<String>(), render(80).split_whitespace().collect::<String>());
    }

    #[test]
    fn a_row_goes_on_below_where_it_cannot_be_narrow_enough() {
        let mut table = Table::new(&[("NAME", Align::Left), ("SIZE", Align::Right), ("EXIT", Align::Left)]);
        table.row(["worker#1".into(), "45.2 MiB".into(), "killed by SIGKILL".into()]);
        table.row(["worker#2".into(), "5 B".into(), "-".into()]);
        let narrow = table.render(Style::PLAIN.within(20));
        assert_eq!(
            narrow,
            "NAME          SIZE\n  EXIT\nworker#1  45.2 MiB\n  killed by SIGKILL\nworker#2       5 B\n  -\n"
        );
        // Figures stay whole, whatever it costs.
        let narrowest = table.render(Style::PLAIN.within(1));
        assert!(narrowest.contains("worker#1\n  45.2 MiB\n  killed by\n  SIGKILL\n"), "{narrowest}");
    }

    #[test]
    fn a_cell_cannot_begin_a_line() {
        let mut table = Table::new(&[("NAME", Align::Left)]);
        table.row(["a\nb".into()]);
        assert_eq!(table.render(Style::PLAIN), "NAME\na b\n");
    }
}
