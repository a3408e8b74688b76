//! The application of the demo, started in a directory of its own.

use std::{collections::BTreeSet, io, time::Duration};

use async_container_supervisor_tests::{Dir, Program, Supervisor, Worker, proc, wait_for};
use serde_json::{Value, json};

use crate::Result;

/// How long anything may take. It only ends a demo that hangs.
pub(super) const LIMIT: Duration = Duration::from_secs(15);

pub(super) const WORKERS: usize = 4;

/// A running application.
pub(super) struct Scene {
    pub(super) dir: Dir,
    pub(super) program: Program,
    pub(super) address: String,
}

impl Scene {
    /// Starts the application.
    pub(super) fn start() -> Result<Scene> {
        let dir = Dir::new()?;
        // A port that was free a moment ago; the application takes it at once.
        let address = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string();
        let workers = WORKERS.to_string();
        let mut program =
            dir.example("demo")?.args(["--workers", &workers, "--listen", &address]).own_group().start()?;
        // From the first moment on that it listens, nobody is refused any more.
        Supervisor::of(&mut program, &dir.socket(), LIMIT)?;
        Ok(Scene { dir, program, address })
    }

    /// Connects to the supervisor.
    pub(super) fn supervisor(&mut self) -> Result<Supervisor> {
        Ok(Supervisor::of(&mut self.program, &self.dir.socket(), LIMIT)?)
    }

    /// Waits until as many workers as there should be are registered, and none of them is one of those.
    pub(super) fn workers_without(&mut self, gone: &BTreeSet<u32>) -> Result<Vec<Worker>> {
        // Whichever supervisor accepts the connection, it may be about to be replaced: ask anew.
        let socket = self.dir.socket();
        let complete = |workers: &[Worker]| {
            workers.len() == WORKERS && workers.iter().all(|worker| !gone.contains(&worker.pid) && is_alive(worker.pid))
        };
        Ok(self.program.wait_for("all workers to be registered", LIMIT, || {
            match Supervisor::connect(&socket).and_then(|mut supervisor| supervisor.workers()) {
                Ok(workers) => Ok(complete(&workers).then_some(workers)),
                Err(error) if is_passing(&error) => Ok(None),
                Err(error) => Err(error),
            }
        })?)
    }

    /// Waits until another process serves as this worker, and gives how the last one ended, as the root has it.
    pub(super) fn replaced(&mut self, victim: &Worker) -> Result<(Worker, String)> {
        let workers = self.workers_without(&BTreeSet::from([victim.pid]))?;
        let successor = workers.into_iter().find(|worker| worker.instance == victim.instance);
        let successor = successor.ok_or("another worker took its place, but not its instance's number")?;
        let name = format!("{}#{}", victim.name, victim.instance.unwrap_or_default());
        let mut supervisor = self.supervisor()?;
        // Where the new one was started first, the old one may have some memory to give back yet.
        let what = format!("process {} to end, and the root to say how", victim.pid);
        let reason = self.program.wait_for(&what, LIMIT, || {
            let children = supervisor.ask("children", json!({}))?;
            let child =
                children["children"].as_array().into_iter().flatten().find(|child| child["name"] == json!(name));
            let reason = child.and_then(|child| child["last_exit"].as_str()).filter(|_| !is_alive(victim.pid));
            Ok(reason.map(str::to_owned))
        })?;
        Ok((successor, reason))
    }

    /// Waits until no process of the application is left.
    pub(super) fn nothing_left(&self) -> Result {
        let path = self.dir.path();
        wait_for("the last process to end", LIMIT, || {
            let left = proc::processes()?.into_iter().any(|process| process.is_alive() && process.works_in(path));
            Ok((!left).then_some(()))
        })?;
        if self.dir.socket().exists() {
            return Err("the socket's file is still there".into());
        }
        Ok(std::process::ExitCode::SUCCESS)
    }

    /// The processes of the application.
    pub(super) fn processes(&self) -> io::Result<usize> {
        Ok(self.program.descendants()?.len() + 1)
    }
}

pub(super) fn is_alive(pid: u32) -> bool {
    proc::process(pid).is_some_and(|process| process.is_alive())
}

/// True for what happens to a client while its supervisor is being replaced.
fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)
}

pub(super) fn process_id(value: &Value) -> Result<u32> {
    let number = value["process_id"].as_u64().and_then(|number| number.try_into().ok());
    number.ok_or_else(|| "the answer has no process id".into())
}
