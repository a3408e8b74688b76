//! `acs memory-sample`, `memory-dump`, `thread-dump`, `scheduler-dump`, `allocator-profile` and `cpu-profile`.

use std::{
    io::{self, IsTerminal as _, Write as _},
    path::Path,
    time::Duration,
};

use async_container_protocol::class;
use async_container_supervisor_client::{Diagnostic, Form, Kind, Report, Supervisor, Worker};
use serde_json::json;

use crate::{
    arguments::Asked,
    context::Context,
    destination::{Destination, STANDARD_OUTPUT},
    error::{Error, Result},
    progress::{PERIOD, Progress},
    target, units,
};

/// What is said of a worker of which there is nothing to be seen.
const IDLE: &str = "has used no processor in that time";

/// For how long a worker may say nothing at all before it is asked for what it can tell at once, and then to tell that.
const PATIENCE: Duration = Duration::from_secs(2);

pub(super) async fn run(context: &Context, asked: Asked<'_>) -> Result {
    let form = form(context, &asked)?;
    // Before anything is asked for: after half an hour is too late to find out that there is no such directory.
    let destination = match (&asked.destination.output, &asked.destination.remote) {
        (_, Some(_)) => None,
        (Some(path), None) => Some(Destination::open(path)?),
        (None, None) => Some(Destination::standard()),
    };

    let supervisor = context.connect().await?;
    let (process_id, title, worker, mut report) = if asked.is_external {
        let (process_id, title) = target::process(&supervisor, asked.worker).await?;
        (Some(process_id), title, None, from_outside(&supervisor, process_id, asked.kind, form))
    } else {
        let worker = target::worker(&supervisor, asked.worker, asked.kind).await?;
        let report = supervisor.diagnose(&worker, &diagnostic(&asked, form));
        (worker.process_id, worker.title(), Some(worker), report)
    };

    context.progress(format!(
        "{title} has not sent its report: it may be busy or blocked (see acs thread-dump --external), or use --timeout to \
         wait longer"
    ));
    let mut progress = Progress::new(format!("{} of {title}", asked.kind.name()), asked.duration);
    let first = tokio::select! {
        first = next(&mut report, &mut progress) => Some(first),
        () = silence(&supervisor, worker.as_ref(), &asked) => None,
    };
    let is_blocked = first.is_none();
    let mut are_threads_instead = false;
    let first = match first {
        Some(first) => first,
        None => {
            report = instead(&supervisor, process_id, &title, asked.kind, form)?;
            let first = next(&mut report, &mut progress).await;

            match first {
                // A worker that is another program than its supervisor. Programs that read tasks cannot make use of threads.
                Err(_) if asked.kind == Kind::SchedulerDump && form == Form::Text => {
                    are_threads_instead = true;
                    report = instead(&supervisor, process_id, &title, Kind::ThreadDump, form)?;
                    next(&mut report, &mut progress).await
                }
                first => first,
            }
        }
    };
    let received = match first {
        Ok(first) => receive(first, &mut report, destination, form, &mut progress).await,
        Err(error) => Err(error),
    };
    drop(progress);
    let received = received.map_err(|error| explain(error, &title, asked.is_external || is_blocked))?;

    if is_blocked {
        let title = does_not_answer(&title);

        if are_threads_instead {
            let message = format!("{title}; these are its threads, seen from outside");
            return Err(Error::failed(class::TIMED_OUT, message));
        }

        // Standard output is for the report.
        let _ = writeln!(io::stderr(), "{title}; this was seen from outside");
    }

    if report.samples() == Some(0) && !matches!(received, Received::Here { size: 0, .. }) {
        // A picture of nothing is a picture nevertheless.
        let _ = writeln!(io::stderr(), "{title} {IDLE}");
    }

    match (received, report.path()) {
        (Received::InWorker, Some(path)) => {
            let document = json!({"path": path, "form": form.name(), "process_id": process_id});
            context.output.print(&document, |_| format!("{title} wrote {path}"))
        }
        (Received::InWorker, None) => {
            Err(Error::failed(class::INTERNAL, format!("{title} has not said where its report is")))
        }
        (Received::Here { path, size: 0 }, _) => {
            let what = match asked.kind {
                Kind::CpuProfile => IDLE,
                _ => "has nothing to tell",
            };
            let place = path.map(|path| format!("; {path} is empty")).unwrap_or_default();
            // Standard output is for the report, which is as empty.
            let _ = writeln!(io::stderr(), "{title} {what}{place}");
            Ok(())
        }
        (Received::Here { path: Some(path), size }, _) => {
            let document = json!({"output": path, "form": form.name(), "size": size});
            context.output.print(&document, |_| format!("wrote {}: {}", path, units::bytes(size)))
        }
        (Received::Here { path: None, .. }, _) => Ok(()),
    }
}

/// Returns once a worker that is asked where it is has said nothing for so long that it cannot.
///
/// Without that, whoever asks would wait for as long as it hangs, and be told nothing in the end.
async fn silence(supervisor: &Supervisor, worker: Option<&Worker>, asked: &Asked<'_>) {
    if let Some(worker) = worker
        && matches!(asked.kind, Kind::ThreadDump | Kind::SchedulerDump)
        && asked.destination.remote.is_none()
    {
        tokio::time::sleep(PATIENCE).await;

        // A report may take longer than that: names are read from files.
        if !supervisor.is_answered(worker, PATIENCE).await {
            return;
        }
    }

    std::future::pending().await
}

/// What can be known of a worker that does not answer.
fn instead(supervisor: &Supervisor, process_id: Option<u32>, title: &str, kind: Kind, form: Form) -> Result<Report> {
    match process_id {
        Some(process_id) => Ok(from_outside(supervisor, process_id, kind, form)),
        None => {
            let message = format!("{}, and has no process that is known here", does_not_answer(title));
            Err(Error::failed(class::TIMED_OUT, message))
        }
    }
}

fn from_outside(supervisor: &Supervisor, process_id: u32, kind: Kind, form: Form) -> Report {
    match kind {
        Kind::SchedulerDump => supervisor.scheduler_dump_from_outside(process_id, form),
        _ => supervisor.thread_dump_from_outside(process_id, form),
    }
}

fn does_not_answer(title: &str) -> String {
    format!("{title} does not answer, as if something blocked its executor")
}

/// The form that was asked for by the name of a file or by `--format`, or the one that people and programs expect.
fn form(context: &Context, asked: &Asked<'_>) -> Result<Form> {
    let remote = asked.destination.remote.as_deref().map(Path::new);
    let path = asked.destination.output.as_deref().or(remote);
    let kind = asked.kind;
    let is_printed = path.is_none_or(|path| path == Path::new(STANDARD_OUTPUT));

    match path.and_then(Form::of) {
        Some(form) if kind.forms().contains(&form) => Ok(form),
        Some(form) => {
            let endings: Vec<_> = kind.forms().iter().map(|form| form.extension()).collect();
            let message = format!(
                "a {} has no form {}: let the name end with {}",
                kind.name(),
                form.extension(),
                endings.join(", ")
            );
            Err(Error::Usage(message))
        }
        None if is_printed && context.output.is_json() => Ok(Form::Json),
        None if is_printed && io::stdout().is_terminal() => Ok(Form::Text),
        // Profiles are read by programs, and so are dumps that are too large to be read at all.
        None => Ok(match kind {
            Kind::CpuProfile => Form::Folded,
            Kind::MemoryDump => Form::Pprof,
            _ => Form::Text,
        }),
    }
}

fn diagnostic(asked: &Asked<'_>, form: Form) -> Diagnostic {
    let mut diagnostic = Diagnostic::new(asked.kind).form(form);

    if let Some(duration) = asked.duration {
        diagnostic = diagnostic.duration(duration);
    }

    if let Some(frequency) = asked.frequency {
        diagnostic = diagnostic.frequency(frequency);
    }

    if let Some(records) = asked.records {
        diagnostic = diagnostic.records(records);
    }

    if let Some(path) = &asked.destination.remote {
        diagnostic = diagnostic.path(path);
    }

    diagnostic
}

enum Received {
    /// The worker has written it.
    InWorker,
    Here {
        path: Option<String>,
        size: u64,
    },
}

async fn receive(
    mut first: Option<Vec<u8>>,
    report: &mut Report,
    destination: Option<Destination>,
    form: Form,
    progress: &mut Progress,
) -> Result<Received> {
    let Some(mut destination) = destination else {
        while first.is_some() {
            first = next(report, progress).await?;
        }

        return Ok(Received::InWorker);
    };
    let mut size = 0;

    while let Some(piece) = first {
        destination.write(&piece)?;
        size += piece.len() as u64;
        first = next(report, progress).await?;
    }

    // Of a worker that did nothing there are no stacks to tell.
    if size == 0 && form != Form::Folded {
        return Err(Error::failed(class::INTERNAL, "the worker answered without a report"));
    }

    let path = destination.path().map(|path| path.display().to_string());
    destination.complete()?;
    Ok(Received::Here { path, size })
}

/// The next piece; meanwhile, it is shown how far it is.
async fn next(report: &mut Report, progress: &mut Progress) -> Result<Option<Vec<u8>>> {
    let mut next = std::pin::pin!(report.next());

    loop {
        tokio::select! {
            piece = &mut next => {
                let piece = piece?;
                progress.received(piece.as_ref().map_or(0, Vec::len));
                return Ok(piece);
            }
            () = tokio::time::sleep(PERIOD) => progress.show(),
        }
    }
}

/// A worker that does not know what is asked for can learn it.
fn explain(error: Error, title: &str, is_external: bool) -> Error {
    let Error::Failed(failure) = &error else { return error };

    if failure.class() != class::UNKNOWN_OPERATION {
        return error;
    }

    let message = failure.message();
    let message = match is_external {
        true => format!("{message}: supervisors of an Application do, with the feature `diagnostics`"),
        false => format!(
            "{message}: {title} does not take that; services of an Application that are supervised() do, with the feature \
             `diagnostics` of async-container-supervisor"
        ),
    };
    Error::failed(class::UNKNOWN_OPERATION, message)
}
