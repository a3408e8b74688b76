//! `acs top`: the live view.
//!
//! What is shown, and what keys do, is a [model] that does no input or output. A task [feeds](feed) it with what the
//! supervisor tells; what it wants done is done by [tasks of their own](work).

mod columns;
mod feed;
mod host;
mod model;
mod rows;
mod screen;
mod view;
mod work;

use std::{
    io::{self, IsTerminal},
    time::Duration,
};

use crossterm::event::{Event, KeyEventKind};
use ratatui::layout::Rect;
use tokio::{
    sync::mpsc,
    task::{AbortHandle, JoinSet},
};

use self::{
    model::{Command, Model},
    screen::Screen,
    view::Theme,
};
use crate::{
    context::{Context, connect},
    error::{Error, Result, shown},
    output::is_dumb,
};

/// How long what was given up at the end may take to be told to whom it concerns.
const FLUSH: Duration = Duration::from_millis(250);

pub(crate) async fn run(context: &Context, period: Duration) -> Result {
    if context.output.is_json() {
        return Err(Error::Usage("acs top has no JSON: use acs --format json status or watch".to_owned()));
    }

    if !io::stdout().is_terminal() || !io::stdin().is_terminal() || is_dumb() {
        return Err(Error::Usage("acs top needs a terminal: use acs status or acs watch without one".to_owned()));
    }

    // Whether there is one to begin with, which is said as all commands say it. One that does not answer is shown as such.
    if let Ok(result) = tokio::time::timeout(feed::PATIENCE, connect(context.socket())).await {
        result?;
    }

    let mut screen = Screen::take()?;
    let mut model = Model::new(shown(context.socket()));
    let theme = Theme { has_color: context.output.has_color() };
    let mut input = screen::input();
    let (sender, mut updates) = mpsc::unbounded_channel();
    // Everything that goes on here ends with this, however that comes.
    let mut tasks = JoinSet::new();
    tasks.spawn(feed::follow(context.socket().to_owned(), period, sender.clone()));
    let mut job: Option<AbortHandle> = None;

    loop {
        screen.terminal.draw(|frame| view::draw(frame, &mut model, theme)).map_err(Error::Output)?;

        let command = tokio::select! {
            Some(update) = updates.recv() => {
                model.update(update);
                // What has come meanwhile is not worth a picture each.
                while let Ok(update) = updates.try_recv() {
                    model.update(update);
                }
                None
            }
            event = input.recv() => match event {
                Some(Ok(Event::Key(key))) if key.kind != KeyEventKind::Release => model.key(key),
                Some(Ok(Event::Resize(columns, rows))) => {
                    // A window that was smaller for a moment has lost what was outside, though it is as large as before.
                    screen.terminal.resize(Rect::new(0, 0, columns, rows)).map_err(Error::Output)?;
                    None
                }
                Some(Ok(_)) => None,
                Some(Err(error)) => return Err(Error::Output(error)),
                None => return Ok(()),
            },
            Some(_) = tasks.join_next() => None,
        };

        match command {
            Some(Command::Quit) => break,
            Some(Command::GiveUp) => {
                if let Some(job) = job.take() {
                    job.abort();
                }
            }
            Some(command) => {
                let is_job = matches!(command, Command::Diagnose { .. });
                let task = tasks.spawn(work::run(context.socket().to_owned(), command, sender.clone()));

                if is_job {
                    job = Some(task);
                }
            }
            None => {}
        }
    }

    drop(screen);

    if let Some(job) = job.filter(|job| !job.is_finished()) {
        job.abort();
        tokio::time::sleep(FLUSH).await;
    }

    Ok(())
}
