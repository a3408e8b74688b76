//! What the live view shows, and what keys do to it. It reads no clock and does no input or output.

use std::{collections::VecDeque, path::PathBuf, time::Duration};

use async_container_supervisor_client::{Diagnostic, Form, Kind, Root, Worker};
use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use serde_json::Value;

use super::{
    host::Host,
    rows::{Histories, Row, Sort, rows},
};
use crate::{output::clean, overview::Overview};

/// How many events are kept.
const EVENTS: usize = 500;

/// For how long what lasts is taken at first, in seconds; and the steps.
const DURATION: u64 = 10;
const DURATIONS: [u64; 6] = [1, 5, 10, 30, 60, 300];

/// What is known of the application at one moment.
#[derive(Debug)]
pub(crate) struct Snapshot {
    pub(crate) overview: Overview,
    pub(crate) host: Host,
    /// In seconds since 1970.
    pub(crate) at: f64,
}

/// What happened elsewhere.
#[derive(Debug)]
pub(crate) enum Update {
    Snapshot(Box<Snapshot>),
    /// An event of the supervisor.
    Event(Value),
    /// The supervisor is gone, and it is looked for.
    Lost(String),
    /// How far the diagnostic is that is being taken.
    Progress {
        elapsed: Duration,
        received: usize,
    },
    /// It is there, as text.
    Report {
        title: String,
        text: String,
    },
    /// Something is done, or has failed, and this is to be said.
    Notice {
        text: String,
        is_bad: bool,
    },
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Command {
    Quit,
    /// Take a diagnostic, to be shown, or written to a file.
    Diagnose {
        title: String,
        source: Source,
        path: Option<PathBuf>,
    },
    /// Write the report that is shown to a file.
    Write {
        path: PathBuf,
        text: String,
    },
    /// Give the diagnostic up that is being taken.
    GiveUp,
    Replace {
        process_id: u32,
        name: String,
    },
    Reload,
}

/// Whom to ask for a report.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Source {
    Worker {
        worker: Box<Worker>,
        diagnostic: Diagnostic,
    },
    /// The supervisor, of the threads of that process.
    Outside {
        process_id: u32,
        form: Form,
    },
}

/// What can be taken of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    Of(Kind),
    /// A thread dump from outside.
    Outside,
}

impl Entry {
    /// All of them, in the order of the menu.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        Kind::ALL.iter().copied().map(Self::Of).chain([Self::Outside])
    }

    fn at(index: usize) -> Option<Self> {
        Self::all().nth(index)
    }

    fn kind(self) -> Kind {
        match self {
            Self::Of(kind) => kind,
            Self::Outside => Kind::ThreadDump,
        }
    }

    pub(crate) fn name(self) -> String {
        match self {
            Self::Of(kind) => kind.name().to_owned(),
            Self::Outside => "thread-dump from outside".to_owned(),
        }
    }

    pub(crate) fn lasts(self) -> bool {
        self.kind().default_duration().is_some()
    }
}

/// What keys are about.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Mode {
    Table,
    Filter,
    Help,
    /// Which diagnostic?
    Menu {
        index: usize,
    },
    /// To which file?
    File {
        entry: Option<Entry>,
        name: String,
    },
    /// Really?
    Confirm {
        question: String,
        command: Box<Command>,
    },
    Pane,
}

/// A report, as it is shown.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Pane {
    pub(crate) title: String,
    pub(crate) lines: Vec<String>,
    pub(crate) top: usize,
    pub(crate) left: usize,
}

/// A diagnostic that is being taken.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Job {
    pub(crate) title: String,
    pub(crate) duration: Option<Duration>,
    pub(crate) elapsed: Duration,
    pub(crate) received: usize,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Notice {
    pub(crate) text: String,
    pub(crate) is_bad: bool,
}

#[derive(Debug)]
pub(crate) struct Model {
    pub(crate) socket: String,
    pub(crate) snapshot: Option<Snapshot>,
    pub(crate) root: Root,
    /// Why there is no supervisor now.
    pub(crate) lost: Option<String>,
    all: Vec<Row>,
    /// Those that are wanted, in the order that is wanted.
    pub(crate) rows: Vec<Row>,
    pub(crate) histories: Histories,
    pub(crate) events: VecDeque<Value>,
    pub(crate) sort: Sort,
    pub(crate) is_reversed: bool,
    pub(crate) filter: String,
    selected: Option<String>,
    pub(crate) mode: Mode,
    pub(crate) pane: Pane,
    /// How many rows and columns of a report are visible, and how many rows of the table.
    pub(crate) page: (usize, usize),
    pub(crate) table_page: usize,
    /// For how long what lasts is taken, in seconds.
    pub(crate) duration: u64,
    pub(crate) job: Option<Job>,
    pub(crate) notice: Option<Notice>,
}

impl Model {
    pub(crate) fn new(socket: String) -> Self {
        Self {
            socket,
            snapshot: None,
            root: Root::default(),
            lost: None,
            all: Vec::new(),
            rows: Vec::new(),
            histories: Histories::default(),
            events: VecDeque::new(),
            sort: Sort::Name,
            is_reversed: false,
            filter: String::new(),
            selected: None,
            mode: Mode::Table,
            pane: Pane::default(),
            page: (1, 1),
            table_page: 1,
            duration: DURATION,
            job: None,
            notice: None,
        }
    }

    pub(crate) fn update(&mut self, update: Update) {
        match update {
            Update::Snapshot(snapshot) => {
                let root = snapshot.overview.root.clone().unwrap_or_default();
                self.root = serde_json::from_value(root).unwrap_or_default();
                self.all = rows(&snapshot.overview, &self.root, &mut self.histories, snapshot.at);
                self.snapshot = Some(*snapshot);
                self.lost = None;
                self.arrange();
            }
            // What is counted comes at every interval, is shown elsewhere, and would push out what happens.
            Update::Event(event) if event["event"] == "metrics" => {}
            Update::Event(event) => {
                if self.events.len() == EVENTS {
                    self.events.pop_front();
                }

                self.events.push_back(event);
            }
            Update::Lost(reason) => self.lost = Some(reason),
            Update::Progress { elapsed, received } => {
                if let Some(job) = &mut self.job {
                    (job.elapsed, job.received) = (elapsed, received);
                }
            }
            Update::Report { title, text } => {
                self.job = None;
                let lines = clean(&text).lines().map(|line| line.replace('\t', "    ")).collect();
                self.pane = Pane { title, lines, top: 0, left: 0 };
                self.mode = Mode::Pane;
            }
            Update::Notice { text, is_bad } => {
                self.job = None;
                self.notice = Some(Notice { text, is_bad });
            }
        }
    }

    fn arrange(&mut self) {
        let filter = self.filter.to_lowercase();
        let is_wanted = |row: &&Row| {
            let process_id = row.process_id.map(|id| id.to_string()).unwrap_or_default();
            [&row.name, &row.state, &process_id].iter().any(|text| text.to_lowercase().contains(&filter))
        };
        self.rows = self.all.iter().filter(is_wanted).cloned().collect();
        self.sort.sort(&mut self.rows);

        if self.is_reversed {
            self.rows.reverse();
        }

        // One that was selected stays so while it is there, wherever it has got to.
        if self.selected_index().is_none() {
            self.selected = self.rows.first().map(|row| row.name.clone());
        }
    }

    pub(crate) fn selected_index(&self) -> Option<usize> {
        self.rows.iter().position(|row| Some(&row.name) == self.selected.as_ref())
    }

    pub(crate) fn selected(&self) -> Option<&Row> {
        self.rows.get(self.selected_index()?)
    }

    fn select(&mut self, index: usize) {
        let index = index.min(self.rows.len().saturating_sub(1));
        self.selected = self.rows.get(index).map(|row| row.name.clone());
    }

    /// What a key does.
    pub(crate) fn key(&mut self, key: KeyEvent) -> Option<Command> {
        if key.modifiers.contains(KeyModifiers::CONTROL) && matches!(key.code, KeyCode::Char('c' | 'd')) {
            return Some(Command::Quit);
        }

        match self.mode.clone() {
            Mode::Table => self.table_key(key.code),
            Mode::Filter => {
                self.filter_key(key.code);
                None
            }
            Mode::Help => {
                self.mode = Mode::Table;
                None
            }
            Mode::Menu { index } => self.menu_key(index, key.code),
            Mode::File { entry, name } => self.file_key(entry, name, key.code),
            Mode::Confirm { command, .. } => {
                self.mode = Mode::Table;
                matches!(key.code, KeyCode::Char('y' | 'Y')).then_some(*command)
            }
            Mode::Pane => {
                self.pane_key(key.code);
                None
            }
        }
    }

    fn table_key(&mut self, code: KeyCode) -> Option<Command> {
        let index = self.selected_index().unwrap_or(0);
        self.notice = None;

        match code {
            KeyCode::Char('q') => return Some(Command::Quit),
            KeyCode::Esc if self.job.take().is_some() => return Some(Command::GiveUp),
            KeyCode::Esc => {
                self.filter.clear();
                self.arrange();
            }
            KeyCode::Char('?' | 'h') | KeyCode::F(1) => self.mode = Mode::Help,
            KeyCode::Up | KeyCode::Char('k') => self.select(index.saturating_sub(1)),
            KeyCode::Down | KeyCode::Char('j') => self.select(index + 1),
            KeyCode::PageUp => self.select(index.saturating_sub(self.table_page)),
            KeyCode::PageDown => self.select(index + self.table_page),
            KeyCode::Home | KeyCode::Char('g') => self.select(0),
            KeyCode::End | KeyCode::Char('G') => self.select(usize::MAX),
            KeyCode::Char('s') => {
                self.sort = self.sort.next();
                self.arrange();
            }
            KeyCode::Char('S') => {
                self.is_reversed = !self.is_reversed;
                self.arrange();
            }
            KeyCode::Char('/') => self.mode = Mode::Filter,
            KeyCode::Enter | KeyCode::Char('d') => match (self.selected(), &self.job) {
                (_, Some(job)) => self.complain(format!("{} is being taken: Esc gives it up", job.title)),
                (Some(Row { worker: Some(_), .. }), None) => self.mode = Mode::Menu { index: 0 },
                // It can only be looked into.
                (Some(_), None) => self.mode = Mode::Menu { index: Kind::ALL.len() },
                (None, None) => {}
            },
            KeyCode::Char('p') if !self.pane.lines.is_empty() => self.mode = Mode::Pane,
            KeyCode::Char('r') => {
                if let Some(Row { process_id: Some(process_id), name, .. }) = self.selected() {
                    let (process_id, name) = (*process_id, name.clone());
                    self.mode = Mode::Confirm {
                        question: format!("Replace {name} (pid {process_id}) by a fresh process?"),
                        command: Box::new(Command::Replace { process_id, name }),
                    };
                }
            }
            KeyCode::Char('R') => {
                self.mode = Mode::Confirm {
                    question: "Reload: replace all children by a new generation?".to_owned(),
                    command: Box::new(Command::Reload),
                };
            }
            _ => {}
        }

        None
    }

    fn complain(&mut self, text: String) {
        self.notice = Some(Notice { text, is_bad: true });
    }

    fn filter_key(&mut self, code: KeyCode) {
        match code {
            KeyCode::Enter => self.mode = Mode::Table,
            KeyCode::Esc => {
                self.filter.clear();
                self.mode = Mode::Table;
            }
            KeyCode::Backspace => drop(self.filter.pop()),
            KeyCode::Char(character) => self.filter.push(character),
            _ => {}
        }

        self.arrange();
    }

    fn menu_key(&mut self, index: usize, code: KeyCode) -> Option<Command> {
        let last = Entry::all().count() - 1;

        match code {
            KeyCode::Esc | KeyCode::Char('q') => self.mode = Mode::Table,
            KeyCode::Up | KeyCode::Char('k') => self.mode = Mode::Menu { index: index.saturating_sub(1) },
            KeyCode::Down | KeyCode::Char('j') => self.mode = Mode::Menu { index: (index + 1).min(last) },
            KeyCode::Char('+') => self.duration = DURATIONS.into_iter().find(|it| *it > self.duration).unwrap_or(300),
            KeyCode::Char('-') => {
                self.duration = DURATIONS.into_iter().rev().find(|it| *it < self.duration).unwrap_or(1);
            }
            KeyCode::Char(digit @ '1'..='9') => {
                let entry = Entry::at((digit as usize).wrapping_sub('1' as usize))?;
                return self.diagnose(entry, None);
            }
            KeyCode::Enter => return self.diagnose(Entry::at(index)?, None),
            KeyCode::Char('f') => {
                let entry = Entry::at(index)?;
                let kind = entry.kind();
                let extension = if kind.forms().contains(&Form::Svg) { Form::Svg } else { Form::Text };
                let worker = self.selected().map(|row| row.name.replace(['#', ' ', '/'], "-")).unwrap_or_default();
                let name = format!("{worker}-{}{}", kind.name(), extension.extension());
                self.mode = Mode::File { entry: Some(entry), name };
            }
            _ => {}
        }

        None
    }

    fn diagnose(&mut self, entry: Entry, path: Option<PathBuf>) -> Option<Command> {
        self.mode = Mode::Table;
        let kind = entry.kind();
        let form = match &path {
            Some(path) => Form::of(path).unwrap_or(Form::Text),
            None => Form::Text,
        };

        if !kind.forms().contains(&form) {
            self.complain(format!("a {} has no form {}", kind.name(), form.extension()));
            return None;
        }

        let row = self.selected()?;
        let title = format!("{} of {}", entry.name(), row.name);
        let source = match (entry, row.worker.clone(), row.process_id) {
            (Entry::Outside, _, Some(process_id)) => Source::Outside { process_id, form },
            (Entry::Of(kind), Some(worker), _) => {
                let duration = Duration::from_secs(self.duration);
                let diagnostic = Diagnostic::new(kind).duration(duration).form(form);
                Source::Worker { worker: Box::new(worker), diagnostic }
            }
            (Entry::Outside, _, None) => {
                self.complain(format!("{} has no process", row.name));
                return None;
            }
            (Entry::Of(_), None, _) => {
                self.complain(format!("{} is not connected: it can only be looked into from outside", row.name));
                return None;
            }
        };
        let duration = entry.lasts().then(|| Duration::from_secs(self.duration));
        self.job = Some(Job { title: title.clone(), duration, elapsed: Duration::ZERO, received: 0 });
        Some(Command::Diagnose { title, source, path })
    }

    fn file_key(&mut self, entry: Option<Entry>, mut name: String, code: KeyCode) -> Option<Command> {
        match code {
            KeyCode::Esc => {
                self.mode = if entry.is_some() { Mode::Table } else { Mode::Pane };
                return None;
            }
            KeyCode::Enter if !name.is_empty() => {
                return match entry {
                    Some(entry) => self.diagnose(entry, Some(name.into())),
                    None => {
                        self.mode = Mode::Pane;
                        Some(Command::Write { path: name.into(), text: self.pane.lines.join("\n") + "\n" })
                    }
                };
            }
            KeyCode::Backspace => drop(name.pop()),
            KeyCode::Char(character) => name.push(character),
            _ => {}
        }

        self.mode = Mode::File { entry, name };
        None
    }

    fn pane_key(&mut self, code: KeyCode) {
        let (height, width) = self.page;
        let last = self.pane.lines.len().saturating_sub(height);
        let longest = self.pane.lines.iter().map(|line| line.chars().count()).max().unwrap_or(0);
        let pane = &mut self.pane;
        self.notice = None;

        match code {
            KeyCode::Esc | KeyCode::Char('q') => self.mode = Mode::Table,
            KeyCode::Up | KeyCode::Char('k') => pane.top = pane.top.saturating_sub(1),
            KeyCode::Down | KeyCode::Char('j') => pane.top += 1,
            KeyCode::PageUp => pane.top = pane.top.saturating_sub(height),
            KeyCode::PageDown | KeyCode::Char(' ') => pane.top += height,
            KeyCode::Home | KeyCode::Char('g') => pane.top = 0,
            KeyCode::End | KeyCode::Char('G') => pane.top = last,
            KeyCode::Left => pane.left = pane.left.saturating_sub(8),
            KeyCode::Right => pane.left = (pane.left + 8).min(longest.saturating_sub(width).next_multiple_of(8)),
            KeyCode::Char('w') => {
                let name = pane.title.replace(" of ", "-").replace(['#', ' ', '/'], "-") + ".txt";
                self.mode = Mode::File { entry: None, name };
            }
            _ => {}
        }

        self.pane.top = self.pane.top.min(last);
    }
}
