//! Pictures of terminals.

use std::fmt::Write as _;

use vt100::{Cell, Color, Screen};

/// How large a character is, in the units of the picture.
const WIDTH: f64 = 8.4;
const HEIGHT: f64 = 18.0;
const MARGIN: f64 = 10.0;

const FOREGROUND: &str = "#d8dee9";
const BACKGROUND: &str = "#1e222a";

/// The usual sixteen colours.
const COLOURS: [&str; 16] = [
    "#3b4252", "#bf616a", "#a3be8c", "#ebcb8b", "#81a1c1", "#b48ead", "#88c0d0", "#e5e9f0", "#6b7589", "#bf616a",
    "#a3be8c", "#ebcb8b", "#81a1c1", "#b48ead", "#8fbcbb", "#eceff4",
];

/// What a terminal shows, as an SVG picture.
pub fn svg(screen: &Screen) -> String {
    let (rows, columns) = screen.size();
    let (rows, columns) = (rows.get(), columns.get());
    let (width, height) = (f64::from(columns) * WIDTH + 2.0 * MARGIN, f64::from(rows) * HEIGHT + 2.0 * MARGIN);
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" font-family=\"ui-monospace, 'DejaVu Sans Mono', monospace\" \
         font-size=\"14\" shape-rendering=\"crispEdges\">\n<rect width=\"100%\" height=\"100%\" rx=\"6\" fill=\"{BACKGROUND}\"/>\n"
    );

    for row in 0..rows {
        let y = MARGIN + f64::from(row) * HEIGHT;
        for (column, content, (fore, back), is_bold) in runs(screen, row, columns) {
            let x = MARGIN + f64::from(column) * WIDTH;
            let length = content.chars().count() as f64 * WIDTH;
            if back != BACKGROUND {
                let _ = writeln!(
                    text,
                    "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{length:.1}\" height=\"{HEIGHT}\" fill=\"{back}\"/>"
                );
            }
            if content.trim().is_empty() {
                continue;
            }
            if content.chars().all(|character| eighths(character).is_some()) {
                bars(&mut text, &content, x, y, fore);
                continue;
            }
            let weight = if is_bold { " font-weight=\"bold\"" } else { "" };
            let baseline = y + 13.5;
            let _ = writeln!(
                text,
                "<text x=\"{x:.1}\" y=\"{baseline:.1}\" textLength=\"{length:.1}\" xml:space=\"preserve\" \
                 fill=\"{fore}\"{weight}>{}</text>",
                escape(&content)
            );
        }
    }

    text.push_str("</svg>\n");
    text
}

/// How high a bar is of which a sparkline is made, in eighths of a line.
fn eighths(character: char) -> Option<u32> {
    let height = u32::from(character).checked_sub(0x2580)?;
    (1..=8).contains(&height).then_some(height)
}

/// Bars as they are in a terminal: from the bottom of the line, without gaps, whatever the fonts of the reader have.
fn bars(text: &mut String, content: &str, x: f64, y: f64, colour: &str) {
    for (column, eighths) in content.chars().filter_map(eighths).enumerate() {
        let (x, height) = (x + column as f64 * WIDTH, HEIGHT * f64::from(eighths) / 8.0);
        let y = y + HEIGHT - height;
        let _ = writeln!(
            text,
            "<rect x=\"{x:.1}\" y=\"{y:.2}\" width=\"{WIDTH}\" height=\"{height:.2}\" fill=\"{colour}\"/>"
        );
    }
}

type Run = (u16, String, (&'static str, &'static str), bool);

/// Neighbours in a row that look alike.
fn runs(screen: &Screen, row: u16, columns: u16) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for column in 0..columns {
        let Some(cell) = screen.cell(row, column) else { continue };
        let content = if cell.has_contents() { cell.contents() } else { " " };
        let (colours, is_bold) = (colours(cell), cell.bold());
        let is_bar = |text: &str| text.chars().any(|character| eighths(character).is_some());
        match runs.last_mut() {
            Some(run) if run.2 == colours && run.3 == is_bold && is_bar(&run.1) == is_bar(content) => {
                run.1.push_str(content);
            }
            _ => runs.push((column, content.to_owned(), colours, is_bold)),
        }
    }
    runs
}

fn colours(cell: &Cell) -> (&'static str, &'static str) {
    let named = |colour: Color, default: &'static str| match colour {
        Color::Idx(index) => COLOURS.get(usize::from(index)).copied().unwrap_or(default),
        _ => default,
    };
    let (fore, back) = (named(cell.fgcolor(), FOREGROUND), named(cell.bgcolor(), BACKGROUND));
    if cell.inverse() { (back, fore) } else { (fore, back) }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
