//! What `/proc` tells of processes. A process that ends while it is looked at is left out, not an error.

use std::{
    collections::{HashMap, HashSet},
    fs, io,
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::{
    io::Errno,
    process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal},
};

/// One process, as it was when it was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Its id.
    pub pid: u32,
    /// The id of its parent.
    pub parent: u32,
    /// Its state: `R` running, `S` sleeping, `Z` ended but not yet waited for, and so on.
    pub state: char,
    /// When it was started, in clock ticks since the machine was. An id that was given out again differs in this.
    pub started: u64,
}

impl Process {
    /// Whether the process still runs. One that waits for its parent to take its status does not.
    pub fn is_alive(&self) -> bool {
        !matches!(self.state, 'Z' | 'X')
    }

    /// The executable that the process runs.
    pub fn executable(&self) -> Option<PathBuf> {
        fs::read_link(format!("/proc/{}/exe", self.pid)).ok()
    }

    /// The arguments, the name that it was started by first.
    pub fn arguments(&self) -> Vec<String> {
        let line = fs::read(format!("/proc/{}/cmdline", self.pid)).unwrap_or_default();
        line.split(|&byte| byte == 0)
            .filter(|argument| !argument.is_empty())
            .map(|argument| String::from_utf8_lossy(argument).into_owned())
            .collect()
    }

    /// The value of a variable in the environment that the process was started with.
    pub fn variable(&self, name: &str) -> Option<Vec<u8>> {
        let environment = fs::read(format!("/proc/{}/environ", self.pid)).ok()?;
        environment
            .split(|&byte| byte == 0)
            .find_map(|entry| entry.strip_prefix(name.as_bytes())?.strip_prefix(b"=").map(<[u8]>::to_vec))
    }

    /// Sends the process a signal, and tells whether it was still there to be sent one.
    pub fn signal(&self, signal: Signal) -> io::Result<bool> {
        let pidfd = match self.pidfd() {
            Ok(Some(pidfd)) => pidfd,
            Ok(None) => return Ok(false),
            Err(error) => return Err(error),
        };
        match pidfd_send_signal(&pidfd, signal) {
            Ok(()) => Ok(true),
            Err(Errno::SRCH) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// A descriptor of the process, or `None` if it has ended.
    pub fn pidfd(&self) -> io::Result<Option<OwnedFd>> {
        let Some(id) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) else {
            return Ok(None);
        };
        let pidfd = match pidfd_open(id, PidfdFlags::empty()) {
            Ok(pidfd) => pidfd,
            Err(Errno::SRCH) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        // A descriptor stays with the process that it was opened for, so one look after that settles whose it is.
        let same = process(self.pid).is_some_and(|now| now.started == self.started);
        Ok(same.then_some(pidfd))
    }

    /// Whether the working directory of the process is `directory` or lies in it.
    pub fn works_in(&self, directory: &Path) -> bool {
        fs::read_link(format!("/proc/{}/cwd", self.pid)).is_ok_and(|cwd| cwd.starts_with(directory))
    }
}

/// The process with that id.
pub fn process(pid: u32) -> Option<Process> {
    let stat = fs::read(format!("/proc/{pid}/stat")).ok()?;
    // The name stands in parentheses and may itself hold spaces and parentheses, so the fields begin after the last.
    let end = stat.iter().rposition(|&byte| byte == b')')?;
    let rest = std::str::from_utf8(&stat[end + 1..]).ok()?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    let parent = fields.next()?.parse().ok()?;
    // proc(5) counts the fields from the id; this is the 22nd, and the 4th was the last one taken.
    let started = fields.nth(17)?.parse().ok()?;
    Some(Process { pid, parent, state, started })
}

/// All processes that can be seen.
pub fn processes() -> io::Result<Vec<Process>> {
    let mut all = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let pid = std::str::from_utf8(name.as_bytes()).ok().and_then(|name| name.parse().ok());
        all.extend(pid.and_then(process));
    }
    Ok(all)
}

/// The living processes below `pid`: children, their children, and so on, parents before their children.
pub fn descendants(pid: u32) -> io::Result<Vec<Process>> {
    let mut children: HashMap<u32, Vec<Process>> = HashMap::new();
    for process in processes()? {
        children.entry(process.parent).or_default().push(process);
    }
    let mut found = Vec::new();
    let mut queue = vec![pid];
    let mut next = 0;
    while let Some(&parent) = queue.get(next) {
        next += 1;
        for child in children.remove(&parent).unwrap_or_default() {
            queue.push(child.pid);
            found.push(child);
        }
    }
    found.retain(Process::is_alive);
    Ok(found)
}

/// The processes from the parent of `pid` upwards, nearest first.
pub fn ancestors(pid: u32) -> Vec<Process> {
    let mut above = Vec::new();
    let mut next = process(pid);
    while let Some(process) = next {
        next = self::process(process.parent);
        above.extend(next.clone());
    }
    above
}

/// The proportional set size of a process in bytes: its own memory, and its share of what it has in common.
pub fn proportional_set_size(pid: u32) -> io::Result<u64> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let text = fs::read_to_string(&path)?;
    field(&text, "Pss:")
        .map(|kibibytes| kibibytes * 1024)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("{path} has no line Pss")))
}

/// How often the threads of a process were taken off the processor since they began, willingly or not.
pub fn context_switches(pid: u32) -> io::Result<u64> {
    let mut sum = 0;
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        let path = thread?.path().join("status");
        let text = fs::read_to_string(&path)?;
        for name in ["voluntary_ctxt_switches:", "nonvoluntary_ctxt_switches:"] {
            sum += field(&text, name).ok_or_else(|| {
                io::Error::new(io::ErrorKind::InvalidData, format!("{} has no line {name}", path.display()))
            })?;
        }
    }
    Ok(sum)
}

/// How long the threads of a process that still run have run so far.
pub fn processor_time(pid: u32) -> io::Result<Duration> {
    let mut sum = 0;
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        let path = thread?.path().join("schedstat");
        let text = fs::read_to_string(&path)?;
        let spent: Option<u64> = text.split_ascii_whitespace().next().and_then(|number| number.parse().ok());
        sum += spent.ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, format!("{} does not begin with a number", path.display()))
        })?;
    }
    Ok(Duration::from_nanos(sum))
}

/// What a process, and every one below it, is doing, thread by thread, for an error: its state, where the kernel has it
/// wait, how long it has run, and who traces it.
pub fn activity(pid: u32) -> String {
    let mut lines = vec!["meanwhile:".to_owned()];
    let below = descendants(pid).unwrap_or_default();
    for process in process(pid).into_iter().chain(below) {
        lines.push(format!("  {} below {}: {}", process.pid, process.parent, process.arguments().join(" ")));
        let Ok(threads) = fs::read_dir(format!("/proc/{}/task", process.pid)) else { continue };
        for thread in threads.flatten() {
            let read = |name: &str| fs::read_to_string(thread.path().join(name)).unwrap_or_default();
            let status = read("status");
            let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("?").trim();
            lines.push(format!(
                "    {} {}: {} in {}, ran for {} ns, traced by {}, system call {}",
                thread.file_name().display(),
                field("Name:"),
                field("State:"),
                read("wchan"),
                read("schedstat").split(' ').next().unwrap_or_default(),
                field("TracerPid:"),
                read("syscall").trim()
            ));
        }
    }
    lines.join("\n")
}

/// The deepest process that is an ancestor of every one of `pids`: of workers, the one that looks after them.
pub fn common_ancestor(pids: &[u32]) -> Option<u32> {
    let (first, others) = pids.split_first()?;
    let others: Vec<HashSet<u32>> =
        others.iter().map(|&pid| ancestors(pid).iter().map(|process| process.pid).collect()).collect();
    ancestors(*first).into_iter().map(|process| process.pid).find(|pid| others.iter().all(|above| above.contains(pid)))
}

fn field(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::process::{self, Command};

    use super::*;

    #[test]
    fn tells_of_a_child() {
        let mut child = Command::new("sleep").arg("1000000").spawn().unwrap();
        let seen = super::process(child.id()).unwrap();
        assert_eq!(seen.parent, process::id());
        assert!(seen.is_alive());
        assert!(descendants(process::id()).unwrap().iter().any(|process| process.pid == child.id()));
        assert_eq!(ancestors(child.id())[0].pid, process::id());
        assert!(proportional_set_size(child.id()).unwrap() > 0);
        assert!(context_switches(process::id()).unwrap() > 0);

        let another = Process { started: seen.started - 1, ..seen.clone() };
        assert!(!another.signal(Signal::KILL).unwrap(), "the id was that of another process");
        assert!(seen.signal(Signal::KILL).unwrap());
        child.wait().unwrap();
        assert!(!seen.signal(Signal::KILL).unwrap(), "nobody is left to be told");
    }

    #[test]
    fn finds_who_looks_after_several() {
        let mut shell = Command::new("sh").args(["-c", "sleep 1000000 & sleep 1000000 & wait"]).spawn().unwrap();
        let sleepers = crate::wait_for("two sleepers", std::time::Duration::from_secs(5), || {
            let below = descendants(shell.id())?;
            Ok((below.len() == 2).then_some(below))
        })
        .unwrap();
        let pids: Vec<u32> = sleepers.iter().map(|process| process.pid).collect();
        assert_eq!(common_ancestor(&pids), Some(shell.id()));
        for sleeper in sleepers {
            sleeper.signal(Signal::KILL).unwrap();
        }
        shell.wait().unwrap();
    }
}
