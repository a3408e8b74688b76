//! How the live view looks.

use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::{Color, Modifier, Style},
    text::{Line, Span},
    widgets::{Block, Clear, Paragraph},
};
use serde_json::Value;

use super::{
    columns,
    model::{Entry, Mode, Model},
};
use crate::{
    commands::watch,
    output::{Paint, clean_line},
    table::shorten,
    units,
};

/// How many events are shown at least, if there is room for them at all.
const EVENTS: u16 = 5;

/// How many characters the time and the name of an event take.
const EVENT_HEAD: usize = 18;

/// Keys, and what they do. Where there is little room, the beginning has to do.
const HELP: &[(&str, &str)] = &[
    ("Up Down j k", "select; also PgUp, PgDn"),
    ("Home End g G", "the first, the last"),
    ("s S", "sort by the next column; S the other way round"),
    ("/", "filter: a part of the name, state or pid; Esc shows all"),
    ("Enter d", "diagnose: take a dump, sample or profile of it"),
    ("p", "the last report again"),
    ("r", "replace it by a fresh process"),
    ("R", "reload: replace all children by a new generation"),
    ("Esc", "give up a diagnostic that is under way"),
    ("q Ctrl-C", "quit"),
];

/// Which colours there are: none at all, if none are wanted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Theme {
    pub(crate) has_color: bool,
}

impl Theme {
    pub(super) fn paint(self, paint: Paint) -> Style {
        let color = |color| if self.has_color { Style::new().fg(color) } else { Style::new() };

        match paint {
            Paint::Plain => Style::new(),
            Paint::Bold => Style::new().add_modifier(Modifier::BOLD),
            Paint::Good => color(Color::Green),
            Paint::Passing => color(Color::Yellow),
            // What is bad is to be seen without colours as well.
            Paint::Bad => color(Color::Red).add_modifier(Modifier::BOLD),
        }
    }

    pub(super) fn bar(self) -> Style {
        Style::new().add_modifier(Modifier::REVERSED)
    }

    pub(super) fn faint(self) -> Style {
        if self.has_color { Style::new().fg(Color::DarkGray) } else { Style::new() }
    }
}

pub(crate) fn draw(frame: &mut Frame<'_>, model: &mut Model, theme: Theme) {
    let area = frame.area();

    if let Mode::Pane | Mode::File { entry: None, .. } = model.mode {
        return pane(frame, model, theme, area);
    }

    let header = header(model, theme);
    let detail = detail(model, theme);
    let fixed = header.len() as u16 + detail.len() as u16 + 1;
    let room = area.height.saturating_sub(fixed);
    // The table is what this is for. What it leaves is for events.
    let wanted = model.rows.len() as u16 + 1;
    let events = room.saturating_sub(wanted).max(EVENTS.min(room / 3));
    let [top, table, middle, log, bottom] = Layout::vertical([
        Constraint::Length(header.len() as u16),
        Constraint::Min(0),
        Constraint::Length(detail.len() as u16),
        Constraint::Length(events),
        Constraint::Length(1),
    ])
    .areas(area);

    frame.render_widget(Paragraph::new(header), top);
    rows(frame, model, theme, table);
    frame.render_widget(Paragraph::new(detail), middle);
    log_of(frame, model, theme, log);
    frame.render_widget(Paragraph::new(footer(model, theme)), bottom);

    match &model.mode {
        Mode::Help => help(frame, theme, area),
        Mode::Menu { index } => menu(frame, model, *index, theme, area),
        _ => {}
    }
}

fn header(model: &Model, theme: Theme) -> Vec<Line<'static>> {
    let mut lines = vec![title(model, theme)];
    if model.snapshot.is_none() {
        return lines;
    }

    let root = &model.root;
    let mut line = vec![Span::styled("root ", theme.paint(Paint::Bold))];

    if root.process_id == 0 {
        line.push("tells nothing".into());
    } else if model.lost.is_some() {
        line.push(format!("pid {}, generation {}, when last heard of", root.process_id, root.generation).into());
    } else {
        line.push(format!("pid {}, generation {}, ", root.process_id, root.generation).into());
        line.push(match (root.ready, root.reloading) {
            (_, true) => Span::styled("reloading", theme.paint(Paint::Passing)),
            (true, false) => Span::styled("ready", theme.paint(Paint::Good)),
            (false, false) => Span::styled("not ready", theme.paint(Paint::Passing)),
        });
        let ready = root.children.iter().filter(|child| child.state == "ready").count();
        line.push(format!(", {ready} of {} children ready", root.children.len()).into());
    }

    lines.push(Line::from(line));
    lines.push(supervisor(model, theme));
    lines.push(host(model, theme));

    if let Some(error) = &root.reload_error {
        let text = format!("the last reload failed: {}", clean_line(error));
        lines.push(Line::styled(text, theme.paint(Paint::Bad)));
    }

    lines
}

fn supervisor(model: &Model, theme: Theme) -> Line<'static> {
    let mut line = vec![Span::styled("supervisor ", theme.paint(Paint::Bold))];

    // What is below is old then, and the clock above stands still.
    if let Some(reason) = &model.lost {
        line.push(Span::styled(clean_line(reason), theme.paint(Paint::Bad)));
        return Line::from(line);
    }

    let Some(snapshot) = &model.snapshot else { return Line::default() };
    let field = |key: &str| snapshot.overview.supervisor.as_ref().and_then(|ping| ping.get(key));
    line.push(clean_line(field("version").and_then(Value::as_str).unwrap_or("-")).into());

    if let Some(process_id) = field("process_id").and_then(Value::as_u64) {
        line.push(format!(", pid {process_id}").into());
    }

    if let Some(uptime) = field("uptime").and_then(Value::as_f64) {
        line.push(format!(", up {}", units::elapsed(uptime)).into());
    }

    line.push(format!(", {} connected", snapshot.overview.workers.len()).into());
    Line::from(line)
}

fn title(model: &Model, theme: Theme) -> Line<'static> {
    let at = model.snapshot.as_ref().map_or(0.0, |snapshot| snapshot.at);
    let clock = units::timestamp(at).get(11..19).map(|time| format!("{time} UTC")).unwrap_or_default();
    let text = format!(" acs top  {}  {clock} ", clean_line(&model.socket));
    Line::styled(format!("{text:1000}"), theme.bar())
}

fn host(model: &Model, theme: Theme) -> Line<'static> {
    let Some(snapshot) = &model.snapshot else { return Line::default() };
    let host = &snapshot.host;
    let mut line = vec![Span::styled("host ", theme.paint(Paint::Bold))];

    if let (Some(total), Some(available)) = (host.total, host.available) {
        let share = 1.0 - available as f64 / total.max(1) as f64;
        let paint = if share > 0.9 { Paint::Bad } else { Paint::Plain };
        let text =
            format!("memory {} of {} in use", units::bytes(total.saturating_sub(available)), units::bytes(total));
        line.push(Span::styled(text, theme.paint(paint)));
    }

    if let Some(pressure) = host.pressure {
        let paint = if pressure > 0.1 { Paint::Bad } else { Paint::Plain };
        line.push(Span::styled(format!(", pressure {}", units::percent(pressure)), theme.paint(paint)));
    }

    if let Some(load) = host.load {
        line.push(format!(", load {load:.2}").into());
    }

    Line::from(line)
}

fn rows(frame: &mut Frame<'_>, model: &mut Model, theme: Theme, area: Rect) {
    model.table_page = usize::from(area.height.saturating_sub(1)).max(1);

    if model.snapshot.is_none() {
        let text = model.lost.clone().unwrap_or_else(|| "asking the supervisor".to_owned());
        return frame.render_widget(Paragraph::new(clean_line(&text)), area);
    }

    let columns = columns::fitting(usize::from(area.width));
    let selected = model.selected_index().unwrap_or(0);
    // Shows a page with the one that is selected. The last page is a full one, too.
    let first = (selected / model.table_page) * model.table_page;
    let first = first.min(model.rows.len().saturating_sub(model.table_page));
    let mut lines = vec![columns::heading(&columns, model, theme)];

    for (index, row) in model.rows.iter().enumerate().skip(first).take(model.table_page) {
        let history = model.histories.get(row.process_id);
        lines.push(columns::line(&columns, row, history, index == selected, model.lost.is_none(), theme));
    }

    if model.rows.is_empty() {
        lines.push(Line::from(match model.filter.is_empty() {
            true => "no children and no workers".to_owned(),
            false => format!("nothing contains '{}'", model.filter),
        }));
    }

    frame.render_widget(Paragraph::new(lines), area);
}

/// What there is to say of the one that is selected.
fn detail(model: &Model, theme: Theme) -> Vec<Line<'static>> {
    let Some(row) = model.selected() else { return Vec::new() };
    let mut text = Vec::new();

    if let Some(worker) = &row.worker {
        text.push(format!("connection {}", worker.short_id(8)));
    }

    if let Some(size) = row.proportional {
        text.push(format!("PSS {}", units::bytes(size)));
    }

    text.push(match &row.last_exit {
        Some(exit) => format!("last exit: {}", clean_line(exit)),
        None if model.lost.is_some() => "had not ended when last heard of".to_owned(),
        None => "has not ended yet".to_owned(),
    });

    if let (Some(next), Some(snapshot)) = (row.next_start, &model.snapshot) {
        text.push(format!("starts in {}", units::elapsed((next - snapshot.at).max(0.0))));
    }

    let mut lines = vec![Line::from(vec![
        Span::styled(clean_line(&row.name), theme.paint(Paint::Bold)),
        format!(": {}", text.join(", ")).into(),
    ])];

    lines.extend(utilization(model, theme).unwrap_or_default());
    lines
}

/// What the one that is selected counts, and all of its service together, as far as a monitor reads it.
fn utilization(model: &Model, theme: Theme) -> Option<Vec<Line<'static>>> {
    let worker = model.selected()?.worker.as_ref()?;
    let monitor = model.snapshot.as_ref()?.overview.monitors.get("utilization")?;
    let of_worker = monitor["workers"].as_array()?.iter().find(|it| it["id"] == worker.connection_id.as_str())?;
    let own = figures(&of_worker["metrics"]).or_else(|| of_worker["error"].as_str().map(clean_line));
    let own = own.unwrap_or_else(|| "nothing is counted yet".to_owned());
    let mut lines = vec![Line::from(vec![Span::styled("utilization ", theme.paint(Paint::Bold)), own.into()])];
    let service = of_worker["name"].as_str().unwrap_or_default();
    let sums = &monitor["services"][service];

    if let (Some(count @ 2..), Some(figures)) = (sums["worker_count"].as_u64(), figures(&sums["metrics"])) {
        let title = Span::styled(format!("all {count} of {} ", clean_line(service)), theme.paint(Paint::Bold));
        lines.push(Line::from(vec![title, figures.into()]));
    }

    Some(lines)
}

/// Metrics with their values, if there are any.
fn figures(metrics: &Value) -> Option<String> {
    let figures: Vec<String> =
        metrics.as_object()?.iter().map(|(name, value)| format!("{} {value}", clean_line(name))).collect();
    (!figures.is_empty()).then(|| figures.join(", "))
}

fn log_of(frame: &mut Frame<'_>, model: &Model, theme: Theme, area: Rect) {
    if area.height == 0 {
        return;
    }

    let room = usize::from(area.height - 1);
    let mut lines = vec![Line::styled(format!("{:1000}", " EVENTS"), theme.bar())];

    // The newest is the last, and always there.
    for event in model.events.iter().skip(model.events.len().saturating_sub(room)) {
        let name = event["event"].as_str().unwrap_or("-");
        let at = event["at"].as_f64().map(units::timestamp).unwrap_or_default();
        let parts: Vec<String> = watch::parts(name, event).iter().map(|part| clean_line(part)).collect();
        lines.push(Line::from(vec![
            Span::raw(format!("{} ", at.get(11..19).unwrap_or("-"))),
            Span::styled(format!("{:9}", clean_line(name)), theme.paint(watch::paint(name))),
            Span::raw(shorten(&parts.join("  "), usize::from(area.width).saturating_sub(EVENT_HEAD)).into_owned()),
        ]));
    }

    frame.render_widget(Paragraph::new(lines), area);
}

fn footer(model: &Model, theme: Theme) -> Line<'static> {
    match &model.mode {
        Mode::Filter => return Line::from(format!("filter: {}_", clean_line(&model.filter))),
        Mode::File { name, .. } => {
            let text = format!("file (.svg .pb.gz .json .txt .folded): {}_", clean_line(name));
            return Line::from(text);
        }
        Mode::Confirm { question, .. } => {
            return Line::styled(format!("{} y/n", clean_line(question)), theme.paint(Paint::Passing));
        }
        _ => {}
    }

    if let Some(job) = &model.job {
        let elapsed = units::elapsed(job.elapsed.as_secs() as f64);
        let progress = match job.duration {
            _ if job.received > 0 => format!("{} received", units::bytes(job.received as u64)),
            Some(duration) if job.elapsed < duration => {
                format!("{elapsed} of {}", units::elapsed(duration.as_secs() as f64))
            }
            _ => format!("waiting for the report, {elapsed}"),
        };
        let text = format!("{}: {progress} (Esc gives it up)", clean_line(&job.title));
        return Line::styled(text, theme.paint(Paint::Passing));
    }

    if let Some(notice) = &model.notice {
        let paint = if notice.is_bad { Paint::Bad } else { Paint::Good };
        return Line::styled(clean_line(&notice.text), theme.paint(paint));
    }

    let filter = match model.filter.as_str() {
        "" => String::new(),
        filter => format!("  [{}]", clean_line(filter)),
    };
    let keys = "q quit  ? help  s sort  / filter  Enter diagnose  r replace  R reload";
    Line::styled(format!("{keys}{filter}"), theme.faint())
}

/// A box in the middle, as large as what it holds.
fn window(frame: &mut Frame<'_>, title: &'static str, lines: Vec<Line<'static>>, area: Rect) {
    let width = lines.iter().map(Line::width).max().unwrap_or(0).max(title.len() + 2) as u16 + 4;
    let height = lines.len() as u16 + 2;
    let (width, height) = (width.min(area.width), height.min(area.height));
    let area = Rect::new((area.width - width) / 2, (area.height - height) / 2, width, height);
    frame.render_widget(Clear, area);
    let block = Block::bordered().title(title).padding(ratatui::widgets::Padding::horizontal(1));
    frame.render_widget(Paragraph::new(lines).block(block), area);
}

fn help(frame: &mut Frame<'_>, theme: Theme, area: Rect) {
    let lines = HELP.iter().map(|(keys, meaning)| {
        Line::from(vec![Span::styled(format!("{keys:13}"), theme.paint(Paint::Bold)), (*meaning).into()])
    });
    // Narrow windows cut what is explained, not the keys.
    window(frame, " help: any key goes back ", lines.collect(), area);
}

fn menu(frame: &mut Frame<'_>, model: &Model, index: usize, theme: Theme, area: Rect) {
    let mut lines: Vec<Line<'static>> = Entry::all()
        .enumerate()
        .map(|(number, entry)| {
            let lasts = match entry.lasts() {
                true => format!("  {}", units::elapsed(model.duration as f64)),
                false => String::new(),
            };
            let style = if number == index { theme.bar() } else { Style::new() };
            Line::styled(format!("{} {}{lasts}", number + 1, entry.name()), style)
        })
        .collect();
    lines.push(Line::default());
    lines.push("Enter shows it, f: to a file".into());
    lines.push("+ -: how long it lasts, Esc: back".into());
    window(frame, " diagnostics ", lines, area);
}

fn pane(frame: &mut Frame<'_>, model: &mut Model, theme: Theme, area: Rect) {
    let [top, middle, bottom] =
        Layout::vertical([Constraint::Length(1), Constraint::Min(0), Constraint::Length(1)]).areas(area);
    model.page = (usize::from(middle.height).max(1), usize::from(middle.width).max(1));
    let pane = &mut model.pane;
    // A window that has grown shows the end, not what is beyond.
    pane.top = pane.top.min(pane.lines.len().saturating_sub(model.page.0));
    let last = (pane.top + model.page.0).min(pane.lines.len());
    let title =
        format!(" {}  lines {}-{last} of {}", clean_line(&pane.title), (pane.top + 1).min(last), pane.lines.len());
    frame.render_widget(Paragraph::new(Line::styled(format!("{title:1000}"), theme.bar())), top);
    let lines: Vec<Line<'_>> = pane.lines[pane.top..last]
        .iter()
        .map(|line| Line::raw(line.chars().skip(pane.left).collect::<String>()))
        .collect();
    frame.render_widget(Paragraph::new(lines), middle);
    let keys = "Esc back  arrows, PgUp, PgDn, Home, End scroll  w write to a file";
    let footer = match (&model.mode, &model.notice) {
        (Mode::Pane, None) => Line::styled(keys, theme.faint()),
        _ => footer(model, theme),
    };
    frame.render_widget(Paragraph::new(footer), bottom);
}
