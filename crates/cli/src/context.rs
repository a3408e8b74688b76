//! What every command works with: the connection to a supervisor, and the questions that several commands ask.

use std::{
    cell::RefCell,
    path::{Path, PathBuf},
    time::Duration,
};

use async_container_protocol::{CallError, class};
use async_container_supervisor_client::{Error as ClientError, Supervisor};
use serde_json::{Value, json};

use crate::{
    arguments::Arguments,
    error::{Error, Result, shown},
    output::Output,
};

/// How long to wait before looking again for a supervisor that is not there: nothing tells when it comes.
const RETRY: Duration = Duration::from_millis(50);

pub(crate) struct Context {
    pub(crate) output: Output,
    pub(crate) timeout: Option<Duration>,
    socket: PathBuf,
    supervisors: RefCell<Vec<Supervisor>>,
    progress: RefCell<Option<String>>,
}

impl Context {
    pub(crate) fn new(arguments: &Arguments) -> Self {
        Self {
            output: Output::new(arguments.format(), arguments.color),
            timeout: arguments.timeout(),
            socket: arguments.socket(),
            supervisors: RefCell::default(),
            progress: RefCell::default(),
        }
    }

    /// Connects to the supervisor, and hears that it answers. While it is being replaced, this waits.
    pub(crate) async fn connect(&self) -> Result<Supervisor> {
        let supervisor = Supervisor::connect(&self.socket).await?;
        {
            let mut supervisors = self.supervisors.borrow_mut();
            // A command that connects again is done with the connection before. Nobody else would close it, for this keeps
            // a handle to it.
            supervisors.iter().for_each(|supervisor| supervisor.client().close());
            supervisors.retain(|supervisor| !supervisor.client().is_closed());
            supervisors.push(supervisor.clone());
        }
        let before = self.progress.replace(Some(format!(
            "whoever listens at {} has not answered; a supervisor that hangs is replaced by its root; use --timeout to \
             wait longer",
            shown(&self.socket)
        )));
        greet(&supervisor, &self.socket).await?;
        self.progress.replace(before);
        Ok(supervisor)
    }

    /// Where the supervisor is looked for.
    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }

    /// As [`connect`](Self::connect), but waits for a supervisor to come.
    pub(crate) async fn connect_again(&self) -> Result<Supervisor> {
        loop {
            match self.connect().await {
                Err(error) if error.is_no_supervisor() || error.is_connection_closed() => self.pause().await,
                result => return result,
            }
        }
    }

    /// Waits a little before something is tried again.
    pub(crate) async fn pause(&self) {
        tokio::time::sleep(RETRY).await;
    }

    /// Says how far the command is, in case that it takes too long.
    pub(crate) fn progress(&self, text: impl Into<String>) {
        self.progress.replace(Some(text.into()));
    }

    /// How far it is.
    pub(crate) fn take_progress(&self) -> Option<String> {
        self.progress.take()
    }

    /// Closes all connections once what there is to be said is said, but waits no longer than this for each.
    pub(crate) async fn close(&self, limit: Duration) {
        let supervisors = self.supervisors.take();

        for supervisor in supervisors {
            supervisor.close(limit).await;
        }
    }
}

/// Connects to the supervisor at this path, and hears that it answers.
pub(crate) async fn connect(path: &Path) -> Result<Supervisor> {
    let supervisor = Supervisor::connect(path).await?;
    greet(&supervisor, path).await?;
    Ok(supervisor)
}

/// Hears that there is a supervisor at the other end, and that it answers.
///
/// Connections wait while a supervisor hangs or is replaced, and what was written into them with them: the next one would find
/// there, and do, what whoever asked has long given up.
async fn greet(supervisor: &Supervisor, path: &Path) -> Result {
    match supervisor.ping().await {
        Err(ClientError::Call(CallError::ConnectionClosed)) => {
            let message = format!(
                "whoever listens at {} closed the connection without an answer: is it a supervisor? One that is just \
                 being replaced answers in a moment",
                shown(path)
            );
            Err(Error::failed(class::CONNECTION_CLOSED, message))
        }
        Err(ClientError::Call(CallError::Failed(failure))) if failure.class() == class::PERMISSION_DENIED => {
            Err(Error::Failed(failure))
        }
        // Whatever it was, it was an answer.
        _ => Ok(()),
    }
}

/// Asks the supervisor for something that is shown as it comes; `None` if it cannot do that.
pub(crate) async fn ask_optional(supervisor: &Supervisor, operation: &str) -> Result<Option<Value>> {
    match supervisor.call(operation, &json!({})).await {
        Ok(fields) => Ok(Some(fields.to_json())),
        Err(error) => match Error::from(error) {
            error if error.is_not_supported() => Ok(None),
            error => Err(error),
        },
    }
}

/// The process of the root controller; `None` while the supervisor, which has just started, has not heard from it.
pub(crate) async fn root_process_id(supervisor: &Supervisor) -> Result<Option<u32>> {
    let root = supervisor.root().await?;
    Ok(Some(root.process_id).filter(|process_id| *process_id != 0))
}

/// Turns an error that means "the supervisor is being replaced" into nothing, so that the caller tries again.
pub(crate) fn unless_replaced<T, E: Into<Error>>(result: std::result::Result<T, E>) -> Result<Option<T>> {
    match result.map_err(Into::into) {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.is_connection_closed() => Ok(None),
        Err(error) => Err(error),
    }
}

/// An error for what a supervisor says that it cannot do, and what follows from that.
pub(crate) fn explain_not_supported(error: impl Into<Error>, consequence: &str) -> Error {
    let error = error.into();

    if let Error::Failed(failure) = &error
        && error.is_not_supported()
    {
        return Error::failed(class::NOT_SUPPORTED, format!("{}; {consequence}", failure.message()));
    }

    error
}
