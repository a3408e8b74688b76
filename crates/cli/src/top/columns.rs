//! The columns of the table: as many as fit.

use std::collections::VecDeque;

use ratatui::{
    style::Style,
    text::{Line, Span},
};
use unicode_width::UnicodeWidthStr;

use super::{
    model::Model,
    rows::{History, Row, Sort},
    view::Theme,
};
use crate::{commands::paint, output::clean_line, table::shorten, units};

/// How many characters a history takes.
const HISTORY: usize = 7;

const LEVELS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Column {
    Name,
    Process,
    State,
    Restarts,
    Uptime,
    Memory,
    Memories,
    Proportional,
    Processor,
    Processors,
    LastExit,
}

use Column::{LastExit, Memories, Memory, Name, Process, Processor, Processors, Proportional, Restarts, State, Uptime};

/// A column, how wide it is, and how much it matters: those with the largest number go first when there is no room.
const COLUMNS: [(Column, usize, u8); 11] = [
    (Name, 12, 0),
    (Process, 7, 1),
    (State, 9, 0),
    (Restarts, 4, 2),
    (Uptime, 10, 5),
    (Memory, 9, 1),
    (Memories, HISTORY, 3),
    (Proportional, 9, 7),
    (Processor, 6, 1),
    (Processors, HISTORY, 4),
    (LastExit, 24, 6),
];

/// The columns that fit, with their widths. The last takes what is left.
pub(super) fn fitting(width: usize) -> Vec<(Column, usize)> {
    let mut columns = COLUMNS.to_vec();

    // A gap of one character stands between columns.
    let taken = |columns: &[(Column, usize, u8)]| columns.iter().map(|column| column.1 + 1).sum::<usize>() - 1;
    while taken(&columns) > width && columns.len() > 2 {
        let least = columns.iter().enumerate().max_by_key(|(_, column)| column.2).map_or(0, |(index, _)| index);
        columns.remove(least);
    }

    let mut left = width.saturating_sub(taken(&columns));
    let has_exit = columns.iter().any(|column| column.0 == LastExit);
    let mut fitting: Vec<_> = columns.into_iter().map(|(column, width, _)| (column, width)).collect();

    // Long names are more frequent than long explanations are of use.
    let name = if has_exit { left.min(12) } else { left };
    fitting[0].1 += name;
    left -= name;

    if let Some(last) = fitting.last_mut().filter(|_| has_exit) {
        last.1 += left;
    }

    fitting
}

pub(super) fn heading(columns: &[(Column, usize)], model: &Model, theme: Theme) -> Line<'static> {
    let sorted = match model.sort {
        Sort::Name => Name,
        Sort::Memory => Memory,
        Sort::Processor => Processor,
        Sort::Restarts => Restarts,
        Sort::Uptime => Uptime,
    };
    let mark = if model.is_reversed { "^" } else { "v" };
    let titles = columns.iter().map(|(column, width)| {
        let title = match column {
            Name => "NAME",
            Process => "PID",
            State => "STATE",
            Restarts => "RST",
            Uptime => "UPTIME",
            Memory => "RSS",
            Proportional => "PSS",
            Processor => "CPU",
            Memories | Processors => "",
            LastExit => "LAST EXIT",
        };
        let title = if *column == sorted { format!("{title}{mark}") } else { title.to_owned() };
        fit(&title, *width, is_left(*column))
    });
    let text = titles.collect::<Vec<_>>().join(" ");
    Line::styled(format!("{text:1000}"), theme.bar())
}

pub(super) fn line(
    columns: &[(Column, usize)],
    row: &Row,
    history: Option<&History>,
    is_selected: bool,
    is_known: bool,
    theme: Theme,
) -> Line<'static> {
    let mut spans = Vec::new();

    for (column, width) in columns {
        let text = match column {
            Name => clean_line(&row.name),
            Process => optional(row.process_id),
            // The rest is told as it was.
            State if !is_known => "?".to_owned(),
            State => clean_line(&row.state),
            Restarts => optional(row.restarts),
            Uptime => optional(row.uptime.map(units::elapsed)),
            Memory => optional(row.memory.map(units::bytes)),
            Memories => history.map_or_else(String::new, |it| sparkline(&it.memory, |bytes| *bytes as f64, 1.0)),
            Proportional => optional(row.proportional.map(units::bytes)),
            Processor => optional(row.processor.map(units::percent)),
            // A history that is all noise should look flat: a tenth of a processor is the least that is full scale.
            Processors => history.map_or_else(String::new, |it| sparkline(&it.processor, |share| *share, 0.1)),
            LastExit => clean_line(row.last_exit.as_deref().unwrap_or("-")),
        };
        let style = match column {
            // A bar has one colour: others are not to be read on it.
            State if !is_selected && is_known => theme.paint(paint(&row.state)),
            _ if !is_selected && !is_known => theme.faint(),
            _ => Style::new(),
        };

        if !spans.is_empty() {
            spans.push(Span::raw(" "));
        }

        spans.push(Span::styled(fit(&text, *width, is_left(*column)), style));
    }

    let mut line = Line::from(spans);

    if is_selected {
        line = line.patch_style(theme.bar());
    }

    line
}

fn is_left(column: Column) -> bool {
    matches!(column, Name | State | Memories | Processors | LastExit)
}

fn optional<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// Text of exactly that width: cut, or filled.
fn fit(text: &str, width: usize, is_left: bool) -> String {
    let text = shorten(text, width);
    let padding = " ".repeat(width.saturating_sub(text.width()));
    if is_left { format!("{text}{padding}") } else { format!("{padding}{text}") }
}

/// The newest samples as bars, from nothing to the largest, or to `least` if that is more.
fn sparkline<T>(samples: &VecDeque<T>, figure: impl Fn(&T) -> f64, least: f64) -> String {
    let largest = samples.iter().map(&figure).fold(least, f64::max);
    let skipped = samples.len().saturating_sub(HISTORY);
    let level = |sample: &T| {
        let level = (figure(sample) / largest * (LEVELS.len() - 1) as f64).round() as usize;
        LEVELS[level.min(LEVELS.len() - 1)]
    };
    let bars: String = samples.iter().skip(skipped).map(level).collect();
    format!("{bars:>HISTORY$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_columns_as_fit() {
        for width in 22..200 {
            let columns = fitting(width);
            let taken = columns.iter().map(|column| column.1 + 1).sum::<usize>() - 1;
            assert_eq!(taken, width, "{columns:?}");
        }

        let names = |width| fitting(width).into_iter().map(|column| column.0).collect::<Vec<_>>();
        assert_eq!(names(20), [Name, State]);
        assert_eq!(names(80), [Name, Process, State, Restarts, Uptime, Memory, Memories, Processor, Processors]);
        assert!(names(130).ends_with(&[LastExit]) && names(130).contains(&Proportional));
    }

    #[test]
    fn bars_grow_with_samples() {
        let samples: VecDeque<u64> = (0..=9).collect();
        assert_eq!(sparkline(&samples, |it| *it as f64, 1.0), "▃▄▅▆▆▇█");
        assert_eq!(sparkline(&[0, 0].into(), |it: &u64| *it as f64, 1.0), "     ▁▁");
        assert_eq!(sparkline(&VecDeque::<u64>::new(), |it| *it as f64, 1.0), "       ");
    }

    #[test]
    fn text_is_cut_or_filled() {
        assert_eq!(fit("größer", 4, true), "grö…");
        assert_eq!(fit("ab", 4, true), "ab  ");
        assert_eq!(fit("ab", 4, false), "  ab");
    }
}
