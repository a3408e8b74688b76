//! Diagnostics in supervised workers, and of those that do not answer, from outside.

use std::{fmt::Display, sync::Arc, time::Duration};

use async_container::{BoxError, Link};
use async_container_diagnostics::{
    external::{self, ExternalDump, ExternalError},
    symbols::Symbols,
    tasks::{self, TaskDump},
    threads::ThreadDump,
};
use async_container_protocol::{Failure, Fields, Request, class};
use async_container_supervisor_server::{Role, Server, Workers};
use async_container_supervisor_worker::Worker;
use serde::Serialize;
use tokio::task::spawn_blocking;

use crate::application::{ConfigureLinked, ConfigureServer};
use crate::black_box::BlackBox;

const THREAD_DUMP: &str = "thread_dump";
const SCHEDULER_DUMP: &str = "scheduler_dump";

/// What supervised workers offer beside their own operations.
pub(crate) fn of_worker(worker: Worker) -> Worker {
    // The supervisor is no ancestor of the worker, but a child of the same root.
    external::allow_relatives();
    worker.diagnostics()
}

/// The configuration of a supervisor that looks into processes, before that of the application, which may change it.
pub(crate) fn with_diagnostics(configure: ConfigureServer, black_box: Option<BlackBox>) -> ConfigureLinked {
    Arc::new(move |server, link| {
        let mut server = of_supervisor(server, link.clone());
        if let Some(black_box) = black_box.clone() {
            let workers = server.workers();
            server = server.examiner(black_box.examiner(workers, link));
        }
        configure(server)
    })
}

/// What the supervisor offers: looking into a process of the application that does not answer itself.
fn of_supervisor(server: Server, link: Option<Link>) -> Server {
    let workers = server.workers();
    let (its_workers, its_link) = (workers.clone(), link.clone());
    server
        .operation(THREAD_DUMP, move |request| dump(request, workers.clone(), link.clone(), threads))
        .operation(SCHEDULER_DUMP, move |request| dump(request, its_workers.clone(), its_link.clone(), tasks))
        .require(THREAD_DUMP, Role::Diagnose)
        .require(SCHEDULER_DUMP, Role::Diagnose)
        // For monitors, which want to know it of workers that hang.
        .outside(THREAD_DUMP, |process_id| text(threads(process_id)))
        .outside(SCHEDULER_DUMP, |process_id| text(tasks(process_id)))
}

fn text(dump: Result<impl Display, Failure>) -> Result<String, BoxError> {
    dump.map(|dump| dump.to_string()).map_err(|failure| failure.message().into())
}

/// What the threads of a process do.
fn threads(process_id: u32) -> Result<ThreadDump, Failure> {
    match process_id == std::process::id() {
        // Nobody can stop itself. That it answers at all shows that it can be asked as well.
        true => Ok(named(ThreadDump::take)?),
        false => named(|| ExternalDump::new(process_id).take()).map_err(failed),
    }
}

/// What the tasks of a process do.
fn tasks(process_id: u32) -> Result<TaskDump, Failure> {
    // None is asked where it waits, but what blocks an executor is shown.
    let options = tasks::Options::new().stacks(1);
    match process_id == std::process::id() {
        true => Ok(TaskDump::take()),
        false => named(|| options.take_from_outside(process_id)).map_err(failed),
    }
}

/// Does what takes names, and gives back what was read of programs for that: a supervisor is small otherwise.
pub(crate) fn named<T>(work: impl FnOnce() -> T) -> T {
    let result = work();
    Symbols::shared().release(Duration::ZERO);
    result
}

#[derive(Serialize)]
struct Answer<T> {
    process_id: u32,
    data: T,
}

/// Looks into the process that a request is about, in the form that it asks for.
async fn dump<T: Serialize + Display + 'static>(
    request: Request,
    workers: Workers,
    link: Option<Link>,
    look: fn(u32) -> Result<T, Failure>,
) -> Result<Fields, Failure> {
    let as_json = match request.get::<String>("format")?.as_deref() {
        None | Some("text") => false,
        Some("json") => true,
        Some(other) => {
            return Err(Failure::invalid_parameters(format!("'format' is '{other}', and has to be 'text' or 'json'")));
        }
    };
    let process_id = process(&request, &workers, link.as_ref())?;
    spawn_blocking(move || {
        let data = look(process_id)?;

        match as_json {
            true => Ok(Fields::new(&Answer { process_id, data })?),
            false => Ok(Fields::new(&Answer { process_id, data: data.to_string() })?),
        }
    })
    .await?
}

/// The process that is asked for. It has to be one of the application's: whoever may diagnose workers may not look into
/// whatever else runs as the same user.
fn process(request: &Request, workers: &Workers, link: Option<&Link>) -> Result<u32, Failure> {
    if let Some(connection_id) = request.get::<String>("connection_id")? {
        let worker = workers.get(&connection_id).ok_or_else(|| {
            Failure::new(class::CONNECTION_NOT_FOUND, format!("no worker has the connection id '{connection_id}'"))
        })?;
        return worker.process_id().ok_or_else(|| Failure::not_supported("its process is not visible from here"));
    }

    let process_id: u32 = request.get("process_id")?.ok_or_else(|| {
        Failure::invalid_parameters("'connection_id' or 'process_id' is missing: one of them is needed")
    })?;
    let is_worker = workers.all().iter().any(|worker| worker.process_id() == Some(process_id));
    let is_child = link.is_some_and(|link| {
        let status = link.status();
        let status = status.borrow();
        status.root.process_id == process_id
            || status.children.values().any(|child| child.process_id == Some(process_id))
    });

    if is_worker || is_child {
        Ok(process_id)
    } else {
        Err(Failure::invalid_parameters(format!("process {process_id} is none of this application's")))
    }
}

fn failed(error: ExternalError) -> Failure {
    match error {
        ExternalError::Forbidden { .. } | ExternalError::OtherProgram { .. } => {
            Failure::not_supported(error.to_string())
        }
        error => Failure::from(error),
    }
}
