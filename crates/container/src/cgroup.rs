//! Cgroups of version 2: one for each child, where a part of the tree is delegated to this program.
//!
//! ```text
//! base                     delegated; this program is in it, as long as no child has limits
//! ├── APPLICATION-PID      of this application; never has a process of its own
//! │   ├── worker#1@1       of a child, for as long as the child is there, over all of its processes
//! │   └── …
//! └── APPLICATION-PID-root where root and guardian go when children have limits: a cgroup may either have processes or
//!                          hand controllers down
//! ```

mod find;
mod shortage;

pub(crate) use self::shortage::Shortage;

use std::collections::BTreeSet;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fs::{Mode, OFlags};

use crate::error::CgroupError;
use crate::limits::Limits;

/// The variable that names the cgroup to use: a directory, or `none`.
pub const CGROUP: &str = "ASYNC_CONTAINER_CGROUP";

/// Where children get cgroups of their own.
///
/// A child's cgroup holds everything that it starts, however that detaches itself, so that all of it can be killed at once,
/// and limited together. Only version 2 is used.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Cgroups {
    /// In the cgroup of this program, if that was delegated to it: by systemd (`Delegate=yes`), as the first cgroup that a
    /// container sees, if it is writable there, or by its owner to a user without privileges. Else children have none,
    /// which is logged.
    #[default]
    Delegated,
    /// In the cgroup with this directory. It is an error if that cannot be.
    Below(PathBuf),
    /// Nowhere.
    None,
}

/// How long a cgroup may take to become empty once all in it was killed.
const EMPTY_LIMIT: Duration = Duration::from_secs(5);
const EMPTY_PAUSE: Duration = Duration::from_millis(1);

/// The cgroups of an application, without what only its root knows of them.
#[derive(Clone, Debug)]
pub(crate) struct Home {
    base: PathBuf,
    /// The directory of the application's own cgroup.
    path: PathBuf,
    /// Where its own processes go if they may not stay where they are.
    own: PathBuf,
    /// True if they are in `base`, which cannot hand controllers down then.
    is_in_base: bool,
}

impl Home {
    /// Makes the application's cgroup.
    pub(crate) fn make(which: &Cgroups, application: &str) -> Result<Home, CgroupError> {
        let base = match which {
            Cgroups::None => return Err(CgroupError::Unwanted),
            Cgroups::Delegated => find::delegated(&find::own()?)?,
            Cgroups::Below(path) => {
                find::check(path)?;
                path.canonicalize().map_err(|error| CgroupError::System {
                    action: "find",
                    path: path.clone(),
                    source: Arc::new(error),
                })?
            }
        };
        let is_in_base = !find::is_root(&base) && find::own().is_ok_and(|own| own == base);
        let name = directory_name(application);
        let home = Home {
            path: base.join(format!("{name}-{}", std::process::id())),
            own: base.join(format!("{name}-{}-root", std::process::id())),
            base,
            is_in_base,
        };
        home.remove_forgotten(&name);
        make_directory(&home.path)?;
        Ok(home)
    }

    /// Removes cgroups of earlier applications of this name, whose guardian was killed together with its root. Those that
    /// are still populated stay.
    fn remove_forgotten(&self, name: &str) {
        let prefix = format!("{name}-");
        for entry in std::fs::read_dir(&self.base).into_iter().flatten().flatten() {
            let file_name = entry.file_name();
            let id = file_name.to_str().and_then(|name| name.strip_prefix(&prefix));
            let id = id.map(|id| id.strip_suffix("-root").unwrap_or(id)).and_then(|id| id.parse::<u32>().ok());
            if id.is_some_and(|id| id == std::process::id() || !Path::new(&format!("/proc/{id}")).exists()) {
                let _ = remove_tree(&entry.path());
            }
        }
    }

    /// Has the controllers handed down to the cgroups of children. `processes` are those of this application.
    fn enable(&self, controllers: &[&'static str], processes: &[u32]) -> Result<(), CgroupError> {
        let available = read_words(&self.base.join("cgroup.controllers"))?;
        if let Some(missing) = controllers.iter().find(|controller| !available.contains(**controller)) {
            return Err(CgroupError::NoController { path: self.base.clone(), controller: missing });
        }
        let handed_down = read_words(&self.base.join("cgroup.subtree_control"))?;
        let new = || controllers.iter().filter(|controller| !handed_down.contains(**controller));
        if self.is_in_base && new().next().is_some() && !self.own.exists() {
            make_directory(&self.own)?;
            for process in processes {
                write(&self.own.join("cgroup.procs"), &process.to_string())?;
            }
        }
        for controller in new() {
            let file = self.base.join("cgroup.subtree_control");
            write(&file, &format!("+{controller}")).map_err(|error| match &error {
                CgroupError::System { source, .. } if source.raw_os_error() == Some(libc::EBUSY) => {
                    let processes = std::fs::read_to_string(self.base.join("cgroup.procs")).unwrap_or_default();
                    CgroupError::Occupied {
                        path: self.base.clone(),
                        processes: processes.split_whitespace().collect::<Vec<_>>().join(", "),
                    }
                }
                _ => error,
            })?;
        }
        controllers
            .iter()
            .try_for_each(|controller| write(&self.path.join("cgroup.subtree_control"), &format!("+{controller}")))
    }

    /// Kills all that is left of the children.
    pub(crate) fn kill(&self) {
        // There is no such file before Linux 5.14.
        let _ = write(&self.path.join("cgroup.kill"), "1");
    }

    /// Leaves the cgroups as they were found, once all that was in them has been killed.
    pub(crate) fn remove(&self) {
        let deadline = Instant::now() + EMPTY_LIMIT;
        while let Err(error) = remove_tree(&self.path) {
            if error.raw_os_error() != Some(libc::EBUSY) || Instant::now() > deadline {
                tracing::warn!(cgroup = %self.path.display(), %error, "cannot remove the cgroup of this application");
                return;
            }
            std::thread::sleep(EMPTY_PAUSE);
        }
        if self.own.exists() {
            // As long as this program was in it, nothing can have been handed down, so that all of it is its own doing.
            let file = self.base.join("cgroup.subtree_control");
            for controller in read_words(&file).into_iter().flatten() {
                let _ = write(&file, &format!("-{controller}"));
            }
            let _ = write(&self.base.join("cgroup.procs"), "0");
            let _ = std::fs::remove_dir(&self.own);
        }
    }
}

/// The cgroups of all children of a root.
#[derive(Debug)]
pub(crate) struct Tree {
    home: Home,
    /// The root, and its guardian if it has one.
    processes: Vec<u32>,
    enabled: BTreeSet<&'static str>,
    /// True if the kernel kills a cgroup as a whole.
    kills: bool,
    /// Those of children that are over, which were not empty yet.
    leaving: Vec<PathBuf>,
    /// True once a child was started without a cgroup: that is logged once.
    failed: bool,
}

impl Tree {
    pub(crate) fn new(home: Home) -> Tree {
        let kills = home.path.join("cgroup.kill").exists();
        Tree {
            home,
            processes: vec![std::process::id()],
            enabled: BTreeSet::new(),
            kills,
            leaving: Vec::new(),
            failed: false,
        }
    }

    /// The directory below which the cgroups of children are.
    pub(crate) fn path(&self) -> &Path {
        &self.home.path
    }

    /// True if killing a cgroup reaches all that is in it.
    pub(crate) fn kills(&self) -> bool {
        self.kills
    }

    /// The part that can do without this root.
    pub(crate) fn home(&self) -> &Home {
        &self.home
    }

    /// The guardian is one of the application's processes from now on.
    pub(crate) fn set_processes(&mut self, processes: Vec<u32>) {
        self.processes = processes;
    }

    /// Sees to it that the limits can be had.
    pub(crate) fn require(&mut self, limits: &Limits) -> Result<(), CgroupError> {
        let controllers = limits.controllers();
        if controllers.iter().all(|controller| self.enabled.contains(controller)) {
            return Ok(());
        }
        self.home.enable(&controllers, &self.processes)?;
        self.enabled.extend(controllers);
        Ok(())
    }

    /// Makes the cgroup of a child. Those that it had before may still be there.
    pub(crate) fn make(&self, child: &str, generation: u64, limits: &Limits) -> Result<Cgroup, CgroupError> {
        let mut path = self.home.path.join(format!("{child}@{generation}"));
        let mut number = 1;
        while path.exists() {
            number += 1;
            path.set_file_name(format!("{child}@{generation}.{number}"));
        }
        make_directory(&path)?;
        for (controller, file, text) in limits.files() {
            // Those that cannot be had were complained about before.
            if self.enabled.contains(controller) {
                write(&path.join(file), &text)?;
            }
        }
        let counts_kills = self.enabled.contains("memory");
        let pids_max = limits.pids_max.filter(|_| self.enabled.contains("pids"));
        Ok(Cgroup {
            path,
            counts_kills,
            kills_before: 0,
            shortages_before: 0,
            pids_max,
            refusals_before: 0,
            was_killed: false,
        })
    }

    /// True if it is the first time that a child has to go without.
    pub(crate) fn is_first_failure(&mut self) -> bool {
        !std::mem::replace(&mut self.failed, true)
    }

    /// The child is over, or goes on in another one.
    pub(crate) fn retire(&mut self, cgroup: Cgroup) {
        self.leaving.push(cgroup.path);
        self.tidy();
    }

    /// Removes the cgroups of children that are over, as far as they are empty. To be called when processes have ended.
    pub(crate) fn tidy(&mut self) {
        self.leaving.retain(|path| match std::fs::remove_dir(path) {
            Ok(()) => false,
            Err(error) => error.raw_os_error() == Some(libc::EBUSY),
        });
    }
}

/// The cgroup of a child.
#[derive(Debug)]
pub(crate) struct Cgroup {
    path: PathBuf,
    /// True if it counts the processes that were killed for want of memory.
    counts_kills: bool,
    /// How many those were before the process that is there now.
    kills_before: u64,
    /// How often its own limit, and not one around it, was in the way before.
    shortages_before: u64,
    /// How many processes and threads there may be in it, if that is limited.
    pids_max: Option<u64>,
    /// How often there could not be another one before.
    refusals_before: u64,
    /// True once it was killed as a whole.
    was_killed: bool,
}

impl Cgroup {
    /// The directory, for a process to be started in it.
    pub(crate) fn open(&mut self) -> Result<OwnedFd, CgroupError> {
        if self.counts_kills {
            self.kills_before = self.kills().unwrap_or(0);
            self.shortages_before = self.shortages().unwrap_or(0);
        }
        if self.pids_max.is_some() {
            self.refusals_before = self.refusals().unwrap_or(0);
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::open(&self.path, flags, Mode::empty()).map_err(|error| CgroupError::System {
            action: "open",
            path: self.path.clone(),
            source: Arc::new(error.into()),
        })
    }

    /// Kills all that is in it.
    pub(crate) fn kill(&mut self) {
        let file = self.path.join("cgroup.kill");
        if let Err(error) = write(&file, "1") {
            tracing::error!(%error, "cannot kill a cgroup");
        }
        self.was_killed = true;
    }

    /// True if no other process should begin in it: some kernels (6.18 is one) kill at once what is cloned into a cgroup
    /// that was ever killed before, as if it had been forked there meanwhile. And what has ended counts against the limit of processes
    /// until it is reaped, which may be all that there may be.
    pub(crate) fn is_spent(&self) -> bool {
        self.was_killed || self.pids_max.is_some() && !self.is_populated() && self.has_unreaped()
    }

    fn has_unreaped(&self) -> bool {
        std::fs::read_to_string(self.path.join("pids.current")).is_ok_and(|count| count.trim() != "0")
    }

    /// True unless it is known that nothing runs in it.
    pub(crate) fn is_populated(&self) -> bool {
        let events = std::fs::read_to_string(self.path.join("cgroup.events"));
        events.map_or(true, |events| !events.lines().any(|line| line == "populated 0"))
    }

    /// True if the kernel has killed what is there now for want of memory.
    pub(crate) fn lacked_memory(&self) -> bool {
        self.counts_kills && self.kills().is_some_and(|kills| kills > self.kills_before)
    }

    /// True if it was for the limit of this cgroup. Kills are counted where the victim is, whoever had no more memory.
    pub(crate) fn was_at_its_limit(&self) -> bool {
        // Before Linux 5.2, it is not told.
        self.shortages().is_none_or(|shortages| shortages > self.shortages_before)
    }

    /// The limit of processes, if what is there now wanted more of them.
    ///
    /// Before Linux 6.11, what a limit around this one refused is counted here as well. So there have to have been as many as there may
    /// be, too, which is told since Linux 6.1; before, nothing is said.
    pub(crate) fn lacked_processes(&self) -> Option<u64> {
        let limit = self.pids_max?;
        let most: u64 = std::fs::read_to_string(self.path.join("pids.peak")).ok()?.trim().parse().ok()?;
        (most >= limit && self.refusals()? > self.refusals_before).then_some(limit)
    }

    fn refusals(&self) -> Option<u64> {
        ["pids.events.local", "pids.events"].iter().find_map(|file| count_in(&self.path.join(file), "max "))
    }

    fn kills(&self) -> Option<u64> {
        kills_in(&self.path.join("memory.events"))
    }

    fn shortages(&self) -> Option<u64> {
        count_in(&self.path.join("memory.events.local"), "oom ")
    }
}

/// How often the kernel has killed for want of memory, according to a file of a cgroup of either version.
fn kills_in(file: &Path) -> Option<u64> {
    count_in(file, "oom_kill ")
}

fn count_in(file: &Path, name: &str) -> Option<u64> {
    let events = std::fs::read_to_string(file).ok()?;
    events.lines().find_map(|line| line.strip_prefix(name))?.trim().parse().ok()
}

/// What a name may be in the file system, without a dot: files of cgroups have them.
fn directory_name(application: &str) -> String {
    let name: String = application.chars().map(|it| if it.is_alphanumeric() || it == '_' { it } else { '-' }).collect();
    if name.is_empty() { "application".to_owned() } else { name }
}

/// One that is there already is taken over.
fn make_directory(path: &Path) -> Result<(), CgroupError> {
    match std::fs::create_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(CgroupError::System { action: "make", path: path.to_path_buf(), source: Arc::new(error) })
        }
        _ => Ok(()),
    }
}

/// A cgroup's directory has files, which go with it, and directories, which have to go before.
fn remove_tree(path: &Path) -> io::Result<()> {
    let entries = match std::fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_tree(&entry.path())?;
        }
    }
    std::fs::remove_dir(path)
}

fn read_words(path: &Path) -> Result<BTreeSet<String>, CgroupError> {
    let text = std::fs::read_to_string(path).map_err(|error| CgroupError::System {
        action: "read",
        path: path.to_path_buf(),
        source: Arc::new(error),
    })?;
    Ok(text.split_whitespace().map(str::to_owned).collect())
}

/// Files of cgroups take what is written to them as a whole.
fn write(path: &Path, text: &str) -> Result<(), CgroupError> {
    let written = std::fs::OpenOptions::new().write(true).open(path).and_then(|mut file| {
        use std::io::Write as _;
        file.write_all(text.as_bytes())
    });
    written.map_err(|error| CgroupError::System {
        action: "write to",
        path: path.to_path_buf(),
        source: Arc::new(error),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_cgroups_are_no_names_of_their_files() {
        assert_eq!(directory_name("my app/1.2"), "my-app-1-2");
        assert_eq!(directory_name("cgroup.procs"), "cgroup-procs");
        assert_eq!(directory_name(""), "application");
    }

    #[test]
    fn a_limit_of_processes_is_not_shared_with_those_that_have_ended() {
        let directory = tempfile::tempdir().unwrap();
        let write = |file: &str, text: &str| std::fs::write(directory.path().join(file), text).unwrap();
        let mut cgroup = limited(directory.path());
        assert!(!cgroup.is_spent(), "nothing is told");
        write("cgroup.events", "populated 0\nfrozen 0\n");
        write("pids.current", "0\n");
        assert!(!cgroup.is_spent());
        write("pids.current", "19\n");
        assert!(cgroup.is_spent(), "they are not reaped yet");
        cgroup.pids_max = None;
        assert!(!cgroup.is_spent(), "there is no limit");
        cgroup.pids_max = Some(20);
        write("cgroup.events", "populated 1\nfrozen 0\n");
        assert!(!cgroup.is_spent(), "what was left to run there counts with the next one");
    }

    /// A directory that is no cgroup, for what the kernel tells in files.
    fn limited(path: &Path) -> Cgroup {
        Cgroup {
            path: path.to_path_buf(),
            counts_kills: false,
            kills_before: 0,
            shortages_before: 0,
            pids_max: Some(20),
            refusals_before: 0,
            was_killed: false,
        }
    }

    #[test]
    fn want_of_processes_is_told_where_it_is_the_limit_of_this_cgroup() {
        let directory = tempfile::tempdir().unwrap();
        let write = |file: &str, text: &str| std::fs::write(directory.path().join(file), text).unwrap();
        let mut cgroup = limited(directory.path());
        assert_eq!(cgroup.lacked_processes(), None, "nothing is told");
        write("pids.events", "max 3\n");
        assert_eq!(cgroup.lacked_processes(), None, "not whose limit it was");
        write("pids.peak", "19\n");
        assert_eq!(cgroup.lacked_processes(), None, "it was another one's");
        write("pids.peak", "20\n");
        assert_eq!(cgroup.lacked_processes(), Some(20));
        cgroup.open().unwrap();
        assert_eq!(cgroup.lacked_processes(), None, "that was before");
        write("pids.events", "max 4\n");
        assert_eq!(cgroup.lacked_processes(), Some(20));
        write("pids.events.local", "max 3\n");
        assert_eq!(cgroup.lacked_processes(), None, "that was in one below");
    }
}
