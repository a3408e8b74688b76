//! Having processes looked at before they are ended for what they did, or did not do.

use std::{
    collections::HashSet,
    future::Future,
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    time::{Duration, SystemTime},
};

use serde::Serialize;
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::{
    events::{Events, INCIDENT},
    root::{ChildState, Root, RootState},
};

/// A process that is about to be ended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Case {
    /// The process.
    pub process_id: u32,
    /// What it is called, if that is known.
    pub name: Option<String>,
    /// Why it is to be ended, for people.
    pub reason: String,
}

/// What an [`Examiner`] does: when it completes, the process may be ended. It gives where what was found is kept, if it is.
pub type Examination = Pin<Box<dyn Future<Output = Option<PathBuf>> + Send>>;

/// Looks at processes before they are ended, and keeps what it found.
///
/// ```
/// use std::time::Duration;
/// use async_container_supervisor_server::{Case, Examination, Examiner, Server};
///
/// struct Log;
///
/// impl Examiner for Log {
///     fn limit(&self) -> Duration {
///         Duration::from_secs(2)
///     }
///
///     fn examine(&self, case: Case) -> Examination {
///         Box::pin(async move {
///             eprintln!("process {} is about to be ended: {}", case.process_id, case.reason);
///             None
///         })
///     }
/// }
///
/// let server = Server::new().examiner(Log);
/// ```
pub trait Examiner: Send + Sync + 'static {
    /// How long it may take. After that, the process is ended without it.
    fn limit(&self) -> Duration;

    /// Looks at a process. It is dropped when it takes longer than the limit.
    fn examine(&self, case: Case) -> Examination;
}

/// The examiner of a server, if it has one.
#[derive(Clone)]
pub(crate) struct Examiners {
    examiner: Option<Arc<dyn Examiner>>,
    events: Arc<Events>,
    /// How many incidents are not told of yet, because somebody still looks, or what they are about may still end by itself.
    untold: Arc<watch::Sender<usize>>,
}

/// An incident that is not told of yet.
struct Untold(Arc<watch::Sender<usize>>);

impl Drop for Untold {
    fn drop(&mut self) {
        self.0.send_modify(|number| *number -= 1);
    }
}

#[derive(Serialize)]
struct IncidentEvent<'a> {
    process_id: u32,
    name: Option<&'a str>,
    reason: &'a str,
    path: &'a Path,
}

impl Examiners {
    pub(crate) fn new(examiner: Option<Arc<dyn Examiner>>, events: Arc<Events>) -> Self {
        Self { examiner, events, untold: Arc::default() }
    }

    /// Has a process looked at, and tells of it. It takes no longer than the examiner's limit.
    pub(crate) async fn examine(&self, process_id: u32, name: Option<&str>, reason: &str) -> Option<PathBuf> {
        let path = self.look(process_id, name, reason).await?;
        self.tell(process_id, name, reason, &path);
        Some(path)
    }

    async fn look(&self, process_id: u32, name: Option<&str>, reason: &str) -> Option<PathBuf> {
        let examiner = self.examiner.as_ref()?;
        let case = Case { process_id, name: name.map(str::to_owned), reason: reason.to_owned() };

        match timeout(examiner.limit(), examiner.examine(case)).await {
            Ok(path) => path,
            Err(_) => {
                tracing::warn!(process_id, name, reason, "a process could not be looked at in time before it is ended");
                None
            }
        }
    }

    fn tell(&self, process_id: u32, name: Option<&str>, reason: &str, path: &Path) {
        tracing::warn!(process_id, name, reason, incident = %path.display(), "a process is about to be ended: see what was found");
        let event = IncidentEvent { process_id, name, reason, path };

        if let Err(error) = self.events.publish(INCIDENT, &event) {
            tracing::error!(%error, "an event could not be encoded");
        }
    }

    /// Looks at a child that the root is about to kill, has it go on, and tells of it unless the child ends by itself.
    async fn attend_to(&self, process_id: u32, child: ChildState, reason: &str, root: &dyn Root) {
        let name = Some(child.name.as_str());
        self.untold.send_modify(|number| *number += 1);
        let _untold = Untold(self.untold.clone());
        let found = self.look(process_id, name, reason).await;

        if let Err(error) = root.examined(process_id, found.as_deref()) {
            tracing::error!(process_id, %error, "could not tell the root controller to go on");
        }

        if let Some(path) = found
            && is_killed(process_id, child.kill_at, root.state()).await
        {
            self.tell(process_id, name, reason, &path);
        }
    }

    /// Completes when nothing is left to tell.
    pub(crate) async fn told(&self) {
        // It fails if there is no sender any more, and this has one.
        let _ = self.untold.subscribe().wait_for(|number| *number == 0).await;
    }

    /// Looks at children that the root is about to kill, and tells it when that is done, until nobody can want it any more.
    pub(crate) async fn attend(self, root: Arc<dyn Root>) {
        let Some(mut state) = root.state() else { return };
        // Each is looked at once, however often the root says the same.
        let mut attended: HashSet<u32> = HashSet::new();
        let mut tasks = JoinSet::new();

        loop {
            let condemned: Vec<(u32, ChildState, String)> = {
                let state = state.borrow_and_update();
                let of = |child: &ChildState| Some((child.process_id?, child.clone(), child.condemned.clone()?));
                state.children.iter().filter_map(of).collect()
            };
            attended.retain(|attended| condemned.iter().any(|(process_id, ..)| process_id == attended));

            for (process_id, child, reason) in condemned {
                if attended.insert(process_id) {
                    let (this, root) = (self.clone(), root.clone());
                    tasks.spawn(async move { this.attend_to(process_id, child, &reason, &*root).await });
                }
            }

            tokio::select! {
                changed = state.changed() => if changed.is_err() { return },
                Some(_) = tasks.join_next() => {}
            }
        }
    }
}

/// Waits until a process is killed, or has ended by itself before that.
async fn is_killed(process_id: u32, kill_at: Option<f64>, state: Option<watch::Receiver<RootState>>) -> bool {
    let (Some(kill_at), Some(mut state)) = (kill_at, state) else { return true };
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    let left = Duration::try_from_secs_f64(kill_at - now).unwrap_or_default();
    let is_gone = |state: &RootState| state.children.iter().all(|child| child.process_id != Some(process_id));

    tokio::select! {
        biased;
        gone = state.wait_for(is_gone) => !gone.is_ok_and(|state| state.spared.contains(&process_id)),
        () = sleep(left) => true,
    }
}
