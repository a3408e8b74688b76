//! Rows in aligned columns.

use crate::output::{Paint, Style, clean_line};

/// What stands between two columns.
const GAP: &str = "  ";

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
        let width = |cell: &Cell| cell.text.chars().count();
        let widths: Vec<usize> = (0..self.columns.len())
            .map(|column| lines().filter_map(|row| row.get(column)).map(width).max().unwrap_or(0))
            .collect();

        let mut text = String::new();
        for row in lines() {
            let mut line = String::new();
            for (index, (cell, (_, align))) in row.iter().zip(self.columns).enumerate() {
                let padding = " ".repeat(widths[index].saturating_sub(width(cell)));
                let content = style.paint(cell.paint, &cell.text);
                line.push_str(if index == 0 { "" } else { GAP });
                // What is invisible is outside of the colour, so that an underline or a background would end with the text.
                line.push_str(&match align {
                    Align::Left => content + &padding,
                    Align::Right => padding + &content,
                });
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }

        text
    }
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
    fn a_cell_cannot_begin_a_line() {
        let mut table = Table::new(&[("NAME", Align::Left)]);
        table.row(["a\nb".into()]);
        assert_eq!(table.render(Style::PLAIN), "NAME\na b\n");
    }
}
