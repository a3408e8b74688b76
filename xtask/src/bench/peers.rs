//! Other supervisors, which keep the same children running as ours.
//!
//! Each is set up as its own documentation has it, and where a default would have it give up, or wait on purpose before it
//! starts, it is told not to. Nothing is installed here: who wants to compare installs what to compare with, and what is not
//! there is left out, which is said.

use std::{
    env,
    ffi::OsStr,
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
};

use async_container_supervisor_tests::{Dir, Launch, Signal};

use crate::Result;

/// A supervisor that somebody else wrote.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) name: &'static str,
    /// The program that is started,
    program: &'static str,
    /// and how it comes to be there.
    install: &'static str,
    /// Writes what it reads at its start, and gives the arguments with which it stays in the foreground.
    set_up: fn(&Dir, usize, &str) -> Result<Vec<PathBuf>>,
    /// What has it stop its children and itself.
    pub(super) stop: Signal,
}

static ALL: [Peer; 4] = [
    Peer {
        name: "supervisord",
        program: "supervisord",
        install: "python3 -m venv target/peers/venv && target/peers/venv/bin/pip install supervisor",
        set_up: supervisord,
        stop: Signal::TERM,
    },
    Peer {
        name: "circus",
        program: "circusd",
        install: "python3 -m venv target/peers/venv && target/peers/venv/bin/pip install circus",
        set_up: circus,
        stop: Signal::TERM,
    },
    Peer { name: "runit", program: "runsvdir", install: "apt install runit", set_up: runit, stop: Signal::HUP },
    Peer { name: "s6", program: "s6-svscan", install: "apt install s6", set_up: s6, stop: Signal::TERM },
];

/// Those that are installed, in `PATH` or in `target/peers/venv`. What is missing is said on standard error, with what to do about it.
pub(super) fn installed() -> Result<Vec<&'static Peer>> {
    let mut found = Vec::new();
    for peer in &ALL {
        match peer.path()? {
            Some(_) => found.push(peer),
            None => eprintln!(
                "{} is left out, because `{}` is not installed; to compare with it: {}",
                peer.name, peer.program, peer.install
            ),
        }
    }
    if found.is_empty() {
        return Err("there is nothing to compare with: install one of these, or measure without --peers".into());
    }
    Ok(found)
}

impl Peer {
    fn path(&self) -> Result<Option<PathBuf>> {
        let path = env::var_os("PATH").unwrap_or_default();
        let directories = env::split_paths(&path).chain([super::peers_directory()?.join("venv").join("bin")]);
        Ok(directories.map(|directory| directory.join(self.program)).find(|program| program.is_file()))
    }

    /// The program, with so many children that run this command.
    pub(super) fn launch(&self, dir: &Dir, count: usize, command: &[&OsStr]) -> Result<Launch> {
        let program = self.path()?.ok_or_else(|| format!("`{}` is gone", self.program))?;
        let mut words = Vec::with_capacity(command.len());
        for word in command {
            let word = word.to_str().ok_or("a word of the command is not UTF-8")?;
            // None of the formats is quoted alike, so nothing that would have to be is let through.
            if !word.chars().all(|character| character.is_ascii_alphanumeric() || "/._-".contains(character)) {
                return Err(format!("`{word}` would have to be quoted in a configuration").into());
            }
            words.push(word);
        }
        Ok(dir.command(program).args((self.set_up)(dir, count, &words.join(" "))?))
    }
}

fn supervisord(dir: &Dir, count: usize, command: &str) -> Result<Vec<PathBuf>> {
    // It keeps three pipes for each child, and gives a child up after three failures.
    let configuration = format!(
        "[supervisord]\n\
         nodaemon = true\n\
         logfile = /dev/null\n\
         logfile_maxbytes = 0\n\
         pidfile = {pid}\n\
         minfds = {descriptors}\n\
         [program:child]\n\
         command = {command}\n\
         process_name = child-%(process_num)d\n\
         numprocs = {count}\n\
         autorestart = true\n\
         startretries = 1000000\n\
         stdout_logfile = NONE\n\
         stderr_logfile = NONE\n",
        pid = dir.file("supervisord.pid").display(),
        descriptors = 100 + 8 * count,
    );
    Ok(vec!["-c".into(), written(dir, "supervisord.conf", &configuration)?])
}

fn circus(dir: &Dir, count: usize, command: &str) -> Result<Vec<PathBuf>> {
    // It is not told of the end of a process, but looks every 5 s, by default: a restart takes half of that on average, and
    // always the same if whatever else is measured in turn takes always the same.
    let socket = |name: &str| format!("ipc://{}", dir.file(name).display());
    let configuration = format!(
        "[circus]\n\
         endpoint = {}\n\
         pubsub_endpoint = {}\n\
         [watcher:child]\n\
         cmd = {command}\n\
         numprocesses = {count}\n\
         copy_env = true\n\
         max_retry = -1\n",
        socket("circus-endpoint"),
        socket("circus-pubsub"),
    );
    Ok(vec!["--log-level".into(), "error".into(), written(dir, "circus.ini", &configuration)?])
}

fn runit(dir: &Dir, count: usize, command: &str) -> Result<Vec<PathBuf>> {
    Ok(vec![services(dir, count, command)?])
}

fn s6(dir: &Dir, count: usize, command: &str) -> Result<Vec<PathBuf>> {
    // It takes 1,000 services at most unless it is told.
    Ok(vec!["-c".into(), (count + 10).to_string().into(), services(dir, count, command)?])
}

/// A directory of services, each with a program `run`, as runit and s6 have it.
fn services(dir: &Dir, count: usize, command: &str) -> Result<PathBuf> {
    let services = dir.file("services");
    for number in 0..count {
        let service = services.join(format!("child-{number}"));
        fs::create_dir_all(&service)?;
        let run = service.join("run");
        fs::write(&run, format!("#!/bin/sh\nexec {command}\n"))?;
        fs::set_permissions(&run, Permissions::from_mode(0o755))?;
    }
    Ok(services)
}

fn written(dir: &Dir, name: &str, text: &str) -> Result<PathBuf> {
    let path = dir.file(name);
    fs::write(&path, text)?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_runs_the_command_in_place_of_its_shell() {
        let dir = Dir::new().unwrap();
        let services = services(&dir, 2, "/bin/sleep 1000000").unwrap();
        for name in ["child-0", "child-1"] {
            let run = services.join(name).join("run");
            assert_eq!(fs::read_to_string(&run).unwrap(), "#!/bin/sh\nexec /bin/sleep 1000000\n");
            assert_eq!(run.metadata().unwrap().permissions().mode() & 0o777, 0o755);
        }
        assert_eq!(fs::read_dir(&services).unwrap().count(), 2);
    }
}
