//! What the live view has done: each by a task, which tells what came of it.

use std::{path::PathBuf, time::Duration};

use async_container_protocol::describe;
use async_container_supervisor_client::{Signal, Supervisor};
use tokio::{sync::mpsc::UnboundedSender, time::Instant};

use super::model::{Command, Source, Update};
use crate::{context::connect, destination::Destination, error::Result, progress::PERIOD, units};

/// How long a cancellation may take to leave.
const FLUSH: Duration = Duration::from_millis(250);

/// Why a process is replaced, for the log.
const REASON: &str = "asked for in acs top";

/// Does what was asked for, over a connection of its own: a report that is large does not hold up what is shown.
pub(super) async fn run(path: PathBuf, command: Command, updates: UnboundedSender<Update>) {
    let update = match work(&path, command, &updates).await {
        Ok(update) => update,
        Err(error) => Update::Notice { text: describe(&error), is_bad: true },
    };
    let _ = updates.send(update);
}

async fn work(path: &std::path::Path, command: Command, updates: &UnboundedSender<Update>) -> Result<Update> {
    let done = |text: String| Ok(Update::Notice { text, is_bad: false });

    match command {
        Command::Diagnose { title, source, path: file } => {
            let supervisor = connect(path).await?;
            let guard = Close(supervisor.clone());
            let update = diagnose(&supervisor, title, &source, file, updates).await;
            drop(guard);
            update
        }
        Command::Write { path, text } => {
            let mut file = Destination::open(&path)?;
            file.write(text.as_bytes())?;
            file.complete()?;
            done(format!("wrote {}", path.display()))
        }
        Command::Replace { process_id, name } => {
            connect(path).await?.replace(process_id, REASON).await?;
            done(format!("{name} (pid {process_id}) is being replaced"))
        }
        Command::Reload => {
            connect(path).await?.signal(Signal::Hup).await?;
            done("a new generation is being started".to_owned())
        }
        Command::Quit | Command::GiveUp => done(String::new()),
    }
}

/// Closes a connection once what has to be said is said, also when the task is given up.
struct Close(Supervisor);

impl Drop for Close {
    fn drop(&mut self) {
        let supervisor = self.0.clone();
        tokio::spawn(async move { supervisor.close(FLUSH).await });
    }
}

async fn diagnose(
    supervisor: &Supervisor,
    title: String,
    source: &Source,
    file: Option<PathBuf>,
    updates: &UnboundedSender<Update>,
) -> Result<Update> {
    let mut destination = file.as_deref().map(Destination::open).transpose()?;
    let mut report = match source {
        Source::Worker { worker, diagnostic } => supervisor.diagnose(worker, diagnostic),
        Source::Outside { process_id, form } => supervisor.thread_dump_from_outside(*process_id, *form),
    };
    let mut text = Vec::new();
    let mut received = 0;
    let start = Instant::now();

    loop {
        let mut next = std::pin::pin!(report.next());
        let piece = loop {
            tokio::select! {
                piece = &mut next => break piece?,
                () = tokio::time::sleep(PERIOD) => {
                    let _ = updates.send(Update::Progress { elapsed: start.elapsed(), received });
                }
            }
        };
        let Some(piece) = piece else { break };
        received += piece.len();

        match &mut destination {
            Some(destination) => destination.write(&piece)?,
            None => text.extend(piece),
        }
    }

    Ok(match (destination, file) {
        (Some(destination), Some(file)) => {
            destination.complete()?;
            let text = format!("wrote {}: {}", file.display(), units::bytes(received as u64));
            Update::Notice { text, is_bad: false }
        }
        _ => Update::Report { title, text: String::from_utf8_lossy(&text).into_owned() },
    })
}
