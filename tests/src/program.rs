//! A process that was started in a [`Dir`].

use std::{
    ffi::{OsStr, OsString},
    fmt,
    fs::File,
    io,
    os::unix::{ffi::OsStrExt, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, Signal, pidfd_open},
};

use crate::{
    Dir,
    dir::{MARK, read, sweep},
    proc::{self, Process},
    wait_for,
};

/// How much of what a program wrote is quoted in an error.
const QUOTED_LINES: usize = 30;

/// A program that is about to be started in a [`Dir`].
#[derive(Debug)]
pub struct Launch {
    dir: Dir,
    command: Command,
    mark: OsString,
    name: String,
    number: u32,
    input: bool,
}

impl Launch {
    pub(crate) fn new(dir: Dir, program: &OsStr, number: u32) -> Launch {
        let mut mark = dir.path().as_os_str().to_owned();
        mark.push(format!("/{number}"));
        let mut command = Command::new(program);
        // What a program has no chance to remove, since it is killed, goes with the directory.
        command.current_dir(dir.path()).env(MARK, &mark).env("TMPDIR", dir.path());
        let name = Path::new(program).file_name().unwrap_or(program).to_string_lossy().into_owned();
        Launch { dir, command, mark, name, number, input: false }
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Launch {
        self.command.arg(argument);
        self
    }

    /// Adds several arguments.
    #[must_use]
    pub fn args(mut self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Launch {
        self.command.args(arguments);
        self
    }

    /// Sets a variable of the environment.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Launch {
        self.command.env(name, value);
        self
    }

    /// Gives the program a pipe as standard input, which [`Program::input`] writes to. Default is an empty input.
    #[must_use]
    pub fn with_input(mut self) -> Launch {
        self.input = true;
        self
    }

    /// Puts the program into a process group of its own, which the signals of a terminal do not reach.
    #[must_use]
    pub fn own_group(mut self) -> Launch {
        self.command.process_group(0);
        self
    }

    /// Starts the program.
    pub fn start(self) -> io::Result<Program> {
        let (stdout, stderr) = (File::create(self.file("stdout"))?, File::create(self.file("stderr"))?);
        let stdin = if self.input { Stdio::piped() } else { Stdio::null() };
        self.start_with([stdin, stdout.into(), stderr.into()])
    }

    fn file(&self, kind: &str) -> PathBuf {
        self.dir.file(format!("{}-{}.{kind}", self.name, self.number))
    }

    /// Starts the program with these as its standard input, output and error.
    pub(crate) fn start_with(mut self, [stdin, stdout, stderr]: [Stdio; 3]) -> io::Result<Program> {
        self.command.stdin(stdin).stdout(stdout).stderr(stderr);
        let (stdout, stderr) = (self.file("stdout"), self.file("stderr"));
        let mut child = self.command.spawn().map_err(|error| {
            io::Error::new(error.kind(), format!("could not start {}: {error}", self.command.get_program().display()))
        })?;
        let input = child.stdin.take();
        Ok(Program { child, status: None, input, mark: self.mark, name: self.name, stdout, stderr, _dir: self.dir })
    }
}

/// A process in a [`Dir`], and all that it started. Dropping it kills them.
pub struct Program {
    child: Child,
    status: Option<ExitStatus>,
    input: Option<ChildStdin>,
    mark: OsString,
    name: String,
    stdout: PathBuf,
    stderr: PathBuf,
    /// Keeps the directory until nothing runs in it.
    _dir: Dir,
}

impl Program {
    /// The id of the process that was started.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The living processes that this one started, and those that they started.
    pub fn descendants(&self) -> io::Result<Vec<Process>> {
        proc::descendants(self.pid())
    }

    /// The living descendants that run the same executable as `program` names.
    pub fn descendants_running(&self, program: &Path) -> io::Result<Vec<Process>> {
        let program = program.canonicalize()?;
        let mut found = self.descendants()?;
        found.retain(|process| process.executable().is_some_and(|executable| executable == program));
        Ok(found)
    }

    /// What the program has written to its standard output so far.
    pub fn stdout(&self) -> String {
        read(&self.stdout)
    }

    /// The file that its standard output goes to.
    pub fn stdout_path(&self) -> &Path {
        &self.stdout
    }

    /// What the program, and those of its children that share it, have written to standard error so far.
    pub fn stderr(&self) -> String {
        read(&self.stderr)
    }

    /// The pipe to the program's standard input, if it was started [with one](Launch::with_input). Setting it to
    /// `None` closes it.
    pub fn input(&mut self) -> &mut Option<ChildStdin> {
        &mut self.input
    }

    /// Sends a signal to the process that was started.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        // Once it has been waited for, its id may belong to another process.
        match proc::process(self.pid()) {
            Some(process) if self.status.is_none() => process.signal(signal).map(drop),
            _ => Ok(()),
        }
    }

    /// Whether the process has ended, and how.
    pub fn try_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        if self.status.is_none() {
            self.status = self.child.try_wait()?;
        }
        Ok(self.status)
    }

    /// Waits for the process to end, at most for `limit`.
    pub fn wait(&mut self, limit: Duration) -> io::Result<ExitStatus> {
        if let Some(status) = self.try_wait()? {
            return Ok(status);
        }
        let id = i32::try_from(self.pid()).ok().and_then(Pid::from_raw).expect("the id of a child is a process id");
        let pidfd = pidfd_open(id, PidfdFlags::empty())?;
        let deadline = Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = Timespec::try_from(left).map_err(io::Error::other)?;
            match poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&timeout)) {
                Ok(0) => return Err(self.late("its end", limit)),
                Ok(_) => break,
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let status = self.child.wait()?;
        self.status = Some(status);
        Ok(status)
    }

    /// Waits as [`wait_for`] does, but no longer than the process lives: a wait for something that a dead program
    /// will not do fails at once, and says what it wrote.
    pub fn wait_for<T>(
        &mut self,
        what: &str,
        limit: Duration,
        mut probe: impl FnMut() -> io::Result<Option<T>>,
    ) -> io::Result<T> {
        let mut ended = None;
        let waited = wait_for(what, limit, || {
            // The status is taken before the look, so that what a program did just before its end is not missed.
            ended = self.try_wait()?;
            match probe()? {
                Some(value) => Ok(Some(value)),
                None if ended.is_some() => Err(io::ErrorKind::BrokenPipe.into()),
                None => Ok(None),
            }
        });
        match (waited, ended) {
            (Err(error), Some(status)) if error.kind() == io::ErrorKind::BrokenPipe => Err(io::Error::new(
                io::ErrorKind::BrokenPipe,
                format!("{} ended ({status}) before {what}{}", self.name, self.quote()),
            )),
            (Err(error), _) if error.kind() == io::ErrorKind::TimedOut => Err(self.late(what, limit)),
            (waited, _) => waited,
        }
    }

    /// Waits until the program has written `text` to standard error, and gives the line that it stands in.
    pub fn wait_for_stderr(&mut self, text: &str, limit: Duration) -> io::Result<String> {
        let path = self.stderr.clone();
        self.wait_for(&format!("`{text}` on standard error"), limit, || {
            Ok(read(&path).lines().find(|line| line.contains(text)).map(str::to_owned))
        })
    }

    fn late(&self, what: &str, limit: Duration) -> io::Error {
        io::Error::new(
            io::ErrorKind::TimedOut,
            format!(
                "waited {} s in vain for {what} of {}{}\n{}",
                limit.as_secs_f64(),
                self.name,
                self.quote(),
                proc::activity(self.pid())
            ),
        )
    }

    /// The last lines of standard error, for a message.
    fn quote(&self) -> String {
        let text = self.stderr();
        let lines: Vec<&str> = text.lines().collect();
        let last = &lines[lines.len().saturating_sub(QUOTED_LINES)..];
        if last.is_empty() {
            return "; it wrote nothing to standard error".to_owned();
        }
        format!("; it wrote to standard error:\n  {}", last.join("\n  "))
    }
}

impl fmt::Debug for Program {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Program").field("name", &self.name).field("pid", &self.pid()).finish_non_exhaustive()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // For a test that fails by a panic, and for one that does by an error where the runner shows output only of those.
        if std::thread::panicking() || std::env::var_os("NEXTEST").is_some() {
            println!("{}, as it is dropped{}", self.name, self.quote());
        }
        // Children may have been given another environment; those are found as descendants, while there is a parent.
        let below: Vec<Process> = self.descendants().unwrap_or_default();
        if self.status.is_none() {
            // Fails only if the process has ended already, which is what is wanted.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        for process in below {
            let _ = process.signal(Signal::KILL);
        }
        if let Err(error) = sweep(|process| process.variable(MARK).is_some_and(|value| value == self.mark.as_bytes())) {
            eprintln!("processes of {} could not all be ended: {error}", self.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(10);

    fn marked(mark: &OsStr) -> usize {
        let carries = |process: &Process| process.variable(MARK).is_some_and(|value| value == mark.as_bytes());
        proc::processes().unwrap().iter().filter(|process| process.is_alive() && carries(process)).count()
    }

    #[test]
    fn nothing_outlives_a_program() {
        let dir = Dir::new().unwrap();
        // The second one leaves for a session of its own, and its parent leaves it.
        let script = "sleep 1000000 & (setsid sleep 1000001 &) ; wait";
        let mut program = dir.command("sh").args(["-c", script]).start().unwrap();
        let mark = program.mark.clone();
        let path = dir.path().to_owned();
        program.wait_for("three processes", LIMIT, || Ok((marked(&mark) == 3).then_some(()))).unwrap();
        drop(dir);
        assert!(path.exists(), "the program keeps the directory");
        drop(program);
        assert_eq!(marked(&mark), 0);
        assert!(!path.exists());
    }

    #[test]
    fn nothing_outlives_a_directory() {
        let dir = Dir::new().unwrap();
        let path = dir.path().to_owned();
        let unmarked = || {
            let escaped = |process: &Process| process.works_in(&path) && process.variable(MARK).is_none();
            proc::processes().unwrap().iter().any(|process| process.is_alive() && escaped(process))
        };
        let script = "env -i setsid sleep 1000000 & read line; exit 3";
        let mut program = dir.command("sh").args(["-c", script]).with_input().start().unwrap();
        program.wait_for("the sleeper", LIMIT, || Ok(unmarked().then_some(()))).unwrap();
        *program.input() = None;
        assert_eq!(program.wait(LIMIT).unwrap().code(), Some(3));
        drop(program);
        assert!(unmarked(), "neither the mark nor a parent says whose it is");
        drop(dir);
        assert!(!unmarked());
    }

    #[test]
    fn a_wait_for_a_dead_program_fails_at_once_and_quotes_it() {
        let dir = Dir::new().unwrap();
        let mut program = dir.command("sh").args(["-c", "echo it broke >&2; exit 1"]).start().unwrap();
        let error = program.wait_for::<()>("a miracle", LIMIT, || Ok(None)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
        let text = error.to_string();
        assert!(text.contains("before a miracle") && text.contains("it broke"), "{text}");
    }

    #[test]
    fn input_output_and_signals_reach_the_program() {
        use std::io::Write as _;

        let dir = Dir::new().unwrap();
        let mut program =
            dir.command("sh").args(["-c", "read line; echo $line >&2; read line"]).with_input().start().unwrap();
        writeln!(program.input().as_mut().unwrap(), "hello").unwrap();
        assert_eq!(program.wait_for_stderr("hello", LIMIT).unwrap(), "hello");
        program.signal(Signal::TERM).unwrap();
        let status = program.wait(LIMIT).unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(15));
        assert_eq!(program.stdout(), "");
    }
}
